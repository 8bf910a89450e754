"""One law of errors for all structures of a campaign, or one for each: coverage and labels in a simulation.

    python -m benchmarks.campaigns.laws OUT.json

Walkers of K structures meet geometries whose uncalibrated σ is drawn at random and falls as labels are learnt. Errors
are normal with r times the σ that the prior expects, where r differs between structures by a log-normal factor of the
stated width.
A label is requested where the law in force gives the threshold too little confidence; audits come at random. Counted
are labels, the share of errors above the threshold where no label was requested, and the coverage of the stated 95 %
intervals, over all structures and of the worst one.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from bayes_mlff.core.durable import write_whole
from bayes_mlff.ensemble import error_law

THRESHOLD: Final = 1.0
FLOOR: Final = 0.1
STEPS: Final = 400
AUDIT: Final = 0.02
SAMPLED: Final = 0.2
"""Share of the steps at which intervals are looked at."""
STRUCTURES: Final = 5
RATE: Final = 10.0 * error_law.OF_LAPLACE**2
"""Of the prior of the scale, as in runs with one optimum."""


def simulate(width: float, *, common: bool, seed: int) -> dict[str, float]:
    """One campaign of `STRUCTURES` walkers; `width` is the standard deviation of the logarithm of r."""
    chance = np.random.default_rng(seed)
    ratio = np.exp(width * chance.normal(size=STRUCTURES))
    law = [error_law.init(b=RATE, floor=FLOOR) for _ in range(1 if common else STRUCTURES)]
    known = np.zeros(STRUCTURES)
    labels, trusted, above = 0, 0, 0
    inside: list[list[bool]] = [[] for _ in range(STRUCTURES)]
    critical = [float(error_law.critical_sigma(each, THRESHOLD)) for each in law]
    for _ in range(STEPS):
        for k in range(STRUCTURES):
            mine = 0 if common else k
            spread = 1.5 / (1.0 + known[k] + 0.3 * (known.sum() - known[k])) * np.exp(0.5 * chance.normal())
            sigma = float(np.hypot(spread, FLOOR))
            error = float(chance.normal() * error_law.OF_LAPLACE * ratio[k] * sigma)
            asks, audit = sigma > critical[mine], chance.random() < AUDIT
            if chance.random() < SAMPLED:
                inside[k].append(abs(error) < float(error_law.interval(law[mine], sigma)))
            if not asks and not audit:
                trusted, above = trusted + 1, above + (abs(error) > THRESHOLD)
            if asks or audit:
                labels, known[k] = labels + 1, known[k] + 1
                law[mine] = error_law.update(law[mine], error, sigma)
                critical[mine] = float(error_law.critical_sigma(law[mine], THRESHOLD))
    coverage = [float(np.mean(each)) for each in inside]
    return {
        "labels": labels,
        "above": above / max(trusted, 1),
        "coverage": float(np.mean(coverage)),
        "worst_coverage": min(coverage),
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for width in (0.0, 0.5, 1.0):
        for common in (True, False):
            each = [simulate(width, common=common, seed=seed) for seed in range(args.seeds)]
            row = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
            rows.append({"width": width, "law": "common" if common else "structure", **row})
            print(json.dumps(rows[-1]), flush=True)
    write_whole(args.out, (json.dumps({"seeds": args.seeds, "rows": rows}, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()

"""How many samples around one optimum are needed for σ of energies to know where the errors are.

    python -m benchmarks.posteriors.samples CONFIG.yaml LABELS.extxyz OUT.json --frames SAME.extxyz HOTTER.extxyz
        [--counts 12] [--updates 1 2 3 ...] [--set sampler.steps=1000 ...]

Labels are learnt one after the other with `posterior: laplace` and 256 samples. Groups of fewer samples, about their
own mean, are what a run with so many would draw: each group has its own law of errors, from its own σ at the labels.
Given are means over the groups, and the standard deviation between them. Energies in kcal/mol.
"""

import json
from typing import Any, Final, NamedTuple

import numpy as np
import yaml

from bayes_mlff.core.command_line import override
from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.ensemble.ranking import ranking
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.config import RunConfig
from benchmarks.sigma.run import Study, arguments, read

SAMPLES: Final = 256
SIZES: Final = (8, 16, 32, 64, 128, 256)


class Predicted(NamedTuple):
    """Energies of labelled geometries, eV."""

    error: np.ndarray  # [m] of the mean
    apart: np.ndarray  # [m, k] of the samples, from their mean

    def sigma(self, group: slice, floor: float) -> np.ndarray:
        """σ [m] with some of the samples."""
        return np.hypot(np.std(self.apart[:, group], axis=1, ddof=1), floor)


def main() -> None:
    """Learn, compare and write."""
    parser = arguments(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[12])
    args = parser.parse_args()
    raw = yaml.safe_load(args.config.read_text())
    override(raw, [*(args.set or []), "posterior=laplace", f"laplace.samples={SAMPLES}"])
    config, labels = configuration.parse(raw), read(args.labels)
    groups = [read(path) for path in args.frames]
    study = Study(config, labels, [frame for group in groups for frame in group])
    law, decay = study.prior
    met, found = [], []
    for count in range(1, max(args.counts) + 1):
        if count > 1:
            met.append(study.apart(*study.next_label))
        study.learn(update=not args.updates or count in args.updates or count in args.counts)
        if count in args.counts:
            frames = _predicted([study.apart(*each) for each in study.frames])
            for end in np.cumsum([len(group) for group in groups]):
                seen = Predicted(frames.error[:end], frames.apart[:end])
                numbers = {"frames": int(end), "rmse": rmse(seen.error) * KCAL_MOL_PER_EV}
                by_size = by_number(config, law, decay, _predicted(met), seen, study.problem.threshold_ev)
                found.append({"labels": count, **numbers, "samples": by_size})
            print(json.dumps(found, indent=1), flush=True)
    about = {"config": raw, "labels": args.labels.name, "frames": [path.name for path in args.frames]}
    write_whole(args.out, (json.dumps({**about, "found": found}, indent=1) + "\n").encode())


def _predicted(each: list[tuple[float, np.ndarray]]) -> Predicted:
    return Predicted(*map(np.array, zip(*each, strict=True)))


def by_number(
    config: RunConfig, prior: ErrorLaw, decay: float, met: Predicted, frames: Predicted, threshold_ev: float
) -> dict[str, dict[str, Any]]:
    """What σ knows of the errors of frames, by the number of samples.

    Args:
      config: of the run.
      prior: law of errors before the first label.
      decay: of its memory.
      met: labels before each was learnt.
      frames: predictions.
      threshold_ev: of the run.
    """
    found = {}
    for size in SIZES:
        groups = []
        for first in range(0, SAMPLES, size):
            group, law = slice(first, first + size), prior
            for error, sigma in zip(met.error, met.sigma(group, prior.floor), strict=True):
                law = error_law.update(law, error, sigma, decay=decay)
            groups.append(_known(config, law, frames.error, frames.sigma(group, prior.floor), threshold_ev))
        found[str(size)] = {
            name: {"mean": float(np.mean(values)), "sd": float(np.std(values))}
            for name in groups[0]
            if (values := [each[name] for each in groups])
        }
    return found


def _known(
    config: RunConfig, law: ErrorLaw, error: np.ndarray, sigma: np.ndarray, threshold_ev: float
) -> dict[str, float]:
    factor, floor = error_law.parts(law)
    known = ranking(error, np.asarray(error_law.deviation(law, sigma)))
    assert known is not None and known.slope is not None
    trusted = sigma <= error_law.critical_sigma(law, threshold_ev, confidence=config.confidence)
    inside = np.asarray(error_law.exceedance_probability(law, sigma, np.abs(error))) > 0.05
    return {
        "slope": known.slope,
        "rho": known.rho,
        "possible": known.possible,
        "range": known.range,
        "factor": float(factor),
        "floor": float(floor) * KCAL_MOL_PER_EV,
        "within_95": float(np.mean(inside)),
        "trusted": float(np.mean(trusted)),
        "above_and_trusted": int(np.sum(trusted & (np.abs(error) > threshold_ev))),
    }


if __name__ == "__main__":
    main()

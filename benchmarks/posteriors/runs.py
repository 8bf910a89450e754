"""Labels and errors of finished runs side by side.

python -m benchmarks.posteriors.runs OUT.json NAME=RUN_DIR [NAME=RUN_DIR ...]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.ensemble.ranking import ranking
from bayes_mlff.report import run_data


def main() -> None:
    """Collect and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+")
    args = parser.parse_args()
    named = (each.split("=", 1) for each in args.runs)
    found = {name: collected(Path(path)) for name, path in named}
    print(json.dumps(found, indent=1))
    write_whole(args.out, (json.dumps(found, indent=1) + "\n").encode())


def collected(path: Path) -> dict[str, Any]:
    """Numbers of one run; energies in kcal/mol, forces in kcal/mol/Å."""
    run = run_data.read(path)
    errors = KCAL_MOL_PER_EV * run_data.errors(run_data.predicted(run.records))
    reasons = [record.reason for record in run.records]
    checked = run.validation
    if checked is None:
        raise SystemExit(f"{path}: no reference energies of random frames")
    random = KCAL_MOL_PER_EV * (checked.predicted_ev - checked.reference_ev)
    known = ranking(random, KCAL_MOL_PER_EV * checked.sigma_ev)
    threshold = KCAL_MOL_PER_EV * run.threshold_ev
    return {
        "posterior": run.config.posterior,
        "labels": len(reasons),
        "audits": reasons.count("audit"),
        "labels_above_threshold": int(np.sum(np.abs(errors) > threshold)),
        "rmse_labels": rmse(errors),
        "errors_at_labels": np.round(errors, 3).tolist(),
        "random_frames": int(random.size),
        "random_above_threshold": int(np.sum(np.abs(random) > threshold)),
        "rmse_random": rmse(random),
        "force_rmse_random": KCAL_MOL_PER_EV * rmse(checked.force_error_ev_a),
        "rho_random": None if known is None else known.rho,
        "rho_possible": None if known is None else known.possible,
        "learning_s": sum(event["seconds"] for event in run.events if event["event"] == "update"),
    }


if __name__ == "__main__":
    main()

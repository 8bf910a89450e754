"""Figures and `summary.json` of a finished on-the-fly run with reference energies on random frames.

python benchmarks/summarise_run.py RUN_DIR OUT_DIR --command "..." --machine "..."
"""

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np

from bayes_mlff.analysis import bonds
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.report import crystal_figures, run_data, run_summary
from bayes_mlff.report import page as report
from bayes_mlff.report.run_data import RunData
from bayes_mlff.runs import trajectory


def main() -> None:
    """Write OUT_DIR/summary.json and one PNG for each figure of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--command", required=True)
    parser.add_argument("--machine", required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    data = run_data.read(args.run)
    threshold_ev = data.config.threshold_ev(len(data.records[0].structure.numbers))
    known = run_data.predicted(data.records)
    errors = run_data.errors(known) * KCAL_MOL_PER_EV
    frames = data.validation
    if frames is None:
        raise SystemExit(f"{args.run}: no reference energies of random frames")
    random = (frames.predicted_ev - frames.reference_ev) * KCAL_MOL_PER_EV
    pretrained = (frames.pretrained_ev - frames.reference_ev) * KCAL_MOL_PER_EV
    threshold = threshold_ev * KCAL_MOL_PER_EV
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    summary = {
        "simulated_ps": round(run_summary.summarise(data.log, threshold_ev).time_fs / 1000.0, 6),
        "threshold_kcal_mol": round(threshold, 9),
        "labels": len(data.records),
        "labels_above_threshold": int(np.sum(np.abs(errors) > threshold)),
        "rmse_labels_kcal_mol": rmse(errors),
        "random_frames": len(random),
        "random_above_threshold": int(np.sum(np.abs(random) > threshold)),
        "rmse_random_kcal_mol": rmse(random),
        "rmse_random_pretrained_kcal_mol": rmse(pretrained),
        "sigma": {name: each._asdict() for name, each in report.rankings(data, threshold_ev=threshold_ev).items()},
        **_crystal(args.run, data),
        "commit": commit,
        "command": args.command,
        "machine": args.machine,
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    for i, panel in enumerate(report.panels(args.run, data, threshold_ev=threshold_ev)):
        if panel.png is not None:
            (args.out / f"figure_{i}.png").write_bytes(panel.png)


def _crystal(run_dir: Path, data: RunData) -> dict[str, str | int | dict[str, float]]:
    """Engine, atoms and the octahedra's bonds in the first stretch of each constant temperature, if periodic."""
    structure, dynamics = data.records[0].structure, data.config.dynamics
    if not structure.is_periodic:
        return {}
    found: dict[str, str | int | dict[str, float]] = {
        "engine": data.config.engine.name,
        "atoms": len(structure.numbers),
    }
    frames = trajectory.read(run_dir / "trajectory.extxyz")
    octahedra = bonds.octahedra(frames.numbers, frames.time_fs, frames.positions, frames.cells)
    if octahedra is None or dynamics.ensemble == "nve":
        return found
    for mean in crystal_figures.segment_means(octahedra, dynamics.conditions()):
        pair = octahedra.pair.lower().replace("-", "_").replace("/", "_")
        key = f"{pair}_angstrom_{mean.temperature_k:.0f}k"
        values = mean.distance.round(4).tolist()
        found.setdefault(key, dict(zip(("short", "middle", "long"), values, strict=True)))
    return found


if __name__ == "__main__":
    main()

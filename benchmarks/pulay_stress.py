"""How good the corrected stress of a finished run is: the same frames with a large plane-wave cutoff.

python benchmarks/pulay_stress.py RUN_DIR OUT_DIR --machine "..." [--frames 10] [--cutoff 800]

Goes on where it stopped: OUT_DIR/converged.extxyz keeps what has been calculated. Writes OUT_DIR/stress.json; stresses
in GPa, tension positive, in the order xx, yy, zz, yz, xz, xy.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress

from bayes_mlff.core.units import GPA
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.verified import VerifiedEngine
from bayes_mlff.ensemble import metrics
from bayes_mlff.report import run_data


def main() -> None:
    """Label frames of a run once more, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--frames", type=int, default=10, help="spread evenly over the labels, the first one left out")
    parser.add_argument("--cutoff", type=float, default=800.0, help="eV")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    data = run_data.read(args.run)
    settings = data.config.engine
    if not isinstance(settings, GpawSettings) or settings.stress != "pulay-corrected":
        raise SystemExit(f"{args.run}: allowed: a run with engine gpaw and stress: pulay-corrected")
    if not 1 <= args.frames < len(data.records):
        raise SystemExit(
            f"--frames: got {args.frames}; allowed: 1 to {len(data.records) - 1}, the labels but the first"
        )
    chosen = np.linspace(1, len(data.records) - 1, args.frames).round().astype(int)
    with make_engine(settings.model_copy(update={"cutoff_ev": args.cutoff, "stress": "raw"}), args.out) as engine:
        rows = [_compare(engine, data.records[i], args.out / "converged.extxyz") for i in chosen]
    corrected, converged = (np.array([row[name] for row in rows]) for name in ("corrected", "converged"))
    pressures = [-np.mean(x[:, :3], axis=1) for x in (corrected, converged)]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    summary = {
        "frames": len(rows),
        "cutoffs_ev": [settings.cutoff_ev, args.cutoff],
        "rmse_gpa": metrics.rmse(corrected - converged),
        "rmse_pressure_gpa": metrics.rmse(pressures[0] - pressures[1]),
        "mean_difference_gpa": np.mean(corrected - converged, axis=0).tolist(),
        "spread_of_converged_gpa": metrics.rmse(converged - np.mean(converged, axis=0)),
        "each": rows,
        "commit": commit,
        "machine": args.machine,
    }
    (args.out / "stress.json").write_text(json.dumps(summary, indent=2) + "\n")


def _compare(engine: VerifiedEngine, record: LabelRecord, path: Path) -> dict[str, Any]:
    """Stress of a label, and that of the same structure with the other cutoff, from `path` if it is there."""
    if path.exists():
        dataset.recover(path)
    known = [r for r in (dataset.read(path, repeats=True) if path.exists() else []) if _same(r, record, engine)]
    if known:
        again = known[0]
    else:
        result = engine.label(record.structure)
        again = record._replace(label=result.label, engine_hash=engine.settings_hash, engine_seconds=result.seconds)
        dataset.append(path, again, repeats=True)
    if record.label.stress is None or again.label.stress is None:
        raise SystemExit(f"step {record.step}: a label without stress")
    corrected, converged = (full_3x3_to_voigt_6_stress(x.label.stress / GPA).tolist() for x in (record, again))
    row = {"step": record.step, "corrected": corrected, "converged": converged, "seconds": again.engine_seconds}
    print(json.dumps(row), flush=True)
    return row


def _same(known: LabelRecord, record: LabelRecord, engine: VerifiedEngine) -> bool:
    return (
        known.engine_hash == engine.settings_hash
        and known.step == record.step
        and np.allclose(known.structure.positions, record.structure.positions, rtol=0.0, atol=1e-6)
    )


if __name__ == "__main__":
    main()

"""How reproducible the labels are: some random frames calculated again, with the same and with stricter settings.

    python -m benchmarks.starts.label_noise OUT_DIR --python INTERPRETER_WITH_GPAW [--frames 5] [--variants again tight]

Goes on where it stopped: OUT_DIR/noise.jsonl keeps what has been calculated, one line for each frame and variant. Every
calculation starts afresh, while those of the run started from the density of the label before.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data import dataset
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.otf import config as configuration
from benchmarks.starts.sets import SOURCE

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "again": {},
    "tight": {"convergence": "tight"},
    "more k-points": {"kpts": tuple((0.25, y, z) for y in (0.25, -0.25) for z in (0.25, -0.25))},
}
"""Settings that differ from those of the run."""


def main() -> None:
    """Calculate what is left to do and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", required=True, help="interpreter that has GPAW")
    parser.add_argument("--frames", type=int, default=5, help="spread evenly over the random frames")
    parser.add_argument("--steps", nargs="+", type=int, help="steps of random frames in the place of --frames")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["again", "tight"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "noise.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done = {(row["step"], row["variant"]) for row in rows}
    records = dataset.read(SOURCE / "validation.extxyz")
    chosen = [records[i] for i in np.linspace(0, len(records) - 1, args.frames + 2).round().astype(int)[1:-1]]
    if args.steps:
        chosen = [record for record in records if record.step in args.steps]
    settings = configuration.load(SOURCE / "config.yaml").engine
    assert isinstance(settings, GpawSettings)
    for variant in args.variants:
        for record in chosen:
            if (record.step, variant) in done:
                continue
            changed = settings.model_copy(update={"python": args.python, **VARIANTS[variant]})
            with tempfile.TemporaryDirectory() as folder, make_engine(changed, Path(folder)) as engine:
                result = engine.label(record.structure)
            forces = (result.label.forces - record.label.forces) * KCAL_MOL_PER_EV
            row = {
                "step": record.step,
                "variant": variant,
                "forces_rms_kcal_mol_a": float(np.sqrt(np.mean(forces**2))),
                "forces_max_kcal_mol_a": float(np.max(np.abs(forces))),
                "energy_kcal_mol": (result.label.energy - record.label.energy) * KCAL_MOL_PER_EV,
                "seconds": result.seconds,
                "forces_ev_a": result.label.forces.tolist(),
                "remarks": list(result.diagnostics),
            }
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print({k: v for k, v in row.items() if k != "forces_ev_a"}, flush=True)


if __name__ == "__main__":
    main()

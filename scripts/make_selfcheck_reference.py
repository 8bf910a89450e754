"""Compute the float64 values that `bayes_mlff.models.selfcheck` compares with, and write them where it looks for them.

python scripts/make_selfcheck_reference.py
"""

import json
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402

from bayes_mlff.data.structure import Structure  # noqa: E402
from bayes_mlff.models import selfcheck  # noqa: E402
from bayes_mlff.otf import systems  # noqa: E402


def crystal() -> Structure:
    """Five atoms of LaMnO3 in a tilted cell, off their sites."""
    cell = np.array([[3.95, 0.0, 0.0], [0.12, 3.88, 0.0], [-0.08, 0.15, 4.02]])
    sites = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    positions = sites @ cell + np.random.default_rng(0).normal(scale=0.08, size=(5, 3))
    return Structure(np.array([57, 25, 8, 8, 8]), positions.round(4), cell, np.ones(3, bool))


def molecule() -> Structure:
    ethanol = systems.structure("ethanol", base=Path())
    moved = ethanol.positions + np.random.default_rng(1).normal(scale=0.05, size=ethanol.positions.shape)
    return ethanol._replace(positions=moved.round(4))


def main() -> None:
    stored = []
    for model, structure in (("mace-perovskite-small", crystal()), ("nequip-md17-small", molecule())):
        got = selfcheck.evaluate(model, structure, np.float64)
        values = {
            "energy": got.energy[0],
            "forces": got.forces[0],
            "stress": None if got.stress is None else got.stress[0],
        }
        geometry = {name: value.tolist() for name, value in structure._asdict().items()}
        stored.append({"model": model} | geometry | {k: None if v is None else v.tolist() for k, v in values.items()})
    path = Path(selfcheck.__file__).with_name("pretrained") / selfcheck.REFERENCE
    path.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

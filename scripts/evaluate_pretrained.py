"""Errors of a pretrained model on held-out frames of each composition, as JSON.

python scripts/evaluate_pretrained.py DATA_DIR MODEL.safetensors OUT.json [--frames 200]
"""

import argparse
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from pretrain import compare, files, read

from bayes_mlff.core.units import GPA, KCAL_MOL_PER_EV
from bayes_mlff.data.molecule_sets import MoleculeSet
from bayes_mlff.models import registry


def errors(model: registry.Potential, data: MoleculeSet) -> dict[str, float]:
    """Errors of energy, kcal/mol, forces, kcal/mol/Å, and for crystals stress, GPa."""
    predicted, batch = compare(model, data, capacity=200)
    shift = float(jnp.mean(predicted.energy - batch.energy))
    found = {
        "force_mae_kcal_mol_a": float(jnp.mean(jnp.abs(predicted.forces - batch.forces))) * KCAL_MOL_PER_EV,
        "force_rmse_kcal_mol_a": float(jnp.sqrt(jnp.mean((predicted.forces - batch.forces) ** 2))) * KCAL_MOL_PER_EV,
        "energy_mae_kcal_mol": float(jnp.mean(jnp.abs(predicted.energy - batch.energy))) * KCAL_MOL_PER_EV,
        "energy_mae_shifted_kcal_mol": float(jnp.mean(jnp.abs(predicted.energy - batch.energy - shift)))
        * KCAL_MOL_PER_EV,
    }
    if predicted.stress is not None and batch.stress is not None:
        found["stress_mae_gpa"] = float(jnp.mean(jnp.abs(predicted.stress - batch.stress))) / GPA
    return found


def main() -> None:
    """Evaluate every composition and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=200)
    args = parser.parse_args()
    model = registry.load(str(args.model))
    table = {}
    for path in files(args.data):
        held_out = read(path, held_out=True)
        table[path.stem] = errors(model, held_out.take(np.arange(len(held_out.energies))[: args.frames]))
    mean = {k: float(np.mean([row[k] for row in table.values()])) for k in next(iter(table.values()))}
    args.out.write_text(json.dumps({"frames": args.frames, "molecules": table, "mean": mean}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Errors of a pretrained model on held-out frames of each molecule, as a table and JSON.

python scripts/evaluate_pretrained.py DATA_DIR MODEL.safetensors OUT.json [--frames 200]
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.collection import Collection, draw, layout, make_member
from bayes_mlff.data.molecule_sets import MD17_KEYS, read_npz
from bayes_mlff.data.neighbors import species_index
from bayes_mlff.models import registry
from bayes_mlff.posterior.fit import predict_frames


def errors(model: registry.Potential, path: Path, frames: int) -> dict[str, float]:
    """Force and energy errors on the first `frames` frames of test_01, kcal/mol(/Å)."""
    data = read_npz(path, keys=MD17_KEYS)
    index, numbers = np.load(path)["test_01"][:frames], data.numbers
    energy = data.energies[index] - model.isolated_energy(numbers)
    member = make_member(
        data.positions[index], data.forces[index], energy, r_max=model.config.r_max, capacity=len(numbers) - 1
    )
    collection = Collection((member,), (species_index(numbers, model.config.elements),))
    species, frame = layout(collection, frames)
    batch = draw(collection, (jnp.arange(frames),))
    predict = jax.jit(lambda params: predict_frames(model.node_fn, params, batch, species, frame))
    predicted, forces, _ = predict(model.params)
    shift = float(jnp.mean(predicted - batch.energy))
    return {
        "force_mae_kcal_mol_a": float(jnp.mean(jnp.abs(forces - batch.forces))) * KCAL_MOL_PER_EV,
        "force_rmse_kcal_mol_a": float(jnp.sqrt(jnp.mean((forces - batch.forces) ** 2))) * KCAL_MOL_PER_EV,
        "energy_mae_kcal_mol": float(jnp.mean(jnp.abs(predicted - batch.energy))) * KCAL_MOL_PER_EV,
        "energy_mae_shifted_kcal_mol": float(jnp.mean(jnp.abs(predicted - batch.energy - shift))) * KCAL_MOL_PER_EV,
    }


def main() -> None:
    """Evaluate every molecule and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=200)
    args = parser.parse_args()
    model = registry.load(str(args.model))
    table = {p.stem: errors(model, p, args.frames) for p in sorted(args.data.glob("*.npz"))}
    mean = {k: float(np.mean([row[k] for row in table.values()])) for k in next(iter(table.values()))}
    args.out.write_text(json.dumps({"frames": args.frames, "molecules": table, "mean": mean}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Pretrain a small NequIP on MD17 energies and forces of several molecules; resumable.

    python scripts/pretrain.py DATA_DIR OUT_DIR [--steps N] [--hidden-irreps ...]

DATA_DIR holds rMD17-style files `<molecule>.npz` with the keys z, R, E_md17, F_md17 and test_01. Frames of
test_01 are held out. OUT_DIR receives `state.npz` (checkpoint), `log.jsonl` and `model.safetensors`.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bayes_mlff.data.collection import Collection, isolated_energies, make_member
from bayes_mlff.data.molecule_sets import MD17_KEYS, MoleculeSet, read_npz
from bayes_mlff.data.neighbors import species_index
from bayes_mlff.models import registry
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.posterior.fit import FitState, make_fit

ELEMENTS = (1, 6, 7, 8)


def read(folder: Path) -> list[MoleculeSet]:
    """Frames outside test_01 of every molecule."""
    sets = []
    for path in sorted(folder.glob("*.npz")):
        frames = read_npz(path, keys=MD17_KEYS)
        keep = np.setdiff1d(np.arange(len(frames.energies)), np.load(path)["test_01"])
        sets.append(
            frames._replace(
                positions=frames.positions[keep], energies=frames.energies[keep], forces=frames.forces[keep]
            )
        )
    return sets


def build(sets: list[MoleculeSet], args: argparse.Namespace) -> tuple[NequIPConfig, Collection]:
    """Architecture with energy scale and shifts from the data, and the data on the device."""
    shifts = isolated_energies([s.numbers for s in sets], [float(s.energies.mean()) for s in sets], ELEMENTS)
    scale = float(np.sqrt(np.mean([np.mean(s.forces**2) for s in sets])))
    species = tuple(species_index(s.numbers, ELEMENTS) for s in sets)
    members = tuple(
        make_member(s.positions, s.forces, s.energies - shifts[kind].sum(), r_max=args.r_max, capacity=args.capacity)
        for s, kind in zip(sets, species, strict=True)
    )
    edges = sum(int(np.sum(np.asarray(m.neighbors[:50]) >= 0)) for m in members)
    atoms = sum(m.positions[:50].shape[0] * m.positions.shape[1] for m in members)
    config = NequIPConfig(
        elements=ELEMENTS,
        r_max=args.r_max,
        hidden_irreps=args.hidden_irreps,
        num_layers=args.layers,
        edge_l_max=args.l_max,
        embedding_features=args.embedding,
        radial_depth=args.radial_depth,
        radial_width=args.radial_width,
        average_neighbors=round(edges / atoms, 3),
        energy_scales=(round(scale, 4),) * len(ELEMENTS),
        energy_shifts=tuple(float(x) for x in shifts),
    )
    return config, Collection(members, species)


def save_state(path: Path, state: FitState) -> None:
    """Write the leaves of the state, replacing the previous file at once."""
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, *[np.asarray(x) for x in jax.tree.leaves(state)])
    temporary.replace(path)


def load_state(path: Path, template: FitState) -> FitState:
    """Read what `save_state` wrote."""
    data = np.load(path)
    leaves = [jnp.asarray(data[f"arr_{i}"]) for i in range(len(data.files))]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def main() -> None:
    """Train until the schedule ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--hidden-irreps", default="48x0e+24x1o+12x2e")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--l-max", type=int, default=2)
    parser.add_argument("--embedding", type=int, default=16)
    parser.add_argument("--radial-depth", type=int, default=1)
    parser.add_argument("--radial-width", type=int, default=32)
    parser.add_argument("--r-max", type=float, default=4.0)
    parser.add_argument("--capacity", type=int, default=20)
    parser.add_argument("--frames", type=int, default=1, help="frames of each molecule in a batch")
    parser.add_argument("--learning-rate", type=float, default=1.5e-2)
    parser.add_argument("--energy-weight", type=float, default=0.1)
    parser.add_argument("--force-loss", choices=["mse", "norm"], default="norm")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    config, collection = build(read(args.data), args)
    model = registry.initialize(config, args.seed)
    flat, unravel = model.flat()
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, 500, args.steps, 1e-5)
    adam = optax.with_extra_args_support(optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule)))
    run = make_fit(
        model.node_fn,
        unravel,
        collection,
        adam,
        frames_per_member=args.frames,
        energy_weight=args.energy_weight,
        force_loss=args.force_loss,
    )
    state = FitState(flat, flat, adam.init(flat), jnp.zeros([], jnp.int32))
    if (args.out / "state.npz").exists():
        state = load_state(args.out / "state.npz", state)
    key = jax.random.key(args.seed + 1)
    started = time.time()
    while int(state.step) < args.steps:
        state, info = run(state, jax.random.fold_in(key, int(state.step)))
        line = {"step": int(state.step), "loss": float(info.loss), "force_mae_ev_a": float(info.force_mae)}
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line | {"seconds": round(time.time() - started, 1)}) + "\n")
        if int(state.step) % 2000 == 0 or int(state.step) >= args.steps:
            save_state(args.out / "state.npz", state)
            fitted = registry.Potential(config, unravel(state.average))
            registry.save(fitted, args.out / "model.safetensors", {"step": str(int(state.step))})


if __name__ == "__main__":
    main()

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
from bayes_mlff.data.neighbors import species_index
from bayes_mlff.models import registry
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.posterior.fit import FitState, make_fit

ELEMENTS = (1, 6, 7, 8)


def read(folder: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """(z, R, E, F) of the frames outside test_01, by molecule."""
    sets = {}
    for path in sorted(folder.glob("*.npz")):
        data = np.load(path)
        keep = np.setdiff1d(np.arange(len(data["R"])), data["test_01"])
        sets[path.stem] = (data["z"], data["R"][keep], data["E_md17"][keep], data["F_md17"][keep])
    return sets


def build(sets: dict[str, tuple[np.ndarray, ...]], args: argparse.Namespace) -> tuple[NequIPConfig, Collection]:
    """Architecture with energy scale and shifts from the data, and the data on the device."""
    shifts = isolated_energies([s[0] for s in sets.values()], [s[2].mean() for s in sets.values()], ELEMENTS)
    scale = float(np.sqrt(np.mean([np.mean(s[3] ** 2) for s in sets.values()])))
    members = tuple(
        make_member(r, f, e - shifts[species_index(z, ELEMENTS)].sum(), r_max=args.r_max, capacity=args.capacity)
        for z, r, e, f in sets.values()
    )
    edges = sum(int(np.sum(np.asarray(m.neighbors[:50]) >= 0)) for m in members)
    atoms = sum(m.positions[:50].shape[0] * m.positions.shape[1] for m in members)
    config = NequIPConfig(
        elements=ELEMENTS,
        r_max=args.r_max,
        hidden_irreps=args.hidden_irreps,
        num_layers=args.layers,
        edge_l_max=args.l_max,
        embedding_features=8,
        radial_depth=args.radial_depth,
        radial_width=args.radial_width,
        average_neighbors=round(edges / atoms, 3),
        energy_scales=(round(scale, 4),) * len(ELEMENTS),
        energy_shifts=tuple(float(x) for x in shifts),
    )
    return config, Collection(members, tuple(species_index(s[0], ELEMENTS) for s in sets.values()))


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
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--hidden-irreps", default="32x0e+16x1o+8x2e")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--l-max", type=int, default=2)
    parser.add_argument("--radial-depth", type=int, default=1)
    parser.add_argument("--radial-width", type=int, default=32)
    parser.add_argument("--r-max", type=float, default=4.0)
    parser.add_argument("--capacity", type=int, default=20)
    parser.add_argument("--frames", type=int, default=1, help="frames of each molecule in a batch")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--energy-weight", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    config, collection = build(read(args.data), args)
    model = registry.initialize(config, args.seed)
    flat, unravel = model.flat()
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, 500, args.steps, 1e-5)
    adam = optax.with_extra_args_support(optax.chain(optax.clip_by_global_norm(10.0), optax.amsgrad(schedule)))
    run = make_fit(
        model.node_fn,
        unravel,
        collection,
        adam,
        frames_per_member=args.frames,
        energy_weight=args.energy_weight,
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

"""Pretrain a small NequIP or MACE on energies, forces and stress of several compositions; resumable.

    python scripts/pretrain.py DATA_DIR OUT_DIR [--architecture mace] [--steps N] [--hidden-irreps ...]
    python scripts/pretrain.py DATA_DIR OUT_DIR --start nequip-md17-small [--frames N] [--learning-rate X]

DATA_DIR holds rMD17-style files `<molecule>.npz` with the keys z, R, E_md17, F_md17 and test_01, or one
`<composition>.extxyz` of each crystal with REF_energy, REF_forces and REF_stress. Frames of test_01, or every tenth,
are held out. OUT_DIR receives `state.npz` (checkpoint), `log.jsonl` and `model.safetensors`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pretraining.collection import Collection, Draw, draw, isolated_energies, layout, make_member
from pretraining.fit import FitState, FramePrediction, make_fit, predict_frames

from bayes_mlff.data.labelled_files import read_extxyz
from bayes_mlff.data.molecule_sets import MD17_KEYS, MoleculeSet, read_npz, stack
from bayes_mlff.data.neighbors import species_index
from bayes_mlff.data.npz import write_npz
from bayes_mlff.models import registry
from bayes_mlff.models.config import MACEConfig, NequIPConfig


def read(path: Path, *, held_out: bool) -> MoleculeSet:
    """The frames of one file that are for training, or those that are not."""
    if path.suffix == ".npz":
        frames, test = read_npz(path, keys=MD17_KEYS), np.load(path)["test_01"]
    else:
        frames = stack(read_extxyz(path))
        test = np.arange(0, len(frames.energies), 10)
    return frames.take(test if held_out else np.setdiff1d(np.arange(len(frames.energies)), test))


def files(folder: Path) -> list[Path]:
    """Data files in a fixed order."""
    return sorted([*folder.glob("*.npz"), *folder.glob("*.extxyz")])


def elements_of(sets: list[MoleculeSet]) -> tuple[int, ...]:
    """Atomic numbers of all sets, ascending."""
    return tuple(int(z) for z in np.unique(np.concatenate([s.numbers for s in sets])))


def collect(
    sets: list[MoleculeSet], elements: tuple[int, ...], shifts: np.ndarray, r_max: float, capacity: int
) -> Collection:
    """The sets on the device, their energies relative to the isolated atoms [elements] eV."""
    species = tuple(species_index(s.numbers, elements) for s in sets)
    members = tuple(
        make_member(
            s.positions,
            s.forces,
            s.energies - shifts[kind].sum(),
            r_max=r_max,
            capacity=capacity,
            cells=s.cells,
            stress=s.stress,
        )
        for s, kind in zip(sets, species, strict=True)
    )
    return Collection(members, species)


def continued(sets: list[MoleculeSet], args: argparse.Namespace) -> tuple[registry.Potential, Collection]:
    """A trained model for the elements of the data, its energies of isolated atoms moved to the level of the data."""
    model = registry.restrict(registry.load(args.start, key="--start"), elements_of(sets))
    config = model.config
    known = np.asarray(config.energy_shifts)
    moved = known + isolated_energies(
        [s.numbers for s in sets], mean_errors(model, sets, args.capacity), config.elements
    )
    config = config.model_copy(update={"energy_shifts": tuple(float(x) for x in moved)})
    return registry.Potential(config, model.params), collect(sets, config.elements, moved, config.r_max, args.capacity)


def mean_errors(model: registry.Potential, sets: list[MoleculeSet], capacity: int, count: int = 20) -> list[float]:
    """By how much the labels of each set lie above the model's energies, eV, in the mean of its first frames."""
    errors = []
    for whole in sets:
        said, batch = compare(model, whole.take(np.arange(min(count, len(whole.energies)))), capacity)
        errors.append(float(jnp.mean(batch.energy - said.energy)))
    return errors


def compare(model: registry.Potential, data: MoleculeSet, capacity: int) -> tuple[FramePrediction, Draw]:
    """What a model says of all frames of a set at once, and their labels on its energy level."""
    config = model.config
    collection = collect([data], config.elements, np.asarray(config.energy_shifts), config.r_max, capacity)
    species, frame = layout(collection, len(data.energies))
    batch = draw(collection, (jnp.arange(len(data.energies)),))
    return jax.jit(lambda params: predict_frames(model.node_fn, params, batch, species, frame))(model.params), batch


def fresh(sets: list[MoleculeSet], args: argparse.Namespace) -> tuple[registry.Potential, Collection]:
    """Random weights, with energy scale and shifts from the data, and the data on the device."""
    elements = elements_of(sets)
    shifts = isolated_energies([s.numbers for s in sets], [float(s.energies.mean()) for s in sets], elements)
    scale = round(float(np.sqrt(np.mean([np.mean(s.forces**2) for s in sets]))), 4)
    collection = collect(sets, elements, shifts, args.r_max, args.capacity)
    members = collection.members
    edges = sum(int(np.sum(np.asarray(m.neighbors[:50]) >= 0)) for m in members)
    atoms = sum(m.positions[:50].shape[0] * m.positions.shape[1] for m in members)
    common = {
        "elements": elements,
        "r_max": args.r_max,
        "hidden_irreps": args.hidden_irreps,
        "average_neighbors": round(edges / atoms, 3),
        "energy_shifts": tuple(float(x) for x in shifts),
    }
    model = registry.initialize(CONFIGURATIONS[args.architecture](common, scale, args), args.seed)
    return registry.widened(model), collection


def nequip(common: dict[str, Any], scale: float, args: argparse.Namespace) -> NequIPConfig:
    """The configuration of NequIP that the options ask for."""
    return NequIPConfig(
        **common,
        num_layers=args.layers,
        edge_l_max=args.l_max,
        embedding_features=args.embedding,
        self_connection=args.self_connection,
        radial_depth=args.radial_depth,
        radial_width=args.radial_width,
        energy_scales=(scale,) * len(common["elements"]),
    )


def mace(common: dict[str, Any], scale: float, args: argparse.Namespace) -> MACEConfig:
    """The configuration of MACE that the options ask for."""
    return MACEConfig(
        **common,
        num_interactions=args.layers,
        max_ell=args.l_max,
        correlation=args.correlation,
        radial_widths=(args.radial_width,) * args.radial_depth,
        energy_scale=scale,
        sigma_widths=(32, 16),
    )


CONFIGURATIONS = {"nequip": nequip, "mace": mace}
"""What `--architecture` may be."""


def save_state(path: Path, state: FitState) -> None:
    """Write the leaves of the state, replacing the previous file at once."""
    write_npz(path, {f"arr_{i}": x for i, x in enumerate(jax.tree.leaves(state))})


def load_state(path: Path, template: FitState) -> FitState:
    """Read what `save_state` wrote."""
    data = np.load(path)
    leaves = [jnp.asarray(data[f"arr_{i}"]) for i in range(len(data.files))]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def arguments() -> argparse.Namespace:
    """Options; the defaults made nequip-md17-small."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", help="name or path of a model to go on from; its architecture is kept")
    parser.add_argument("--architecture", choices=sorted(CONFIGURATIONS), default="nequip")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--hidden-irreps", default="48x0e+24x1o+12x2e")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--l-max", type=int, default=2)
    parser.add_argument("--correlation", type=int, default=2, help="of MACE")
    parser.add_argument("--embedding", type=int, default=16, help="of NequIP")
    parser.add_argument(
        "--self-connection", choices=["embedding", "element", "linear"], default="embedding", help="of NequIP"
    )
    parser.add_argument("--radial-depth", type=int, default=1)
    parser.add_argument("--radial-width", type=int, default=32)
    parser.add_argument("--r-max", type=float, default=4.0)
    parser.add_argument("--capacity", type=int, default=20)
    parser.add_argument("--frames", type=int, default=1, help="frames of each composition in a batch")
    parser.add_argument("--learning-rate", type=float, default=1.5e-2)
    parser.add_argument("--energy-weight", type=float, default=0.1)
    parser.add_argument("--stress-weight", type=float, default=1.0, help="of crystals")
    parser.add_argument("--force-loss", choices=["mse", "norm"], default="norm")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train until the schedule ends."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    model, collection = (continued if args.start else fresh)([read(p, held_out=False) for p in files(args.data)], args)
    flat, unravel = model.flat()
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, 500, args.steps, 1e-5)
    # Not AMSGrad: the large gradients of the first steps would keep its steps small for ever.
    adam = optax.with_extra_args_support(optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule)))
    run = make_fit(
        model.node_fn,
        unravel,
        collection,
        adam,
        frames_per_member=args.frames,
        energy_weight=args.energy_weight,
        force_loss=args.force_loss,
        stress_weight=args.stress_weight,
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
            fitted = registry.Potential(model.config, unravel(state.average))
            registry.save(fitted, args.out / "model.safetensors", {"step": str(int(state.step))})


if __name__ == "__main__":
    main()

"""Pretrain a small network on the adsorption energies of all metals but Ag and Ir; interrupted, it goes on.

    python -m benchmarks.adsorbates.pretrain SLABS.extxyz OUT_DIR ARCHITECTURE ... [--steps N]

One architecture after the other. OUT_DIR receives <architecture>.safetensors, the average over the last steps, whenever
the state is written, and in <architecture>/ the state and `log.jsonl` with root mean square errors per adsorbed atom,
kcal/mol, of the batches and of held-out slabs. Adam minimises the mean square of these errors.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.npz import write_npz
from bayes_mlff.ensemble.saved import flat_predictor, unraveller
from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune import frames
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import PredictFn
from benchmarks.adsorbates import slabs
from benchmarks.adsorbates.networks import NETWORKS

EVERY: Final = 500
"""Steps between two states on disk."""
AVERAGED: Final = 0.995
"""Weight of the past in the average of the weights."""


class Labelled(NamedTuple):
    """Slabs on the device."""

    graphs: Graph  # leaves [f, ...]
    energy: jax.Array  # [f] eV per adsorbed atom
    adsorbed: jax.Array  # [f] number of adsorbed atoms


class State(NamedTuple):
    """What a training continues from."""

    params: jax.Array  # [p]
    average: jax.Array  # [p]
    optimizer: Any
    step: jax.Array  # [] int32


def labelled(
    parts: dict[str, list[ase.Atoms]], elements: tuple[int, ...], r_max: float, folder: Path
) -> list[Labelled]:
    """Read sets as a fine-tuning does, and find their neighbours."""
    read, paths = {}, {name: folder / f"{name}.extxyz" for name in parts}
    for name, rows in parts.items():
        slabs.write(rows, paths[name])
        raw = {"data": {"train": str(paths[name]), **slabs.LABELS, "duplicates": "allow"}, "targets": "energy"}
        read[name] = frames.read(finetuning.parse(raw)).train
    most = max(used.numbers.shape[1] for used in read.values())
    read = {name: used.resized(most) for name, used in read.items()}
    graphs = frames.graphs(read, elements, r_max)
    data = finetuning.parse({"data": {"train": "", **slabs.LABELS}}).data
    made = []
    for name, used in read.items():
        counts = data.energy_units(used.numbers)
        assert used.energy is not None
        made.append(Labelled(graphs[name], *(jnp.asarray(x, jnp.float32) for x in (used.energy / counts, counts))))
    return made


def error(predict: PredictFn, params: jax.Array, data: Labelled) -> jax.Array:
    """Errors per adsorbed atom [f] eV."""
    return predict(params, data.graphs).energy / data.adsorbed - data.energy


def make_step(
    predict: PredictFn, optimizer: optax.GradientTransformation, data: Labelled, batch: int, seed: int
) -> Callable[[State], tuple[State, jax.Array]]:
    """One step, compiled: the next state and the mean square error of its batch, eV²."""
    size = data.energy.shape[0]

    def loss(params: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.mean(error(predict, params, jax.tree.map(lambda x: x[index], data)) ** 2)

    def step(state: State) -> tuple[State, jax.Array]:
        index = jax.random.choice(jax.random.fold_in(jax.random.key(seed), state.step), size, (batch,), replace=False)
        value, gradient = jax.value_and_grad(loss)(state.params, index)
        change, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = jnp.asarray(optax.apply_updates(state.params, change))
        done = state.step.astype(state.params.dtype)
        past = jnp.minimum(AVERAGED, done / (done + 10.0))
        return State(params, past * state.average + (1.0 - past) * params, optimizer_state, state.step + 1), value

    return jax.jit(step)


def restored(path: Path, template: State) -> State:
    """The state on disk, or the template if there is none."""
    if not path.is_file():
        return template
    with np.load(path) as stored:
        leaves = [jnp.asarray(stored[f"arr_{i}"]) for i in range(len(stored.files))]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def rmse(errors: list[np.ndarray]) -> float:
    """Root mean square, kcal/mol per adsorbed atom."""
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2))) * KCAL_MOL_PER_EV


def train(
    architecture: str, rows: list[ase.Atoms], out: Path, *, steps: int, batch: int, peak: float, seed: int
) -> None:
    """Train one architecture to its last step."""
    elements = tuple(int(z) for z in np.unique(np.concatenate([atoms.numbers for atoms in rows])))
    config, folder = NETWORKS[architecture](elements), out / architecture
    learn, judge = slabs.others(rows)
    data, held_out = labelled({"train": learn, "held_out": judge}, elements, config.r_max, out / "data")
    predict = flat_predictor(config, with_stress=False, with_forces=False)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, min(200, steps // 2), steps, 1e-2 * peak)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))
    flat = registry.widened(registry.initialize(config, seed)).flat()[0]
    state = restored(folder / "state.npz", State(flat, flat, optimizer.init(flat), jnp.zeros([], jnp.int32)))
    advance = make_step(predict, optimizer, data, batch, seed)
    judged = jax.jit(partial(error, predict))
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 20], held_out) for i in range(0, slabs.HELD_OUT, 20)]
    print(f"{architecture}: {flat.size} weights, {len(learn)} slabs, step {int(state.step)} of {steps}", flush=True)
    squares, began = [], time.process_time()
    while int(state.step) < steps:
        state, value = advance(state)
        squares.append(float(value))
        done = int(state.step)
        if done % EVERY and done < steps:
            continue
        held = rmse([np.asarray(judged(state.average, part)) for part in parts])
        line = {"step": done, "batches": rmse([np.sqrt(squares)]), "held_out": held}
        line["processor_seconds"] = round(time.process_time() - began, 1)
        squares = []
        folder.mkdir(parents=True, exist_ok=True)
        write_npz(folder / "state.npz", {f"arr_{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))})
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        fitted = registry.Potential(config, unraveller(config)[1](state.average))
        registry.save(fitted, out / f"{architecture}.safetensors", {"step": str(done), "of": str(steps)})
        print(f"{architecture}: {line}", flush=True)


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slabs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("architectures", nargs="+", choices=sorted(NETWORKS))
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = slabs.read(args.slabs)
    for architecture in args.architectures:
        settings = {"steps": args.steps, "batch": args.batch, "peak": args.learning_rate, "seed": args.seed}
        train(architecture, rows, args.out, **settings)


if __name__ == "__main__":
    main()

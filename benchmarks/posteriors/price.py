"""Price of dynamics and of updates with each posterior, in multiples of one model and of the update of eight chains.

    python -m benchmarks.posteriors.price OUT.json [--rounds 7] [--labels 20] [--only ethanol ...]

Every part is timed in turn, `rounds` times; ratios of medians are what counts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.durable import write_whole
from bayes_mlff.data.graph import pad_slots
from bayes_mlff.ensemble.triggers import on_device
from bayes_mlff.md.chunk import make_chunk
from bayes_mlff.md.predictors import batch_predictor, of_one
from bayes_mlff.models import registry
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf import systems
from bayes_mlff.otf.criteria import criteria
from bayes_mlff.otf.problem import (
    Problem,
    begun_chains,
    chain_update,
    dynamics_chunk,
    first_dynamics,
    first_parameters,
    learning_graph,
    prepare,
)
from bayes_mlff.posterior import training_set as training
from benchmarks.speed.cases import rattled

CASES: Final = {
    "ethanol": ("ethanol", "nequip-md17-small", 200),
    "lamno3": ("lamno3", "mace-perovskite-small", 100),
    "cazrs3-162": ("cazrs3-162", "mace-perovskite-small", 10),
    "lamno3-sevennet": ("lamno3", "sevennet-0", 10),
}
"""Structure, model, and steps of dynamics."""

STEPS: Final = 20
"""Steps of a timed update."""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES))
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.only:
        found[name] = measured(name, rounds=args.rounds, labels=args.labels)
        print(name, json.dumps(found[name], indent=1), flush=True)
        write_whole(args.out, (json.dumps(found, indent=1) + "\n").encode())


def measured(name: str, *, rounds: int, labels: int) -> dict[str, Any]:
    """Medians in ms, and ratios, of one case."""
    structure, model, steps = CASES[name]
    each = {kind: _problem(structure, model, kind) for kind in ("chains", "laplace")}
    parts = {f"md, {kind}": _dynamics(problem, steps) for kind, problem in each.items()}
    parts["md, one model"] = _dynamics(each["chains"], steps, alone=True)
    known = _labels(each["chains"], labels)
    for kind, problem in each.items():
        parts[f"update, {kind}"] = _update(problem, known)
    parts["samples, laplace"] = _samples(each["laplace"], known)
    ms = _medians(parts, rounds)
    sampler = each["chains"].config.sampler
    repeats = sampler.steps / STEPS
    updates = {kind: repeats * ms[f"update, {kind}"] for kind in ("chains", "laplace")}
    return {
        "atoms": len(each["chains"].structure.numbers),
        "weights": int(each["chains"].prior.mean.shape[0]),
        "ms_per_step": {kind: ms[f"md, {kind}"] / steps for kind in ("one model", "chains", "laplace")},
        "of_one_model": {kind: ms[f"md, {kind}"] / ms["md, one model"] for kind in ("chains", "laplace")},
        "update_of_chains": (updates["laplace"] + ms["samples, laplace"]) / updates["chains"],
        "samples_of_update_of_chains": ms["samples, laplace"] / updates["chains"],
        "labels": labels,
        "steps_of_an_update": sampler.steps,
    }


def _problem(structure: str, model: str, kind: str) -> Problem:
    raw = {"structure": structure, "model": model, "posterior": kind, "engine": {"name": "ase", "calculator": "ase:X"}}
    atoms = systems.structure(structure)
    potential = registry.for_atoms(registry.load(model), atoms.numbers)
    return prepare(configuration.parse(raw), atoms, potential)


def _dynamics(problem: Problem, steps: int, *, alone: bool = False) -> Callable[[], Any]:
    key = jax.random.key(0)
    spec, state, md = first_dynamics(problem, key)
    chunk = dynamics_chunk(problem, spec, steps)
    params = first_parameters(problem, key)
    if alone:
        evaluate = of_one(batch_predictor(problem.predict, problem.energy_sigma_ev, allow_single_chain=True))
        chunk, params = make_chunk(evaluate, problem.integrator, spec, steps), problem.pretrained
    never = tuple(criterion.trigger(criterion.prior) for criterion in criteria(problem))
    never = on_device(never, md.position.dtype, silent=True)
    return lambda: chunk(params, md, state, never, jnp.asarray(steps, jnp.int32))


def _labels(problem: Problem, count: int) -> training.TrainingSet:
    """Random labels of rattled structures."""
    graphs = [learning_graph(problem, structure) for structure in rattled(problem.structure, count)]
    slots = max(graph.neighbors.shape[1] for graph in graphs)
    known = training.allocate(pad_slots(graphs[0], slots), max(64, count))
    rng = np.random.default_rng(1)
    for graph in graphs:
        forces = rng.normal(size=graph.positions.shape)
        known = training.append(known, pad_slots(graph, slots), float(rng.normal()), forces)
    return known


def _update(problem: Problem, known: training.TrainingSet) -> Callable[[], Any]:
    sampler = problem.config.sampler.model_copy(update={"steps": STEPS, "cold_steps": 4, "ramp_steps": 4})
    trial = prepare(problem.config.model_copy(update={"sampler": sampler}), problem.structure, problem.potential)
    params, update = first_parameters(trial, jax.random.key(0)), chain_update(trial)
    state = begun_chains(trial, params, jax.random.key(1))
    return lambda: update(params, state, known)


def _samples(problem: Problem, known: training.TrainingSet) -> Callable[[], Any]:
    centre = first_parameters(problem, jax.random.key(0))[0]
    assert problem.around is not None
    return lambda: problem.around(centre, known, jax.random.key(2))


def _medians(parts: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for work in parts.values():
        jax.block_until_ready(work())
    for _ in range(rounds):
        for name, work in parts.items():
            start = time.perf_counter()
            jax.block_until_ready(work())
            spent[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in spent.items()}


if __name__ == "__main__":
    main()

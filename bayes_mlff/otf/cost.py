"""Estimates the cost of a run from one measured call of each part."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.ensemble.triggers import on_device
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.criteria import criteria
from bayes_mlff.otf.problem import (
    Problem,
    begun_chains,
    chain_update,
    dynamics_chunk,
    first_dynamics,
    learning_graph,
    prepare,
    rows,
)
from bayes_mlff.posterior import training_set as training

MD_STEPS: Final = 20
UPDATE_STEPS: Final = 4


class Cost(NamedTuple):
    """Cost of the parts of a run, without the reference and without compilation."""

    step_s: float  # s per MD step, with all chains
    update_s: float  # s per update of all chains, with a full minibatch, without noise levels (about a tenth)
    memory_bytes: int  # peak memory so far: of the device, or of the process on a CPU
    label_bytes: int  # memory per label

    def run_s(self, config: RunConfig, *, labels: int, label_s: float) -> float:
        """Estimated time, s, of a run with this number of labels, of `label_s` each."""
        return config.n_steps * self.step_s + labels * (config.sampler.rounds * self.update_s + label_s)


def measure(problem: Problem) -> Cost:
    """Time a few MD steps and a few steps of the chains, at the initial structure with the pretrained weights."""
    config, key = problem.config, jax.random.key(0)
    params = jnp.repeat(problem.pretrained, rows(config), axis=0)

    spec, state, md = first_dynamics(problem, key)
    chunk = dynamics_chunk(problem._replace(in_full=None), spec, MD_STEPS)  # once in a chunk, not in each step
    never = tuple(criterion.trigger(criterion.prior) for criterion in criteria(problem))
    never = on_device(never, md.position.dtype, silent=True)
    step_s = _seconds(lambda: chunk(params, md, state, never, jnp.asarray(MD_STEPS, jnp.int32))) / MD_STEPS

    trial, labels = _shortened(problem), _labels(problem)
    update, begun = chain_update(trial), begun_chains(trial, params, key)
    update_s = _seconds(lambda: update(params, begun, labels)) / UPDATE_STEPS * config.sampler.steps
    if problem.around is not None:
        around = problem.around
        update_s += _seconds(lambda: around(params[0], labels, key))
    label_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(labels)) // labels.capacity
    return Cost(step_s, update_s, _memory(), label_bytes)


def _shortened(problem: Problem) -> Problem:
    sampler = problem.config.sampler.model_copy(update={"steps": UPDATE_STEPS, "cold_steps": 1, "ramp_steps": 1})
    shorter = problem.config.model_copy(update={"sampler": sampler})
    return prepare(shorter, problem.structure, problem.potential, velocities=problem.velocities)


def _labels(problem: Problem) -> training.TrainingSet:
    """A full minibatch of equal labels: the prediction of the pretrained model for the initial structure."""
    graph = learning_graph(problem, problem.structure, slack=1.1)
    batch = jax.tree.map(lambda x: x[None], graph)
    said = jax.jit(problem.predict)(problem.pretrained[0], batch)
    count = problem.config.sampler.batch
    labels = training.allocate(graph, count)
    for _ in range(count):
        stress = None if said.stress is None else np.asarray(said.stress[0])
        labels = training.append(labels, graph, float(said.energy[0]), np.asarray(said.forces[0]), stress)
    return labels


def _seconds(work: Callable[[], Any]) -> float:
    """Time of the second call, s; the first call compiles."""
    jax.block_until_ready(work())
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def _memory() -> int:
    device = jax.local_devices()[0]
    known = device.memory_stats() if device.platform != "cpu" else None
    if known:
        return int(known["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""What a run will cost, from one measured call of each part."""

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
from bayes_mlff.otf.problem import Problem, chain_update, dynamics_chunk, first_dynamics, learning_graph, prepare
from bayes_mlff.posterior import training_set as training

MD_STEPS: Final = 20
UPDATE_STEPS: Final = 4


class Cost(NamedTuple):
    """Of the parts of a run besides the reference; compilation is not counted."""

    step_s: float  # of dynamics, with all chains
    update_s: float  # of all chains after a label, with a whole minibatch, without the noise levels (about a tenth)
    memory_bytes: int  # most that was in use so far, on the device, or of the process on a CPU
    label_bytes: int  # of memory for every label

    def run_s(self, config: RunConfig, *, labels: int, label_s: float) -> float:
        """Estimate for a run with so many labels of so many seconds each."""
        return config.n_steps * self.step_s + labels * (config.sampler.rounds * self.update_s + label_s)


def measure(problem: Problem) -> Cost:
    """Take some steps of dynamics and some of the chains at the initial structure, with the pretrained weights."""
    config, key = problem.config, jax.random.key(0)
    chains = config.sampler.chains
    params = jnp.repeat(problem.pretrained, chains, axis=0)

    spec, state, md = first_dynamics(problem, key)
    chunk = dynamics_chunk(problem, spec, MD_STEPS)
    never = tuple(criterion.trigger(criterion.prior) for criterion in criteria(problem))
    never = on_device(never, md.position.dtype, silent=True)
    step_s = _seconds(lambda: chunk(params, md, state, never, jnp.asarray(MD_STEPS, jnp.int32))) / MD_STEPS

    trial, labels = _shortened(problem), _labels(problem)
    update, begun = chain_update(trial), trial.chains.init(params, key)
    update_s = _seconds(lambda: update(params, begun, labels)) / UPDATE_STEPS * config.sampler.steps
    label_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(labels)) // labels.capacity
    return Cost(step_s, update_s, _memory(), label_bytes)


def _shortened(problem: Problem) -> Problem:
    sampler = problem.config.sampler.model_copy(update={"steps": UPDATE_STEPS, "cold_steps": 1, "ramp_steps": 1})
    shorter = problem.config.model_copy(update={"sampler": sampler})
    return prepare(shorter, problem.structure, problem.potential, velocities=problem.velocities)


def _labels(problem: Problem) -> training.TrainingSet:
    """As many labels as a minibatch has, all alike: what the pretrained model says of the initial structure."""
    graph = learning_graph(problem, problem.structure, slack=1.1)
    batch = jax.tree.map(lambda x: x[None], graph)
    said = jax.jit(problem.predict)(problem.pretrained[0], batch)
    count = problem.config.sampler.batch_size
    labels = training.allocate(graph, count)
    for _ in range(count):
        stress = None if said.stress is None else np.asarray(said.stress[0])
        labels = training.append(labels, graph, float(said.energy[0]), np.asarray(said.forces[0]), stress)
    return labels


def _seconds(work: Callable[[], Any]) -> float:
    """Of the second time; the first compiles."""
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

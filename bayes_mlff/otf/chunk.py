"""A jitted stretch of molecular dynamics that stops itself."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.ensemble.predictive import Predictive, combine
from bayes_mlff.models.energetics import PredictFn
from bayes_mlff.otf.integrators import Integrator, MDState, kinetic_energy, total_work


class Stop(enum.IntFlag):
    """Why a chunk ended early. Bits, because several things can happen in one step."""

    NONE = 0
    UNCERTAIN = 1
    """Energy σ above its critical value: label this geometry and finish the step with those forces."""
    NEIGHBOR_OVERFLOW = 2
    """The neighbour list is incomplete: throw the chunk away, grow the buffers and redo it."""
    NON_FINITE = 4
    """An energy, force or σ is not finite: throw the chunk away."""


class Thermo(NamedTuple):
    """What is recorded of every step; each field [length], NaN where no step was taken."""

    potential: jax.Array  # eV, mean of the chains, or the reference where a label finished the step
    kinetic: jax.Array  # eV
    sigma: jax.Array  # eV, not calibrated
    sigma_force_max: jax.Array  # eV/Å, largest σ of a force component
    work: jax.Array  # eV, done by thermostat and barostat since the start of the run


class Frames(NamedTuple):
    """Geometry after every step; zero where no step was taken."""

    positions: jax.Array  # [length, n, 3] Å
    cell: jax.Array  # [length, 3, 3] Å, rows
    stress: jax.Array | None  # [length, 3, 3] eV/Å³, tension positive, without kinetic part; None if not predicted


class Chunk(NamedTuple):
    """Carry of the loop, and its result."""

    md: MDState  # after the last complete step; if `stop` is not NONE, before the last half kick
    neighbors: NeighborState
    predictive: Predictive  # of one structure, at the positions of `md`
    stop: jax.Array  # [] int32, bits of `Stop`
    steps: jax.Array  # [] int32, steps begun
    thermo: Thermo
    frames: Frames


RunChunk = Callable[[jax.Array, "MDState", NeighborState, jax.Array, jax.Array], Chunk]


def ensemble_predictor(predict: PredictFn, energy_sigma: float, stress_sigma: float | None = None):
    """Predictive distribution of one structure from K sets of parameters.

    Args:
      predict: model of one set of flat parameters.
      energy_sigma: fixed standard deviation of the likelihood, eV.
      stress_sigma: likewise of the stress, eV/Å³.

    Returns:
      `(params [c, p], graph) -> Predictive` with a batch axis of 1.
    """

    def evaluate(params: jax.Array, graph) -> Predictive:
        batch = jax.tree.map(lambda x: x[None], graph)
        prediction = jax.vmap(predict, in_axes=(0, None))(params, batch)
        return combine(prediction, energy_sigma=energy_sigma, stress_sigma=stress_sigma)

    return evaluate


def make_chunk(
    evaluate: Callable[..., Predictive], integrator: Integrator, spec: NeighborSpec, length: int
) -> RunChunk:
    """Compile up to `length` steps that end, with the offending state, on any `Stop` bit.

    Args:
      evaluate: ensemble predictor.
      integrator: one step in two halves; if it moves the cell, `evaluate` must predict the stress.
      spec: static part of the neighbour list.
      length: most steps of one call.

    Returns:
      `(params [c, p], md, neighbors, sigma_crit [] eV, limit [] steps) -> Chunk`; compiled once.
    """

    def evaluate_at(params: jax.Array, state: NeighborState, md: MDState):
        state = neighbors.move(state, md.position, md.cell)
        outdated = neighbors.stale(state, spec)
        state = jax.lax.cond(outdated, lambda s: neighbors.update(s, spec), lambda s: s, state)
        return state, evaluate(params, state.graph)

    @jax.jit
    def run(params: jax.Array, md: MDState, state: NeighborState, sigma_crit: jax.Array, limit: jax.Array) -> Chunk:
        n, dtype = md.position.shape[0], md.position.dtype
        empty = jnp.full((length,), jnp.nan, dtype)
        shapes = jax.eval_shape(evaluate, params, state.graph)
        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        start = Chunk(
            md,
            state,
            nothing,
            jnp.zeros([], jnp.int32),
            jnp.zeros([], jnp.int32),
            Thermo(*(empty for _ in Thermo._fields)),
            Frames(
                jnp.zeros((length, n, 3), dtype),
                jnp.zeros((length, 3, 3), dtype),
                None if shapes.stress_mean is None else jnp.zeros((length, 3, 3), dtype),
            ),
        )

        def keep_going(c: Chunk) -> jax.Array:
            return (c.stop == int(Stop.NONE)) & (c.steps < limit)

        def step(c: Chunk) -> Chunk:
            md = integrator.begin(c.md)
            state, predictive = evaluate_at(params, c.neighbors, md)
            stop = inspect(predictive, state, sigma_crit)
            stress = None if predictive.stress_mean is None else predictive.stress_mean[0]
            done = integrator.finish(md, predictive.forces_mean[0], stress)
            go_on = stop == int(Stop.NONE)
            md = jax.tree.map(lambda new, old: jnp.where(go_on, new, old), done, md)
            row = Thermo(
                predictive.energy_mean[0],
                kinetic_energy(md),
                predictive.energy_sigma[0],
                jnp.max(jnp.where(state.graph.node_mask[:, None], predictive.forces_sigma[0], 0.0)),
                total_work(md),
            )
            thermo = Thermo(*(buffer.at[c.steps].set(x) for buffer, x in zip(c.thermo, row, strict=True)))
            frames = jax.tree.map(
                lambda buffer, x: buffer.at[c.steps].set(x), c.frames, Frames(md.position, md.cell, stress)
            )
            return Chunk(md, state, predictive, stop, c.steps + 1, thermo, frames)

        return jax.lax.while_loop(keep_going, step, start)

    return run


def inspect(predictive: Predictive, state: NeighborState, sigma_crit: jax.Array) -> jax.Array:
    """Bits of `Stop` for one evaluated geometry."""
    finite = (
        jnp.isfinite(predictive.energy_mean[0])
        & jnp.isfinite(predictive.energy_sigma[0])
        & jnp.all(jnp.isfinite(predictive.forces_mean))
    )
    zero = jnp.zeros([], jnp.int32)
    uncertain = jnp.where(predictive.energy_sigma[0] > sigma_crit, int(Stop.UNCERTAIN), zero)
    overflow = jnp.where(state.overflow, int(Stop.NEIGHBOR_OVERFLOW), zero)
    return (uncertain | overflow | jnp.where(finite, zero, int(Stop.NON_FINITE))).astype(jnp.int32)

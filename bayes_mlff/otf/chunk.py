"""A jitted stretch of molecular dynamics that stops itself."""

import enum
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bayes_mlff.data import neighbors
from bayes_mlff.data.graph import Graph, edge_vectors, volume
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.ensemble.predictive import Predictive, combine
from bayes_mlff.models.energetics import PredictFn, Prediction
from bayes_mlff.otf.devices import on_all, shared_prediction
from bayes_mlff.otf.integrators import Integrator, MDState, kinetic_energy, total_work
from bayes_mlff.sghmc.run import ChainAxis, preferred_axis


class Stop(enum.IntFlag):
    """Why a chunk ended early. Bits, because several things can happen in one step."""

    NONE = 0
    UNCERTAIN = 1
    """Energy σ above its critical value: label this geometry and finish the step with those forces."""
    NEIGHBOR_OVERFLOW = 2
    """The neighbour list is incomplete: throw the chunk away, grow the buffers and redo it."""
    NON_FINITE = 4
    """An energy, force, σ, position or momentum is not finite: throw the chunk away."""
    AUDIT = 8
    """The step was drawn for an audit: label it as if it were uncertain."""
    SIGMA = 16
    """Energy σ so large that the structure is no longer worth a label."""
    CLOSE = 32
    """Two atoms are closer than allowed."""
    HOT = 64
    """The kinetic energy is above its limit."""
    VOLUME = 128
    """The volume of the cell is out of its range."""
    DRIFT = 256
    """The conserved energy has drifted too far."""


TRIPS = Stop.NON_FINITE | Stop.SIGMA | Stop.CLOSE | Stop.HOT | Stop.VOLUME | Stop.DRIFT
"""Bits after which a run does not go on from where it is."""


class Limits(NamedTuple):
    """What a step may not exceed, and when the next audit is due; traced, so that nothing compiles anew."""

    audit: jax.Array  # [] int32, number of the step in this chunk, from 1; 0 = none
    sigma: jax.Array  # [] eV, uncalibrated σ of the energy
    distance: jax.Array  # [] Å, smallest
    kinetic: jax.Array  # [] eV
    volume_min: jax.Array  # [] Å³
    volume_max: jax.Array  # [] Å³
    conserved: jax.Array  # [] eV, what the drift is counted from; nan = value after the first step
    drift: jax.Array  # [] eV, allowed at any time
    drift_per_step: jax.Array  # [] eV, allowed for each step since `conserved`, if that is more
    age: jax.Array  # [] int32, steps since `conserved`


def no_limits(dtype: jnp.dtype) -> Limits:
    """Limits that nothing exceeds, and no audit."""
    inf, zero = jnp.asarray(jnp.inf, dtype), jnp.zeros([], dtype)
    none = jnp.zeros([], jnp.int32)
    return Limits(none, inf, zero, inf, zero, inf, jnp.asarray(jnp.nan, dtype), inf, zero, none)


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


class RunChunk(Protocol):
    """A compiled chunk."""

    def __call__(
        self,
        params: jax.Array,
        md: MDState,
        state: NeighborState,
        sigma_crit: jax.Array,
        limit: jax.Array,
        limits: Limits | None = None,
    ) -> Chunk:
        """Take at most `limit` steps; `limits` None sets no limits and asks for no audit."""
        ...


def ensemble_predictor(
    predict: PredictFn, energy_sigma: float, stress_sigma: float | None = None, *, chain_axis: ChainAxis | None = None
) -> Callable[..., Predictive]:
    """Predictive distribution of one structure from K sets of parameters.

    Args:
      predict: model of one set of flat parameters.
      energy_sigma: fixed standard deviation of the likelihood, eV.
      stress_sigma: likewise of the stress, eV/Å³.
      chain_axis: all sets of parameters at once, or one after the other; by default what suits the device.

    Returns:
      `(params [c, p], graph, mesh=None) -> Predictive` with a batch axis of 1; inside a function that runs on all
      devices of a mesh each evaluates its share of the parameters.
    """
    axis = chain_axis or preferred_axis()

    def predict_all(params: jax.Array, batch: Graph) -> Prediction:
        if axis == "map":
            return jax.lax.map(lambda chain: predict(chain, batch), params)
        return jax.vmap(predict, in_axes=(0, None))(params, batch)

    def evaluate(params: jax.Array, graph: Graph, mesh: Mesh | None = None) -> Predictive:
        batch = jax.tree.map(lambda x: x[None], graph)
        together = predict_all if mesh is None else shared_prediction(predict_all, mesh)
        prediction = together(params, batch)
        return combine(prediction, energy_sigma=energy_sigma, stress_sigma=stress_sigma)

    return evaluate


def make_chunk(
    evaluate: Callable[..., Predictive],
    integrator: Integrator,
    spec: NeighborSpec,
    length: int,
    *,
    mesh: Mesh | None = None,
) -> RunChunk:
    """Compile up to `length` steps that end, with the offending state, on any `Stop` bit.

    Args:
      evaluate: ensemble predictor, which gets the mesh as `mesh` if that has several devices.
      integrator: one step in two halves; if it moves the cell, `evaluate` must predict the stress.
      spec: static part of the neighbour list.
      length: most steps of one call.
      mesh: devices to share the chains of `evaluate`; by default those of the arguments.

    Returns:
      `(params [c, p], md, neighbors, sigma_crit [] eV, limit [] steps, limits) -> Chunk`; compiled once.
    """
    evaluate_shared = evaluate if mesh is None or mesh.size == 1 else partial(evaluate, mesh=mesh)

    def evaluate_at(params: jax.Array, state: NeighborState, md: MDState):
        state = neighbors.move(state, md.position, md.cell)
        outdated = neighbors.stale(state, spec)
        state = jax.lax.cond(outdated, lambda s: neighbors.update(s, spec), lambda s: s, state)
        return state, evaluate_shared(params, state.graph)

    def run(
        params: jax.Array,
        md: MDState,
        state: NeighborState,
        sigma_crit: jax.Array,
        limit: jax.Array,
        limits: Limits | None = None,
    ) -> Chunk:
        n, dtype = md.position.shape[0], md.position.dtype
        bounds = no_limits(dtype) if limits is None else limits
        empty = jnp.full((length,), jnp.nan, dtype)
        shapes = jax.eval_shape(evaluate_shared, params, state.graph)
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
            stress = None if predictive.stress_mean is None else predictive.stress_mean[0]
            done = integrator.finish(md, predictive.forces_mean[0], stress)
            first = c.thermo.potential[0] + c.thermo.kinetic[0] - c.thermo.work[0]
            origin = jnp.where(jnp.isnan(bounds.conserved) & (c.steps > 0), first, bounds.conserved)
            stop = inspect(predictive, state, sigma_crit) | guard(
                done, state, predictive, bounds._replace(conserved=origin), c.steps + 1
            )
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

    return jax.jit(run) if mesh is None else on_all(run, mesh)


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


def guard(md: MDState, state: NeighborState, predictive: Predictive, limits: Limits, number: jax.Array) -> jax.Array:
    """Bits of `Stop` for one complete step.

    Args:
      md: after the step, finished with the model's forces.
      state: neighbours at the new geometry.
      predictive: at the new geometry.
      limits: what is allowed; a `conserved` that is nan is not compared with.
      number: of the step in its chunk, from 1.
    """
    kinetic = kinetic_energy(md)
    apart = jnp.sum(edge_vectors(state.graph.positions, state.graph.cell, state.graph) ** 2, axis=-1)
    nearest = jnp.sqrt(jnp.min(jnp.where(state.graph.edge_mask, apart, jnp.inf)))
    size = volume(md.cell)
    drift = jnp.abs(predictive.energy_mean[0] + kinetic - total_work(md) - limits.conserved)
    allowed = jnp.maximum(limits.drift, limits.drift_per_step * (limits.age + number).astype(kinetic.dtype))
    finite = jnp.all(jnp.isfinite(md.position)) & jnp.all(jnp.isfinite(md.momentum)) & jnp.all(jnp.isfinite(md.cell))
    found = {
        Stop.NON_FINITE: ~finite,
        Stop.AUDIT: number == limits.audit,
        Stop.SIGMA: predictive.energy_sigma[0] > limits.sigma,
        Stop.CLOSE: nearest < limits.distance,
        Stop.HOT: kinetic > limits.kinetic,
        Stop.VOLUME: (size < limits.volume_min) | (size > limits.volume_max),
        Stop.DRIFT: drift > allowed,
    }
    bits = jnp.zeros([], jnp.int32)
    for bit, here in found.items():
        bits = bits | jnp.where(here, jnp.asarray(int(bit), jnp.int32), jnp.zeros([], jnp.int32))
    return bits

"""A compiled sequence of MD steps that stops early when a trigger or a limit is exceeded."""

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bayes_mlff.data import neighbors
from bayes_mlff.data.graph import Graph, edge_vectors, volume
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.ensemble.predictive import Predictive, with_spread_of_forces
from bayes_mlff.ensemble.triggers import Measured, Trigger, measure
from bayes_mlff.ensemble.triggers import limits as trigger_limits
from bayes_mlff.md.integrators import Integrator, MDState, kinetic_energy, total_work
from bayes_mlff.md.predictors import on_devices
from bayes_mlff.parallel.devices import Budget, memory_budget, on_all


class Stop(enum.IntFlag):
    """Why a chunk ended early. Bits, because several things can happen in one step."""

    NONE = 0
    UNCERTAIN = 1
    """A trigger is above its limit: label this geometry and finish the step with those forces."""
    NEIGHBOR_OVERFLOW = 2
    """The neighbour list is incomplete: throw the chunk away, grow the buffers and redo it."""
    NON_FINITE = 4
    """An energy, force, σ, position or momentum is not finite: throw the chunk away."""
    AUDIT = 8
    """The step was drawn for an audit: label it as if it were uncertain."""
    SIGMA = 16
    """A trigger is so far above its limit that labelling the structure is not worthwhile."""
    CLOSE = 32
    """Two atoms are closer than allowed."""
    HOT = 64
    """The kinetic energy is above its limit."""
    VOLUME = 128
    """The volume of the cell is outside the allowed range."""
    DRIFT = 256
    """The conserved energy has drifted too far."""


TRIPS = Stop.NON_FINITE | Stop.SIGMA | Stop.CLOSE | Stop.HOT | Stop.VOLUME | Stop.DRIFT
"""Bits after which a run cannot continue from the present geometry."""


class Limits(NamedTuple):
    """Limits of a step, and when the next audit is due; traced, so that new values need no new compilation."""

    audit: jax.Array  # [] int32, number of the step in this chunk, from 1; 0 = none
    statistics: jax.Array  # [t] largest statistic of each trigger, in its unit; or [] for all
    distance: jax.Array  # [] Å, smallest distance of two atoms
    kinetic: jax.Array  # [] eV, largest kinetic energy
    volume_min: jax.Array  # [] Å³
    volume_max: jax.Array  # [] Å³
    conserved: jax.Array  # [] eV, conserved energy that drift is measured from; nan = its value after the first step
    drift: jax.Array  # [] eV, allowed at any time
    drift_per_step: jax.Array  # [] eV, allowed for each step since `conserved`, if that is more
    age: jax.Array  # [] int32, steps since `conserved`


class Compared(NamedTuple):
    """Values that the guards compared in the last step, finished with the model's forces; [] except the first."""

    statistics: jax.Array  # [t] statistic of each trigger, in its unit
    distance: jax.Array  # Å, of the two closest atoms
    kinetic: jax.Array  # eV
    volume: jax.Array  # Å³
    drift: jax.Array  # eV, absolute value
    drift_allowed: jax.Array  # eV


def no_limits(dtype: jnp.dtype) -> Limits:
    """Infinite limits, and no audit."""
    inf, zero = jnp.asarray(jnp.inf, dtype), jnp.zeros([], dtype)
    none = jnp.zeros([], jnp.int32)
    return Limits(none, inf, zero, inf, zero, inf, jnp.asarray(jnp.nan, dtype), inf, zero, none)


class Thermo(NamedTuple):
    """Values recorded for every step; each field [length] or [length, t], NaN where no step was taken."""

    potential: jax.Array  # eV, mean of the chains, or the reference energy if a label finished the step
    kinetic: jax.Array  # eV
    statistics: jax.Array  # [length, t] statistic of each trigger, in its unit, not calibrated
    dof: jax.Array  # [length, t] effective number of components of the error of each
    place: jax.Array  # [length, t] index of the candidate that counts, such as an atom; see `Statistic`
    sigma_force_max: jax.Array  # eV/Å, largest σ of a force component
    work: jax.Array  # eV, done by thermostat and barostat since the start of the run


class Frames(NamedTuple):
    """Geometry and momenta after every step; zero where no step was taken."""

    positions: jax.Array  # [length, n, 3] Å
    cell: jax.Array  # [length, 3, 3] Å, rows
    stress: jax.Array | None  # [length, 3, 3] eV/Å³, tension positive, without kinetic part; None if not predicted
    momenta: jax.Array  # [length, n, 3] sqrt(amu·eV); of a step that was stopped: before its last half kick


class Chunk(NamedTuple):
    """State that the loop carries, and its result."""

    md: MDState  # after the last complete step; if `stop` is not NONE, before the last half kick
    neighbors: NeighborState
    predictive: Predictive  # prediction for one structure, at the positions of `md`
    stop: jax.Array  # [] int32, bits of `Stop`
    asked: jax.Array  # [t] bool, triggers above their limits in the last step
    measured: Measured  # [t] statistics of the triggers in the last step
    steps: jax.Array  # [] int32, steps begun
    thermo: Thermo
    frames: Frames
    compared: Compared


class RunChunk(Protocol):
    """A compiled chunk of one system, or of r replicas with a leading axis [r] on everything but the parameters."""

    def __call__(
        self,
        params: jax.Array,
        md: MDState,
        state: NeighborState,
        triggers: tuple[Trigger, ...],
        limit: jax.Array,
        limits: Limits | None = None,
    ) -> Chunk:
        """Take at most `limit` steps; with `limits` None there are no limits and no audit."""
        ...


def make_chunk(
    evaluate: Callable[..., Predictive],
    integrator: Integrator,
    spec: NeighborSpec,
    length: int,
    *,
    mesh: Mesh | None = None,
    low_memory: Sequence[Callable[..., Predictive]] = (),
    memory_gib: float | None = None,
    at_end: Callable[..., Predictive] | None = None,
) -> RunChunk:
    """Compile up to `length` steps that end as soon as any `Stop` bit is set, with the state that set it.

    Args:
      evaluate: ensemble predictor; it is called with `mesh` if the mesh has several devices.
      integrator: one step in two halves; if it moves the cell, `evaluate` must predict the stress.
      spec: static part of the neighbour list.
      length: largest number of steps of one call.
      mesh: devices that the chains are split over; by default the devices of the arguments, without a memory check.
      low_memory: alternatives to `evaluate` in order of falling memory, tried if `evaluate` does not fit.
      memory_gib: memory of each device for intermediate results, GiB; by default from `memory_budget`.
      at_end: predictor of σ of forces and stress, if `evaluate` leaves them out; called once, at the last geometry.

    Returns:
      `(params [c, p], md, neighbors, triggers, limit [] steps, limits) -> Chunk`; compiled once. If nothing fits
      into the memory, the first call raises a ConfigError that names `dynamics.memory_gib`.
    """
    if mesh is None:
        return jax.jit(_chunk(evaluate, integrator, spec, length, at_end))
    ways = on_devices((evaluate, *low_memory), mesh)
    return on_all(
        [_chunk(way, integrator, spec, length, at_end) for way in ways], mesh, dynamics_budget(mesh, memory_gib)
    )


def dynamics_budget(mesh: Mesh, memory_gib: float | None) -> Budget:
    """Memory that evaluating the ensemble may take."""
    return Budget(memory_budget(mesh, memory_gib), "dynamics.memory_gib", "one chain")


def _chunk(
    evaluate: Callable[[jax.Array, Graph], Predictive],
    integrator: Integrator,
    spec: NeighborSpec,
    length: int,
    at_end: Callable[[jax.Array, Graph], Predictive] | None = None,
) -> RunChunk:
    """The function of `make_chunk`, not yet compiled."""

    def run(
        params: jax.Array,
        md: MDState,
        state: NeighborState,
        triggers: tuple[Trigger, ...],
        limit: jax.Array,
        limits: Limits | None = None,
    ) -> Chunk:
        bounds = no_limits(md.position.dtype) if limits is None else limits

        def keep_going(c: Chunk) -> jax.Array:
            return (c.stop == int(Stop.NONE)) & (c.steps < limit)

        def step(c: Chunk) -> Chunk:
            md = integrator.begin(c.md)
            state = neighbors.move(c.neighbors, md.position, md.cell)
            outdated = neighbors.stale(state, spec)
            state = jax.lax.cond(outdated, lambda s: neighbors.update(s, spec), lambda s: s, state)
            return conclude(c, md, state, evaluate(params, state.graph), integrator, triggers, bounds)

        predicted = jax.eval_shape(evaluate, params, state.graph)
        chunk = jax.lax.while_loop(keep_going, step, empty_chunk(md, state, predicted, triggers, length))
        if at_end is None:
            return chunk
        full = at_end(params, chunk.neighbors.graph)
        return chunk._replace(predictive=with_spread_of_forces(chunk.predictive, full))

    return run


def empty_chunk(
    md: MDState, state: NeighborState, predicted: Predictive, triggers: tuple[Trigger, ...], length: int
) -> Chunk:
    """Initial state of a chunk of at most `length` steps; `predicted` gives the shapes of one prediction."""
    count = len(triggers)
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), predicted)
    dtype = md.position.dtype
    rows = jnp.full((length,), jnp.nan, dtype)
    thermo = Thermo(*(rows for _ in Thermo._fields))
    compared = Compared(*(jnp.zeros([], dtype) for _ in Compared._fields))

    def frames(x: jax.Array) -> jax.Array:
        return jnp.zeros((length, *x.shape), x.dtype)

    zero = jnp.zeros([], jnp.int32)
    stress = None if nothing.stress_mean is None else frames(nothing.stress_mean[0])
    return Chunk(
        md,
        state,
        nothing,
        zero,
        jnp.zeros((count,), bool),
        Measured(jnp.zeros((count,), dtype), jnp.zeros((count,), dtype), jnp.zeros((count,), jnp.int32)),
        zero,
        thermo._replace(**dict.fromkeys(("statistics", "dof", "place"), jnp.full((length, count), jnp.nan, dtype))),
        Frames(frames(md.position), frames(md.cell), stress, frames(md.momentum)),
        compared._replace(statistics=jnp.zeros((count,), dtype)),
    )


def conclude(
    c: Chunk,
    md: MDState,
    state: NeighborState,
    predictive: Predictive,
    integrator: Integrator,
    triggers: tuple[Trigger, ...],
    bounds: Limits,
) -> Chunk:
    """Finish and record a step, or stop before its second half kick.

    Args:
      c: chunk before the step.
      md: state after the first half of the step.
      state: neighbours at the new geometry.
      predictive: prediction for one structure, at the new geometry.
      integrator: the integrator of the step.
      triggers: conditions for labelling a geometry.
      bounds: limits of the chunk.
    """
    stress = None if predictive.stress_mean is None else predictive.stress_mean[0]
    done = integrator.finish(md, predictive.forces_mean[0], stress)
    first = c.thermo.potential[0] + c.thermo.kinetic[0] - c.thermo.work[0]
    origin = jnp.where(jnp.isnan(bounds.conserved) & (c.steps > 0), first, bounds.conserved)
    number, now = c.steps + 1, tuple(trigger.at(c.steps) for trigger in triggers)
    # Behind a barrier, so that what is compared is what is recorded, to the last bit.
    measured = jax.lax.optimization_barrier(measure(now, predictive, state.graph))
    compared = compare(done, state, predictive, measured.sigma, bounds._replace(conserved=origin), number)
    asked = measured.sigma > trigger_limits(now, measured)
    stop = inspect(predictive, state, measured.sigma, asked) | guard(done, compared, bounds, number)
    go_on = stop == int(Stop.NONE)
    md = jax.tree.map(lambda new, old: jnp.where(go_on, new, old), done, md)
    row = Thermo(
        predictive.energy_mean[0],
        kinetic_energy(md),
        measured.sigma,
        measured.dof,
        measured.place.astype(md.position.dtype),
        jnp.max(jnp.where(state.graph.node_mask[:, None], predictive.forces_sigma[0], 0.0)),
        total_work(md),
    )
    thermo = Thermo(*(buffer.at[c.steps].set(x) for buffer, x in zip(c.thermo, row, strict=True)))
    frame = Frames(md.position, md.cell, stress, md.momentum)
    frames = jax.tree.map(lambda buffer, x: buffer.at[c.steps].set(x), c.frames, frame)
    return Chunk(md, state, predictive, stop, asked, measured, number, thermo, frames, compared)


def inspect(predictive: Predictive, state: NeighborState, statistics: jax.Array, asked: jax.Array) -> jax.Array:
    """`Stop` bits of an evaluated geometry, from the triggers' statistics [t] and which are above their limits [t]."""
    finite = (
        jnp.isfinite(predictive.energy_mean[0])
        & jnp.isfinite(predictive.energy_sigma[0])
        & jnp.all(jnp.isfinite(predictive.forces_mean))
        & jnp.all(jnp.isfinite(statistics))
    )
    zero = jnp.zeros([], jnp.int32)
    uncertain = jnp.where(jnp.any(asked), int(Stop.UNCERTAIN), zero)
    overflow = jnp.where(state.overflow, int(Stop.NEIGHBOR_OVERFLOW), zero)
    return (uncertain | overflow | jnp.where(finite, zero, int(Stop.NON_FINITE))).astype(jnp.int32)


def compare(
    md: MDState,
    state: NeighborState,
    predictive: Predictive,
    statistics: jax.Array,
    limits: Limits,
    number: jax.Array,
) -> Compared:
    """Compute the values that the guards compare, for one complete step.

    Args:
      md: state after the step, finished with the model's forces.
      state: neighbours at the new geometry.
      predictive: prediction at the new geometry.
      statistics: [t] statistics of the triggers at the new geometry.
      limits: limits of the chunk; if `conserved` is nan, drift is not checked.
      number: number of the step in its chunk, from 1.

    Returns:
      The values behind an optimization barrier: XLA would compute them twice, to compare and to report, with
      different rounding.
    """
    kinetic = kinetic_energy(md)
    apart = jnp.sum(edge_vectors(state.graph.positions, state.graph.cell, state.graph) ** 2, axis=-1)
    nearest = jnp.sqrt(jnp.min(jnp.where(state.graph.edge_mask, apart, jnp.inf)))
    drift = jnp.abs(predictive.energy_mean[0] + kinetic - total_work(md) - limits.conserved)
    allowed = jnp.maximum(limits.drift, limits.drift_per_step * (limits.age + number).astype(kinetic.dtype))
    found = Compared(statistics, nearest, kinetic, volume(md.cell), drift, allowed)
    return jax.lax.optimization_barrier(found)


def guard(md: MDState, compared: Compared, limits: Limits, number: jax.Array) -> jax.Array:
    """`Stop` bits of one complete step.

    Args:
      md: state after the step, finished with the model's forces.
      compared: result of `compare` for this step.
      limits: limits of the chunk.
      number: number of the step in its chunk, from 1.
    """
    finite = jnp.all(jnp.isfinite(md.position)) & jnp.all(jnp.isfinite(md.momentum)) & jnp.all(jnp.isfinite(md.cell))
    found = {
        Stop.NON_FINITE: ~finite,
        Stop.AUDIT: number == limits.audit,
        Stop.SIGMA: jnp.any(compared.statistics > limits.statistics),
        Stop.CLOSE: compared.distance < limits.distance,
        Stop.HOT: compared.kinetic > limits.kinetic,
        Stop.VOLUME: (compared.volume < limits.volume_min) | (compared.volume > limits.volume_max),
        Stop.DRIFT: compared.drift > compared.drift_allowed,
    }
    bits = jnp.zeros([], jnp.int32)
    for bit, here in found.items():
        bits = bits | jnp.where(here, jnp.asarray(int(bit), jnp.int32), jnp.zeros([], jnp.int32))
    return bits

"""Several independent simulations (replicas) of one system, advanced together as one batch of structures.

For notebooks and scripts: one small system does not fill a device, which can advance many replicas in the same time.

    md, near = replicas.stack(states), replicas.stack(lists)  # of one `NeighborSpec`
    chunk = replicas.make_replicas(evaluate, integrator, spec, length=500)(params, md, near, triggers, limit)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.chunk import (
    Chunk,
    Limits,
    RunChunk,
    Stop,
    conclude,
    dynamics_budget,
    empty_chunk,
    no_limits,
)
from bayes_mlff.md.integrators import Integrator, MDState
from bayes_mlff.md.predictors import on_devices
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.parallel.devices import on_all

Tree = TypeVar("Tree")


class Varied(NamedTuple):
    """An integrator whose temperature and pressure differ between r replicas."""

    of: Callable[[Schedule], Integrator]
    schedules: Schedule | None = None  # every field with a leading axis [r]; None: an argument of every call


def stack(states: Sequence[Tree]) -> Tree:
    """Stack states of r replicas along a new leading axis [r]: MD states, neighbour lists (same capacity) or limits.

    Raises:
      ValueError: if the list is empty, or its elements differ in structure or shapes.
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def make_replicas(
    evaluate: Callable[..., Predictive],
    integrator: Integrator | Varied,
    spec: NeighborSpec,
    length: int,
    *,
    mesh: Mesh | None = None,
    low_memory: Sequence[Callable[..., Predictive]] = (),
    memory_gib: float | None = None,
) -> RunChunk:
    """Compile up to `length` steps of several replicas; each replica ends when one of its own `Stop` bits is set.

    A replica that has stopped does not change any more (its state is that of `make_chunk`) while the others continue.
    Each draws the noise of its thermostat from the key in its own state.

    Args:
      evaluate: ensemble predictor, from `predictors.batch_predictor`.
      integrator: integrator of all replicas, or one with conditions for each; if it moves the cell, `evaluate` must
        predict the stress.
      spec: static part of all neighbour lists; its capacity and images must be sufficient for each replica.
      length: largest number of steps of one call.
      mesh: devices that the chains are split over; by default the devices of the arguments, without a memory check.
      low_memory: alternatives to `evaluate` in order of falling memory, tried if `evaluate` does not fit.
      memory_gib: memory of each device for intermediate results, GiB; by default from `memory_budget`.

    Returns:
      `(params [c, p], md, neighbors, triggers, limit [r] steps, limits) -> Chunk`, where everything but the
      parameters, also limits of triggers and the result, has a leading axis [r], see `stack`; compiled once for
      every r. Schedules that are no part of `integrator` are the last argument. If nothing fits into the memory, the
      first call raises a ConfigError, see `chunk.make_chunk`.
    """
    if mesh is None:
        return jax.jit(_replicas(evaluate, integrator, spec, length))
    ways = on_devices((evaluate, *low_memory), mesh)
    return on_all([_replicas(way, integrator, spec, length) for way in ways], mesh, dynamics_budget(mesh, memory_gib))


def _replicas(
    evaluate: Callable[..., Predictive], integrator: Integrator | Varied, spec: NeighborSpec, length: int
) -> RunChunk:
    """The function of `make_replicas`, not yet compiled."""
    known = integrator.schedules if isinstance(integrator, Varied) else None

    def of(schedule: Schedule | None) -> Integrator:
        if isinstance(integrator, Varied):
            assert schedule is not None
            return integrator.of(schedule)
        return integrator

    def begin(md: MDState, schedule: Schedule | None) -> MDState:
        return of(schedule).begin(md)

    def run(
        params: jax.Array,
        md: MDState,
        state: NeighborState,
        triggers: tuple[Trigger, ...],
        limit: jax.Array,
        limits: Limits | None = None,
        schedules: Schedule | None = None,
    ) -> Chunk:
        each = known if schedules is None else schedules
        none = stack([no_limits(md.position.dtype)] * len(md.position))
        bounds = none if limits is None else limits

        def finish(c, md, state, predictive, triggers, bounds, schedule):
            return conclude(c, md, state, predictive, of(schedule), triggers, bounds)

        def active(c: Chunk) -> jax.Array:
            return (c.stop == int(Stop.NONE)) & (c.steps < limit)

        def step(c: Chunk) -> Chunk:
            md = jax.vmap(begin)(c.md, each)
            state = _searched(jax.vmap(neighbors.move)(c.neighbors, md.position, md.cell), active(c), spec)
            found = _singly(evaluate(params, state.graph))
            after = jax.vmap(finish)(c, md, state, found, triggers, bounds, each)
            return where(active(c), after, c)

        predicted = jax.eval_shape(lambda p, g: _singly(evaluate(p, g)), params, state.graph)
        start = jax.vmap(partial(empty_chunk, length=length))(md, state, predicted, triggers)
        return jax.lax.while_loop(lambda c: jnp.any(active(c)), step, start)

    return run


def _singly(predictive: Predictive) -> Predictive:
    """Split predictions [r, ...] into r predictions for one structure each, [r, 1, ...]."""
    chains = predictive.chain_energy.T
    each = jax.tree.map(lambda x: x[:, None], predictive._replace(chain_energy=chains))
    return each._replace(chain_energy=chains[:, :, None])


def _searched(state: NeighborState, active: jax.Array, spec: NeighborSpec) -> NeighborState:
    """Rebuild the neighbour lists [r, ...] that are outdated; if none is, nothing is computed."""
    outdated = jax.vmap(partial(neighbors.stale, spec=spec))(state) & active

    def search(s: NeighborState) -> NeighborState:
        return where(outdated, jax.vmap(partial(neighbors.update, spec=spec))(s), s)

    return jax.lax.cond(jnp.any(outdated), search, lambda s: s, state)


def where(chosen: jax.Array, new: Tree, old: Tree) -> Tree:
    """Take `new` for the chosen replicas [r] and `old` for the others."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)

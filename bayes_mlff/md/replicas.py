"""Several independent dynamics of one kind of system, advanced together as one batch of structures.

For notebooks and scripts: a small system leaves a device idle, which then advances many replicas in the time of one.

    md, near = replicas.stack(states), replicas.stack(lists)  # of one `NeighborSpec`
    chunk = replicas.make_replicas(evaluate, integrator, spec, length=500)(params, md, near, triggers, limit)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp

from bayes_mlff.data import neighbors
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.chunk import Chunk, Limits, RunChunk, Stop, conclude, empty_chunk, no_limits
from bayes_mlff.md.integrators import Integrator, MDState

Tree = TypeVar("Tree")


def stack(states: Sequence[Tree]) -> Tree:
    """States of r replicas as one, with a leading axis [r]: of dynamics, neighbour lists (of one capacity) or limits.

    Raises:
      ValueError: if there is none, or they differ in structure or shapes.
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def make_replicas(
    evaluate: Callable[[jax.Array, Graph], Predictive], integrator: Integrator, spec: NeighborSpec, length: int
) -> RunChunk:
    """Compile up to `length` steps of several replicas, each of which ends on any `Stop` bit of its own.

    A replica that has stopped stays as it is, as `make_chunk` would return it, while the others go on. Each draws
    the noise of its thermostat from the key in its own state.

    Args:
      evaluate: `chunk.batch_predictor` of the ensemble.
      integrator: of all replicas; if it moves the cell, `evaluate` must predict the stress.
      spec: static part of all neighbour lists: capacity and images that suffice for each.
      length: most steps of one call.

    Returns:
      `(params [c, p], md, neighbors, triggers, limit [r] steps, limits) -> Chunk`, where everything but the
      parameters, limits of triggers and the result included, has a leading axis [r], see `stack`; compiled once for
      every r.
    """

    def run(
        params: jax.Array,
        md: MDState,
        state: NeighborState,
        triggers: tuple[Trigger, ...],
        limit: jax.Array,
        limits: Limits | None = None,
    ) -> Chunk:
        none = stack([no_limits(md.position.dtype)] * len(md.position))
        bounds = none if limits is None else limits
        finish = jax.vmap(partial(conclude, integrator=integrator))

        def active(c: Chunk) -> jax.Array:
            return (c.stop == int(Stop.NONE)) & (c.steps < limit)

        def step(c: Chunk) -> Chunk:
            md = jax.vmap(integrator.begin)(c.md)
            state = _searched(jax.vmap(neighbors.move)(c.neighbors, md.position, md.cell), active(c), spec)
            each = _singly(evaluate(params, state.graph))
            after = finish(c, md, state, each, triggers=triggers, bounds=bounds)
            return _where(active(c), after, c)

        predicted = jax.eval_shape(lambda p, g: _singly(evaluate(p, g)), params, state.graph)
        start = jax.vmap(partial(empty_chunk, length=length))(md, state, predicted, triggers)
        return jax.lax.while_loop(lambda c: jnp.any(active(c)), step, start)

    return jax.jit(run)


def _singly(predictive: Predictive) -> Predictive:
    """Predictions [r, ...] as r predictions of one structure each, [r, 1, ...]."""
    chains = predictive.chain_energy.T
    each = jax.tree.map(lambda x: x[:, None], predictive._replace(chain_energy=chains))
    return each._replace(chain_energy=chains[:, :, None])


def _searched(state: NeighborState, active: jax.Array, spec: NeighborSpec) -> NeighborState:
    """Lists [r, ...] of which those that are stale are made anew; nothing is searched as long as none is."""
    outdated = jax.vmap(partial(neighbors.stale, spec=spec))(state) & active

    def search(s: NeighborState) -> NeighborState:
        return _where(outdated, jax.vmap(partial(neighbors.update, spec=spec))(s), s)

    return jax.lax.cond(jnp.any(outdated), search, lambda s: s, state)


def _where(chosen: jax.Array, new: Tree, old: Tree) -> Tree:
    """`new` for the replicas [r] that are chosen, `old` for the others."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)

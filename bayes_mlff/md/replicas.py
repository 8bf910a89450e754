"""Several independent simulations (replicas) of one system, advanced together as one batch of structures.

For notebooks and scripts: one small system does not fill a device, which can advance many replicas in the same time.

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
    """Stack states of r replicas along a new leading axis [r]: MD states, neighbour lists (same capacity) or limits.

    Raises:
      ValueError: if the list is empty, or its elements differ in structure or shapes.
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def make_replicas(
    evaluate: Callable[[jax.Array, Graph], Predictive], integrator: Integrator, spec: NeighborSpec, length: int
) -> RunChunk:
    """Compile up to `length` steps of several replicas; each replica ends when one of its own `Stop` bits is set.

    A replica that has stopped does not change any more (its state is that of `make_chunk`) while the others continue.
    Each draws the noise of its thermostat from the key in its own state.

    Args:
      evaluate: ensemble predictor, from `chunk.batch_predictor`.
      integrator: integrator of all replicas; if it moves the cell, `evaluate` must predict the stress.
      spec: static part of all neighbour lists; its capacity and images must be sufficient for each replica.
      length: largest number of steps of one call.

    Returns:
      `(params [c, p], md, neighbors, triggers, limit [r] steps, limits) -> Chunk`, where everything but the
      parameters, also limits of triggers and the result, has a leading axis [r], see `stack`; compiled once for
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
    """Split predictions [r, ...] into r predictions for one structure each, [r, 1, ...]."""
    chains = predictive.chain_energy.T
    each = jax.tree.map(lambda x: x[:, None], predictive._replace(chain_energy=chains))
    return each._replace(chain_energy=chains[:, :, None])


def _searched(state: NeighborState, active: jax.Array, spec: NeighborSpec) -> NeighborState:
    """Rebuild the neighbour lists [r, ...] that are outdated; if none is, nothing is computed."""
    outdated = jax.vmap(partial(neighbors.stale, spec=spec))(state) & active

    def search(s: NeighborState) -> NeighborState:
        return _where(outdated, jax.vmap(partial(neighbors.update, spec=spec))(s), s)

    return jax.lax.cond(jnp.any(outdated), search, lambda s: s, state)


def _where(chosen: jax.Array, new: Tree, old: Tree) -> Tree:
    """Take `new` for the chosen replicas [r] and `old` for the others."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)

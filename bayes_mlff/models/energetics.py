"""Energies, forces, stress and force uncertainty from any function for atomic energies."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from bayes_mlff.data.graph import Graph, edge_vectors, exact_dot, flatten_neighbors, volume

Params = Any


class NodeOutput(NamedTuple):
    """Per-atom outputs of a network."""

    energy: jax.Array  # [n] eV
    force_sigma: jax.Array  # [n] eV/Å, standard deviation of each force component
    forces: jax.Array | None = None  # [n, 3] eV/Å, of a network that gives them directly; None: the gradient's


class NodeFn(Protocol):
    """A network as a pure function of the edge vectors."""

    def __call__(
        self,
        params: Params,
        vectors: jax.Array,
        species: jax.Array,
        neighbors: jax.Array,
        edge_mask: jax.Array,
        receivers: jax.Array | None = None,
    ) -> NodeOutput:
        """Evaluate every atom from vectors [n, k, 3] Å, species [n], neighbors [n, k] and edge_mask [n, k].

        If receivers [r], in ascending order, is given, vectors, neighbors and edge_mask are [r, k, ...]: row i has
        neighbours of atom receivers[i]. An atom may have any number of rows.
        """
        ...


class Prediction(NamedTuple):
    """Predictions for a batch of structures with one set of parameters."""

    energy: jax.Array  # [b] eV
    forces: jax.Array  # [b, n, 3] eV/Å, exactly zero on padding; nan if not requested
    stress: jax.Array | None  # [b, 3, 3] eV/Å³, tension positive (ASE sign); None if not requested
    force_sigma: jax.Array  # [b, n] eV/Å, standard deviation of each force component; one on padding
    slopes: Params | None = None  # [b, ...] gradient of each energy with respect to the parameters; None: not requested


PredictFn = Callable[[Params, Graph], Prediction]


def predictor(node_fn: NodeFn, *, with_stress: bool, with_forces: bool = True, with_slopes: bool = False) -> PredictFn:
    """Make a function for energies and their derivatives: forces and, with `with_stress`, stress.

    Forces that the network gives directly are taken in the place of the derivative; stress is always the derivative.
    The batch is evaluated as one disjoint graph. Stress is (1/V) dE/dε for a symmetric strain ε that acts on both
    positions and cell (Knuth et al. 2015, Comput. Phys. Commun. 190, 33).

    Args:
      node_fn: pure network function.
      with_stress: compute the stress; every structure must then be periodic in three directions.
      with_forces: False computes energies alone unless stress is asked for; forces are nan.
      with_slopes: compute the gradients with respect to the parameters, in the reverse pass that gives the forces.
        Structures are then evaluated one by one.

    Returns:
      `predict(params, graphs [b, ...]) -> Prediction`, differentiable, and vmappable over parameters.
    """
    total = partial(_total, node_fn)
    asked = (with_forces or with_stress, with_stress, with_slopes)
    by = tuple(place for place, wanted in enumerate(asked) if wanted)

    def predict(params: Params, graphs: Graph) -> Prediction:
        strain = jnp.zeros_like(graphs.cell) if with_stress else None
        of = (graphs.positions, strain, params, graphs)
        gradients, (energy, sigma, direct) = jax.grad(total, by, has_aux=True)(*of) if by else ((), total(*of)[1])
        found = dict(zip(by, gradients, strict=True))
        forces, stress = jnp.full_like(graphs.positions, jnp.nan), None
        if 0 in found:
            forces = -found[0] if direct is None else direct
        if 1 in found:
            stress = found[1] / volume(graphs.cell)[:, None, None]
        return Prediction(energy, forces, stress, sigma, found.get(2))

    def each(params: Params, graphs: Graph) -> Prediction:
        def one(graph: Graph) -> Prediction:
            batch = predict(params, jax.tree.map(lambda x: x[None], graph))
            return jax.tree.map(lambda x: x[0], batch._replace(slopes=None))._replace(slopes=batch.slopes)

        if len(graphs.positions) > 1:
            return jax.vmap(one)(graphs)
        batch = predict(params, graphs)
        return batch._replace(slopes=jax.tree.map(lambda x: x[None], batch.slopes))

    return each if with_slopes else predict


def _total(
    node_fn: NodeFn, positions: jax.Array, strain: jax.Array | None, params: Params, graphs: Graph
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    """Sum of all energies, and each energy, the σ of the forces, and the forces if the network gives them."""
    cell = graphs.cell
    if strain is not None:
        deform = jnp.eye(3, dtype=strain.dtype)[None] + 0.5 * (strain + jnp.swapaxes(strain, -1, -2))
        positions, cell = exact_dot(positions, deform), exact_dot(cell, deform)
    vectors = jax.vmap(edge_vectors)(positions, cell, graphs)
    b, n, k = graphs.neighbors.shape
    node = node_fn(
        params,
        vectors.reshape(b * n, k, 3),
        graphs.species.reshape(b * n),
        flatten_neighbors(graphs),
        graphs.edge_mask.reshape(b * n, k),
    )
    energy = jnp.sum(jnp.where(graphs.node_mask, node.energy.reshape(b, n), 0.0), axis=1)
    sigma = jnp.where(graphs.node_mask, node.force_sigma.reshape(b, n), 1.0)
    direct = None
    if node.forces is not None:
        direct = jnp.where(graphs.node_mask[..., None], node.forces.reshape(b, n, 3), 0.0)
    return jnp.sum(energy), (energy, sigma, direct)

"""Padded graphs: the input of a model, with shapes that do not change during a run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import numbers


class Graph(NamedTuple):
    """One structure, or several along a leading axis, with a fixed number of neighbour slots per atom.

    The edges of atom i are the slots (i, 0..k-1): grouping them by receiver lets a model sum messages by a
    reshape instead of a scatter. The vector of slot (i, s) is r_j + shift·cell - r_i with j = neighbors[i, s].
    """

    positions: jax.Array  # [n, 3] Å
    cell: jax.Array  # [3, 3] Å, rows; directions without a vector are completed by unit normals
    species: jax.Array  # [n] int32, index into the model's table of elements; 0 on padding
    node_mask: jax.Array  # [n] bool, False on padding
    neighbors: jax.Array  # [n, k] int32, sender of each slot; 0 on padding
    shifts: jax.Array  # [n, k, 3] lattice translation of the sender, whole numbers in the positions' dtype
    edge_mask: jax.Array  # [n, k] bool, False on padding


def edge_vectors(positions: jax.Array, cell: jax.Array, graph: Graph) -> jax.Array:
    """Vectors from each atom to its neighbours.

    Args:
      positions: [n, 3] Å.
      cell: [3, 3] Å, rows.
      graph: one structure; only neighbours, shifts and mask are used.

    Returns:
      [n, k, 3] Å; the unit vector along x on padding, so that norms stay differentiable.
    """
    vectors = positions[graph.neighbors] - positions[:, None, :] + exact_dot(graph.shifts, cell)
    unit = jnp.zeros_like(vectors).at[..., 0].set(1.0)
    return jnp.where(graph.edge_mask[..., None], vectors, unit)


def pad_slots(graph: Graph, capacity: int) -> Graph:
    """Add empty neighbour slots up to `capacity` per atom, to one graph or to a batch of them."""
    extra = capacity - graph.neighbors.shape[-1]

    def pad(x: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(x, [(0, extra if i == x.ndim + axis else 0) for i in range(x.ndim)])

    return graph._replace(
        neighbors=pad(graph.neighbors, -1), shifts=pad(graph.shifts, -2), edge_mask=pad(graph.edge_mask, -1)
    )


def padded(graph: Graph, atoms: int, slots: int) -> Graph:
    """One graph padded to so many atoms and neighbour slots per atom; numpy arrays, so that nothing is compiled."""
    by_slot = dict.fromkeys(("neighbors", "shifts", "edge_mask"), (atoms, slots))
    sizes = dict.fromkeys(("positions", "species", "node_mask"), (atoms,)) | by_slot

    def pad(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        return numbers.padded(x, (*size, *x.shape[len(size) :]))

    return graph._replace(**{name: pad(np.asarray(getattr(graph, name)), size) for name, size in sizes.items()})


def exact_dot(left: jax.Array, right: jax.Array) -> jax.Array:
    """Matrix product of coordinates in full precision; GPUs would otherwise round to three digits (TF32)."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def volume(cell: jax.Array) -> jax.Array:
    """Cell volume in Å³ from row vectors [..., 3, 3]."""
    return jnp.abs(jnp.linalg.det(cell))


def flatten_neighbors(graphs: Graph) -> jax.Array:
    """Neighbour indices of a batch that is treated as one disjoint graph of b·n atoms.

    Args:
      graphs: b structures of n padded atoms each.

    Returns:
      [b·n, k] int32 indices into the concatenated atoms.
    """
    b, n, k = graphs.neighbors.shape
    offset = jnp.arange(b, dtype=graphs.neighbors.dtype) * n
    return (graphs.neighbors + offset[:, None, None]).reshape(b * n, k)

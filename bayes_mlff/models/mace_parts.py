"""Messages and element-dependent layers of MACE on channel-last features; see `equivariant` for the layout."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.equivariant import Features, Path, combine, coupling, degree, paths
from bayes_mlff.models.slots import Slots


def message_paths(node: tuple[str, ...], l_max: int, targets: tuple[str, ...]) -> tuple[Path, ...]:
    """Paths from node irreps to messages, ordered by the degree of the message."""
    return tuple(sorted(paths(node, l_max, targets), key=lambda path: degree(path.out)))


def messages(
    routes: tuple[Path, ...], x: Features, harmonics: Features, weights: tuple[jax.Array, jax.Array], slots: Slots
) -> Features:
    """Sum over neighbours of node features times edge harmonics, weighted for each path.

    Args:
      routes: the paths.
      x: [n, 2l+1, u] of each irrep, all of the same u.
      harmonics: [r, k, 2l+1] of each irrep.
      weights: hidden features [r, k, h] and the last matrix [h, paths · u] of the radial network; zero on padding.
      slots: where edges belong.

    Returns:
      `{irrep: [n, 2l+1, u · number of paths to this irrep]}`.
    """
    atoms = x[routes[0].node].shape[0]
    hidden, matrix = weights
    split = jnp.split(hidden @ matrix, len(routes), axis=-1)
    senders = {ir: x[ir][slots.neighbors] for ir in {p.node for p in routes}}
    found: dict[str, list[jax.Array]] = {}
    for path, weight in zip(routes, split, strict=True):
        found.setdefault(path.out, []).append(combine(path, senders[path.node], harmonics[path.edge], weight))
    joined = {ir: jnp.concatenate(parts, axis=-1) for ir, parts in found.items()}
    return {ir: slots.summed(rows, atoms) for ir, rows in joined.items()}


def element_messages(
    routes: tuple[Path, ...],
    table: jax.Array,
    one_hot: jax.Array,
    harmonics: Features,
    weights: tuple[jax.Array, jax.Array],
    slots: Slots,
) -> Features:
    """The sum of `messages` for features that depend only on the element of the sender.

    Edges are first summed for each element of the sender, harmonic and hidden radial feature; then the last layer
    of the radial network is applied once per atom and element instead of once per edge.

    Args:
      routes: the paths.
      table: [elements, u] even scalars of each element.
      one_hot: [n, elements] one-hot element of each atom.
      harmonics: [r, k, 2l+1] of each irrep.
      weights: see `messages`.
      slots: where edges belong.

    Returns:
      `{irrep: [n, 2l+1, u]}`.
    """
    elements = table.shape[0]
    hidden, matrix = weights
    angular = jnp.concatenate([harmonics[path.edge] for path in routes], axis=-1)
    rows, places, m = angular.shape
    senders = one_hot[slots.neighbors]
    left = (senders[..., :, None] * angular[..., None, :]).reshape(rows, places, elements * m)
    summed = jnp.einsum("rka,rkh->rah", left, hidden).reshape(rows, elements, m, -1)
    summed = slots.summed(summed, one_hot.shape[0])
    edges = np.cumsum([2 * degree(path.edge) + 1 for path in routes])[:-1].tolist()
    matrices = jnp.split(matrix, len(routes), axis=-1)
    result = {}
    for path, part, last in zip(routes, jnp.split(summed, edges, axis=2), matrices, strict=True):
        scaled = table[None, :, None, :] * float(coupling(0, degree(path.edge), degree(path.out))[0, 0, 0])
        result[path.out] = jnp.sum((part @ last) * scaled, axis=1)
    return result


class ElementLinear(nn.Module):
    """Mix the channels of each irrep with a matrix for each element.

    Unit-variance weights [u, element, w] are scaled by 1/sqrt(u · declared_elements), as e3nn scales the tensor
    product with a one-hot element.
    """

    out: tuple[str, ...]
    width: int
    declared_elements: int

    @nn.compact
    def __call__(self, x: Features, one_hot: jax.Array) -> Features:
        """Map `{irrep: [n, 2l+1, u]}` of atoms of elements one_hot [n, elements] to `{irrep: [n, 2l+1, width]}`."""
        mixed = {}
        elements = one_hot.shape[1]
        for irrep in self.out:
            if irrep not in x:
                continue
            n, m, u = x[irrep].shape
            weight = self.param(
                f"weight_{irrep}", nn.initializers.normal(1.0), (u, elements, self.width), one_hot.dtype
            )
            spread = one_hot[:, None, None, :] * x[irrep][..., None]
            scaled = weight.reshape(u * elements, self.width) / math.sqrt(u * self.declared_elements)
            mixed[irrep] = (spread.reshape(n * m, u * elements) @ scaled).reshape(n, m, self.width)
        return mixed

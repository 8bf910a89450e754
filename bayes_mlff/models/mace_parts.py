"""Messages and element-dependent layers of MACE on channel-last features; see `equivariant` for the layout."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.equivariant import MLP, SILU_NORM, Features, Path, combine, coupling, degree, paths

FEW_ELEMENTS = 8
"""Up to this number of elements, the first messages are summed by element of the sender, which saves 90 % of them."""


def message_paths(node: tuple[str, ...], l_max: int, targets: tuple[str, ...]) -> tuple[Path, ...]:
    """Paths from node irreps to messages, ordered by the degree of the message."""
    return tuple(sorted(paths(node, l_max, targets), key=lambda path: degree(path.out)))


class Edges(nn.Module):
    """Radial network whose last layer gives one weight for each path and channel."""

    widths: tuple[int, ...]
    columns: int

    @nn.compact
    def __call__(self, radial: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map radial functions [r, k, bessels] to hidden features [r, k, h] and the last matrix [h, columns]."""
        hidden = nn.silu(MLP(self.widths, gain=SILU_NORM, name="hidden")(radial))
        shape = (self.widths[-1], self.columns)
        weight = self.param("weight", nn.initializers.normal(1.0), shape, radial.dtype)
        return hidden, weight * (SILU_NORM / math.sqrt(self.widths[-1]))


class Messages(nn.Module):
    """Sum over neighbours of node features times edge harmonics, weighted by a radial network per path."""

    paths: tuple[Path, ...]
    radial_widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self,
        x: Features,
        harmonics: Features,
        radial: jax.Array,
        neighbors: jax.Array,
        receivers: jax.Array | None = None,
    ) -> Features:
        """Pass messages along the edges.

        Args:
          x: [n, 2l+1, u] of each irrep, all of the same u.
          harmonics: [r, k, 2l+1] of each irrep.
          radial: [r, k, bessels], zero on padded slots.
          neighbors: [r, k] sender of each slot.
          receivers: [r] ascending, atom index of each row of slots; None: row i belongs to atom i.

        Returns:
          `{irrep: [n, 2l+1, u · number of paths to this irrep]}`.
        """
        n, _, u = x[self.paths[0].node].shape
        hidden, matrix = Edges(self.radial_widths, u * len(self.paths), name="radial")(radial)
        weights = jnp.split(hidden @ matrix, len(self.paths), axis=-1)
        senders = {ir: x[ir][neighbors] for ir in {p.node for p in self.paths}}
        messages: dict[str, list[jax.Array]] = {}
        for path, weight in zip(self.paths, weights, strict=True):
            messages.setdefault(path.out, []).append(combine(path, senders[path.node], harmonics[path.edge], weight))
        joined = {ir: jnp.concatenate(parts, axis=-1) for ir, parts in messages.items()}
        return {ir: _rows_to_atoms(rows, receivers, n) for ir, rows in joined.items()}


class ElementMessages(nn.Module):
    """The sum of `Messages` for features that depend only on the element of the sender.

    Edges are first summed for each element of the sender, harmonic and hidden radial feature; then the last layer
    of the radial network is applied once per atom and element instead of once per edge.
    """

    paths: tuple[Path, ...]
    radial_widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self,
        table: jax.Array,
        senders: jax.Array,
        harmonics: Features,
        radial: jax.Array,
        receivers: jax.Array | None,
        atoms: int,
    ) -> Features:
        """Pass messages along the edges.

        Args:
          table: [elements, u] even scalars of each element.
          senders: [r, k, elements] one-hot element of each sender.
          harmonics: [r, k, 2l+1] of each irrep.
          radial: [r, k, bessels], zero on padded slots.
          receivers: [r] or None, see `Messages`.
          atoms: number of atoms n.

        Returns:
          `{irrep: [n, 2l+1, u]}`.
        """
        elements, u = table.shape
        hidden, matrix = Edges(self.radial_widths, u * len(self.paths), name="radial")(radial)
        angular = jnp.concatenate([harmonics[path.edge] for path in self.paths], axis=-1)
        rows, slots, m = angular.shape
        left = (senders[..., :, None] * angular[..., None, :]).reshape(rows, slots, elements * m)
        summed = jnp.einsum("rka,rkh->rah", left, hidden).reshape(rows, elements, m, -1)
        summed = _rows_to_atoms(summed, receivers, atoms)
        edges = np.cumsum([2 * degree(path.edge) + 1 for path in self.paths])[:-1].tolist()
        matrices = jnp.split(matrix, len(self.paths), axis=-1)
        result = {}
        for path, part, last in zip(self.paths, jnp.split(summed, edges, axis=2), matrices, strict=True):
            scaled = table[None, :, None, :] * float(coupling(0, degree(path.edge), degree(path.out))[0, 0, 0])
            result[path.out] = jnp.sum((part @ last) * scaled, axis=1)
        return result


def _rows_to_atoms(rows: jax.Array, receivers: jax.Array | None, atoms: int) -> jax.Array:
    """Sum rows [r, ...] of the same atom: [n, ...]."""
    if receivers is None:
        return rows
    return jax.ops.segment_sum(rows, receivers, num_segments=atoms, indices_are_sorted=True)


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

"""MACE (Batatia et al. 2022, arXiv:2206.07697) as a pure function, with an additional output for the force σ.

The network has the scale-shift form of the published foundation models. Their edge vectors point from the sender
to the receiver, those of this package in the opposite direction: features of odd parity differ in sign, energies do
not.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.element_pairs import ElementPairs
from bayes_mlff.models.energetics import NodeOutput
from bayes_mlff.models.equivariant import (
    MLP,
    SILU_NORM,
    EquivariantLinear,
    Features,
    ScaledDense,
    bessel_basis,
    polynomial_cutoff,
    spherical_harmonics,
)
from bayes_mlff.models.force_sigma import force_sigma
from bayes_mlff.models.mace_parts import FEW_ELEMENTS, ElementLinear, ElementMessages, Messages, message_paths
from bayes_mlff.models.mace_product import ProductBasis, natural


def outputs(config: MACEConfig, i: int) -> tuple[str, ...]:
    """Irreps after interaction i."""
    return config.hidden if i < config.num_interactions - 1 else ("0e",)


class Edges(NamedTuple):
    """Features of the edges, for all blocks."""

    harmonics: Features  # {irrep: [r, k, 2l+1]}
    radial: jax.Array  # [r, k, bessels], zero on padding
    neighbors: jax.Array  # [r, k]
    receivers: jax.Array | None  # [r]


class Interaction(nn.Module):
    """One interaction: messages from the neighbours, their products, and a self-connection."""

    config: MACEConfig
    index: int

    @nn.compact
    def __call__(self, x: Features, table: jax.Array, one_hot: jax.Array, edges: Edges) -> Features:
        """Map features `{irrep: [n, 2l+1, channels]}` to the next ones.

        Args:
          x: features of the atoms; for the first interaction, rows of `table`.
          table: [elements, channels] embedding of each element.
          one_hot: [n, elements] one-hot element of each atom.
          edges: features of the edges.
        """
        config, first = self.config, self.index == 0
        width, out = config.width, outputs(config, self.index)
        targets = tuple(natural(l) for l in range(config.max_ell + 1))
        plain = first and config.first_interaction == "plain"

        connection: Features = {}
        if not plain:
            connection = ElementLinear(out, width, config.declared_elements, name="self_connection")(x, one_hot)
        messages = self._messages(x, table, one_hot, edges, targets)
        messages = EquivariantLinear(tuple((ir, width) for ir in targets), name="linear_messages")(messages)
        messages = {ir: v / config.average_neighbors for ir, v in messages.items()}
        if plain:
            mix = ElementLinear(targets, width, config.declared_elements, name="element_messages")
            messages = mix(messages, one_hot)
        products = ProductBasis(out, config.max_ell, config.correlation, name="product")(messages, one_hot)
        products = EquivariantLinear(tuple((ir, width) for ir in out), name="linear_products")(products)
        return {ir: v + connection[ir] if ir in connection else v for ir, v in products.items()}

    def _messages(
        self, x: Features, table: jax.Array, one_hot: jax.Array, edges: Edges, targets: tuple[str, ...]
    ) -> Features:
        """Sum messages over the neighbours of every atom, for each path."""
        config, (n, elements) = self.config, one_hot.shape
        routes = message_paths(tuple(x), config.max_ell, targets)
        by_element = self.index == 0 and elements <= FEW_ELEMENTS
        up = EquivariantLinear(tuple((ir, config.width) for ir in x), name="linear_up")
        if by_element:
            senders = one_hot[edges.neighbors]
            messages = ElementMessages(routes, config.radial_widths, name="messages")
            rows = up({"0e": table[:, None, :]})["0e"][:, 0, :]
            return messages(rows, senders, edges.harmonics, edges.radial, edges.receivers, n)
        messages = Messages(routes, config.radial_widths, name="messages")
        return messages(up(x), edges.harmonics, edges.radial, edges.neighbors, edges.receivers)


class MACE(nn.Module):
    """Energies and force uncertainties of the atoms of one (possibly disjoint) graph."""

    config: MACEConfig

    @nn.compact
    def __call__(
        self,
        vectors: jax.Array,
        species: jax.Array,
        neighbors: jax.Array,
        edge_mask: jax.Array,
        receivers: jax.Array | None = None,
    ) -> NodeOutput:
        """Evaluate the network.

        Args:
          vectors: [n, k, 3] Å from each atom to its neighbours; any non-zero vector on padding.
          species: [n] index into `config.elements`.
          neighbors: [n, k] index of the neighbour.
          edge_mask: [n, k] True on real edges.
          receivers: [rows], in ascending order, the atom of each row. If given, the first axis of vectors, neighbors
            and edge_mask is over rows instead of atoms.

        Returns:
          Atomic energies without those of the isolated atoms, eV, and σ of force components, eV/Å.
        """
        config, dtype = self.config, vectors.dtype
        elements = len(config.elements)
        shape = (elements, config.width)
        table = self.param("embedding", nn.initializers.normal(1.0), shape, dtype)
        table = table / math.sqrt(config.declared_elements)
        one_hot = jax.nn.one_hot(species, elements, dtype=dtype)
        distances = jnp.linalg.norm(vectors, axis=-1)
        pairs = ElementPairs(species, neighbors, receivers)
        edges = Edges(*self._edges(vectors, distances, edge_mask), neighbors, receivers)

        features: Features = {"0e": (one_hot @ table)[:, None, :]}
        invariants, energies = [], []
        for i in range(config.num_interactions):
            features = Interaction(config, i, name=f"interaction_{i}")(features, table, one_hot, edges)
            scalars = features["0e"][:, 0, :]
            invariants.append(scalars)
            if 0 < i == config.num_interactions - 1:
                readout = MLP((config.readout_width, 1), gain=SILU_NORM, name=f"readout_{i}")
            else:
                readout = ScaledDense(1, name=f"readout_{i}")
            energies.append(readout(scalars)[:, 0])
        if config.pair_repulsion is not None:
            repulsion = config.pair_repulsion.energies(config.elements, config.r_max, distances, edge_mask, pairs)
            energies.append(repulsion)
        energy = config.energy_scale * sum(energies[1:], energies[0]) + config.energy_shift
        return NodeOutput(energy, force_sigma(config, jnp.concatenate(invariants, axis=-1)))

    def _edges(self, vectors: jax.Array, distances: jax.Array, edge_mask: jax.Array) -> tuple[Features, jax.Array]:
        """Spherical harmonics and radial functions of the edges."""
        config = self.config
        x = distances / config.r_max
        envelope = jnp.where(edge_mask, polynomial_cutoff(x, config.cutoff_power), 0.0)
        frequencies = jnp.arange(1, config.num_bessels + 1, dtype=vectors.dtype).reshape(1, 1, -1)
        radial = bessel_basis(x, frequencies) * envelope[..., None]
        radial = radial * (math.pi / config.r_max * math.sqrt(2.0 / config.r_max))
        return spherical_harmonics(vectors, config.max_ell), radial


def element_axis(config: MACEConfig, path: tuple[str, ...]) -> int | None:
    """Axis of a parameter that is indexed by element; None if there is none."""
    if path == ("embedding",) or "product" in path:
        return 0
    return 1 if {"self_connection", "element_messages"} & set(path) else None


def last_layer(config: MACEConfig) -> tuple[str, ...]:
    """Path of the weights of the last linear layer of the last energy readout."""
    last = config.num_interactions - 1
    return (f"readout_{last}", "dense_1", "weight") if last > 0 else ("readout_0", "weight")

"""The interactions of MACE: messages from the neighbours, what they are normalised by, and their products.

All kinds have the same parts; see `MACEConfig` for what each one has. The kind `nonlinear` is that of Batatia et al.
2025, arXiv:2510.25380.
"""

import math
from typing import Final, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.equivariant import SILU_NORM, EquivariantLinear, Features
from bayes_mlff.models.mace_parts import ElementLinear, element_messages, message_paths, messages
from bayes_mlff.models.mace_product import ProductBasis, natural
from bayes_mlff.models.mace_radial import Density, EdgeWeights, Species
from bayes_mlff.models.slots import Slots

FEW_ELEMENTS = 8
"""Up to this number of elements, the first messages are summed by element of the sender, which saves 90 % of them."""

SIGMOID_NORM: Final = 1.8467055342154763
"""Factor that gives the sigmoid a unit second moment for standard normal input, as e3nn estimates it."""

NORMALISER: Final = 20.0
"""Typical number by which messages of the kind `nonlinear` are divided; its parameters are relative to it."""


class Edges(NamedTuple):
    """Features of the edges, for all blocks."""

    harmonics: Features  # {irrep: [r, k, 2l+1]}
    radial: jax.Array  # [r, k, bessels], zero on padding if there is no cutoff
    cutoff: jax.Array | None  # [r, k] factor on messages, zero on padding; None: `radial` contains it
    slots: Slots


def outputs(config: MACEConfig, i: int) -> tuple[str, ...]:
    """Irreps after interaction i."""
    return config.hidden if i < config.num_interactions - 1 else ("0e",)


def targets(config: MACEConfig) -> tuple[str, ...]:
    """Irreps of messages."""
    return tuple(natural(l) for l in range(config.max_ell + 1))


def senders(config: MACEConfig, i: int) -> tuple[tuple[str, ...], int]:
    """Irreps of the features that an atom sends in interaction i, and their width."""
    if i == 0:
        return ("0e",), config.edge_width if config.edge_irreps_first else config.width
    return config.edges, config.edge_width


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
        config = self.config
        kind, width, out = config.kind(self.index), config.width, outputs(config, self.index)
        connection: Features = {}
        if kind == "nonlinear":
            connection = EquivariantLinear(tuple((ir, width) for ir in out), name="self_connection")(x)
        elif kind in ("residual", "density_residual"):
            connection = ElementLinear(out, width, config.declared_elements, name="self_connection")(x, one_hot)
        features = self._messages(x, table, one_hot, edges)
        if kind in ("plain", "density"):
            mix = ElementLinear(targets(config), width, config.declared_elements, name="element_messages")
            features = mix(features, one_hot)
        basis = ProductBasis(out, config.max_ell, config.correlation, name="product")
        products = basis(features, jnp.ones_like(one_hot[:, :1]) if config.agnostic_product else one_hot)
        products = EquivariantLinear(tuple((ir, width) for ir in out), name="linear_products")(products)
        return {ir: v + connection[ir] if ir in connection else v for ir, v in products.items()}

    def _messages(self, x: Features, table: jax.Array, one_hot: jax.Array, edges: Edges) -> Features:
        """Messages of every atom, normalised: one irrep of each degree up to max_ell, of the model's width."""
        config, kind, atoms = self.config, self.config.kind(self.index), one_hot.shape[0]
        irreps, sent_width = senders(config, self.index)
        routes = message_paths(irreps, config.max_ell, targets(config))
        up = EquivariantLinear(tuple((ir, sent_width) for ir in irreps), name="linear_up")
        by_element = self.index == 0 and table.shape[0] <= FEW_ELEMENTS
        rows = up({"0e": table[:, None, :]})["0e"][:, 0, :] if by_element else None
        sent = up(x) if rows is None else {"0e": (one_hot @ rows)[:, None, :]}

        species = self._species(one_hot) if kind == "nonlinear" else None
        of_edges = (edges.radial, edges.cutoff, edges.slots, species)
        weights = EdgeWeights(config.radial_widths, sent_width * len(routes), name="messages")(*of_edges)
        if rows is None:
            summed = messages(routes, sent, edges.harmonics, weights, edges.slots)
        else:
            summed = element_messages(routes, rows, one_hot, edges.harmonics, weights, edges.slots)
        density = None if kind in ("plain", "residual") else Density(name="density")(*of_edges, atoms)
        if density is None or kind != "nonlinear":
            linear = EquivariantLinear(tuple((ir, config.width) for ir in targets(config)), name="linear_messages")
            divisor = config.average_neighbors if density is None else density + 1.0
            return {ir: v / divisor for ir, v in linear(summed).items()}
        return self._gated(summed, sent, density)

    def _species(self, one_hot: jax.Array) -> Species:
        """Embeddings of the elements for the radial networks."""
        config, dtype = self.config, one_hot.dtype
        shape, normal = (one_hot.shape[1], config.width), nn.initializers.normal(1.0)
        scale = 1.0 / math.sqrt(config.declared_elements)
        source = self.param("source_embedding", normal, shape, dtype) * scale
        return Species(one_hot, source, self.param("target_embedding", normal, shape, dtype) * scale)

    def _gated(self, summed: Features, sent: Features, density: jax.Array) -> Features:
        """Normalise messages, add the atom's own features, and pass both through a gate."""
        width, irreps = self.config.width, targets(self.config)
        scalars = width * len(irreps)  # the features, then the gates of each other irrep
        before = tuple((ir, scalars if ir == "0e" else width) for ir in irreps)
        shift = self.param("normaliser", nn.initializers.zeros, (), density.dtype)
        slope = self.param("normaliser_density", nn.initializers.zeros, (), density.dtype)
        divisor = NORMALISER + shift + density * (slope / NORMALISER)
        own = EquivariantLinear(before, name="linear_own")(sent)
        mixed = {ir: v / divisor for ir, v in EquivariantLinear(before, name="linear_messages")(summed).items()}
        mixed = {ir: v + own[ir] if ir in own else v for ir, v in mixed.items()}
        features, *gates = jnp.split(mixed["0e"], len(irreps), axis=-1)
        gated = {"0e": SILU_NORM * nn.silu(features)}
        gated |= {ir: mixed[ir] * (SIGMOID_NORM * nn.sigmoid(g)) for ir, g in zip(irreps[1:], gates, strict=True)}
        return EquivariantLinear(tuple((ir, width) for ir in irreps), name="linear_gated")(gated)

"""Attention over the neighbours of an atom, with messages made in the frames of the edges."""

import math
from typing import Final

import flax.linen as nn
import jax
import jax.numpy as jnp

from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config
from bayes_mlff.models.equiformer_v2_grid import gated, grid
from bayes_mlff.models.equiformer_v2_layers import (
    DegreeLinear,
    EdgeConvolution,
    Edges,
    LayerNorm,
    RadialNetwork,
    degrees_of,
)
from bayes_mlff.models.equiformer_v2_rotations import back_scales, orders
from bayes_mlff.models.slots import Slots

LEAK: Final = 0.2
"""Slope of the smooth leaky ReLU at large negative numbers."""


def gathered(config: EquiformerV2Config, messages: jax.Array, edges: Edges, first: int, last: int) -> jax.Array:
    """Rotate messages back and sum them over the neighbours of each atom.

    Args:
      config: the network's.
      messages: [r, k, some orders, channels], the first of those in the frame of an edge.
      edges: where they belong.
      first: lowest degree that is wanted.
      last: highest one.

    Returns:
      [n, coefficients, channels].
    """
    count = messages.shape[2]
    parts = orders(config.l_max, config.m_max)[:count]
    scales = jnp.asarray(back_scales(parts, config.m_max), messages.dtype).reshape(1, 1, -1, 1)
    matrices = edges.into[:, :, :count, first**2 : (last + 1) ** 2]
    rows = jnp.einsum("rkms,rkmc->rsc", matrices, messages * scales)
    return edges.slots.summed(rows, edges.species.shape[0])


def attention_weights(logits: jax.Array, envelope: jax.Array, mask: jax.Array, slots: Slots, atoms: int) -> jax.Array:
    """Softmax over the neighbours of each atom, weighted by the envelope, and once more times the envelope.

    The second factor lets a message vanish smoothly where it is the only one. Without an envelope (ones) this is the
    softmax.

    Args:
      logits: [r, k, heads].
      envelope: [r, k] in [0, 1], 0 on padding.
      mask: [r, k] False on padding.
      slots: where edges belong.
      atoms: their number n.

    Returns:
      [r, k, heads].
    """
    real, weight = mask[..., None], envelope[..., None]
    peak = jnp.max(jnp.where(real, logits, jnp.finfo(logits.dtype).min), axis=1)
    if slots.receivers is not None:
        peak = jax.ops.segment_max(peak, slots.receivers, num_segments=atoms, indices_are_sorted=True)
    peak = jax.lax.stop_gradient(slots.of_receivers(peak))
    powers = weight * jnp.exp(jnp.where(real, logits - peak, 0.0))
    total = slots.of_receivers(slots.summed(jnp.sum(powers, axis=1), atoms))
    return weight * powers / jnp.where(total > 0.0, total, 1.0)


def smooth_leaky_relu(x: jax.Array) -> jax.Array:
    """Smooth function between x at large positive and `LEAK`·x at large negative x (Liao et al. 2024)."""
    return 0.5 * x * ((1.0 + LEAK) + (1.0 - LEAK) * (2.0 * jax.nn.sigmoid(x) - 1.0))


class Attention(nn.Module):
    """Messages of all neighbours, weighted by attention (Liao et al. 2024, section 4.2)."""

    config: EquiformerV2Config
    features: int
    first: int = 0
    """Lowest degree of the output."""
    last: int | None = None
    """Highest degree of the output; None: `l_max`."""

    @nn.compact
    def __call__(self, x: jax.Array, edges: Edges) -> jax.Array:
        """Map [n, (l_max+1)², channels] to [n, coefficients of the wanted degrees, features]."""
        config = self.config
        l_max, m_max, hidden = config.l_max, config.m_max, config.hidden_channels
        last = l_max if self.last is None else self.last
        sender = x[edges.slots.neighbors]
        pair = jnp.concatenate([sender, jnp.broadcast_to(edges.slots.of_receivers(x), sender.shape)], axis=-1)
        pair = jnp.einsum("rkms,rksc->rkmc", edges.into, pair)

        gates = hidden * (l_max if config.attention_activation == "gate" else 1)
        attended = config.heads * config.alpha_channels
        functions = sum(EdgeConvolution.inputs(l_max, m_max, pair.shape[-1]))
        radial = RadialNetwork(config, functions, name="radial")(edges)
        first = EdgeConvolution(l_max, m_max, hidden, attended + gates, name="convolution_0")
        message, extra = first(pair, radial)
        message = self._activated(message, extra[..., attended:])
        width = config.heads * config.value_channels
        message, _ = EdgeConvolution(l_max, m_max, width, name="convolution_1")(message)
        weights = self._weights(extra[..., :attended], edges, x.shape[0])
        message = message * jnp.repeat(weights, config.value_channels, axis=-1)[:, :, None]
        summed = gathered(config, message, edges, self.first, last)
        kept = tuple(int(l) for l in degrees_of(last) if l >= self.first)
        return DegreeLinear(self.features, kept, name="projection")(summed)

    def _activated(self, message: jax.Array, gates: jax.Array) -> jax.Array:
        """Activation of features [r, k, orders, channels] in the frames of edges."""
        config = self.config
        parts = orders(config.l_max, config.m_max)
        if config.attention_activation == "gate":
            return gated(message, gates, tuple(l for l, _ in parts))
        on = grid(config.l_max, config.m_max, config.grid_resolution, parts)
        rest = on.coefficients(nn.silu(on.values(message)))[:, :, 1:]
        return jnp.concatenate([nn.silu(gates)[:, :, None], rest], axis=2)

    def _weights(self, x: jax.Array, edges: Edges, atoms: int) -> jax.Array:
        """Attention weights [r, k, heads] from invariant features [r, k, heads · alpha_channels]."""
        config, (rows, places, _) = self.config, x.shape
        shape = (config.heads, config.alpha_channels)
        x = smooth_leaky_relu(LayerNorm(name="alpha_norm")(x.reshape(rows, places, *shape)))
        vectors = self.param("alpha", nn.initializers.normal(1.0), shape, x.dtype) / math.sqrt(config.alpha_channels)
        logits = jnp.einsum("rkha,ha->rkh", x, vectors)
        return attention_weights(logits, edges.envelope, edges.mask, edges.slots, atoms)


class DegreeEmbedding(nn.Module):
    """Sum over neighbours of radial functions times harmonics of the edges (Liao and Smidt 2023, arXiv:2206.11990)."""

    config: EquiformerV2Config

    @nn.compact
    def __call__(self, edges: Edges) -> jax.Array:
        """Features [n, (l_max+1)², channels]."""
        config = self.config
        degrees = config.l_max + 1
        radial = RadialNetwork(config, degrees * config.channels, name="radial")(edges)
        messages = radial.reshape(*radial.shape[:2], degrees, config.channels) * edges.envelope[..., None, None]
        return gathered(config, messages, edges, 0, config.l_max) / config.average_degree

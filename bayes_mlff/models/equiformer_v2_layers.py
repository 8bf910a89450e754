"""Layers of EquiformerV2: norms, linear maps, radial networks, and convolutions in the frames of edges.

Weights have unit variance and are scaled here, so that one prior width fits all layers. Factors of norms are stored as
their difference from one: the prior with mean zero is then centred on the plain norm.
"""

import math
from typing import Final, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config
from bayes_mlff.models.equivariant import ScaledDense
from bayes_mlff.models.slots import Slots

EPSILON: Final = 1e-5
"""Added to mean squares by which features are divided."""


class Edges(NamedTuple):
    """What is known about the edges; see `Slots` for the rows."""

    gaussians: jax.Array  # [r, k, gaussians] of the distance
    into: jax.Array  # [r, k, orders, (l_max+1)²] rotation of features into the frames
    envelope: jax.Array  # [r, k] factor of the messages, 0 on padding
    mask: jax.Array  # [r, k] bool, False on padding
    species: jax.Array  # [n] index into the elements
    slots: Slots


def degrees_of(l_max: int) -> np.ndarray:
    """Degree [(l_max+1)²] of each coefficient of the features of an atom."""
    return np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)


class LayerNorm(nn.Module):
    """Centred and divided by the root mean square over channels (Ba et al. 2016), then an affine map."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., channels] to the same."""
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:], x.dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], x.dtype)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)
        return x * (1.0 + scale.reshape(shape)) + bias.reshape(shape)


class EquivariantNorm(nn.Module):
    """Layer norm of scalars; higher degrees are divided by one root mean square, in which each has the same share."""

    l_max: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, (l_max+1)², channels] to the same."""
        scalars = LayerNorm(name="scalars")(x[:, :1])
        scale = self.param("scale", nn.initializers.zeros, (self.l_max, x.shape[-1]), x.dtype)
        degrees, rest = degrees_of(self.l_max)[1:], x[:, 1:]
        shares = jnp.asarray(1.0 / (self.l_max * (2 * degrees + 1)), x.dtype).reshape(1, -1, 1)
        square = jnp.sum(jnp.mean(rest**2, axis=-1, keepdims=True) * shares, axis=1, keepdims=True)
        factors = (1.0 + scale)[degrees - 1]
        return jnp.concatenate([scalars, rest * jax.lax.rsqrt(square + EPSILON) * factors[None]], axis=1)


class DegreeLinear(nn.Module):
    """Mix the channels of each degree with a matrix of its own; degree 0 gets a bias."""

    features: int
    degrees: tuple[int, ...]
    """Degree of each coefficient, ascending, without gaps."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, coefficients, inputs] to [n, coefficients, features]."""
        first, last, inputs = self.degrees[0], self.degrees[-1], x.shape[-1]
        shape = (last - first + 1, inputs, self.features)
        weight = self.param("weight", nn.initializers.normal(1.0), shape, x.dtype)
        each = (weight / math.sqrt(inputs))[np.array(self.degrees) - first]
        y = jnp.einsum("nsi,sio->nso", x, each)
        if first == 0:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), x.dtype)
            y = jnp.concatenate([y[:, :1] + bias.reshape(1, 1, -1), y[:, 1:]], axis=1)
        return y


class RadialNetwork(nn.Module):
    """Network of the distance and of both elements of an edge: three layers with layer norms and SiLU between them."""

    config: EquiformerV2Config
    features: int

    @nn.compact
    def __call__(self, edges: Edges) -> jax.Array:
        """The radial functions of every edge: [r, k, features].

        The first layer of the elements is evaluated once for each element in the place of each edge.
        """
        config, dtype = self.config, edges.gaussians.dtype
        width, gaussians, elements = config.edge_channels, config.num_gaussians, len(config.elements)
        fan_in = gaussians + 2 * width
        weight = self.param("dense_0", nn.initializers.normal(1.0), (fan_in, width), dtype) / math.sqrt(fan_in)
        bias = self.param("bias_0", nn.initializers.zeros, (width,), dtype)
        tables = [
            self.param(name, nn.initializers.normal(1.0), (elements, width), dtype) / math.sqrt(width)
            for name in ("sender", "receiver")
        ]
        senders, receivers = (
            table @ part for table, part in zip(tables, jnp.split(weight[gaussians:], 2), strict=True)
        )
        x = edges.gaussians @ weight[:gaussians] + bias.reshape(1, 1, -1)
        x = x + senders[edges.species[edges.slots.neighbors]] + edges.slots.of_receivers(receivers[edges.species])
        x = nn.silu(LayerNorm(name="norm_0")(x))
        x = nn.silu(LayerNorm(name="norm_1")(ScaledDense(width, use_bias=True, name="dense_1")(x)))
        return ScaledDense(self.features, use_bias=True, name="dense_2")(x)


class EdgeConvolution(nn.Module):
    """Linear map of features in the frame of an edge that commutes with turns about it.

    It is that of eSCN (Passaro and Zitnick 2023, arXiv:2302.03655, section 3). All degrees of one order are mixed,
    orders m and -m as real and imaginary part of a complex number.
    """

    l_max: int
    m_max: int
    features: int
    extra: int = 0
    """Further outputs that are invariant."""

    @staticmethod
    def inputs(l_max: int, m_max: int, channels: int) -> list[int]:
        """Number of inputs of each order m >= 0, one radial function for each."""
        return [(l_max - m + 1) * channels for m in range(m_max + 1)]

    @nn.compact
    def __call__(self, x: jax.Array, radial: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Apply the map.

        Args:
          x: [r, k, orders, channels].
          radial: [r, k, sum of `inputs`], factors of the inputs.

        Returns:
          [r, k, orders, features] and [r, k, extra].
        """
        rows, places, _, channels = x.shape
        sizes = self.inputs(self.l_max, self.m_max, channels)
        ends = np.cumsum(sizes).tolist()
        found, extra, start = [], x[:, :, 0, :0], 0
        for m, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            signs, degrees = 1 if m == 0 else 2, self.l_max - m + 1
            part = x[:, :, start : start + signs * degrees].reshape(rows, places, signs, size)
            start += signs * degrees
            if radial is not None:
                part = part * radial[:, :, None, end - size : end]
            if m == 0:
                width = self.extra + degrees * self.features
                mixed = ScaledDense(width, use_bias=True, name="order_0")(part)
                extra, mixed = mixed[:, :, 0, : self.extra], mixed[..., self.extra :]
            else:
                width = 2 * degrees * self.features
                both = ScaledDense(width, 1.0 / math.sqrt(2.0), name=f"order_{m}")(part)
                real, imaginary = jnp.split(both, 2, axis=-1)
                turned = jnp.stack([-imaginary[:, :, 1], imaginary[:, :, 0]], axis=2)
                mixed = real + turned
            found.append(mixed.reshape(rows, places, signs * degrees, self.features))
        return jnp.concatenate(found, axis=2), extra

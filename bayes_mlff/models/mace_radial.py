"""Radial networks of MACE's interactions, and the densities that some of them divide messages by.

A network returns hidden features of every edge and a last matrix. They stay apart, since the matrix can be applied
after edges are summed, see `mace_parts.element_messages`.
"""

import math
from typing import Final, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bayes_mlff.models.equivariant import MLP, SILU_NORM, ScaledDense
from bayes_mlff.models.slots import Slots

LAYER_NORM_EPSILON: Final = 1e-5
"""Added to the variance, as in PyTorch."""

DENSITY_WIDTHS: Final = (64,)
"""Hidden widths of the density's network where it sees the elements."""


class Species(NamedTuple):
    """Embeddings of the elements at both ends of an edge."""

    one_hot: jax.Array  # [n, elements]
    source: jax.Array  # [elements, w] of the sender
    target: jax.Array  # [elements, w] of the receiver


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


class SpeciesEdges(nn.Module):
    """Radial network that also sees the elements: linear layers with bias, then layer norm and SiLU.

    Weights of unit variance are scaled by 1/sqrt(inputs), which PyTorch's linear layers are not.
    """

    widths: tuple[int, ...]
    columns: int

    @nn.compact
    def __call__(self, radial: jax.Array, slots: Slots, species: Species) -> tuple[jax.Array, jax.Array]:
        """Map radial functions [r, k, bessels] to hidden features [r, k, h + 1] and the last matrix [h + 1, columns].

        The last hidden feature is one, for the bias.
        """
        x = nn.silu(LayerNorm(name="norm_0")(self._first(radial, slots, species)))
        for i, width in enumerate(self.widths[1:], start=1):
            x = ScaledDense(width, use_bias=True, name=f"dense_{i}")(x)
            x = nn.silu(LayerNorm(name=f"norm_{i}")(x))
        last, dtype = self.widths[-1], radial.dtype
        weight = self.param("weight", nn.initializers.normal(1.0), (last, self.columns), dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.columns,), dtype)
        hidden = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        return hidden, jnp.concatenate([weight / math.sqrt(last), bias[None, :]])

    def _first(self, radial: jax.Array, slots: Slots, species: Species) -> jax.Array:
        """First layer [r, k, h]: its input is the radial functions, the sender's and the receiver's embedding.

        Only the first part differs between edges of the same elements, so the others are multiplied by element.
        """
        bessels, width = radial.shape[-1], species.source.shape[-1]
        inputs, outputs = bessels + 2 * width, self.widths[0]
        weight = self.param("first", nn.initializers.normal(1.0), (inputs, outputs), radial.dtype)
        bias = self.param("first_bias", nn.initializers.zeros, (outputs,), radial.dtype)
        parts = jnp.split(weight / math.sqrt(inputs), [bessels, bessels + width])
        source = species.one_hot @ (species.source @ parts[1])
        target = species.one_hot @ (species.target @ parts[2] + bias[None, :])
        return radial @ parts[0] + source[slots.neighbors] + slots.of_receivers(target)


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the last axis, then a factor and an offset for each feature."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [r, k, h] to the same shape."""
        width = x.shape[-1]
        factor = self.param("factor", nn.initializers.ones, (width,), x.dtype)
        offset = self.param("offset", nn.initializers.zeros, (width,), x.dtype)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
        return normed * factor.reshape(1, 1, width) + offset.reshape(1, 1, width)


class EdgeWeights(nn.Module):
    """Weights of the paths of every edge, by one of the two radial networks."""

    widths: tuple[int, ...]
    columns: int

    @nn.compact
    def __call__(
        self, radial: jax.Array, cutoff: jax.Array | None, slots: Slots, species: Species | None
    ) -> tuple[jax.Array, jax.Array]:
        """Compute hidden features and the last matrix; their product are the weights [r, k, columns].

        Args:
          radial: [r, k, bessels], zero on padded slots if there is no cutoff.
          cutoff: [r, k] factor on the weights, zero on padded slots; None: one.
          slots: where edges belong.
          species: embeddings of the elements, if the network sees them.
        """
        if species is None:
            hidden, matrix = Edges(self.widths, self.columns, name="radial")(radial)
        else:
            hidden, matrix = SpeciesEdges(self.widths, self.columns, name="radial")(radial, slots, species)
        return (hidden if cutoff is None else hidden * cutoff[..., None]), matrix


class Density(nn.Module):
    """Number of neighbours of each atom, learnt: every edge counts as tanh of the square of a radial function."""

    @nn.compact
    def __call__(
        self, radial: jax.Array, cutoff: jax.Array | None, slots: Slots, species: Species | None, atoms: int
    ) -> jax.Array:
        """Compute the density [n, 1, 1]; see `EdgeWeights` for the arguments."""
        if species is None:
            value = ScaledDense(1, name="radial")(radial)
        else:
            hidden, matrix = SpeciesEdges(DENSITY_WIDTHS, 1, name="radial")(radial, slots, species)
            value = hidden @ matrix
        value = jnp.tanh(value**2)
        rows = jnp.sum(value if cutoff is None else value * cutoff[..., None], axis=1)
        return slots.summed(rows, atoms)[:, :, None]

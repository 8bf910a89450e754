"""Activations on a grid on the sphere, and gates.

A function on the sphere has the values Σ x_lm Y_lm on the grid. What a nonlinear function makes of them has all
degrees; its coefficients are taken by a quadrature that is exact for products of low degree only, so that rotations
commute with it up to an error that falls with the resolution.
"""

from functools import lru_cache
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.equiformer_v2_rotations import POLE, back_scales


class Grid(NamedTuple):
    """Linear maps between coefficients and values on a grid."""

    to: np.ndarray  # [points, coefficients]
    back: np.ndarray  # [coefficients, points]

    def values(self, x: jax.Array) -> jax.Array:
        """Coefficients [..., coefficients, channels] to values [..., points, channels]."""
        return jnp.einsum("ps,...sc->...pc", jnp.asarray(self.to, x.dtype), x)

    def coefficients(self, values: jax.Array) -> jax.Array:
        """Values [..., points, channels] to coefficients [..., coefficients, channels]."""
        return jnp.einsum("sp,...pc->...sc", jnp.asarray(self.back, values.dtype), values)


@lru_cache
def grid(l_max: int, m_max: int, resolution: int, parts: tuple[tuple[int, int], ...]) -> Grid:
    """The equiangular grid of Kostelec and Rockmore 2008, J. Fourier Anal. Appl. 14, 145, as e3nn has it.

    Args:
      l_max: highest degree.
      m_max: highest order; coefficients of higher degree stand for those that were left out, too.
      resolution: latitudes and longitudes, even.
      parts: degree and order of each coefficient.
    """
    latitudes = (np.arange(resolution) + 0.5) * np.pi / resolution
    longitudes = np.arange(resolution) * 2.0 * np.pi / resolution
    beta, alpha = (x.ravel() for x in np.meshgrid(latitudes, longitudes, indexing="ij"))
    points = np.stack([np.sin(beta) * np.sin(alpha), np.cos(beta), np.sin(beta) * np.cos(alpha)], axis=-1)
    harmonics = _harmonics(points, l_max)
    columns = np.stack([harmonics[l][:, l + m] for l, m in parts], axis=-1)
    # Both maps together are the identity if no order is left out.
    norms = np.array([np.sqrt((2 * l + 1) * (l_max + 1)) for l, _ in parts])
    left_out = back_scales(parts, m_max)
    weights = np.repeat(_quadrature(resolution) / resolution, resolution)
    return Grid(columns * (left_out / norms), (columns * (left_out * norms)).T * weights)


def _harmonics(points: np.ndarray, l_max: int) -> list[np.ndarray]:
    """Component-normalised real harmonics [points, 2l+1] of unit vectors, of degrees 0 to l_max.

    Degree l is coupled from degrees l-1 and 1 in float64; jax would compute in float32 where that is its default.
    """
    found = [np.ones((len(points) + 1, 1)), np.sqrt(3.0) * np.vstack([points, POLE])]
    for l in range(2, l_max + 1):
        product = np.einsum("pa,pi,aim->pm", found[-1], found[1], e3nn.clebsch_gordan(l - 1, 1, l))
        found.append(product * np.sqrt(2 * l + 1) / product[-1, l])  # at the pole only m = 0 is not zero
    return [values[:-1] for values in found[: l_max + 1]]


def _quadrature(resolution: int) -> np.ndarray:
    """Weights [resolution] of the latitudes (Kostelec and Rockmore 2008, eq. 2.20), with the sum one."""
    j, odd = np.arange(resolution)[:, None], 2 * np.arange(resolution // 2)[None, :] + 1
    angles = (2 * j + 1) * np.pi / (2 * resolution)
    weights = np.sin(angles[:, 0]) * np.sum(np.sin(odd * angles) / odd, axis=1)
    return weights / weights.sum()


def gated(x: jax.Array, gates: jax.Array, degrees: tuple[int, ...]) -> jax.Array:
    """SiLU of degree 0, and higher degrees times the sigmoid of a gate for each degree and channel.

    Args:
      x: [..., coefficients, channels], of which the first is of degree 0.
      gates: [..., l_max · channels].
      degrees: degree of each coefficient.
    """
    width = x.shape[-1]
    each = jax.nn.sigmoid(gates).reshape(*gates.shape[:-1], -1, width)
    spread = jnp.take(each, np.array(degrees[1:]) - 1, axis=-2)
    return jnp.concatenate([jax.nn.silu(x[..., :1, :]), x[..., 1:, :] * spread], axis=-2)

"""Frames of edges, and the rotation of features into them.

In the frame of an edge its direction is y, the polar axis of the real spherical harmonics of e3nn. Features of order m
then turn by the angle m·φ if the frame turns by φ about the edge. Convolutions commute with that, activations on a
grid only as far as the grid resolves what they make; so that the choice of φ matters within the error of the grid.
Frames here depend smoothly on the direction of the edge, but for the one opposite to `AXIS`.
"""

import math
from functools import lru_cache
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.equivariant import coupling

AXIS: Final = (0.30151134457776363, 0.4264014327112209, 0.8528028654224418)
"""A unit vector, (1, √2, 2√2)/√11: no direction of a low-index line in a cell along x, y and z."""

POLE: Final = (0.0, 1.0, 0.0)
"""Direction of an edge in its frame."""

OPPOSITE: Final = 1e-12
"""Least |n + AXIS|² of a direction n that is not taken for the opposite one."""


def frames(vectors: jax.Array) -> jax.Array:
    """Rotation matrices [..., 3, 3] that take the directions of vectors [..., 3] to `POLE`.

    Each is the half turn about the bisector of the direction and `AXIS`, then a constant rotation from `AXIS` to
    `POLE`.
    """
    axis = jnp.asarray(AXIS, vectors.dtype)
    unit = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    bisector = unit + axis.reshape((1,) * (unit.ndim - 1) + (3,))
    square = jnp.sum(bisector**2, axis=-1, keepdims=True)
    opposite = square < OPPOSITE
    aside = jnp.asarray(np.cross(AXIS, POLE) / np.linalg.norm(np.cross(AXIS, POLE)), vectors.dtype)
    bisector = jnp.where(opposite, jnp.broadcast_to(aside, bisector.shape), bisector)
    square = jnp.where(opposite, 1.0, square)
    outer = bisector[..., :, None] * bisector[..., None, :]
    identity = jnp.broadcast_to(jnp.eye(3, dtype=vectors.dtype), outer.shape)
    turn = 2.0 * outer / square[..., None] - identity
    return jnp.einsum("ij,...jk->...ik", jnp.asarray(_to_pole(), vectors.dtype), turn)


def _to_pole() -> np.ndarray:
    """A rotation from `AXIS` to `POLE`."""
    bisector = np.array(AXIS) + np.array(POLE)
    return 2.0 * np.outer(bisector, bisector) / np.sum(bisector**2) - np.eye(3)


def wigner(rotations: jax.Array, l_max: int) -> list[jax.Array]:
    """Matrices [..., 2l+1, 2l+1] of rotations [..., 3, 3] for real harmonics of e3nn of degrees l = 0 to l_max.

    Degree l is coupled from degrees l-1 and 1, so that all of it is a polynomial of the rotation: there are no angles,
    whose derivatives diverge at poles.
    """
    found = [jnp.ones((*rotations.shape[:-2], 1, 1), rotations.dtype), rotations]
    for l in range(2, l_max + 1):
        c = jnp.asarray(coupling(l - 1, 1, l), rotations.dtype)
        found.append(jnp.einsum("aim,...ab,...ij,bjn->...mn", c, found[-1], rotations, c))
    return found[: l_max + 1]


@lru_cache
def orders(l_max: int, m_max: int) -> tuple[tuple[int, int], ...]:
    """Degree and order of the features in the frame of an edge, sorted by order: m = 0, then 1, -1, 2, -2, ..."""
    signed = [0, *(sign * m for m in range(1, m_max + 1) for sign in (1, -1))]
    return tuple((l, m) for m in signed for l in range(abs(m), l_max + 1))


def into_frames(vectors: jax.Array, l_max: int, m_max: int) -> jax.Array:
    """Matrices [..., orders, (l_max+1)²] from features of atoms to features in the frames of edges along vectors."""
    blocks = wigner(frames(vectors), l_max)
    size = (l_max + 1) ** 2
    rows = []
    for l, m in orders(l_max, m_max):
        row = blocks[l][..., l + m, :]
        rows.append(jnp.pad(row, [(0, 0)] * (row.ndim - 1) + [(l**2, size - (l + 1) ** 2)]))
    return jnp.stack(rows, axis=-2)


def back_scales(parts: tuple[tuple[int, int], ...], m_max: int) -> np.ndarray:
    """Factors [parts] of features of some degrees and orders with which they stand for the orders above m_max, too."""
    return np.array([math.sqrt((2 * l + 1) / (2 * min(l, m_max) + 1)) for l, _ in parts])

"""Periodic images: nearest image vectors, continuous paths, and the largest distance that a cell resolves."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from ase.geometry import complete_cell, minkowski_reduce

_NEIGHBOURS: Final = np.indices((3, 3, 3)).reshape(3, -1).T - 1

_CHUNK: Final = 2_000_000
"""Number of vectors that are handled together."""


def stretches(frames: int, each: int) -> Iterator[slice]:
    """Consecutive frames that together have not too many vectors, if there are `each` in a frame."""
    size = max(1, _CHUNK // max(each, 1))
    return (slice(begin, begin + size) for begin in range(0, frames, size))


def reduced_cells(cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Cells of the same lattices with short vectors; directions without periodicity get vectors across the others.

    Args:
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.

    Returns:
      [t, 3, 3] Å. The first frame is Minkowski-reduced, the others are changed by the same whole numbers.
    """
    periodic = np.asarray(pbc, bool)
    moving = np.where(periodic[:, None], np.asarray(cells, np.float64), 0.0)
    if not periodic.all():
        moving = np.array([complete_cell(cell) for cell in moving])
    _, change = minkowski_reduce(moving[0], periodic)  # pyright: ignore[reportArgumentType]
    return change @ moving


def resolved_radius(cells: np.ndarray, pbc: np.ndarray) -> float:
    """Largest distance, Å, within which only the nearest image of an atom can be: half the least width of any cell.

    Args:
      cells: [t, 3, 3] Å, rows, of the same lattice throughout.
      pbc: [3] bool.

    Returns:
      The distance; infinite without periodic directions.
    """
    periodic = np.asarray(pbc, bool)
    if not periodic.any():
        return float("inf")
    return float(0.5 * widths(reduced_cells(cells, periodic))[:, periodic].min())


def widths(cells: np.ndarray) -> np.ndarray:
    """Distances [t, 3] Å between the lattice planes of cells [t, 3, 3] Å along each vector."""
    return 1.0 / np.linalg.norm(np.linalg.inv(cells), axis=-2)


def minimum_image(vectors: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Shortest periodic images of vectors.

    Args:
      vectors: [t, ..., 3] Å.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.

    Returns:
      [t, ..., 3] Å. As in ASE, the 26 neighbours of the rounded image in a reduced cell are searched, if the
      rounded image is longer than what the cell resolves.
    """
    periodic = np.asarray(pbc, bool)
    if not periodic.any():
        return np.asarray(vectors, np.float64)
    reduced = reduced_cells(cells, periodic)
    shape = np.shape(vectors)
    scaled = np.reshape(vectors, (len(reduced), -1, 3)) @ np.linalg.inv(reduced)
    scaled[..., periodic] -= np.round(scaled[..., periodic])
    nearest = scaled @ reduced
    radius = 0.5 * widths(reduced)[:, periodic].min()
    shifts = _NEIGHBOURS[~(_NEIGHBOURS[:, ~periodic] != 0).any(axis=1)]
    far = np.nonzero(np.einsum("tvi,tvi->tv", nearest, nearest) > radius**2)
    for some in stretches(far[0].size, len(shifts)):
        frame, place = far[0][some], far[1][some]
        around = (scaled[frame, place][:, None] + shifts) @ reduced[frame]
        best = np.argmin(np.einsum("vsi,vsi->vs", around, around), axis=1)
        nearest[frame, place] = around[np.arange(len(best)), best]
    return nearest.reshape(shape)


def followed(vectors: np.ndarray, cells: np.ndarray, pbc: np.ndarray, start: np.ndarray, at: int = 0) -> np.ndarray:
    """Images of vectors that continue given ones, however the atoms are wrapped.

    Args:
      vectors: [t, ..., 3] Å between two atoms each, any image.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.
      start: [..., 3] Å, the chosen images in one frame; in the others they may depart from it by less than half a cell.
      at: that frame.

    Returns:
      [t, ..., 3] Å.
    """
    periodic = np.asarray(pbc, bool)
    if not periodic.any():
        return np.asarray(vectors, np.float64)
    reduced = reduced_cells(cells, periodic)
    scaled = np.reshape(vectors, (len(reduced), -1, 3)) @ np.linalg.inv(reduced)
    change = scaled - np.reshape(start, (1, -1, 3)) @ np.linalg.inv(reduced[at])
    scaled[..., periodic] -= np.round(change[..., periodic])
    return (scaled @ reduced).reshape(np.shape(vectors))


def paths(positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Continuous paths of atoms whose positions are wrapped, or not.

    Every frame is wrapped into its own cell first, then the shortest displacements between frames are added up. In a
    moving cell this keeps the statistics of diffusion, whereas adding lattice vectors of the latest cell does not
    (von Bülow, Bullerjahn and Hummer 2020, J. Chem. Phys. 153, 021101).

    Args:
      positions: [t, n, 3] Å.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.

    Returns:
      [t, n, 3] Å, zero in the first frame. An atom may move less than half a cell between frames, see `largest_step`.
    """
    periodic = np.asarray(pbc, bool)
    wrapped = np.array(positions, np.float64)
    if periodic.any():
        reduced = reduced_cells(cells, periodic)
        scaled = wrapped @ np.linalg.inv(reduced)
        scaled[..., periodic] -= np.floor(scaled[..., periodic])
        wrapped = scaled @ reduced
    steps = minimum_image(np.diff(wrapped, axis=0), np.asarray(cells)[1:], periodic)
    return np.concatenate([np.zeros_like(wrapped[:1]), np.cumsum(steps, axis=0)])


def largest_step(moved: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> float:
    """Largest displacement between frames as a share of half the cell; near 1, paths are ambiguous.

    Args:
      moved: [t, n, 3] Å, from `paths`.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.
    """
    steps = np.linalg.norm(np.diff(moved, axis=0), axis=-1)
    return float(steps.max(initial=0.0) / resolved_radius(cells, pbc))

"""Radial distribution functions, of a crystal or liquid; of a molecule, the density of its distances."""

from typing import NamedTuple

import numpy as np

from bayes_mlff.analysis import averages, images


class Pairs(NamedTuple):
    """Atoms whose distances are counted."""

    first: np.ndarray  # [a] indices
    second: np.ndarray  # [b] indices; the same as `first`, or none in common


class Radial(NamedTuple):
    """Distances between two kinds of atoms."""

    r: np.ndarray  # [k] Å, middle of each bin
    density: np.ndarray  # [k] g(r) where all directions are periodic; otherwise density of distances, 1/Å
    error: np.ndarray  # [k] standard error of the density, from blocks; nan if unknown
    neighbours: np.ndarray  # [k] mean number of second atoms around a first one, up to the end of each bin
    bulk: bool  # whether the density is g(r)


def counts(positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray, pairs: Pairs, edges: np.ndarray) -> np.ndarray:
    """Number of ordered pairs in each frame by distance.

    Args:
      positions: [t, n, 3] Å.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.
      pairs: which atoms.
      edges: [k + 1] Å, evenly spaced from 0. Up to `images.resolved_radius` a pair has one distance; beyond it, all
        images within the last edge are counted, also those of an atom itself.

    Returns:
      [t, k].
    """
    periodic, step, reach = np.asarray(pbc, bool), float(edges[1] - edges[0]), float(edges[-1])
    same = np.array_equal(pairs.first, pairs.second)
    reduced = images.reduced_cells(cells, periodic) if periodic.any() else np.asarray(cells, np.float64)
    shifts = np.zeros((1, 3))
    if periodic.any():
        most = np.where(periodic, np.floor(reach / images.widths(reduced).min(axis=0) + 0.5), 0.0).astype(int)
        shifts = np.indices(tuple((2 * most + 1).tolist())).reshape(3, -1).T - most
    found = np.zeros((len(positions), len(edges) - 1))
    for some in images.stretches(len(positions), len(pairs.first) * len(pairs.second)):
        vectors = positions[some, pairs.first, None] - positions[some, None, pairs.second]
        frames = len(vectors)
        if periodic.any():
            vectors = (vectors.reshape(frames, -1, 3) @ np.linalg.inv(reduced[some])).reshape(vectors.shape)
            vectors[..., periodic] -= np.round(vectors[..., periodic])
        for shift in shifts:
            moved = (vectors + shift).reshape(frames, -1, 3) @ reduced[some] if periodic.any() else vectors
            distance = np.linalg.norm(moved, axis=-1).reshape(frames, len(pairs.first), -1)
            if same and not shift.any():
                distance[:, np.arange(len(pairs.first)), np.arange(len(pairs.first))] = np.inf
            bins = np.minimum(distance.reshape(frames, -1) / step, len(edges) - 0.5).astype(int)
            rows = np.arange(frames)[:, None] * len(edges)
            found[some] += np.bincount((rows + bins).ravel(), minlength=frames * len(edges)).reshape(frames, -1)[:, :-1]
    return found


def distribution(
    series: list[np.ndarray], cells: list[np.ndarray], pbc: np.ndarray, pairs: Pairs, edges: np.ndarray
) -> Radial:
    """Radial distribution function of all frames of several trajectories.

    g(r) is the number of second atoms in a shell around a first one over the number that an ideal gas of as many
    atoms has there: N/V for two kinds of atoms, (N - 1)/V for one (Allen and Tildesley, Computer Simulation of
    Liquids, 2.6). Without three periodic directions there is no volume: the result is then the probability density
    of the distances of all pairs, which integrates to 1 if no distance is beyond the last edge.

    Args:
      series: positions [t, n, 3] Å of each trajectory; lengths may differ.
      cells: [t, 3, 3] Å of each, rows.
      pbc: [3] bool.
      pairs: which atoms; at least one pair.
      edges: [k + 1] Å, see `counts`.
    """
    n_first, n_second = len(pairs.first), len(pairs.second)
    others = n_second - np.array_equal(pairs.first, pairs.second)
    bulk = bool(np.all(pbc))
    seen = [counts(x, c, pbc, pairs, edges) for x, c in zip(series, cells, strict=True)]
    shell = 4.0 / 3.0 * np.pi * np.diff(edges**3) if bulk else np.diff(edges)
    volumes = [np.abs(np.linalg.det(c))[:, None] if bulk else np.ones((len(c), 1)) for c in cells]
    scaled = [x * v / (n_first * max(others, 1) * shell) for x, v in zip(seen, volumes, strict=True)]
    mean = averages.block_mean(scaled)
    around = np.cumsum(np.concatenate(seen).mean(axis=0)) / n_first
    return Radial(0.5 * (edges[1:] + edges[:-1]), mean.value, mean.error, around, bulk)


def first_peak(found: Radial) -> tuple[float, float] | None:
    """Position, Å, and height of the first maximum that is at least half as high as the highest; None without pairs."""
    if not found.density.any():
        return None
    high = found.density >= 0.5 * found.density.max()
    begin = int(np.argmax(high))
    end = begin + int(np.argmin(np.append(high[begin:], False)))
    top = begin + int(np.argmax(found.density[begin:end]))
    return float(found.r[top]), float(found.density[top])

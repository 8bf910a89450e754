"""Bonds that are followed through a trajectory, bond lengths by rank, and coordination numbers."""

from typing import Final, NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import minkowski_reduce

from bayes_mlff.analysis import images

_METALS: Final = (*range(21, 31), *range(39, 49), *range(72, 81))
ANIONS: Final = (7, 8, 9, 15, 16, 17, 34, 35, 52, 53)
"""Atomic numbers of elements that are anions in most crystals that contain them."""

_GAP: Final = 1.25
"""Least ratio of the seventh distance to the sixth: 2.2 in a cubic perovskite, 1 around its A atoms."""

REACH: Final = 1.25
"""Largest length of a bond over the sum of the covalent radii of its atoms."""


class Bonds(NamedTuple):
    """As many bonds of each of several atoms; the bonded atoms stay the same through the trajectory."""

    pair: str  # as in "Mn-O"
    time_fs: np.ndarray  # [f]
    distance: np.ndarray  # [f, b, k] Å


def cutoff(first: int, second: int) -> float:
    """Largest length of a bond, Å: `REACH` times the sum of ASE's covalent radii (Cordero et al. 2008)."""
    return REACH * float(covalent_radii[first] + covalent_radii[second])


def neighbour_distances(
    positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray, centres: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Distances from each centre to the nearest image of each other atom.

    Args:
      positions: [t, n, 3] Å.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.
      centres: [b] indices.
      others: [o] indices; a centre that is among them is infinitely far from itself.

    Returns:
      [t, b, o] Å.
    """
    distance = np.empty((len(positions), len(centres), len(others)))
    for some in images.stretches(len(positions), len(centres) * len(others)):
        vectors = positions[some, None, others] - positions[some, centres, None]
        distance[some] = np.linalg.norm(images.minimum_image(vectors, cells[some], pbc), axis=-1)
    return np.where(centres[:, None] == others[None], np.inf, distance)


def nearest(distance: np.ndarray, count: int) -> np.ndarray:
    """The `count` shortest of distances [t, b, o] around each centre, sorted in every frame: [t, b, count] Å."""
    return np.sort(np.partition(distance, count - 1, axis=-1)[..., :count], axis=-1)


def kept(distance: np.ndarray, count: int) -> np.ndarray:
    """Distances [t, b, count] Å to those atoms that are the nearest in the first frame, from distances [t, b, o]."""
    order = np.argsort(distance[0], axis=-1, kind="stable")[:, :count]
    return np.take_along_axis(distance, np.broadcast_to(order, (len(distance), *order.shape)), axis=-1)


def by_rank(distance: np.ndarray, ranks: int) -> np.ndarray:
    """Bond lengths by rank.

    Args:
      distance: [..., b, k] Å.
      ranks: number of ranks, a divisor of k; each is the mean of k/ranks bonds.

    Returns:
      [..., ranks] Å: sorted for each atom, averaged over the atoms.
    """
    ordered = np.sort(distance, axis=-1)
    return ordered.reshape(*ordered.shape[:-1], ranks, -1).mean(axis=(-3, -1))


def short_middle_long(distance: np.ndarray) -> np.ndarray:
    """Sort six bonds [..., b, 6], average the two shortest, middle and longest ones over the atoms: [..., 3]."""
    return by_rank(distance, 3)


def mean_distances(bonds: Bonds, begin_fs: float, end_fs: float) -> np.ndarray | None:
    """Short, middle and long distance [3] Å of the time-averaged bonds; None if there is no frame from begin to end.

    Each bond is averaged before sorting, so that thermal motion alone does not make the bonds unequal.
    """
    inside = (bonds.time_fs >= begin_fs) & (bonds.time_fs <= end_fs)
    return short_middle_long(bonds.distance[inside].mean(axis=0)) if inside.any() else None


def octahedra(numbers: np.ndarray, time_fs: np.ndarray, positions: np.ndarray, cells: np.ndarray) -> Bonds | None:
    """Follow the six bonds that the B atoms of a perovskite have in the first frame, never exchanged for shorter ones.

    A B atom is a transition metal whose six nearest anions are well apart from the seventh.

    Args:
      numbers: [n] atomic numbers.
      time_fs: [f] fs.
      positions: [f, n, 3] Å, wrapped or not.
      cells: [f, 3, 3] Å, rows, periodic in all directions; a bond vector may change by less than half the reduced
        cell between the first and any other frame.

    Returns:
      Distances [f, b, 6] of every bond, or None if the crystal has no such atoms.
    """
    _, change = minkowski_reduce(cells[0])
    first_cell = change @ cells[0]
    scaled = positions[0] @ np.linalg.inv(first_cell)
    anions = np.flatnonzero(np.isin(numbers, ANIONS))
    metals, bonded, start = [], [], []
    for element in np.intersect1d(numbers, _METALS):
        of_element = np.flatnonzero(numbers == element)
        found = [_six(scaled, first_cell, int(metal), anions) for metal in of_element]
        whole = [item for item in found if item is not None]
        if len(whole) == len(found):
            metals += of_element.tolist()
            bonded += [atoms for atoms, _ in whole]
            start += [vectors for _, vectors in whole]
    if not metals:
        return None
    vectors = positions[:, np.array(bonded)] - positions[:, np.array(metals), None]  # [f, b, 6, 3]
    vectors = images.followed(vectors, cells, np.ones(3, bool), np.array(start))
    names = ("/".join(_symbols(numbers[np.unique(atoms)])) for atoms in (metals, np.array(bonded)))
    return Bonds("-".join(names), time_fs, np.linalg.norm(vectors, axis=-1))


def _six(scaled: np.ndarray, cell: np.ndarray, metal: int, anions: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Atoms [6] and vectors [6, 3] Å of the six nearest anions in a reduced cell; None if the seventh is close."""
    vectors = scaled[anions] - scaled[metal]
    vectors -= np.round(vectors)
    shifts = np.indices((5, 5, 5)).reshape(3, -1).T - 2
    around = (vectors[:, None] + shifts).reshape(-1, 3)
    distance = np.linalg.norm(around @ cell, axis=1)
    if distance.size < 7:
        return None
    order = np.argsort(distance, kind="stable")[:7]
    if distance[order[6]] < _GAP * distance[order[5]]:
        return None
    return anions[order[:6] // len(shifts)], around[order[:6]] @ cell


def _symbols(numbers: np.ndarray) -> list[str]:
    return [chemical_symbols[z] for z in np.unique(numbers)]

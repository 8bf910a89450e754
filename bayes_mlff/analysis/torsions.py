"""Dihedral angles, their conformers, and the changes between these."""

from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.analysis import images, states
from bayes_mlff.analysis.states import Changes
from bayes_mlff.data.structure import Structure, to_ase

CONFORMERS: Final = ("anti", "gauche+", "gauche-")
_CENTRES: Final = np.array([180.0, 60.0, -60.0])

CORE_DEG: Final = 30.0
"""Default largest distance from a conformer's centre at which it is entered."""


class Torsion(NamedTuple):
    """One dihedral along a trajectory; a conformer is an index of `CONFORMERS`."""

    angle_deg: np.ndarray  # [t] -180 to 180
    conformer: np.ndarray  # [t] with hysteresis; -1 before the first is entered
    changes: Changes


def dihedral_deg(first: np.ndarray, middle: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Dihedral angles from -180 to 180 degrees, with the sign of IUPAC (positive clockwise).

    Args:
      first: vectors [..., 3] from the first to the second atom.
      middle: from the second to the third.
      last: from the third to the fourth.
    """
    left, right = np.cross(first, middle), np.cross(middle, last)
    sine = np.linalg.norm(middle, axis=-1) * np.sum(first * right, axis=-1)
    return np.degrees(np.arctan2(sine, np.sum(left * right, axis=-1)))


def bond_vectors(positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray, atoms: tuple[int, ...]) -> np.ndarray:
    """Vectors [t, k - 1, 3] Å along a chain of k bonded atoms, from positions [t, n, 3] that may be wrapped."""
    return images.minimum_image(np.diff(positions[:, list(atoms)], axis=1), cells, pbc)


def torsion(angle_deg: np.ndarray, *, core_deg: float = CORE_DEG) -> Torsion:
    """Conformers of a bond with three staggered positions: anti at 180°, gauche at 60° and -60°.

    A conformer is entered within `core_deg` of its centre and left only when another is entered, so that vibrations
    across the eclipsed positions at 0° and ±120° are no transitions.

    Args:
      angle_deg: [t] dihedral, degrees.
      core_deg: degrees, at most 60.
    """
    away = np.abs((angle_deg[:, None] - _CENTRES + 180.0) % 360.0 - 180.0)
    nearest = np.argmin(away, axis=1)
    inside = away.min(axis=1) <= core_deg
    return Torsion(angle_deg, states.with_hysteresis(nearest, inside), states.changes(nearest, inside))


def hydroxyl(structure: Structure) -> tuple[int, int, int, int] | None:
    """Find the chain methyl C, C, O, hydroxyl H of a single ethanol molecule by distances.

    Returns:
      Four atom indices, or None if the structure is not one ethanol molecule.
    """
    if sorted(structure.numbers.tolist()) != [1] * 6 + [6, 6, 8]:
        return None
    distance = to_ase(structure).get_all_distances(mic=bool(structure.pbc.any()))
    (oxygen,), carbons = np.flatnonzero(structure.numbers == 8), np.flatnonzero(structure.numbers == 6)
    hydrogens = np.flatnonzero(structure.numbers == 1)
    near, far = sorted(carbons.tolist(), key=lambda c: distance[oxygen, c])
    hydrogen = int(hydrogens[np.argmin(distance[oxygen, hydrogens])])
    bonded = distance[near, far] < 1.8 and distance[oxygen, near] < 1.7 and distance[oxygen, hydrogen] < 1.3
    return (far, near, int(oxygen), hydrogen) if bonded else None


def chain_angles(
    positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray, atoms: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Conformation of a chain of four atoms; of ethanol's, from `hydroxyl`, that of the hydroxyl group.

    Args:
      positions: [t, n, 3] Å, wrapped or not.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.
      atoms: four indices.

    Returns:
      Angle [t] between the first and the last bond (ethanol: methyl C→C and O→H) from 0 to 180, and dihedral [t] from
      -180 to 180, in degrees.
    """
    first, middle, last = np.moveaxis(bond_vectors(positions, cells, pbc, atoms), 1, 0)
    length = np.linalg.norm(first, axis=-1) * np.linalg.norm(last, axis=-1)
    cosine = np.clip(np.sum(first * last, axis=-1) / length, -1.0, 1.0)
    return np.degrees(np.arccos(cosine)), dihedral_deg(first, middle, last)

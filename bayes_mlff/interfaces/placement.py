"""Structures in the orientation that other programs ask for: the first cell vector along x, the second in the xy plane.

Energies do not change when a structure is rotated, forces and stress rotate with it. Only proper rotations are used,
since not every network is the same for a mirror image: a left-handed cell gets one vector reversed, which is the same
lattice.
"""

from typing import NamedTuple

import ase
import numpy as np
from ase.cell import Cell

from bayes_mlff.data import neighbors


class Placement(NamedTuple):
    """A rotated structure. Row vectors v of the original are v @ rotation here."""

    cell: np.ndarray  # [3, 3] Å, rows, lower triangular with a positive diagonal; unit vectors where not periodic
    pbc: np.ndarray  # [3] bool, of these rows: periodic directions first
    rotation: np.ndarray  # [3, 3] proper

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [..., 3] of the original structure, as they are here."""
        return np.asarray(vectors) @ self.rotation

    def back(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [..., 3] of this structure, as they are in the original."""
        return np.asarray(vectors) @ self.rotation.T

    def tensor_back(self, tensor: np.ndarray) -> np.ndarray:
        """Tensor [3, 3] of this structure, as it is in the original."""
        return self.rotation @ np.asarray(tensor) @ self.rotation.T


def place(atoms: ase.Atoms) -> Placement:
    """Find the orientation of a structure; the lattice is the same, its vectors are the shortest of their kind.

    Each vector is shifted by those before it, so that |xy| and |xz| are at most half of xx, and |yz| half of yy, which
    OpenMM requires and LAMMPS recommends.

    Args:
      atoms: any structure. Its periodic directions come first in the result.
    """
    pbc = np.asarray(atoms.pbc, bool)
    if not pbc.any():
        return Placement(np.eye(3), pbc, np.eye(3))
    order = np.argsort(~pbc, kind="stable")
    cell = neighbors.complete_cell(atoms.cell.array, pbc)[order]
    if np.linalg.det(cell) < 0.0:
        cell[2] = -cell[2]
    lower, q = Cell(cell).standard_form()
    return Placement(_reduced(np.tril(lower.array)), pbc[order], q.T)


def _reduced(cell: np.ndarray) -> np.ndarray:
    cell = cell.copy()
    for row, column in ((1, 0), (2, 1), (2, 0)):
        cell[row] -= cell[column] * np.round(cell[row, column] / cell[column, column])
    return cell

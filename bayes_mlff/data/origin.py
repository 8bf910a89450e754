"""Origin of coordinates, chosen so that float32 is accurate wherever a structure is.

Forces depend on differences of positions only. In float32, positions of some 10⁴ Å have errors of 10⁻³ Å, and the
forces of a stiff bond are silently wrong by 0.1 eV/Å. Therefore a common offset and, for atoms that are several cells
apart, lattice translations are subtracted in float64 first. Coordinates of structures near zero do not change.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.data.structure import Structure

NEAR: Final = 4.0
"""Largest offset, in sizes of the structure (at least 1 Å), that is not subtracted: it costs at most two bits."""

SPREAD: Final = 2.0
"""Number of cells over which atoms may be spread before lattice translations are subtracted."""


class Origin(NamedTuple):
    """Offset that is subtracted from the positions of a structure before they are rounded to float32."""

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)  # Å
    cells: tuple[tuple[int, int, int], ...] | None = None  # [n, 3] lattice translations, whole numbers; None: zero

    def local(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Positions [..., n, 3] Å relative to this origin, float64; `cell` [..., 3, 3] Å is the present one."""
        return np.asarray(positions, np.float64) - self._offset(cell)

    def everywhere(self, local: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Absolute positions [..., n, 3] Å, float64, from positions relative to this origin."""
        return np.asarray(local, np.float64) + self._offset(cell)

    def moved(self, by: np.ndarray) -> "Origin":
        """The origin shifted by [3] Å."""
        x, y, z = (float(a + b) for a, b in zip(self.centre, by, strict=True))
        return self._replace(centre=(x, y, z))

    def to_json(self) -> dict[str, Any]:
        """Plain values, floats exact."""
        return self._asdict()

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Origin":
        """`to_json` back."""
        cells = stored["cells"]
        return cls(tuple(stored["centre"]), None if cells is None else tuple(tuple(row) for row in cells))

    def _offset(self, cell: np.ndarray) -> np.ndarray:
        centre = np.asarray(self.centre)
        if self.cells is None:
            return centre
        return centre + np.asarray(self.cells, np.float64) @ np.asarray(cell, np.float64)


def find(structure: Structure) -> Origin:
    """The origin of a structure: zero, unless the structure is far from zero or its atoms are several cells apart.

    Otherwise the median of the positions is used: it is near most of the atoms, even if some are far away.
    """
    positions, cells = np.asarray(structure.positions, np.float64), None
    repeats = np.asarray(structure.pbc, bool)
    if repeats.any():
        scaled = positions @ np.linalg.pinv(structure.cell[repeats])
        spread = np.ptp(scaled, axis=0) > SPREAD
        if spread.any():
            whole = np.zeros((len(positions), 3), int)
            whole[:, repeats] = np.where(spread, np.round(scaled - np.median(scaled, axis=0)), 0.0).astype(int)
            cells = tuple(tuple(row) for row in whole.tolist())
            positions = positions - whole @ structure.cell
    centre, size = _middle(positions)
    if np.max(np.abs(centre)) <= NEAR * size:
        centre = np.zeros(3)
    return Origin((float(centre[0]), float(centre[1]), float(centre[2])), cells)


def drifted(local: np.ndarray) -> np.ndarray:
    """Drift of the atoms from the origin, [3] whole Å; zero along axes where it is small.

    Args:
      local: [n, 3] Å.
    """
    centre, size = _middle(np.asarray(local, np.float64))
    return np.where(np.abs(centre) > 2.0 * NEAR * size, np.round(centre), 0.0)


def _middle(positions: np.ndarray) -> tuple[np.ndarray, float]:
    """Median [3] of positions [n, 3], and the typical distance from it, at least 1 Å."""
    centre = np.median(positions, axis=0)
    return centre, max(1.0, float(np.median(np.max(np.abs(positions - centre), axis=1))))

"""Where coordinates are counted from, so that float32 holds them as well anywhere as near zero.

Forces depend on differences of positions only. Positions of some 10⁴ Å in float32 are off by 10⁻³ Å, and the forces of
a stiff bond by a tenth of an eV/Å, without a sign of it. So a common offset and, of atoms that are cells apart, whole
lattice translations are taken off in float64 first. Structures near zero keep their coordinates to the last bit.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.data.structure import Structure

NEAR: Final = 4.0
"""Offset over the size of the structure (at least 1 Å) up to which nothing is taken off: it costs two bits at most."""

SPREAD: Final = 2.0
"""Cells over which atoms may be spread before they are counted from the same one."""


class Origin(NamedTuple):
    """What is taken off the positions of a structure before they are rounded."""

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)  # Å
    cells: tuple[tuple[int, int, int], ...] | None = None  # [n, 3] lattice translations; None: none of any atom

    def local(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Positions [..., n, 3] Å as counted from here, float64; `cell` [..., 3, 3] Å is that of the moment."""
        return np.asarray(positions, np.float64) - self._offset(cell)

    def everywhere(self, local: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Positions [..., n, 3] Å, float64, of what is counted from here."""
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
    """The origin of a structure: zero, unless it is far from there or its atoms are cells apart.

    The median is near most of the atoms, even if some are far away.
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
    """How far, in whole Å [3], atoms have drifted from where they are counted from; zero along axes where that is near.

    Args:
      local: [n, 3] Å.
    """
    centre, size = _middle(np.asarray(local, np.float64))
    return np.where(np.abs(centre) > 2.0 * NEAR * size, np.round(centre), 0.0)


def _middle(positions: np.ndarray) -> tuple[np.ndarray, float]:
    """Median [3] of positions [n, 3], and how far most are from it, at least 1 Å."""
    centre = np.median(positions, axis=0)
    return centre, max(1.0, float(np.median(np.max(np.abs(positions - centre), axis=1))))

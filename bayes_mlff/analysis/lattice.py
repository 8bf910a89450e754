"""Lattice parameters along a trajectory."""

from typing import NamedTuple

import numpy as np


class Lattice(NamedTuple):
    """Shape of cells."""

    lengths: np.ndarray  # [f, 3] Å
    angles: np.ndarray  # [f, 3] degrees
    divisors: list[str]  # of each length as text, "" for none

    @property
    def names(self) -> list[str]:
        """Names of the lengths, as in "a/√2"."""
        return [name + divisor for name, divisor in zip("abc", self.divisors, strict=True)]


def lattice(cells: np.ndarray, *, pseudo_cubic: bool) -> Lattice:
    """Shape of cells.

    Args:
      cells: [f, 3, 3] Å, rows.
      pseudo_cubic: the cells are √2 x √2 x 2 cells; the longest axis of the first frame is the doubled one.
    """
    lengths = np.linalg.norm(cells, axis=-1)
    after, last = np.roll(cells, -1, axis=1), np.roll(cells, -2, axis=1)
    cosine = np.sum(after * last, axis=-1) / (np.linalg.norm(after, axis=-1) * np.linalg.norm(last, axis=-1))
    angles = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    if not pseudo_cubic:
        return Lattice(lengths, angles, ["", "", ""])
    doubled = np.arange(3) == np.argmax(lengths[0])
    return Lattice(lengths / np.where(doubled, 2.0, np.sqrt(2.0)), angles, ["/2" if d else "/√2" for d in doubled])


def constant(cells: np.ndarray) -> bool:
    """Whether the cell never changes, to the digits that are stored."""
    return bool(np.allclose(cells, cells[0], rtol=0.0, atol=1e-7))

"""The stored frames of a run, as arrays."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers

from bayes_mlff.core.errors import DataError, RunDirectoryError, brief
from bayes_mlff.data.structure import Structure, check


class Trajectory(NamedTuple):
    """Frames of the same atoms."""

    step: np.ndarray  # [f]
    time_fs: np.ndarray  # [f]
    numbers: np.ndarray  # [n] atomic numbers
    pbc: np.ndarray  # [3] bool
    positions: np.ndarray  # [f, n, 3] Å, wrapped or not
    cells: np.ndarray  # [f, 3, 3] Å, rows; zero without a lattice

    def structure(self, index: int) -> Structure:
        """One frame.

        Raises:
          DataError: if nothing can be computed for it.
        """
        found = Structure(self.numbers, self.positions[index], self.cells[index], self.pbc)
        check(found)
        return found


def read(path: Path) -> Trajectory:
    """Read a trajectory; a last frame that is still being written is left out.

    Args:
      path: extended XYZ with `step`, `time_fs` and, if periodic, `Lattice` and `pbc`, and species and positions as
        its only columns.

    Raises:
      RunDirectoryError: if it is missing, has no whole frame, or is not such a file.
    """
    if not path.is_file():
        raise RunDirectoryError(f"{path.name} is missing; allowed: a run that has stored frames")
    try:
        text = path.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].split("\n")[:-1]
        n = int(lines[0])
        frames = len(lines) // (n + 2)
        heads, comments = ([lines[i + k * (n + 2)] for k in range(frames)] for i in (0, 1))
        if n < 1 or not frames or any(int(head) != n for head in heads):
            raise ValueError("not one number of atoms throughout")
        rows = [line.split() for i, line in enumerate(lines[: frames * (n + 2)]) if i % (n + 2) > 1]
        if any(len(row) != 4 for row in rows):
            raise ValueError("columns beside species and positions")
        numbers = np.array([atomic_numbers[row[0]] for row in rows]).reshape(frames, n)
        if (numbers != numbers[0]).any():
            raise ValueError("other atoms than in the first frame")
        pbc = [_directions(_field("pbc", c, "F F F")) for c in comments]
        missing = None if any(pbc[0]) else " ".join("0" * 9)
        found = Trajectory(
            np.array([int(_field("step", c)) for c in comments], np.int64),
            np.array([_field("time_fs", c) for c in comments], np.float64),
            numbers[0],
            np.array(pbc[0]),
            np.array([row[1:] for row in rows], np.float64).reshape(frames, n, 3),
            np.array([_field("Lattice", c, missing).split() for c in comments], np.float64).reshape(frames, 3, 3),
        )
        if any(p != pbc[0] for p in pbc) or not all(np.isfinite(x).all() for x in (*found[:2], *found[4:])):
            raise ValueError("a number is not finite, or pbc changes")
        found.structure(0)
    except (DataError, IndexError, KeyError, OSError, OverflowError, ValueError) as error:
        raise RunDirectoryError(
            f"{path.name}: allowed: frames of the same atoms, as a run writes; got {brief(str(error))}"
        ) from error
    return found


def _field(name: str, comment: str, missing: str | None = None) -> str:
    match = re.search(rf'\b{name}=("[^"]*"|\S+)', comment)
    if match is None:
        if missing is None:
            raise ValueError(f"a comment without {name}")
        return missing
    return match[1].strip('"')


def _directions(text: str) -> tuple[bool, ...]:
    words = text.split()
    if len(words) != 3 or not set(words) <= {"T", "F"}:
        raise ValueError(f"pbc {text!r}")
    return tuple(word == "T" for word in words)

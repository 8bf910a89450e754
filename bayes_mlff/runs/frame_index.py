"""Byte offsets of the frames in a trajectory file, found by counting lines without parsing them."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

_BLOCK: Final = 1 << 24
_LONGEST_HEAD: Final = 32
"""Largest length, bytes, of the line with the number of atoms."""


class FrameIndex(NamedTuple):
    """Complete frames of a file in which all frames have the same number of lines."""

    n_atoms: int
    offsets: np.ndarray  # [f + 1] bytes; frame i is from offsets[i] to offsets[i + 1]

    @property
    def count(self) -> int:
        """Number of complete frames f."""
        return len(self.offsets) - 1


def index(path: Path) -> FrameIndex:
    """Find the frames of an extended XYZ file; an incomplete last frame, which is still being written, is left out.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it does not begin with a number of atoms.
    """
    with path.open("rb") as file:
        head = file.readline(_LONGEST_HEAD)
        n_atoms = int(head.decode())
        if n_atoms < 1:
            raise ValueError(f"{n_atoms} atoms")
        file.seek(0)
        lines, seen, begin, ends = n_atoms + 2, 0, 0, [np.zeros(1, np.int64)]
        while block := file.read(_BLOCK):
            newlines = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            ends.append(newlines[lines - 1 - seen % lines :: lines] + (begin + 1))
            seen, begin = seen + len(newlines), begin + len(block)
    return FrameIndex(n_atoms, np.concatenate(ends))


def evenly(count: int, most: int | None) -> np.ndarray:
    """Indices of all `count` frames, or of at most `most` evenly spaced ones, including the first and the last."""
    if most is None or count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))


def lines_of(path: Path, found: FrameIndex, chosen: np.ndarray) -> list[list[str]]:
    """Read the lines of the chosen frames; indices in rising order.

    Raises:
      OSError, ValueError: if the file cannot be read as text.
    """
    frames = []
    with path.open("rb") as file:
        for i in chosen.tolist():
            file.seek(int(found.offsets[i]))
            content = file.read(int(found.offsets[i + 1] - found.offsets[i]))
            frames.append(content.decode().split("\n")[:-1])
    return frames

"""The stored frames of a run, as arrays."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from ase.io.extxyz import key_val_dict_to_str

from bayes_mlff.core.errors import DataError, RunDirectoryError, brief
from bayes_mlff.data.structure import Plain, Structure, check
from bayes_mlff.runs import frame_index
from bayes_mlff.runs.frame_index import FrameIndex

_FIRST: Final = "species:S:1:pos:R:3"
"""The first columns, which every frame must have."""

_OURS: Final = ("Lattice", "Properties", "pbc", "step", "time_fs", "stress")
"""Keys that the comment line of a frame already uses."""


class Trajectory(NamedTuple):
    """Frames with the same atoms in the same order."""

    step: np.ndarray  # [f]
    time_fs: np.ndarray  # [f]
    numbers: np.ndarray  # [n] atomic numbers
    pbc: np.ndarray  # [3] bool
    positions: np.ndarray  # [f, n, 3] Å, wrapped or not
    cells: np.ndarray  # [f, 3, 3] Å, rows; zero without a lattice
    stored: int | None = None  # number of frames in the file; None: these are all
    momenta: np.ndarray | None = None  # [f, n, 3] sqrt(amu·eV); None unless every frame has them
    masses: np.ndarray | None = None  # [n] amu; None: the standard masses

    def structure(self, index: int) -> Structure:
        """One frame as a structure.

        Raises:
          DataError: if the structure is not valid, see `data.structure.check`.
        """
        found = Structure(self.numbers, self.positions[index], self.cells[index], self.pbc)
        check(found)
        return found


class Constants(NamedTuple):
    """Constant text of all frames of a run: everything except geometry and momenta."""

    columns: str  # further columns of Properties
    ends: tuple[str, ...]  # [n] ends of the atoms' rows
    remarks: str  # further keys of the comment line
    held: np.ndarray | None = None  # [n, 3] bool, fixed coordinates, written with all digits; None: none


def constants(structure: Structure, masses: np.ndarray) -> Constants:
    """Text for what a structure has beside the geometry (masses, constraints, charge and spin), with ASE's keys.

    Args:
      structure: initial structure of the run.
      masses: [n] masses of the atoms, amu.
    """
    state, n = structure.electronic, len(structure.numbers)
    columns: list[tuple[str, np.ndarray]] = []
    if not np.allclose(masses, atomic_masses[structure.numbers], rtol=1e-9, atol=0.0):
        columns.append(("masses:R:1", np.array([[f"{m:.10g}"] for m in masses])))
    if structure.fixed is not None and structure.fixed.any():
        columns.append(("move_mask:L:3", np.where(structure.fixed, "F", "T")))
    for name, values in (("initial_magmoms", state.moments), ("initial_charges", state.charges)):
        if values is not None:
            columns.append((f"{name}:R:1", np.array([[f"{x:.10g}"] for x in values])))
    if state.tags is not None:
        columns.append(("tags:I:1", np.array([[f"{int(x)}"] for x in state.tags])))
    ends = tuple("".join(f" {word}" for _, text in columns for word in text[i]) for i in range(n))
    electrons = {"charge": state.charge, "multiplicity": state.multiplicity}
    remarks = "".join(f" {name}={value}" for name, value in electrons.items() if value is not None)
    remarks += "".join(_remark(name, value) for name, value in state.info.items() if name not in electrons)
    return Constants("".join(f":{name}" for name, _ in columns), ends, remarks, structure.fixed)


def _remark(name: str, value: Plain) -> str:
    """One value of ASE's `info` in the comment, unless it could be taken for something else there."""
    text = key_val_dict_to_str({name: value})
    plain = re.fullmatch(r"\w+", name) and text.count("=") == 1 and "\n" not in text
    return f" {text}" if plain and name not in _OURS else ""


def read(path: Path, *, most: int | None = None) -> Trajectory:
    """Read a trajectory; an incomplete last frame, which is still being written, is left out.

    Args:
      path: extended XYZ with `step`, `time_fs` and, if periodic, `Lattice` and `pbc`, and species and positions as
        its first columns; momenta and masses are read where every frame has them, other columns are ignored.
      most: if there are more frames, read only so many evenly spaced ones, including the first and the last.

    Raises:
      RunDirectoryError: if the file is missing, has no complete frame, or has another format.
    """
    found = frames(path)
    chosen = frame_index.evenly(found.count, most)
    return read_some(path, found, chosen)._replace(stored=found.count)


def frames(path: Path) -> FrameIndex:
    """Find the frames of a trajectory file.

    Raises:
      RunDirectoryError: if the file is missing or has no complete frame.
    """
    if not path.is_file():
        raise RunDirectoryError(f"{path.name} is missing; allowed: a run that has stored frames")
    with _explained(path):
        found = frame_index.index(path)
        if not found.count:
            raise ValueError("no whole frame")
    return found


def read_some(path: Path, found: FrameIndex, chosen: np.ndarray) -> Trajectory:
    """Read the chosen frames of a trajectory, at least one; see `read`."""
    with _explained(path):
        texts = frame_index.lines_of(path, found, chosen)
        if any(int(lines[0]) != found.n_atoms for lines in texts):
            raise ValueError("not one number of atoms throughout")
        comments = [lines[1] for lines in texts]
        rows = [line.split() for lines, c in zip(texts, comments, strict=True) for line in _checked(lines[2:], c)]
        numbers = np.array([atomic_numbers[row[0]] for row in rows]).reshape(len(texts), found.n_atoms)
        if (numbers != numbers[0]).any():
            raise ValueError("other atoms than in the first frame")
        pbc = [_directions(_field("pbc", c, "F F F")) for c in comments]
        missing = None if any(pbc[0]) else " ".join("0" * 9)
        read = Trajectory(
            np.array([int(_field("step", c)) for c in comments], np.int64),
            np.array([_field("time_fs", c) for c in comments], np.float64),
            numbers[0],
            np.array(pbc[0]),
            np.array([row[1:4] for row in rows], np.float64).reshape(*numbers.shape, 3),
            np.array([_field("Lattice", c, missing).split() for c in comments], np.float64).reshape(-1, 3, 3),
            momenta=_column("momenta", comments, rows),
            masses=None if (masses := _column("masses", comments, rows)) is None else masses[0, :, 0],
        )
        known = [x for x in (*read[:2], *read[4:6], *read[7:]) if x is not None]
        if any(p != pbc[0] for p in pbc) or not all(np.isfinite(x).all() for x in known):
            raise ValueError("a number is not finite, or pbc changes")
        read.structure(0)
    return read


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of reading into a RunDirectoryError that says what a trajectory must contain."""
    try:
        yield
    except (DataError, IndexError, KeyError, OSError, OverflowError, ValueError) as error:
        raise RunDirectoryError(
            f"{path.name}: allowed: frames of the same atoms, as a run writes; got {brief(str(error))}"
        ) from error


def _checked(rows: list[str], comment: str) -> list[str]:
    """Check that rows have the columns that the comment line announces, species and positions first; return them."""
    properties = _field("Properties", comment, _FIRST)
    names = properties.split(":")
    if not f"{properties}:".startswith(f"{_FIRST}:") or len(names) % 3:
        raise ValueError(f"Properties={properties}")
    columns = sum(int(count) for count in names[2::3])
    if any(len(row.split()) != columns for row in rows):
        raise ValueError("columns beside species and positions" if columns == 4 else f"not {columns} columns in a row")
    return rows


def _column(name: str, comments: list[str], rows: list[list[str]]) -> np.ndarray | None:
    """A further column [f, n, width] by its name; None unless every frame has it.

    Args:
      name: of the column.
      comments: comment line of each frame.
      rows: words of all atoms of all frames.
    """
    n, places = len(rows) // len(comments), []
    for comment in comments:
        fields = _field("Properties", comment, _FIRST).split(":")
        ends = np.cumsum([0, *map(int, fields[2::3])]).tolist()
        if name not in fields[::3]:
            return None
        which = fields[::3].index(name)
        places.append(slice(ends[which], ends[which + 1]))
    words = [row[places[i // n]] for i, row in enumerate(rows)]
    return np.array(words, np.float64).reshape(len(comments), n, -1)


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

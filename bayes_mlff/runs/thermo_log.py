"""The logged steps of a run (thermo.csv) as arrays: all of them, or evenly spaced ones of a long run.

A run of 10⁷ steps logs a gigabyte. Figures and mean values need only about 10⁴ rows.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError

WHOLE_BYTES: Final = 8 << 20
"""A file up to this size, about 60 000 rows, is read completely."""

BLOCKS: Final = 2000
BLOCK_BYTES: Final = 1 << 12
"""Of a larger file, so many evenly spaced blocks are read, of about 30 rows each; together at most WHOLE_BYTES."""

LARGEST: Final = 1e15
"""Bound for plausible numbers: no time, step or energy of a run comes near it."""

SURE: Final = ("step", "time_fs", "temperature_k", "potential_ev", "total_ev")
"""Columns that must not contain nan."""


class ThermoSeries(NamedTuple):
    """Logged steps of the dynamics."""

    time_fs: np.ndarray  # [t]
    temperature_k: np.ndarray  # [t]
    potential_ev: np.ndarray  # [t]
    total_ev: np.ndarray  # [t]
    sigma_ev: np.ndarray  # [t]
    sigma_crit_ev: np.ndarray  # [t]
    pressure_gpa: np.ndarray | None = None  # [t] nan where unknown; None if the file has no such column


class TriggerSeries(NamedTuple):
    """A trigger's statistic along the run beside its limit, in eV, Å and atoms; nan after a roll-back."""

    sigma: np.ndarray  # [t]
    limit: np.ndarray  # [t]


class ThermoLog(NamedTuple):
    """Rows that were read from thermo.csv."""

    steps: np.ndarray  # [t]
    thermo: ThermoSeries
    rows: int  # number of rows in the file; estimated from its size if not all were read
    triggers: Mapping[str, TriggerSeries] = {}  # by name


def read(path: Path, triggers: Mapping[str, tuple[str, str]] | None = None) -> ThermoLog:
    """Read thermo.csv without an incomplete last line; a missing file gives empty arrays.

    Args:
      path: of the file.
      triggers: columns with value and limit of further triggers, by name.

    Raises:
      RunDirectoryError: if the file is unreadable, lacks a column, or has a value that is not a number.
    """
    try:
        header, text, share = _read_parts(path)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path}: not readable as text: {error}") from error
    place = {name: index for index, name in enumerate(header.strip().split(","))}
    own = ("step", *ThermoSeries._fields[:-1])
    if ThermoSeries._fields[-1] in place:
        own = ("step", *ThermoSeries._fields)
    further = triggers or {}
    names = (*own, *(name for pair in further.values() for name in pair))
    try:
        table = np.zeros((0, len(names)))
        if text.strip():
            columns = [place[name] for name in names]
            table = np.loadtxt(io.StringIO(text), delimiter=",", usecols=columns, ndmin=2, comments=None)
    except (LookupError, ValueError) as error:
        needed = ", ".join(names)
        raise RunDirectoryError(f"{path}: needs numbers in the columns {needed}; got {error!r}") from error
    _check(path, names, table, whole=share == 1.0)
    columns = table.T
    found = {name: TriggerSeries(*columns[len(own) + 2 * i :][:2]) for i, name in enumerate(further)}
    return ThermoLog(columns[0], ThermoSeries(*columns[1 : len(own)]), round(len(table) / share), found)


def _check(path: Path, names: tuple[str, ...], table: np.ndarray, *, whole: bool) -> None:
    for name, column in zip(names, table.T, strict=True):
        wrong = ~(np.abs(column) < LARGEST) if name in SURE else np.abs(column) >= LARGEST
        if wrong.any():
            row = int(np.argmax(wrong))
            where = f"line {row + 2}" if whole else f"the row of step {table[row, 0]:.0f}"
            raise RunDirectoryError(f"{path}: {where}: {name} is {column[row]:g}; allowed: a finite number")
    if len(table) and (table[:, 0].min() < 0 or (table[:, 0] % 1).any()):
        raise RunDirectoryError(f"{path}: a step is not a whole number from 0 on")


def _read_parts(path: Path) -> tuple[str, str, float]:
    """Header, the complete lines that were read, and the fraction of the file that they are."""
    if not path.exists():
        return "", "", 1.0
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.readline(WHOLE_BYTES)
        if not header.endswith(b"\n"):
            return "", "", 1.0
        if size <= WHOLE_BYTES:
            return header.decode(), _whole_lines(file.read()).decode(), 1.0
        content = _blocks(file, len(header), size)
    return header.decode(), content.decode(), len(content) / (size - len(header))


def _blocks(file: BinaryIO, begin: int, end: int) -> bytes:
    """Complete lines of evenly spaced blocks, including the first and the last line."""
    parts = []
    for offset in np.linspace(begin, end - BLOCK_BYTES, BLOCKS).astype(np.int64).tolist():
        file.seek(offset - 1)
        block = file.read(BLOCK_BYTES + 1)  # with the byte before it, which shows whether a line begins here
        parts.append(_whole_lines(block[block.find(b"\n") + 1 :]))
    return b"".join(parts)


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]

"""Read one frame of a structure's file with ASE: format, frame index and compression."""

import difflib
import io
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import ase
import ase.db
import ase.io
from ase.io.formats import (
    UnknownFileTypeError,
    extension2format,
    filetype,
    get_compression,
    ioformats,
    open_with_compression,
)
from ase.io.trajectory import TrajectoryReader

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data.extxyz import UNREADABLE

MOST_BYTES: Final = 4 << 30
"""Largest memory for reading a structure, and largest size of an uncompressed file, bytes: some formats reserve memory
for as many atoms as a header claims."""

_DATABASES: Final = ("db", "json")


class Raw(NamedTuple):
    """A frame as returned by ASE's reader."""

    atoms: ase.Atoms
    index: int  # from 0
    count: int  # frames of the file
    warned: tuple[str, ...]  # from the reader


def format_of(path: Path, wanted: str | None) -> str:
    """ASE's name of a file's format.

    Args:
      path: an existing file.
      wanted: format name or extension given by the user; None: determined from name and content.

    Raises:
      ConfigError: if there is no such format, or it cannot be determined.
    """
    readable = {name: form for name, form in ioformats.items() if form.can_read}
    if wanted is None:
        try:
            kind = filetype(str(path))
        except UnknownFileTypeError as error:
            raise ConfigError(
                "structure.format", None, f"the name of the format, which is not clear: {error}"
            ) from error
        except UNREADABLE as error:
            raise ConfigError("structure.file", str(path), f"a readable file ({error})") from error
        if kind not in readable:
            raise ConfigError("structure.format", None, f"a format that ASE reads; '.{kind}' is not one")
        return kind
    name = wanted.strip().lower()
    if name in readable:
        return name
    known = extension2format.get(name)
    if known is not None and known.can_read:
        return known.name
    close = difflib.get_close_matches(name, [*readable, *extension2format], n=3)
    hint = f"did you mean {' or '.join(repr(x) for x in close)}? " if close else ""
    raise ConfigError("structure.format", wanted, f"{hint}a format that ASE reads: {', '.join(sorted(readable))}")


@contextmanager
def decompressed(path: Path) -> Iterator[Path]:
    """The file itself, or an uncompressed temporary copy whose name lacks .gz, .bz2 or .xz.

    Raises:
      ConfigError: if the uncompressed file is larger than `MOST_BYTES`.
    """
    root, compression = get_compression(path.name)
    if compression is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bayes-mlff-") as folder:
        copy = Path(folder) / root
        with open_with_compression(str(path), "rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(_Bounded(source, path), target)
        yield copy


class _Bounded(io.RawIOBase):
    """A stream that refuses to return more than `MOST_BYTES`."""

    def __init__(self, source: IO[Any], path: Path):
        self._source, self._path, self._left = source, path, MOST_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ConfigError("structure.file", str(self._path), f"a file of at most {MOST_BYTES >> 30} GiB")
        return data


def read(path: Path, kind: str, index: int) -> Raw:
    """Read one frame; if the format allows it, other frames are not kept in memory.

    Args:
      path: an uncompressed file.
      kind: ASE's name of its format.
      index: frame, from 0, or if negative from the end.

    Raises:
      DataError: if there is no such frame.
      Exception: any exception of ASE's reader.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if kind == "traj":
            atoms, number, count = _from_trajectory(path, index)
        elif kind in _DATABASES:
            atoms, number, count = _from_database(path, kind, index)
        elif ioformats[kind].single:
            atoms, number, count = ase.io.read(path, format=kind, do_not_split_by_at_sign=True), place(index, 1), 1
        else:
            atoms, number, count = _from_iterator(path, kind, index)
    if not isinstance(atoms, ase.Atoms):
        raise DataError(f"{path}: no structure")
    own = (w for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning | ResourceWarning))
    return Raw(atoms, number, count, tuple(dict.fromkeys(" ".join(str(w.message).split()) for w in own)))


def place(index: int, count: int) -> int:
    """Index of a frame, from 0.

    Raises:
      ConfigError: if there are not enough frames.
    """
    if not -count <= index < count:
        raise ConfigError("structure.index", index, f"{-count} to {count - 1}, as the file has {count} frames")
    return index % count


def _from_trajectory(path: Path, index: int) -> tuple[ase.Atoms, int, int]:
    with path.open("rb") as file, TrajectoryReader(file) as trajectory:
        count = len(trajectory)
        number = place(index, count)
        return cast(ase.Atoms, trajectory[number]), number, count


def _from_database(path: Path, kind: str, index: int) -> tuple[ase.Atoms, int, int]:
    """A row of a database, with its key-value pairs among the remarks of the structure."""
    backend = "aselmdb" if path.suffix == ".aselmdb" else kind
    database: Any = ase.db.connect(str(path), type=backend, serial=True)
    with database:
        count = database.count()
        number = place(index, count)
        [row] = database.select(offset=number, limit=1)
        atoms = row.toatoms()
        atoms.info.update(row.get("data") or {})
        # Attributes that ASE adds to a row, such as the sum of initial charges, hide pairs of the same name.
        atoms.info.update({name: vars(row)[name] for name in row.key_value_pairs})
        return atoms, number, count


def _from_iterator(path: Path, kind: str, index: int) -> tuple[ase.Atoms, int, int]:
    kept: deque[ase.Atoms] = deque(maxlen=-index if index < 0 else 1)
    count = 0
    for atoms in ase.io.iread(str(path), ":", format=kind, do_not_split_by_at_sign=True):
        if index < 0 or count == index:
            kept.append(atoms)
        count += 1
    number = place(index, count)
    return kept[0], number, count


def from_text(text: str, path: Path, kind: str) -> Raw:
    """Read a frame from the (modified) text of a file."""
    with tempfile.TemporaryDirectory(prefix="bayes-mlff-") as folder:
        copy = Path(folder) / path.name
        copy.write_text(text, encoding="utf-8")
        return read(copy, kind, -1)

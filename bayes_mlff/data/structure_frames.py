"""One frame of a structure's file through ASE's readers: of which format, which of how many, from compressed files."""

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
"""Memory that reading a structure may take, and size of a compressed file once it is not: some formats reserve memory
for as many atoms as a header claims."""

_DATABASES: Final = ("db", "json")


class Raw(NamedTuple):
    """What ASE's reader made of a frame."""

    atoms: ase.Atoms
    index: int  # from 0
    count: int  # frames of the file
    warned: tuple[str, ...]  # by the reader


def format_of(path: Path, wanted: str | None) -> str:
    """ASE's name of a file's format.

    Args:
      path: an existing file.
      wanted: the name or an extension that the user gave; None: found out from name and content.

    Raises:
      ConfigError: if there is no such format, or none can be found out.
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
            raise ConfigError("structure.format", None, f"a format that ASE reads; '.{kind}' is none")
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
    """The file itself, or a copy of it that is not compressed and goes by the name without .gz, .bz2 or .xz.

    Raises:
      ConfigError: if it is larger than `MOST_BYTES` when it is not compressed.
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
    """A stream that refuses to give more than `MOST_BYTES`."""

    def __init__(self, source: IO[Any], path: Path):
        self._source, self._path, self._left = source, path, MOST_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ConfigError("structure.file", str(self._path), f"a file of at most {MOST_BYTES >> 30} GiB")
        return data


def read(path: Path, kind: str, index: int) -> Raw:
    """Read one frame; others are not held in memory where the format allows it.

    Args:
      path: a file that is not compressed.
      kind: ASE's name of its format.
      index: frame, from 0, or if negative from the end.

    Raises:
      DataError: if there is no such frame.
      Exception: whatever ASE's reader raises.
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
    """Number of a frame, from 0.

    Raises:
      ConfigError: if there are not so many.
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
        # ASE's own attributes of a row, such as the sum of its initial charges, hide pairs of the same name.
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
    """Read the text of a file of one frame, which stands for that of a path."""
    with tempfile.TemporaryDirectory(prefix="bayes-mlff-") as folder:
        copy = Path(folder) / path.name
        copy.write_text(text, encoding="utf-8")
        return read(copy, kind, -1)

"""Arrays of npz files, read within bounds and without running anything that a file contains."""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.errors import READER_ERRORS, DataError


def read_arrays(path: Path, keys: tuple[str, ...]) -> list[np.ndarray]:
    """Arrays of an npz file by their names.

    Raises:
      DataError: if the file is missing, no npz, lacks a key, holds Python objects, or claims arrays of another size
        than it has.
    """
    present = array_names(path)
    missing = [key for key in keys if key not in present]
    if missing:
        raise DataError(f"{path}: no array {', '.join(missing)}; present: {', '.join(present)}")
    with _opened(path) as archive:
        return [_read_array(archive, f"{key}.npy") for key in keys]


def array_names(path: Path) -> list[str]:
    """Names of the arrays of an npz file, in order.

    Raises:
      DataError: if the file is missing or no npz.
    """
    with _opened(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except READER_ERRORS as error:
        raise DataError(f"{path}: not a readable npz file: {type(error).__name__}: {error}") from error


def write_npz(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write named arrays, replacing a file that is there at once.

    Raises:
      OSError: if it cannot be written; then the file is as it was.
    """
    content, named = io.BytesIO(), cast(dict[str, Any], {name: np.asarray(array) for name, array in arrays.items()})
    np.savez(content, **named)
    write_whole(path, content.getvalue())


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, whose header is held against the size of its file before memory is taken for it."""
    with archive.open(name) as file:
        shape, _, dtype = _read_header(file)
        claimed = math.prod(shape) * dtype.itemsize + file.tell()
    if dtype.hasobject or claimed != archive.getinfo(name).file_size:
        raise ValueError(f"{name} claims {dtype} of shape {shape}, in {archive.getinfo(name).file_size} bytes")
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the array of an npy file, which is left at its first number."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    return read(file)

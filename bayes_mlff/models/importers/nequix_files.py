"""Files of Nequix (`.nqx`): one line of JSON, then arrays in NumPy's format, one after the other.

The package nequix writes the arrays with equinox, as leaves without names. Neither is needed to read them, and nothing
that a file contains is executed: arrays of anything but numbers are refused. No array takes memory before the file has
shown that it is long enough to hold it.
"""

import io
import json
import math
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, WeightsError, brief, shown
from bayes_mlff.models.config import Imported
from bayes_mlff.models.importers.nequix_weights import describe, from_nequix

LONGEST_HEADER: Final = 1 << 20
"""Bytes of the line of JSON; those of published files have some thousands."""

LARGEST: Final = 1 << 28
"""Bytes of a file; published files have 3 MB."""

MOST_LEAVES: Final = 10_000
"""Arrays and numbers of a file, each of which costs more memory than the file needs to name it."""

ORIGIN: Final = "allowed: a file as nequix writes it"


class Content(NamedTuple):
    """What a file holds."""

    header: dict[str, Any]
    leaves: list[np.ndarray]  # float64, in the order of the file


def read(path: Path) -> Content:
    """Read the header and the arrays of a file.

    Numbers on their own behind the arrays are left out: some published files repeat their header there.

    Raises:
      WeightsError: if it is no file of Nequix, or is cut off.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(LONGEST_HEADER)
            long = os.fstat(file.fileno()).st_size > LARGEST
            body = b"" if long else file.read()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error}); {ORIGIN}") from error
    if not line.endswith(b"\n") or long:
        raise WeightsError(
            f"{path}: not a file of Nequix: it does not begin with a line of at most {LONGEST_HEADER} bytes, "
            f"or is longer than {LARGEST >> 20} MiB; {ORIGIN}"
        )
    try:
        header = json.loads(line)
    except READER_ERRORS as error:
        raise WeightsError(f"{path}: not a file of Nequix: its first line is no JSON ({error}); {ORIGIN}") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: not a file of Nequix: its first line holds {shown(header)}; {ORIGIN}")
    return Content(header, _leaves(body, path))


def read_model(path: Path) -> Imported:
    """Read the model of a file, in float64.

    Raises:
      WeightsError: if it is no file of Nequix, or one of a form that is not supported.
    """
    content = read(path)
    try:
        config = describe(content.header, content.leaves)
        return Imported(config, from_nequix(content.leaves, config))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _leaves(body: bytes, path: Path) -> list[np.ndarray]:
    """The arrays of a file up to the numbers on their own at its end."""
    stream, leaves, numbers, end = io.BytesIO(body), [], 0, len(body.rstrip(b"\n"))
    # One published file ends in a line break; the last bytes of an array can look like one, too.
    while stream.tell() < end:
        if len(leaves) + numbers >= MOST_LEAVES:
            raise WeightsError(f"{path}: not a file of Nequix: it holds more than {MOST_LEAVES} arrays; {ORIGIN}")
        leaf = _leaf(stream, len(body), f"{path}: array {len(leaves) + numbers}")
        if leaf.ndim == 0:
            numbers += 1
        elif numbers:
            raise WeightsError(f"{path}: array {len(leaves) + numbers} follows {numbers} numbers; {ORIGIN}")
        else:
            leaves.append(leaf)
    return leaves


def _leaf(stream: io.BytesIO, length: int, name: str) -> np.ndarray:
    """The array at which a stream of so many bytes is, in float64."""
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise WeightsError(f"{name} is of version {version} of NumPy's format; allowed: (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except READER_ERRORS as error:
        reason = brief(str(error))
        raise WeightsError(f"{name} cannot be read, the file is cut off or damaged ({reason}); {ORIGIN}") from error
    size, left = math.prod(shape) * dtype.itemsize, length - stream.tell()
    kinds = "f" if shape else "fiub"
    if dtype.kind not in kinds or dtype.itemsize > 8 or fortran or len(shape) > 3 or min(shape, default=1) < 1:
        raise WeightsError(f"{name} claims {dtype} of shape {shown(shape)}; allowed: real numbers, row by row")
    if size > left:
        claim = f"{dtype} of shape {shown(shape)} where the file has {left} more bytes"
        raise WeightsError(f"{name} claims {claim}: it is cut off; {ORIGIN}")
    return np.frombuffer(stream.read(size), dtype).reshape(shape).astype(np.float64)

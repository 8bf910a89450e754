"""The reader of extended-XYZ files: what one claims is held against its text before ASE reads it.

ASE trusts the file: it reads as many lines and columns as a header states, drops everything after an empty line,
truncates long rows, and treats a misspelt key as a remark.
"""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections import deque
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import ase
import numpy as np
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict, read_extxyz

from bayes_mlff.core.errors import READER_ERRORS, DataError, shown

SPELT: Final = {name.lower(): name for name in ("Lattice", "Properties", "pbc")}
"""Keys that ASE recognises only in this spelling."""

ISOTOPES: Final = {"D": 2.014101777844, "T": 3.016049281320}
"""Symbols of hydrogen's isotopes, amu: AME2020, Wang et al. 2021, Chinese Phys. C 45, 030003."""

UNREADABLE: Final = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
"""Exceptions raised for a file that is not text, or not compressed as its suffix says."""

_OPENERS: Final = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

_COUNT: Final = re.compile(r"\s*\d{1,9}\s*", re.ASCII)


class Frame(NamedTuple):
    """One frame of a file."""

    text: str
    index: int  # from 0
    line: int  # line of the file where it begins, from 0
    count: int  # frames of the file


def open_text(path: Path) -> IO[str]:
    """Open a UTF-8 text file, compressed if its suffix is .gz, .bz2 or .xz."""
    opener = _OPENERS.get(path.suffix)
    return path.open(encoding="utf-8") if opener is None else opener(path, "rt", encoding="utf-8")


def read_frames(path: Path, name: str | None = None) -> list[ase.Atoms]:
    """All frames of a file, which may be compressed.

    Args:
      path: of the file.
      name: what messages call it; its path by default.

    Raises:
      DataError: naming the file, the frame (from 0) and what was expected, if the file does not hold what it claims.
    """
    source = name or str(path)
    try:
        with open_text(path) as file:
            text = file.read()
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file") from error
    except UNREADABLE as error:
        raise DataError(f"{source}: not a readable text file: {error}") from error
    return parse(text, source)


def parse(text: str, source: str) -> list[ase.Atoms]:
    """All frames of the text of a file.

    Args:
      text: of one or more frames.
      source: what messages call it.

    Raises:
      DataError: see `read_frames`.
    """
    check_text(text, source)
    return parse_checked(text, source)


def parse_checked(text: str, source: str) -> list[ase.Atoms]:
    """The same for text that has been checked, as that of `read_frame`, perhaps with isotopes renamed since."""
    read: Any = read_extxyz  # annotated for one frame only
    try:
        return list(read(io.StringIO(text), slice(None)))
    except READER_ERRORS as error:
        raise DataError(f"{source}: unreadable: {type(error).__name__}: {error}") from error


def comment_values(line: str, where: str) -> dict[str, Any]:
    """What the comment line of a frame says, by key; a bare word is True.

    Raises:
      DataError: if it is no list of key=value.
    """
    try:
        return key_val_str_to_dict(line.strip()) if line.strip() else {}
    except READER_ERRORS as error:
        raise DataError(f"{where}: not a list of key=value: {type(error).__name__}: {error}") from error


def read_frame(path: Path, index: int) -> Frame:
    """Read and check one frame of a file of any length without keeping the others in memory; it may be compressed.

    Args:
      path: an existing file.
      index: frame, from 0, or if negative from the end.

    Returns:
      The frame; without text if there are fewer frames.

    Raises:
      DataError: if the file is not text, a frame is incomplete, or the requested frame does not match its header.
    """
    kept: deque[tuple[str, int, int]] = deque(maxlen=-index if index < 0 else 1)
    count = 0
    try:
        with open_text(path) as file:
            for count, (text, line) in enumerate(_frames(file, str(path)), start=1):
                if index < 0 or count == index + 1:
                    kept.append((text, count - 1, line))
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable text file: {error}") from error
    if not count:
        raise DataError(f"{path}: no frames")
    if not kept or (index < 0 and len(kept) < -index):
        return Frame("", 0, 0, count)
    text, number, line = kept[0]
    lines = text.rstrip("\n").split("\n")
    _check_frame(lines, 0, f"{path}: frame {number}", line, {**atomic_numbers, **ISOTOPES})
    return Frame(text, number, line, count)


def _frames(file: IO[str], source: str) -> Iterator[tuple[str, int]]:
    """Text and first line of each frame, as long as each has the number of lines that its header states."""
    line, index = 0, 0
    ahead = file.readline()
    while ahead:
        if not ahead.strip():
            if file.read(1 << 16).strip():
                raise DataError(f"{source}: frame {index}, line {line + 1}: empty; allowed: a count of up to 9 digits")
            ahead = file.readline()
            continue
        if not _COUNT.fullmatch(ahead):
            raise DataError(
                f"{source}: frame {index}, line {line + 1}: got {shown(ahead.rstrip())}; "
                "allowed: a count of up to 9 digits"
            )
        parts = [ahead]
        for _ in range(int(ahead) + 1):
            parts.append(file.readline())
            if not parts[-1]:
                left = max(len(parts) - 3, 0)
                raise DataError(
                    f"{source}: frame {index}, line {line + 1}: got {int(ahead)} atoms; "
                    f"allowed: 1 to the {left} lines left"
                )
        ahead = file.readline()
        while ahead.lstrip().startswith("VEC"):
            parts.append(ahead)
            ahead = file.readline()
        yield "".join(parts), line
        line, index = line + len(parts), index + 1


def check_text(text: str, source: str) -> None:
    """Refuse the text of a file that does not hold what it claims; `source` is what messages call it.

    Raises:
      DataError: naming the frame (from 0), the line and what was expected.
    """
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{source}: no frames")
    start = index = 0
    while start < len(lines):
        start = _check_frame(lines, start, f"{source}: frame {index}")
        index += 1


def _check_frame(
    lines: list[str], start: int, where: str, before: int = 0, symbols: Container[str] = atomic_numbers
) -> int:
    """The line after the frame that begins at line `start`; `before` lines of the file are not in the list."""
    if not _COUNT.fullmatch(lines[start]):
        raise DataError(
            f"{where}, line {before + start + 1}: got {shown(lines[start])}; allowed: a count of up to 9 digits"
        )
    count, present = int(lines[start]), len(lines) - start - 2
    if not 1 <= count <= present:
        raise DataError(
            f"{where}, line {before + start + 1}: got {count} atoms; allowed: 1 to the {max(present, 0)} lines left"
        )
    columns, symbol = _check_comment(lines[start + 1], f"{where}, line {before + start + 2}")
    end = start + 2 + count
    for number in range(start + 2, end):
        words = lines[number].split()
        known = columns is None or len(words) == columns
        if not known or len(words) < 4:
            allowed = "at least 4" if columns is None else columns
            raise DataError(f"{where}, line {before + number + 1}: got {len(words)} words; allowed: {allowed}")
        if symbol is not None and words[symbol].capitalize() not in symbols:
            raise DataError(
                f"{where}, line {before + number + 1}: got {shown(words[symbol])}; allowed: a chemical symbol"
            )
    while end < len(lines) and lines[end].lstrip().startswith("VEC"):
        end += 1
    return end


def _check_comment(line: str, where: str) -> tuple[int | None, int | None]:
    """How many columns the atoms have, if that is said, and which is the chemical symbol, if there is one."""
    info = comment_values(line, where)
    for key in info:
        right = SPELT.get(key.lower(), key)
        if key != right:
            raise DataError(f"{where}: got key {shown(key)}; allowed: {right}")
    pbc = info.get("pbc", [True] * 3)
    if np.shape(pbc) != (3,) or not all(isinstance(p, bool) for p in pbc):
        raise DataError(f"{where}: got pbc {shown(pbc)}; allowed: three of T and F")
    properties = info.get("Properties")
    if properties is None:
        return None, 0
    fields = str(properties).split(":")
    widths = fields[2::3]
    if len(fields) % 3 or not all(_COUNT.fullmatch(width) and int(width) for width in widths):
        raise DataError(f"{where}: got Properties={shown(properties)}; allowed: name:type:columns, e.g. pos:R:3")
    names = dict(zip(fields[::3], np.cumsum([0, *map(int, widths)]).tolist(), strict=False))
    if len(names) != len(widths) or "pos" not in names or not {"species", "Z"} & set(names):
        raise DataError(f"{where}: got Properties={shown(properties)}; allowed: each once, with pos and species or Z")
    return sum(map(int, widths)), names.get("species")

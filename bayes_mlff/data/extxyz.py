"""What an extended-XYZ file claims, held against its text before ASE reads it.

ASE takes the file at its word: it looks for as many lines and columns as a header names, drops whatever follows an
empty line, pads no row but cuts long ones, and takes a key that is spelt wrongly for a remark.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict

from bayes_mlff.core.errors import READER_ERRORS, DataError, shown

SPELT: Final = {name.lower(): name for name in ("Lattice", "Properties", "pbc")}
"""Keys that ASE knows in this spelling only."""

_COUNT: Final = re.compile(r"\s*\d{1,9}\s*", re.ASCII)


def check_file(path: Path) -> None:
    """Refuse a file that does not hold what it claims.

    Raises:
      DataError: naming the file, the frame (from 0) and what was expected.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable text file: {error}") from error
    check_text(text, str(path))


def check_text(text: str, source: str) -> None:
    """The same for the text of a file; `source` is what messages call it."""
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{source}: no frames")
    start = index = 0
    while start < len(lines):
        start = _check_frame(lines, start, f"{source}: frame {index}")
        index += 1


def _check_frame(lines: list[str], start: int, where: str) -> int:
    """The line after the frame that begins at line `start`."""
    if not _COUNT.fullmatch(lines[start]):
        raise DataError(f"{where}, line {start + 1}: got {shown(lines[start])}; allowed: a count of up to 9 digits")
    count, present = int(lines[start]), len(lines) - start - 2
    if not 1 <= count <= present:
        raise DataError(f"{where}, line {start + 1}: got {count} atoms; allowed: 1 to the {max(present, 0)} lines left")
    columns, symbol = _check_comment(lines[start + 1], f"{where}, line {start + 2}")
    end = start + 2 + count
    for number in range(start + 2, end):
        words = lines[number].split()
        known = columns is None or len(words) == columns
        if not known or len(words) < 4:
            allowed = "at least 4" if columns is None else columns
            raise DataError(f"{where}, line {number + 1}: got {len(words)} words; allowed: {allowed}")
        if symbol is not None and words[symbol].capitalize() not in atomic_numbers:
            raise DataError(f"{where}, line {number + 1}: got {shown(words[symbol])}; allowed: a chemical symbol")
    while end < len(lines) and lines[end].lstrip().startswith("VEC"):
        end += 1
    return end


def _check_comment(line: str, where: str) -> tuple[int | None, int | None]:
    """How many columns the atoms have, if that is said, and which is the chemical symbol, if there is one."""
    try:
        info = key_val_str_to_dict(line.strip()) if line.strip() else {}
    except READER_ERRORS as error:
        raise DataError(f"{where}: not a list of key=value: {type(error).__name__}: {error}") from error
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

"""Readers of XYZ and POSCAR files: what ASE's readers ignore or misread is read here or refused by name."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import ase
import numpy as np
from ase.data import atomic_numbers

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data import extxyz, structure_frames
from bayes_mlff.data.extxyz import ISOTOPES
from bayes_mlff.data.structure_frames import Raw, place

_WHOLE_PAIR: Final = re.compile(r"^\s*[+-]?\d+\s+\d+\s*$|^\s*[+-]?\d\s+\d(?=\s)|(?<=\s)[+-]?\d\s+\d\s*$")
_ABOUT_CHARGE: Final = {
    *("charge", "charged", "charges", "multiplicity", "mult", "spin", "cation", "anion", "cationic", "anionic"),
    *("dication", "dianion", "trication", "radical", "biradical", "diradical", "ionized", "ionised", "singlet"),
    *("doublet", "triplet", "quartet", "quintet", "sextet", "septet", "ion", "unpaired"),
}
_ION: Final = re.compile(r"\[?((?:[A-Z][a-z]?\d*|[()])+)\]?(\++\d*|\^?\d*[+-]|-+)[,;:.]?")
_BOHR: Final = re.compile(r"(?<![A-Za-z])(bohr|a\.u\.|atomic units?|fractional|nanomet\w*)(?![A-Za-z])", re.IGNORECASE)
_TRUTH: Final = re.compile(r"\.?([TF])[A-Z]*\.?", re.IGNORECASE)


class Given(NamedTuple):
    """Settings that a user gives because the file does not state them."""

    elements: tuple[str, ...] = ()
    charge: int | None = None
    multiplicity: int | None = None


def set_masses(atoms: ase.Atoms, masses: np.ndarray, *, velocities: bool = False) -> None:
    """Set masses [n], amu; keep momenta, or the velocities that belong to them."""
    if velocities and atoms.has("momenta"):
        atoms.arrays["momenta"] = atoms.get_velocities() * masses[:, None]
    atoms.arrays["masses"] = np.array(masses, np.float64)


def read_xyz(path: Path, index: int, given: Given) -> Raw:
    """Read a frame of an XYZ file, extended or plain."""
    frame = extxyz.read_frame(path, index)
    place(index, frame.count)
    lines = frame.text.split("\n")
    title, warned = lines[1].strip(), []
    said = extxyz.comment_values(title, str(path))
    bare = _bare_words(title, said)
    _check_title(bare, given)
    if "Properties" not in said:
        if "=" not in title:
            warned = [f"the comment line {shown(title)} is not used"] if title else []
            lines[1] = ""
        count = int(lines[0])
        if "=" in title and any(line.lstrip().startswith("VEC") for line in lines[2 + count :]):
            raise DataError(
                f"structure: the comment line {shown(title)} of a file with cell vectors VEC is not read; "
                'allowed: Lattice="..." in place of these'
            )
        width = max(len(line.split()) for line in lines[2 : 2 + count])
        if width > 4:
            raise DataError(
                f"structure: columns 5 to {width} of the atoms have no name; allowed: name them in the comment line, "
                "for example Properties=species:S:1:pos:R:3:momenta:R:3, or leave them out"
            )
    heavy = _rename_isotopes(lines)
    (atoms,) = extxyz.parse_checked("\n".join(lines), str(path))
    if heavy:
        masses = atoms.get_masses()
        masses[list(heavy)] = list(heavy.values())
        set_masses(atoms, masses)
    if "Properties" not in said and "=" in title and bare:
        warned.append(f"the words {shown(bare)} of the comment line are not used")
        for word in bare.split():
            atoms.info.pop(word, None)
    return Raw(atoms, frame.index, frame.count, tuple(warned))


def _bare_words(title: str, said: Mapping[str, Any]) -> str:
    """The words of a comment line that are neither keys nor values."""
    if "=" not in title:
        return title
    return " ".join(
        name for name, value in said.items() if value is True and not re.search(rf"{re.escape(name)}['\"]?\s*=", title)
    )


def _check_title(title: str, given: Given) -> None:
    """Refuse a comment line that seems to mean other units, or charge and spin unless the settings give these."""
    if _BOHR.search(title):
        raise DataError(f"structure: the comment line {shown(title)} names units other than Å; allowed: positions in Å")
    if given.charge is not None and given.multiplicity is not None:
        return
    words = {word.lower() for word in re.findall(r"[A-Za-z_]+", title)}
    pair = _WHOLE_PAIR.search(title)
    if pair and pair[0].split() != ["0", "1"]:
        what = "two whole numbers, as if charge and multiplicity were meant"
    elif words & _ABOUT_CHARGE or any(map(_is_ion, title.split())):
        what = "something about charge or spin"
    else:
        return
    raise DataError(
        f"structure: the comment line {shown(title)} says {what}; allowed: charge=... multiplicity=... there, "
        "or structure.charge and structure.multiplicity"
    )


def _is_ion(word: str) -> bool:
    """Whether a word is a chemical formula with a charge, such as NH4+."""
    match = _ION.fullmatch(word)
    return match is not None and all(symbol in atomic_numbers for symbol in re.findall(r"[A-Z][a-z]?", match[1]))


def _rename_isotopes(lines: list[str]) -> dict[int, float]:
    """Replace D and T by H in the lines of a frame, and return the masses of these atoms, amu."""
    fields = re.search(r"""Properties=["']?([^\s"']+)""", lines[1])
    columns = fields[1].split(":") if fields else ["species", "S", "1"]
    names, widths = columns[::3], [int(width) for width in columns[2::3]]
    if "species" not in names:
        return {}
    at, heavy = sum(widths[: names.index("species")]), {}
    for row in range(int(lines[0])):
        words = lines[row + 2].split()
        if words[at].capitalize() in ISOTOPES:
            heavy[row] = ISOTOPES[words[at].capitalize()]
            words[at] = "H"
            lines[row + 2] = " ".join(words)
    return heavy


def read_poscar(path: Path, index: int, given: Given) -> Raw:
    """Read a POSCAR or CONTCAR, with flags in any Fortran spelling, isotopes, and velocities in Å/fs."""
    lines, warned = path.read_text(encoding="utf-8").split("\n"), []
    try:
        names = [] if lines[5].split()[0].isdigit() else lines[5].split()
        row = 7 if names else 6
        counts = [int(word) for word in lines[row - 1].split("!")[0].split()]
        selective = lines[row].strip()[:1].lower() == "s"
        first = row + 2 if selective else row + 1
    except (IndexError, ValueError) as error:
        raise DataError(
            "structure: not a POSCAR: cell, elements and numbers of atoms are not at the expected places"
        ) from error
    if not names:
        warned.append(
            f"elements are read from the title line {shown(lines[0].strip())}, since the file has no line of elements"
        )
    heavy = [ISOTOPES.get(_element(name)) for name in names]
    lines[5] = " ".join("H" if mass else name for name, mass in zip(names, heavy, strict=True)) or lines[5]
    n = sum(counts)
    if selective:
        for i in range(first, first + n):
            lines[i] = _with_flags(lines[i], i + 1)
    _check_velocities(lines[first + n :], n, warned)
    copy = structure_frames.from_text("\n".join(lines), path, "vasp")
    if any(heavy):
        masses = copy.atoms.get_masses()
        per_atom = np.repeat(np.array([mass or np.nan for mass in heavy]), counts)
        set_masses(copy.atoms, np.where(np.isnan(per_atom), masses, per_atom), velocities=True)
    return Raw(copy.atoms, place(index, 1), 1, (*warned, *copy.warned))


def _element(name: str) -> str:
    return re.split("[/_]", name)[0]


def _with_flags(line: str, number: int) -> str:
    """A line of selective dynamics with flags T and F as ASE expects them."""
    words = line.split()
    flags = [_TRUTH.fullmatch(word) for word in words[3:6]]
    if len(flags) < 3 or not all(flags):
        raise DataError(
            f"structure: line {number}: got {shown(line.strip())}; allowed: three coordinates and three T or F"
        )
    return " ".join([*words[:3], *(flag[1].upper() for flag in flags if flag)])


def _check_velocities(tail: list[str], n: int, warned: list[str]) -> None:
    """Refuse velocities in a unit that the file does not state."""
    mode = tail[0].strip()[:1].lower() if tail else ""
    if mode == "l":
        warned.append("the velocities of the lattice are not used")
        tail = tail[8:]
        mode = tail[0].strip()[:1].lower() if tail else ""
    rows = [line.split() for line in tail[1 : n + 1]]
    if mode in ("", "c", "k") or not rows or len(rows[0]) < 3:
        return
    if any(float(word) != 0.0 for words in rows for word in words[:3]):
        raise DataError(
            "structure: velocities in direct coordinates are per time step, which the file does not state; "
            "allowed: Cartesian velocities in Å/fs"
        )


READERS: Final[dict[str, Callable[[Path, int, Given], Raw]]] = {
    "extxyz": read_xyz,
    "xyz": read_xyz,
    "vasp": read_poscar,
}
"""Formats read here."""

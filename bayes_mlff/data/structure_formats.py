"""What ASE's readers leave out of formats, or misread: read here, or refused by name."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import ase
import numpy as np
from ase.data import atomic_numbers
from ase.io.extxyz import read_extxyz
from ase.io.gaussian import read_gaussian_in
from ase.io.proteindatabank import read_proteindatabank

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data import extxyz, structure_frames
from bayes_mlff.data.extxyz import ISOTOPES
from bayes_mlff.data.structure_frames import Raw, place

MASS_NUMBERS: Final = {2: ISOTOPES["D"], 3: ISOTOPES["T"]}

_WHOLE_PAIR: Final = re.compile(r"\s*[+-]?\d+\s+\d+\s*")
_TRUTH: Final = re.compile(r"\.?([TF])[A-Z]*\.?", re.IGNORECASE)
_AMBIGUOUS: Final = re.compile(r"[A-Za-z]+")


class Given(NamedTuple):
    """What a user says about a file that does not say it."""

    elements: tuple[str, ...] = ()
    charge: int | None = None
    multiplicity: int | None = None


def set_masses(atoms: ase.Atoms, masses: np.ndarray, *, velocities: bool = False) -> None:
    """Give atoms masses [n], amu; momenta are kept, or the velocities that they stood for."""
    if velocities and atoms.has("momenta"):
        atoms.arrays["momenta"] = atoms.get_velocities() * masses[:, None]
    atoms.arrays["masses"] = np.array(masses, np.float64)


def read_xyz(path: Path, index: int, given: Given, *, plain: bool) -> Raw:
    """A frame of an XYZ file, extended or plain."""
    frame = extxyz.read_frame(path, index)
    place(index, frame.count)
    lines = frame.text.split("\n")
    title, warned = lines[1].strip(), []
    if plain or "=" not in title:
        _check_title(title, given)
        warned = [f"the comment line {shown(title)} is not used"] if title else []
        lines[1] = ""
        width = len(lines[2].split())
        if width > 4:
            raise DataError(
                f"structure: columns 5 to {width} of the atoms have no name; allowed: name them in the comment line, "
                "for example Properties=species:S:1:pos:R:3:momenta:R:3, or leave them out"
            )
    heavy = _rename_isotopes(lines)
    atoms = next(read_extxyz(io.StringIO("\n".join(lines)), 0))
    if heavy:
        masses = atoms.get_masses()
        masses[list(heavy)] = list(heavy.values())
        set_masses(atoms, masses)
    return Raw(atoms, frame.index, frame.count, tuple(warned))


def _check_title(title: str, given: Given) -> None:
    """Refuse a comment line in which charge and multiplicity seem to be meant, unless they are given."""
    if given.charge is not None and given.multiplicity is not None:
        return
    words = {word.lower() for word in re.findall(r"[A-Za-z_]+", title)}
    if _WHOLE_PAIR.fullmatch(title) and title.split() != ["0", "1"]:
        what = "two whole numbers, as if charge and multiplicity were meant"
    elif words & {"charge", "multiplicity", "mult", "spin", "cation", "anion", "dication", "dianion", "radical"}:
        what = "something about charge or spin"
    else:
        return
    raise DataError(
        f"structure: the comment line {shown(title)} says {what}; allowed: charge=... multiplicity=... there, "
        "or structure.charge and structure.multiplicity"
    )


def _rename_isotopes(lines: list[str]) -> dict[int, float]:
    """Write H for D and T in the lines of a frame, and return the masses of those atoms, amu."""
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
    """A POSCAR or CONTCAR, with flags in any spelling of Fortran, isotopes, and velocities in Å/fs."""
    lines, warned = path.read_text(encoding="utf-8").split("\n"), []
    try:
        names = [] if lines[5].split()[0].isdigit() else lines[5].split()
        row = 7 if names else 6
        counts = [int(word) for word in lines[row - 1].split("!")[0].split()]
        selective = lines[row].strip()[:1].lower() == "s"
        first = row + 2 if selective else row + 1
    except (IndexError, ValueError) as error:
        raise DataError(
            "structure: not a POSCAR: cell, elements and numbers of atoms are not where it has them"
        ) from error
    if not names:
        warned.append(
            f"elements are those of the title line {shown(lines[0].strip())}, as the file has no line of them"
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
    """A line of selective dynamics with T and F as ASE reads them."""
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


def read_pdb(path: Path, index: int, given: Given) -> Raw:
    """One model of a PDB file, with the cell that stands before the first, isotopes and formal charges."""
    head: list[str] = []
    models: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if line.startswith(("ATOM", "HETATM")):
            models[-1].append(line.ljust(80))
        elif line.startswith("END") or (line.startswith("MODEL") and models[-1]):
            models.append([])
        elif line.startswith(("CRYST1", "ORIGX")):
            # Some programs repeat the cell before each model: the last one that precedes a model is its own.
            head.append((len(models), line))  # type: ignore[arg-type]
    filled = [i for i, model in enumerate(models) if model]
    if not filled:
        raise DataError("structure: no ATOM and no HETATM")
    number = place(index, len(filled))
    chosen = models[filled[number]]
    latest = {line[:6]: line for before, line in head if before <= filled[number] + 1}  # type: ignore[misc]
    elements = [_pdb_element(line) for line in chosen]
    written = [
        line[:76] + ("H" if e in ISOTOPES else e).rjust(2) + line[78:] for line, e in zip(chosen, elements, strict=True)
    ]
    text = "\n".join([*latest.values(), *written, "END", ""])
    atoms = read_proteindatabank(io.StringIO(text), index=0)
    _check_alternatives(chosen)
    masses = atoms.get_masses()
    if any(e in ISOTOPES for e in elements):
        set_masses(atoms, np.array([ISOTOPES.get(e, m) for e, m in zip(elements, masses, strict=True)]))
    occupancy = atoms.arrays.get("occupancy")
    if occupancy is not None and not occupancy.any():
        del atoms.arrays["occupancy"]  # as programs write that do not know it
    formal = [_formal(line[78:80]) for line in chosen]
    if any(formal):
        atoms.info["charge"] = sum(formal)
    return Raw(atoms, number, len(filled), ())


def _pdb_element(line: str) -> str:
    """Chemical symbol of an atom: that of columns 77 and 78, or the name, if it can only mean one element."""
    stated = line[76:78].strip().capitalize()
    if stated in atomic_numbers or stated in ISOTOPES:
        return stated
    name = line[12:16].strip()
    letters = "".join(_AMBIGUOUS.findall(name)[:1])
    if letters.capitalize() in atomic_numbers and (len(letters) == 1 or letters == letters.capitalize()):
        return letters.capitalize()
    if letters[:2].capitalize() not in atomic_numbers and letters[:1].upper() in atomic_numbers:
        return letters[0].upper()
    raise DataError(
        f"structure: atom {shown(name)} of {shown(line.strip()[:30])} has no element in columns 77 and 78, and its "
        "name can mean several; allowed: a file with elements"
    )


def _check_alternatives(lines: list[str]) -> None:
    """Refuse atoms that are there several times, as alternatives."""
    several = sorted({line[16] for line in lines} - {" "})
    if len(several) > 1:
        raise DataError(
            f"structure: alternate locations {', '.join(several)} of atoms; allowed: one place for each atom"
        )


def _formal(text: str) -> int:
    """Formal charge from '1+', '2-', '+1' or nothing."""
    found = re.fullmatch(r"(\d?)([+-])(\d?)", text.strip())
    return 0 if found is None else int(found[2] + (found[1] or found[3] or "1"))


def read_molfile(path: Path, index: int, given: Given) -> Raw:
    """A molecule of an MDL Molfile or SDF of version V2000, with formal charges and isotopes."""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    blocks = [block for block in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE) if block.strip()]
    if not blocks:
        raise DataError("structure: an empty file")
    number = place(index, len(blocks))
    lines = blocks[number].split("\n")
    if len(lines) < 4 or "V3000" in lines[3]:
        raise DataError("structure: not a molecule of version V2000; allowed: V2000, or another format")
    if lines[1][20:22] == "2D":
        raise DataError("structure: the coordinates are those of a drawing (2D); allowed: 3D")
    n = int(lines[3][:3])
    heavy = {}
    for i, line in enumerate(lines[4 : 4 + n]):
        words = line.split()
        if words[3] in ISOTOPES:
            heavy[i] = ISOTOPES[words[3]]
            lines[4 + i] = line.replace(f" {words[3]} ", " H ", 1)
    raw = structure_frames.from_text("\n".join(lines), path, "sdf")
    listed = {name: _properties(lines, name) for name in ("CHG", "ISO", "RAD")}
    if listed["RAD"] and given.multiplicity is None:
        raise DataError("structure: the file names radicals (M  RAD); allowed: state structure.multiplicity")
    heavy |= {i: MASS_NUMBERS.get(mass, float(mass)) for i, mass in listed["ISO"].items()}
    if heavy:
        masses = raw.atoms.get_masses()
        masses[list(heavy)] = list(heavy.values())
        set_masses(raw.atoms, masses)
    old = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}  # codes in columns 37 to 39 of atoms
    coded = [old.get(int(line[36:39].strip() or 0), 0) for line in lines[4 : 4 + n]]
    total = sum(listed["CHG"].values()) if listed["CHG"] else sum(coded)
    if listed["CHG"] or any(coded):
        raw.atoms.info["charge"] = total
    return Raw(raw.atoms, number, len(blocks), raw.warned)


def _properties(lines: list[str], name: str) -> dict[int, int]:
    """Values of atoms, from 0, in the lines 'M  NAM'."""
    found: dict[int, int] = {}
    for line in lines:
        if line.startswith(f"M  {name}"):
            words = [int(word) for word in line[9:].split()]
            found |= {words[i] - 1: words[i + 1] for i in range(0, len(words) - 1, 2)}
    return found


def read_gaussian(path: Path, index: int, given: Given) -> Raw:
    """A Gaussian input with its charge, multiplicity and isotopes."""
    with path.open(encoding="utf-8") as file:
        atoms: Any = read_gaussian_in(file, attach_calculator=True)
    stated = atoms.calc.parameters
    atoms.info |= {"charge": stated["charge"], "multiplicity": stated["mult"]}
    isotopes = stated.get("isolist")
    if isotopes:
        kept = zip(isotopes, atoms.get_masses(), strict=True)
        set_masses(atoms, np.array([mass if m is None else MASS_NUMBERS.get(m, float(m)) for m, mass in kept]))
    atoms.calc = None
    return Raw(atoms, place(index, 1), 1, ())


READERS: Final[dict[str, Callable[[Path, int, Given], Raw]]] = {
    "vasp": read_poscar,
    "proteindatabank": read_pdb,
    "sdf": read_molfile,
    "mol": read_molfile,
    "gaussian-in": read_gaussian,
}
"""Formats read here, beside XYZ, CIF and those of LAMMPS."""

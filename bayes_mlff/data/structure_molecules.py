"""Readers of PDB, Molfiles and Gaussian inputs: what ASE's readers ignore is read here or refused by name."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import atomic_numbers
from ase.io.gaussian import read_gaussian_in
from ase.io.proteindatabank import read_proteindatabank

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data import structure_frames
from bayes_mlff.data.extxyz import ISOTOPES
from bayes_mlff.data.structure_formats import Given, set_masses
from bayes_mlff.data.structure_frames import Raw, place

MASS_NUMBERS: Final = {2: ISOTOPES["D"], 3: ISOTOPES["T"]}

_LETTERS: Final = re.compile(r"[A-Za-z]+")


def read_pdb(path: Path, index: int, given: Given) -> Raw:
    """Read one model of a PDB file, with the last cell before it, isotopes and formal charges."""
    head: list[str] = []
    models: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if line.startswith(("ATOM", "HETATM")):
            models[-1].append(line.ljust(80))
        elif line.startswith("END") or (line.startswith("MODEL") and models[-1]):
            models.append([])
        elif line.startswith(("CRYST1", "ORIGX")):
            # Some programs repeat the cell before each model: the last cell before a model belongs to it.
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
        del atoms.arrays["occupancy"]  # written by programs that do not know the charge
    formal = [_formal(line[78:80]) for line in chosen]
    if any(formal):
        atoms.info["charge"] = sum(formal)
    return Raw(atoms, number, len(filled), ())


def _pdb_element(line: str) -> str:
    """Chemical symbol of an atom: from columns 77 and 78, or from the name if that is unambiguous."""
    stated = line[76:78].strip().capitalize()
    if stated in atomic_numbers or stated in ISOTOPES:
        return stated
    name = line[12:16].strip()
    letters = "".join(_LETTERS.findall(name)[:1])
    if letters.capitalize() in atomic_numbers and (len(letters) == 1 or letters == letters.capitalize()):
        return letters.capitalize()
    if letters[:2].capitalize() not in atomic_numbers and letters[:1].upper() in atomic_numbers:
        return letters[0].upper()
    raise DataError(
        f"structure: atom {shown(name)} of {shown(line.strip()[:30])} has no element in columns 77 and 78, and its "
        "name can mean several; allowed: a file with elements"
    )


def _check_alternatives(lines: list[str]) -> None:
    """Refuse atoms with alternate locations."""
    several = sorted({line[16] for line in lines} - {" "})
    if len(several) > 1:
        raise DataError(
            f"structure: alternate locations {', '.join(several)} of atoms; allowed: one position for each atom"
        )


def _formal(text: str) -> int:
    """Formal charge, e, from '1+', '2-', '+1' or an empty field."""
    found = re.fullmatch(r"(\d?)([+-])(\d?)", text.strip())
    return 0 if found is None else int(found[2] + (found[1] or found[3] or "1"))


def read_molfile(path: Path, index: int, given: Given) -> Raw:
    """Read a molecule of an MDL Molfile or SDF of version V2000, with formal charges and isotopes."""
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
    old = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}  # charge codes in columns 37 to 39 of atom lines
    coded = [old.get(int(line[36:39].strip() or 0), 0) for line in lines[4 : 4 + n]]
    total = sum(listed["CHG"].values()) if listed["CHG"] else sum(coded)
    if listed["CHG"] or any(coded):
        raw.atoms.info["charge"] = total
    return Raw(raw.atoms, number, len(blocks), raw.warned)


def _properties(lines: list[str], name: str) -> dict[int, int]:
    """Values by atom index, from 0, in the lines 'M  NAM'."""
    found: dict[int, int] = {}
    for line in lines:
        if line.startswith(f"M  {name}"):
            words = [int(word) for word in line[9:].split()]
            found |= {words[i] - 1: words[i + 1] for i in range(0, len(words) - 1, 2)}
    return found


def read_gaussian(path: Path, index: int, given: Given) -> Raw:
    """Read a Gaussian input with its charge, multiplicity and isotopes."""
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
    "proteindatabank": read_pdb,
    "sdf": read_molfile,
    "mol": read_molfile,
    "gaussian-in": read_gaussian,
}
"""Formats read here."""

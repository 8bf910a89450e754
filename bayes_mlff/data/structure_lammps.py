"""LAMMPS data files and dumps: elements, masses and units from the file or from settings."""

import io
import re
from collections import deque
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from ase.io.lammpsdata import read_lammps_data
from ase.io.lammpsrun import read_lammps_dump_text

from bayes_mlff.core.errors import ConfigError, DataError, shown
from bayes_mlff.data.structure_formats import Given, set_masses
from bayes_mlff.data.structure_frames import Raw, place

UNITS: Final = ("metal", "real")
"""LAMMPS unit styles with lengths in Å, one of which is assumed; their units of velocity differ."""

NEAR: Final = 0.3
"""Largest deviation, amu, of a mass from the standard one of the element it identifies; except hydrogen isotopes."""

FAR: Final = 3.0
"""Deviation, amu, above which a mass contradicts an element."""


def elements(given: Given, count: int, kind: str) -> list[str]:
    """The elements of types 1 to count from the settings.

    Raises:
      ConfigError: if they are missing, too few or too many, or not chemical symbols.
    """
    if not given.elements:
        raise ConfigError(
            "structure.elements", [], f"the elements of the {count} types, in order; {kind} has only type numbers"
        )
    if len(given.elements) != count:
        raise ConfigError("structure.elements", list(given.elements), f"{count}, one for each type of the file")
    unknown = [name for name in given.elements if name not in chemical_symbols[1:]]
    if unknown:
        raise ConfigError("structure.elements", unknown[0], "chemical symbols; isotopes go to dynamics.masses")
    return list(given.elements)


def read_data(path: Path, index: int, given: Given) -> Raw:
    """Read a LAMMPS data file; elements come from the settings, type labels, or masses."""
    text = path.read_text(encoding="utf-8")
    sections = _sections(text)
    counted = re.search(r"^\s*(\d+)\s+atom types", text, re.MULTILINE)
    if counted is None:
        raise DataError("structure: not a data file of LAMMPS: it does not state the number of atom types")
    count = int(counted[1])
    unit = re.search(r"units\s*=\s*(\w+)", text.split("\n", 1)[0])
    warned = _check_unit(unit[1] if unit else None, "Velocities" in sections)
    masses, comments = _type_masses(sections.get("Masses", []), sections.get("Atom Type Labels", []))
    if given.elements:
        names = elements(given, count, "a data file of LAMMPS")
        told = {t: name for t, name in comments.items() if name != names[t - 1]}
        if told:
            raise ConfigError("structure.elements", names, f"what the file says: type {min(told)} is {told[min(told)]}")
        for t, mass in masses.items():
            if abs(mass - atomic_masses[atomic_numbers[names[t - 1]]]) > FAR:
                raise ConfigError("structure.elements", names, f"what the file says: type {t} has {mass:g} amu")
    elif len(comments) == count:
        names = [comments[t + 1] for t in range(count)]
    elif len(masses) == count:
        names = [_of_mass(masses[t + 1], t + 1) for t in range(count)]
        warned.append(f"elements of the types are identified by their masses: {', '.join(names)}")
    else:
        names = elements(given, count, "a data file of LAMMPS without masses")
    atoms = read_lammps_data(
        io.StringIO(text),
        Z_of_type={t + 1: atomic_numbers[name] for t, name in enumerate(names)},
        units=unit[1] if unit else UNITS[0],
    )
    warned.append("the cell is taken as periodic, as the file does not say it")
    atoms.info.clear()
    for name in ("id", "type", "mmcharges"):
        atoms.arrays.pop(name, None)
    return Raw(atoms, place(index, 1), 1, tuple(warned))


def _sections(text: str) -> dict[str, list[str]]:
    """Lines of the sections, by name."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.split("\n")[1:]:
        name = line.split("#")[0].strip()
        if re.fullmatch(r"[A-Z][A-Za-z]+( [A-Z][A-Za-z]+)*", name):
            current = found.setdefault(name, [])
        elif name:
            current.append(line)
    return found


def _type_masses(lines: list[str], labels: list[str]) -> tuple[dict[int, float], dict[int, str]]:
    """Masses of the types, and elements from labels or from comments after the masses."""
    masses, named = {}, {}
    for line in lines:
        words, _, comment = line.partition("#")
        masses[int(words.split()[0])] = float(words.split()[1])
        if comment.strip() in atomic_numbers:
            named[int(words.split()[0])] = comment.strip()
    for line in labels:
        words = line.split("#")[0].split()
        if words[1] in atomic_numbers:
            named[int(words[0])] = words[1]
    for t, name in named.items():
        if t in masses and abs(masses[t] - atomic_masses[atomic_numbers[name]]) > FAR:
            raise DataError(f"structure: type {t} is called {name} and has a mass of {masses[t]:g} amu")
    return masses, named


def _of_mass(mass: float, kind: int | str) -> str:
    if 0.9 < mass < 3.1:
        return "H"
    nearest = int(np.argmin(np.abs(atomic_masses[1:] - mass))) + 1
    if abs(atomic_masses[nearest] - mass) > NEAR:
        raise ConfigError("structure.elements", [], f"the elements: a mass of {mass:g} amu (type {kind}) fits none")
    return chemical_symbols[nearest]


def _check_unit(unit: str | None, velocities: bool) -> list[str]:
    if unit is None:
        if velocities:
            raise DataError(
                "structure: velocities in a file of LAMMPS that does not state its units; allowed: 'units = metal' or "
                "'units = real' in the first line (ITEM: UNITS in a dump), or a file without velocities"
            )
        return ["lengths are taken as Å (units metal or real), as the file does not state its units"]
    if unit not in UNITS:
        raise DataError(f"structure: LAMMPS units {unit}; allowed: {', '.join(UNITS)}")
    return []


def read_dump(path: Path, index: int, given: Given) -> Raw:
    """Read one frame of a LAMMPS dump; elements come from its column, from masses, or from the settings."""
    text, number, count, unit = _dump_frame(path, index)
    header = re.search(r"^ITEM: ATOMS (.*)$", text, re.MULTILINE)
    if header is None:
        raise DataError("structure: a frame without ITEM: ATOMS")
    columns = header[1].split()
    warned = _check_unit(unit, "vx" in columns)
    if not {"x", "xu", "xs", "xsu"} & set(columns):
        raise DataError(f"structure: no coordinates among the columns {columns}")
    rows = [line.split() for line in text[header.end() :].split("\n") if line.strip()]
    if "id" in columns:
        rows.sort(key=lambda words: int(words[columns.index("id")]))
    claimed = re.search(r"^ITEM: NUMBER OF ATOMS\s+(\d+)", text, re.MULTILINE)
    if claimed is None or int(claimed[1]) != len(rows) or any(len(words) < len(columns) for words in rows):
        raise DataError(f"structure: frame {number} does not hold the atoms and columns that its header states")
    order = None
    if "element" not in columns and "mass" not in columns:
        if "type" not in columns:
            raise DataError(f"structure: neither element nor type among the columns {columns}")
        types = [int(words[columns.index("type")]) for words in rows]
        order = elements(given, max(*types, len(given.elements)), "a dump without a column of elements")
    elif given.elements:
        raise ConfigError("structure.elements", list(given.elements), "nothing: the dump has a column of its elements")
    atoms: Any = read_lammps_dump_text(io.StringIO(text), index=0, specorder=order, units=unit or UNITS[0])
    if "mass" in columns:
        masses = np.array([float(words[columns.index("mass")]) for words in rows])
        if "element" not in columns:
            atoms.set_chemical_symbols([_of_mass(mass, "?") for mass in masses])
        set_masses(atoms, masses, velocities=True)
    atoms.info.clear()
    atoms.arrays.pop("type", None)
    return Raw(atoms, number, count, tuple(warned))


def _dump_frame(path: Path, index: int) -> tuple[str, int, int, str | None]:
    """Text of one frame, its index, the number of frames, and the stated units."""
    kept: deque[tuple[list[str], int]] = deque(maxlen=-index if index < 0 else 1)
    count, unit, current = 0, None, []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("ITEM: UNITS"):
                unit = next(file, "").strip()
                continue
            if line.startswith("ITEM: TIMESTEP"):
                current = []
                if index < 0 or count == index:
                    kept.append((current, count))
                count += 1
            current.append(line)
            if index >= 0 and count > index + 1:
                current.clear()
    place(index, count)
    lines, number = kept[0]
    if not lines:
        raise DataError(f"structure: frame {number} is empty: {shown(str(path))}")
    return "".join(lines), number, count, unit

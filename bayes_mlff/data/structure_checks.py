"""Statements of a structure's file that this package cannot use: placeholders are dropped, the rest is refused."""

import re
from pathlib import Path
from typing import Any, Final

import ase
import numpy as np
from ase.data import atomic_masses, atomic_numbers

from bayes_mlff.core.errors import ConfigError, DataError, shown
from bayes_mlff.data import structure_said
from bayes_mlff.data.structure_formats import Given

COMPLETE: Final = {
    *("aims", "cif", "db", "eon", "extxyz", "gaussian-in", "gen", "gromacs", "json", "lammps-data", "lammps-dump-text"),
    *("mol", "proteindatabank", "sdf", "traj", "turbomole", "vasp", "xyz"),
}
"""Formats for which every statement takes effect or is refused."""

MOLECULAR: Final = (
    *("gamess-us-in", "gamess-us-out", "gamess-us-punch", "gaussian-out", "nwchem-in", "nwchem-out", "orca-output"),
)
"""Formats that always mean a charge and a multiplicity, which ASE does not read."""

SAYING: Final = {
    "abinit-in": r"\b(charge|cellcharge|spinat|natfix\w*|iatfix\w*)\b",
    "acemolecule-input": r"\b(Charge|SpinMultiplicity|NumElectrons)\b",
    "cp2k-restart": r"\b(CHARGE|MULTIPLICITY|FIXED_ATOMS|VELOCITY|KIND_MASS)\b",
    "elk": r"\b(chgexs|bfcmt|momfix)\b",
    "espresso-in": r"\b(tot_charge|tot_magnetization|starting_magnetization\S*)\s*=",
    "octopus-in": r"\b(ExcessCharge|SpinComponents|Velocities)\b",
    "turbomole": r"^[ \t]*\$(charge\b.*|alpha\s+shells|beta\s+shells|uhf\b)|\b(charge|unpaired)\s*=",
    "onetep-in": r"\b(charge|spin|species_constraints)\b",
}
"""Keywords of input files that ASE does not return."""

LABELS: Final = {"gromacs": ("atomtypes", False), "dlp4": ("dlp4_labels", True), "dlp-history": ("dlp4_labels", True)}
"""Columns of atom names from which elements are guessed, and whether the symbol was removed from the name."""

_TURBOMOLE: Final = r"\$(periodic|cell|lattice|e?field|electro|point_charges|embed|isotope|mass)"

OCCUPANCY: Final = ("occupancy", "occupancies", "occ", "site_occupancy")


def check_input(path: Path, kind: str, given: Given) -> None:
    """Refuse a file that states charge, spin or held atoms in keywords that ASE does not read.

    Raises:
      ConfigError: naming the settings to use instead.
      DataError: if there are no such settings.
    """
    if kind == "aims":
        _check_aims(path)
    if kind == "turbomole":
        _check_turbomole(path)
    stated = given.charge is not None and given.multiplicity is not None
    if stated or kind not in (*MOLECULAR, *SAYING):
        return
    found = None
    if kind in SAYING:
        text = re.sub(r"[!#].*", "", path.read_text(encoding="utf-8", errors="replace"))
        found = re.search(SAYING[kind], text, re.IGNORECASE | re.MULTILINE)
        if found is None:
            return
    what = f"the word {found[0]!r}" if found else "a charge and a multiplicity"
    raise ConfigError(
        "structure.charge", given.charge,
        f"a number here and for structure.multiplicity: the file ({kind}) has {what}, which ASE does not read",
    )  # fmt: skip


def _check_aims(path: Path) -> None:
    last = ""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "constrain_relaxation":
            known = len(words) == 2 and words[1] in (".true.", ".false.", "x", "y", "z")
            if last == "lattice_vector" or not known:
                raise DataError(
                    f"structure: {shown(line.strip())} is not read; allowed: .true., .false., x, y or z after an atom"
                )
            continue
        if words[0] in ("homogeneous_field", "multipole"):
            raise DataError(f"structure: {words[0]} is not read; allowed: a structure without external fields")
        last = words[0]


def _check_turbomole(path: Path) -> None:
    """Refuse cells, units, fields and flags that ASE ignores."""
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0].startswith("$"):
            inside = words[0].lower() == "$coord"
            options = [word for word in words[1:] if not word.startswith(("natoms", "file="))]
            if inside and options and options != ["bohr"]:
                raise DataError(f"structure: {shown(line.strip())} is not read; allowed: coordinates in bohr")
            if re.match(_TURBOMOLE, words[0], re.IGNORECASE):
                raise DataError(
                    f"structure: {words[0]} is not read; allowed: molecules without fields in this format, "
                    "a POSCAR or extended XYZ for periodic structures"
                )
        elif inside and words[4:] not in ([], ["f"]):
            raise DataError(f"structure: line {number}: got {shown(line.strip())}; allowed: x y z symbol, optionally f")


def caveat(kind: str) -> tuple[str, ...]:
    """A warning for formats whose reader may not return everything."""
    if kind in COMPLETE:
        return ()
    return (
        f"of the format {kind} only the items named here were read: if such a file also states charge, spin, masses, "
        "held atoms or velocities, these are not known",
    )


def drop_dummy_cell(atoms: ase.Atoms, kind: str) -> list[str]:
    """Remove a cell that is a placeholder; return sentences on what was done."""
    cell = np.asarray(atoms.cell.array, float)
    unit = kind == "proteindatabank" and np.allclose(cell, np.eye(3), atol=1e-6)
    if unit or (atoms.pbc.any() and not cell.any()):
        atoms.set_cell(np.zeros((3, 3)))
        atoms.pbc = False
        what = "1 x 1 x 1 Å" if unit else "of zero vectors"
        return [f"the cell {what} is a placeholder and is dropped: the structure is not periodic"]
    if kind == "eon" and cell.any():
        atoms.pbc = True
        return ["the cell is periodic, as always in EON"]
    return []


def check_said(atoms: ase.Atoms, kind: str) -> None:
    """Refuse statements that would be lost silently.

    Raises:
      DataError: if sites are partially occupied, atoms have no element or an uncertain one, or velocities have an
        unknown unit.
    """
    _check_occupancy(atoms)
    _check_elements(atoms, kind)
    structure_said.check(atoms)
    if kind == "espresso-in" and atoms.has("initial_magmoms"):
        if atoms.arrays["initial_magmoms"].any():
            raise DataError("structure: starting_magnetization is a fraction, not a moment; allowed: another format")
        del atoms.arrays["initial_magmoms"]
    if kind == "gpumd" and atoms.has("momenta"):
        raise DataError("structure: velocities of a GPUMD file are not read; allowed: a file without them")
    if kind in ("gpumd", "lammps-dump-binary"):
        off = np.abs(atoms.get_masses() - atomic_masses[atoms.numbers])
        if kind == "lammps-dump-binary" or off.max(initial=0.0) > 0.3:
            raise DataError(f"structure: a {kind} file does not name its elements; allowed: a file that does")


def _check_occupancy(atoms: ase.Atoms) -> None:
    for name in OCCUPANCY:
        if name in atoms.arrays:
            column = np.asarray(atoms.arrays[name])
            whole = column.dtype.kind in "fiub" and bool(np.all(np.abs(column - 1.0) < 1e-3))
            if not whole:
                rows = np.flatnonzero(np.abs(column - 1.0) > 1e-3) if column.dtype.kind in "fiub" else [0]
                listed = ", ".join(f"atom {i} ({atoms.symbols[i]}) {column[i]}" for i in rows[:20])
                raise DataError(f"structure: sites are occupied in part: {listed}; allowed: full occupancy only")
        value = atoms.info.get(name)
        if isinstance(value, dict):
            sites: dict[Any, Any] = {k: v for k, v in value.items() if _partial(v)}
            if sites:
                raise DataError(f"structure: sites are occupied in part: {shown(sites)}; allowed: full occupancy only")
        elif value is not None and np.any(np.asarray(value) != 1):
            raise DataError(f"structure: {name}={shown(value)} beside the atoms; allowed: full occupancy only")


def _partial(species: Any) -> bool:
    """Whether a site of ASE's `info['occupancy']` is not occupied by exactly one atom."""
    return (
        not isinstance(species, dict) or len(species) != 1 or any(abs(float(x) - 1.0) > 1e-3 for x in species.values())
    )


def _check_elements(atoms: ase.Atoms, kind: str) -> None:
    missing = np.flatnonzero(atoms.numbers == 0)
    if len(missing):
        raise DataError(f"structure: atom {missing[0]} is X or has no element; allowed: chemical symbols")
    column, cut = LABELS.get(kind, ("", False))
    if column not in atoms.arrays:
        return
    for symbol, label in zip(atoms.symbols, atoms.arrays[column], strict=True):
        name = f"{symbol}{label}" if cut else str(label)
        letters = "".join(re.findall("[A-Za-z]+", name)[:1])[:2].capitalize()
        if letters in atomic_numbers and letters != symbol:
            raise DataError(
                f"structure: the name {name!r} of an atom can mean {symbol} and {letters}; "
                "allowed: a format that names elements"
            )

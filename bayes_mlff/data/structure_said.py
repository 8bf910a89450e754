"""Remarks and columns that change the physics but are not in a place that this package reads."""

import re
from typing import Any, Final

import ase
import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data.electronic import CHARGE, STATED
from bayes_mlff.data.key_words import array, is_result, number, says_nothing, tokens, told
from bayes_mlff.data.stated import UNIT_NAMES
from bayes_mlff.data.structure_formats import set_masses

VELOCITY: Final = (
    *("vel", "vels", "velo", "velos", "velocity", "velocities", "v", "momentum", "momentums", "momenta_ev"),
    *(f"{name}{axis}" for name in ("v", "vel_", "velocity_", "v_") for axis in "xyz"),
)
"""Columns of velocities."""

MASS: Final = ("mass", "atomic_mass", "atomic_masses", "atom_mass")
"""Columns that are read as `masses`."""

_ISOTOPES: Final = {"isotope", "isotopes"}
_CELL: Final = {"cell", "box", "cellpar", "celldisp", "lattice", "supercell"}
_LIST_OF: Final = {
    *("magmom", "magmoms", "magnetic", "magnetization", "spin", "spins", "moment", "moments", "charge", "charges"),
    *("mass", "masses"),
}
_NOT_LISTS: Final = {
    *("dipole", "dipoles", "quadrupole", "multipole", "inertia", "center", "centre", "force", "forces"),
    *("orbit", "energy", "energies"),
}
_RESULTS: Final = ("magmoms", "charges", "magmom")
"""Names that ASE reads as results of a calculation."""

_ANGSTROM: Final = re.compile(r"\s*(a|å|ang|angstroms?|ångströms?)\.?\s*", re.IGNORECASE)
_OTHER_LENGTH: Final = re.compile(
    r"(?<![a-z0-9])(bohrs?|a0|a\.?u\.?|atomic|hartrees?|nm|nanomet\w*|pm|picomet\w*|electron|lj|si|cgs|nano|micro)(?![a-z0-9])",
    re.IGNORECASE,
)
_FRACTIONS: Final = re.compile(r"frac|direct|scaled|crystal|reduced|alat", re.IGNORECASE)
_OF_POSITIONS: Final = {"coordinates", "coordinate", "coords", "positions", "type", "mode", "system"}
_LENGTHS: Final = (*UNIT_NAMES["position"], "box")


def check(atoms: ase.Atoms) -> None:
    """Read columns of masses under other names, and refuse statements that would be lost.

    Raises:
      DataError: naming the remark or the column.
    """
    _take_masses(atoms)
    for name, column in list(atoms.arrays.items()):
        _check_column(atoms, name, column)
    for name, value in atoms.info.items():
        key = str(name)
        _check_unit(atoms, key, value)
        _check_box(atoms, key, value)
        _check_list(atoms, key, value)


def _take_masses(atoms: ase.Atoms) -> None:
    for name in [name for name in atoms.arrays if name.lower() in MASS or name.lower() == "masses"]:
        column = np.asarray(atoms.arrays[name])
        if name == "masses":
            continue
        if column.dtype.kind not in "fiu" or column.shape != (len(atoms),):
            raise DataError(f"structure: column {name} is {shown(column)}; allowed: masses:R:1, amu")
        if atoms.has("masses") and not np.array_equal(atoms.get_masses(), column):
            raise DataError(f"structure: columns {name} and masses contradict each other; allowed: one of them")
        set_masses(atoms, column)
        del atoms.arrays[name]


def _check_column(atoms: ase.Atoms, name: str, column: np.ndarray) -> None:
    if says_nothing(column):
        return
    if name.lower() in VELOCITY:
        raise DataError(
            f"structure: column {name} has velocities in a unit that the file does not state; allowed: momenta:R:3 "
            "in ASE's unit, or no such column"
        )
    words = set(tokens(name))
    if words & _ISOTOPES or words >= {"mass", "number"}:
        raise DataError(f"structure: column {name} is not read; allowed: symbols D and T, or masses:R:1 in amu")
    if name in ("initial_magmoms", "initial_charges", "masses") or is_result(name) or words & _NOT_LISTS:
        return
    if words & {"spin", "spins", "magmom", "magmoms", "magnetic", "moment", "moments", "magnetization"}:
        raise DataError(f"structure: column {name} is not read; allowed: initial_magmoms:R:1, μB")
    if words & {"charge", "charges"}:
        known = any(str(key).lower() in CHARGE for key in atoms.info)
        values = array(column)
        total = values.sum() if values.dtype.kind in "fiu" else np.nan
        if not known and not abs(total) < 0.5:
            raise DataError(
                f"structure: column {name} adds up to {total:.3g} and is not read; allowed: charge=... of the whole "
                "structure beside the atoms (or structure.charge), and initial_charges:R:1"
            )


def _check_unit(atoms: ase.Atoms, name: str, value: Any) -> None:
    """Refuse lengths in a stated unit other than Å, and stated units of momenta and masses."""
    key = name.lower()
    if _FRACTIONS.search(key) and not set(tokens(name)) & {"energy"} and value is True:
        raise DataError(f"structure: {name}={told(value)} is not read; allowed: positions in Å")
    text = value if isinstance(value, str) else None
    if text is None:
        return
    words = tokens(name)
    if words[-1:] not in (["unit"], ["units"]):
        of_positions = bool(words) and set(words) <= _OF_POSITIONS
        if of_positions and (_FRACTIONS.search(text) or _OTHER_LENGTH.search(text)):
            raise DataError(f"structure: {name}={told(value)} is not read; allowed: positions in Å")
        return
    stem = "_".join(words[:-1])
    if {stem, stem.removesuffix("s")} & {*_LENGTHS} and not _ANGSTROM.fullmatch(text):
        raise DataError(f"structure: {name}={told(value)}; allowed: positions and cell in Å, and angstrom here")
    if not stem and _OTHER_LENGTH.search(text):
        raise DataError(f"structure: {name}={told(value)}; allowed: positions and cell in Å, and angstrom here")
    if stem in ("mass", "masses") and text.strip().lower() not in ("amu", "u", "da", "dalton", "g/mol"):
        raise DataError(f"structure: {name}={told(value)}; allowed: masses in amu")
    if stem in ("momentum", "momenta", "velocity", "velocities") and atoms.has("momenta") and text.lower() != "ase":
        raise DataError(f"structure: {name}={told(value)}; allowed: momenta in ASE's unit, and ase here")


def _check_box(atoms: ase.Atoms, name: str, value: Any) -> None:
    """Refuse cells and external fields given as remarks."""
    words, key = set(tokens(name)), name.lower()
    if says_nothing(value):
        return
    values = array(value)
    numeric = values.dtype.kind in "fiu"
    if key in ("periodic", "periodicity") and not atoms.pbc.any():
        raise DataError(f"structure: {name}={told(value)} beside atoms without a cell; allowed: Lattice and pbc")
    cell = key in _CELL or (words & _CELL and words & {"vectors", "vector", "parameters", "lengths", "par", "matrix"})
    if cell and numeric and not _same_cell(atoms, values):
        raise DataError(f'structure: {name}={told(value)} is not read; allowed: Lattice="..." with three cell vectors')
    if "field" in key and not re.search("force_?field", key):
        external = numeric or (isinstance(value, str) and re.search(r"\d", value) is not None)
        if external:
            raise DataError(f"structure: {name}={told(value)}; allowed: a structure without external fields")


def _same_cell(atoms: ase.Atoms, values: np.ndarray) -> bool:
    cell = np.asarray(atoms.cell.array, float)
    ways = (cell, np.diag(cell), np.linalg.norm(cell, axis=1), np.asarray(atoms.cell.cellpar()), cell.T)
    flat = np.ravel(values)
    return bool(cell.any()) and any(w.size == flat.size and np.allclose(np.ravel(w), flat, atol=1e-4) for w in ways)


def _check_list(atoms: ase.Atoms, name: str, value: Any) -> None:
    """Refuse lists that should be columns: moments, charges, masses, isotopes, velocities."""
    words, key = set(tokens(name)), name.lower()
    if says_nothing(value):
        return
    if key in VELOCITY and key != "v":
        raise DataError(f"structure: {name}={told(value)} is not read; allowed: a column momenta:R:3 in ASE's unit")
    symbols = {word for word in re.split(r"[^A-Za-z]+", name) if word in (*chemical_symbols[1:], "D", "T")}
    of_element = bool(words & {"mass", "masses"}) and bool(symbols or words & {"hydrogen", "deuterium"})
    total = number(value)
    of_all = total is not None and abs(total - float(atoms.get_masses().sum())) < 0.1
    if words & _ISOTOPES or of_element or (key in (*MASS, "masses") and not of_all):
        raise DataError(
            f"structure: {name}={told(value)} is not read; allowed: a column masses:R:1, or dynamics.masses"
        )
    if key in _RESULTS or key in STATED or is_result(name) or words & _NOT_LISTS or not words & _LIST_OF:
        return
    if array(value).size > 1 or isinstance(value, dict):
        raise DataError(
            f"structure: {name}={told(value)} beside the atoms is not read; allowed: columns initial_magmoms:R:1, "
            "initial_charges:R:1 and masses:R:1"
        )

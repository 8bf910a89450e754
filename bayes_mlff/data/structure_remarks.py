"""Sentences on what was read from a structure's file, which a run prints before it starts."""

import ase
import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from ase.geometry import cell_to_cellpar

from bayes_mlff.core.errors import shown
from bayes_mlff.data.constraints import SAID
from bayes_mlff.data.electronic import ElectronicState, unread
from bayes_mlff.data.structure import NAMES, Structure

_TAKEN = {
    *("numbers", "positions", "momenta", "masses", "tags", "initial_magmoms", "initial_charges", "occupancy"),
    *SAID,
    *NAMES,
}


def describe(structure: Structure) -> list[str]:
    """Formula, cell and electronic state; the dynamics says what becomes of held coordinates, masses and velocities."""
    numbers = structure.numbers
    return [f"{formula(numbers)}: {_atoms(len(numbers))}, {_cell(structure)}", *_electrons(structure.electronic)]


def unused(atoms: ase.Atoms, state: ElectronicState) -> list[str]:
    """Contents of the file that are not used."""
    lines = []
    columns = sorted(name for name in atoms.arrays if name.lower() not in _TAKEN)
    if columns:
        lines.append(f"columns that are not used: {', '.join(columns)}")
    results = sorted(atoms.calc.results) if atoms.calc is not None and hasattr(atoms.calc, "results") else []
    if results:
        extra = (
            "; moments and charges among them are results, not initial ones"
            if {"magmoms", "charges"} & set(results)
            else ""
        )
        lines.append(f"results of a calculation that are not used: {', '.join(results)}{extra}")
    if state.info:
        lines.append(f"remarks that a calculator may read: {shown(dict(state.info))}")
    others = unread(atoms.info, state)
    if others:
        lines.append(f"remarks that are not used: {', '.join(others)}")
    return lines


def _atoms(count: int) -> str:
    return "1 atom" if count == 1 else f"{count} atoms"


def formula(numbers: np.ndarray) -> str:
    """Chemical formula of atoms in the order of Hill."""
    symbols, counts = np.unique(numbers, return_counts=True)
    made = Formula.from_dict({chemical_symbols[z]: int(n) for z, n in zip(symbols, counts, strict=True)})
    return f"{made:hill}"


def _cell(structure: Structure) -> str:
    if not structure.cell.any():
        return "no cell"
    if np.linalg.matrix_rank(structure.cell) < 3:
        lengths = np.linalg.norm(structure.cell, axis=1)
        text = f"cell vectors of {lengths[0]:.4g}, {lengths[1]:.4g} and {lengths[2]:.4g} Å"
    else:
        a, b, c, alpha, beta, gamma = cell_to_cellpar(structure.cell)
        text = f"cell {a:.4f} x {b:.4f} x {c:.4f} Å, angles {alpha:.2f}, {beta:.2f}, {gamma:.2f}°"
    along = [name for name, repeats in zip("abc", structure.pbc, strict=True) if repeats]
    return f"{text}, " + (f"periodic along {', '.join(along)}" if along else "not periodic")


def _electrons(state: ElectronicState) -> list[str]:
    stated = [
        f"{name} {value}" for name, value in (("charge", state.charge), ("multiplicity", state.multiplicity))
        if value is not None
    ]  # fmt: skip
    missing = [
        name for name, value in (("charge", state.charge), ("multiplicity", state.multiplicity)) if value is None
    ]
    verb = "are" if len(missing) == 2 else "is"
    lines = [", ".join(stated) + ("; " if stated and missing else "") + (
        f"{' and '.join(missing)} {verb} not stated" if missing else ""
    )]  # fmt: skip
    if state.moments is not None:
        lines.append(f"initial magnetic moments with a sum of {state.moments.sum():.3g} μB")
    if state.charges is not None:
        lines.append(f"initial charges with a sum of {state.charges.sum():.3g} e")
    return lines

"""Sentences on what was read from a structure's file, which a run prints before it starts."""

import ase
import numpy as np
from ase.data import atomic_masses, chemical_symbols
from ase.formula import Formula
from ase.geometry import cell_to_cellpar

from bayes_mlff.core.errors import shown
from bayes_mlff.data.constraints import SAID
from bayes_mlff.data.electronic import ElectronicState, Stated, unread
from bayes_mlff.data.structure import Structure

_TAKEN = {"numbers", "positions", "momenta", "masses", "tags", "initial_magmoms", "initial_charges", "occupancy", *SAID}

HEAVIER = 0.05
"""Deviation of a mass from the standard one, amu, above which it is printed."""


def describe(structure: Structure, velocities: np.ndarray | None, words: Stated | None = None) -> list[str]:
    """Formula, cell, held coordinates, masses, velocities and electronic state."""
    numbers = structure.numbers
    lines = [f"{_formula(numbers)}: {_atoms(len(numbers))}, {_cell(structure)}"]
    if structure.fixed is not None:
        lines.append(_held(structure.numbers, structure.fixed))
    if structure.masses is not None:
        lines += _masses(numbers, structure.masses)
    if velocities is not None:
        speed = np.linalg.norm(velocities, axis=1)
        lines.append(f"the file has velocities, up to {speed.max():.3g} Å/fs")
    lines += _electrons(structure.electronic)
    return lines


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


def _formula(numbers: np.ndarray) -> str:
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


def _held(numbers: np.ndarray, fixed: np.ndarray) -> str:
    whole, partly = fixed.all(axis=1), fixed.any(axis=1) & ~fixed.all(axis=1)
    parts = []
    if whole.any():
        parts.append(f"{_atoms(whole.sum())} ({_formula(numbers[whole])})")
    for mask in np.unique(fixed[partly], axis=0):
        rows = (fixed == mask).all(axis=1)
        axes = "".join(name for name, held in zip("xyz", mask, strict=True) if held)
        parts.append(f"{axes} of {_atoms(rows.sum())} ({_formula(numbers[rows])})")
    return f"held: {'; '.join(parts)}"


def _masses(numbers: np.ndarray, masses: np.ndarray) -> list[str]:
    """Masses that differ from the standard ones, by element."""
    parts = []
    rows = np.abs(masses - atomic_masses[numbers]) > HEAVIER
    pairs, counts = np.unique(np.stack([numbers[rows], masses[rows]], axis=1), axis=0, return_counts=True)
    for (number, mass), count in list(zip(pairs, counts, strict=True))[:8]:
        parts.append(f"masses of {chemical_symbols[int(number)]}: {mass:.4g} amu ({_atoms(count)})")
    if len(pairs) > 8:
        parts.append(f"masses of {len(pairs) - 8} further kinds differ from the standard ones, too")
    return parts or ["masses are those of the file, near the standard ones"]


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

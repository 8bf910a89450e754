"""Coordinates that constraints and columns of a file hold, as a mask of Cartesian components.

`held` is for structures that dynamics starts from: a constraint of another kind would be lost and is refused.
`zeroed` is for labels: whatever sets a force to zero, so that it is not learnt.
"""

from typing import Any, Final

import ase
import numpy as np
from ase.constraints import FixAtoms, FixCartesian, FixScaled

from bayes_mlff.core.errors import READER_ERRORS, DataError, shown
from bayes_mlff.data.key_words import array, says_nothing, tokens, told

HELD: Final = {"fixed", "fix", "frozen", "freeze", "constrained", "fix_mask", "fixed_mask", "fixed_atoms"}
MOVES: Final = {"move_mask", "selective_dynamics", "movable", "moveable", "mobile", "movemask", "move", "if_pos"}
"""Columns for held or free coordinates that ASE does not turn into constraints."""

SAID: Final = {*HELD, *MOVES, "constraint", "constraints"}

_HOLDING: Final = {
    *("fix", "fixed", "fixes", "frozen", "freeze", "freezing", "froze", "constrain", "constrained", "constraint"),
    *("constraints", "constrains", "hold", "held", "immobile", "clamped", "clamp", "pinned", "restrained", "restraint"),
    *("restraints", "isfixed", "isfrozen"),
}
_MOVING: Final = {"mobile", "movable", "moveable", "moving", "unfixed", "unfrozen", "unconstrained"}
_CHOOSING: Final = {"free", "active", "relax", "relaxed"}
_CHOSEN: Final = {"atom", "atoms", "index", "indices", "idx", "ids", "mask", "list", "serial"}
_NO_ATOMS: Final = {"core", "orbital", "orbitals", "out", "energy", "energies", "force", "forces"}
"""Words of names that do not refer to held atoms: frozen cores, held-out frames, forces of constraints."""

AXES: Final = 1e-6
"""Largest deviation of a direction from a Cartesian axis."""


def held(atoms: ase.Atoms) -> np.ndarray | None:
    """Which coordinates are held.

    Args:
      atoms: with constraints, or with columns that state held coordinates.

    Returns:
      [n, 3] bool; None if all are free.

    Raises:
      DataError: naming a constraint that does not fix Cartesian components of single atoms.
    """
    fixed = np.zeros((len(atoms), 3), bool)
    for constraint in atoms.constraints:
        try:
            fixed[_rows(constraint)] |= _mask(constraint, atoms)
        except IndexError as error:
            raise DataError(f"structure: constraint {constraint!r} names atoms that do not exist") from error
    for name, column in atoms.arrays.items():
        if name.lower() in SAID or _holds(name, column):
            fixed |= _column(name, column, len(atoms))
    for name, value in atoms.info.items():
        if value is True and str(name).lower() == "selective_dynamics" and fixed.any():
            continue
        if _holds(str(name), value):
            raise DataError(
                f"structure: {name}={told(value)} as a remark is not understood; "
                "allowed: a column move_mask (extended XYZ, T moves), or constraints of ASE in a .traj"
            )
    return fixed if fixed.any() else None


def zeroed(atoms: ase.Atoms) -> np.ndarray | None:
    """Coordinates [n, 3] whose forces constraints set to zero, or that a column says are held; None if there are none.

    Raises:
      DataError: if a constraint fails, or a column that seems to hold atoms is not understood.
    """
    probe = np.random.default_rng(0).uniform(1.0, 2.0, (len(atoms), 3))
    try:
        for constraint in atoms.constraints:
            constraint.adjust_forces(atoms, probe)
    except READER_ERRORS as error:
        raise DataError(f"a constraint cannot be used: {type(error).__name__}: {error}") from error
    found = probe == 0.0
    plain = atoms.copy()
    plain.set_constraint()
    columns = held(plain)
    found = found if columns is None else found | columns
    return found if found.any() else None


def _holds(name: str, value: Any) -> bool:
    """Whether a remark or column seems to hold atoms."""
    words = set(tokens(name))
    if words & _NO_ATOMS:
        return False
    known, values = name.lower(), array(value)
    one = values.size == 1
    if known in MOVES or words & _MOVING or (words & _CHOOSING and words & _CHOSEN):
        all_move = not isinstance(value, str) and (values.dtype.kind == "b" or not one)
        moves = all_move and all(x == 1 for x in values.ravel().tolist())
        return not moves if known != "selective_dynamics" else not says_nothing(value)
    if known not in SAID and not words & _HOLDING:
        return False
    if words & _CHOSEN and not words & {"n", "num", "number", "count", "mask"}:
        # Atom 0 is a valid index, too.
        first = not isinstance(value, str | bool | np.bool_) and values.dtype.kind in "iuf" and one
        return first or not says_nothing(value)
    return not says_nothing(value)


def constraints(fixed: np.ndarray) -> list[FixAtoms | FixCartesian]:
    """ASE's constraints that hold the coordinates [n, 3] that are True."""
    whole = np.flatnonzero(fixed.all(axis=1))
    partly = np.unique(fixed[fixed.any(axis=1) & ~fixed.all(axis=1)], axis=0)
    some = [FixCartesian(np.flatnonzero((fixed == mask).all(axis=1)), mask) for mask in partly]
    return [*([FixAtoms(whole)] if len(whole) else []), *some]


def _rows(constraint: Any) -> np.ndarray:
    if type(constraint) not in (FixAtoms, FixCartesian, FixScaled):
        raise DataError(f"structure: constraint {type(constraint).__name__}; allowed: FixAtoms, FixCartesian")
    return np.asarray(constraint.index, int)


def _mask(constraint: Any, atoms: ase.Atoms) -> np.ndarray:
    """[3] True where a Cartesian component is held."""
    if isinstance(constraint, FixAtoms):
        return np.ones(3, bool)
    if isinstance(constraint, FixCartesian):
        return np.asarray(constraint.mask, bool)
    # No motion along held cell vectors: an atom stays in the span of the others.
    free = np.asarray(atoms.cell.array, float)[~np.asarray(constraint.mask, bool)]
    basis = np.linalg.svd(free)[2][: len(free)]
    onto = basis.T @ basis
    axes = np.diag(np.round(np.diag(onto)))
    if np.linalg.matrix_rank(free) < len(free) or not np.allclose(onto, axes, atol=AXES):
        raise DataError(
            f"structure: constraint FixScaled holds atom {np.ravel(constraint.index)[0]} along cell vectors that do "
            "not span Cartesian axes (partial selective dynamics in a tilted cell); allowed: FixAtoms, FixCartesian"
        )
    return np.diag(onto) < 0.5


def _column(name: str, column: np.ndarray, n: int) -> np.ndarray:
    """[n, 3] held, from a column of truth values."""
    values = np.asarray(column)
    truth = values.dtype.kind == "b" or (values.dtype.kind in "iu" and bool(np.isin(values, (0, 1)).all()))
    if name.lower() not in (*HELD, *MOVES) or not truth or values.shape not in ((n,), (n, 1), (n, 3)):
        raise DataError(
            f"structure: column {name} of {shown(values)} seems to hold atoms; allowed: move_mask with T and F, "
            "one or three for each atom"
        )
    mask = values.astype(bool).reshape(n, -1)
    return np.broadcast_to(mask if name.lower() in HELD else ~mask, (n, 3))

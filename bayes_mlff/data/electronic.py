"""Electronic state stated by a structure's file: charge, spin, initial moments and charges."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import ase
import numpy as np

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data import key_words

Plain = str | int | float | bool

CHARGE: Final = (
    *("charge", "total_charge", "tot_charge", "net_charge", "system_charge"),
    *("molecular_charge", "molecule_charge", "mol_charge"),
)
MULTIPLICITY: Final = ("multiplicity", "spin_multiplicity", "mult", "spinmult", "spin_mult")
UNPAIRED: Final = ("uhf", "unpaired", "unpaired_electrons", "n_unpaired", "nunpaired", "nopen")
SPIN: Final = ("spin",)
UNCLEAR: Final = ("total_spin", "spin_state")
STATED: Final = {*CHARGE, *MULTIPLICITY, *UNPAIRED, *SPIN}
"""Keys of a file, in any case, that state charge or spin."""

NEAR: Final = 0.5
"""Largest difference, e, of the sum of initial charges from the charge: calculated populations are inaccurate."""

_RESULTS: Final = re.compile("energy|force|stress|virial|dipole|polari[sz]|magmom|hessian|sigma", re.IGNORECASE)
_BOOKKEEPING: Final = {
    *("step", "time", "time_fs", "timestep", "comment", "reason", "unique_id", "spacegroup", "unit_cell", "occupancy"),
    *("engine_hash", "engine_seconds", "confidence", "pbc", "lattice", "properties"),
}
"""Keys that describe a file or a calculation, not the electrons of the next one."""


class ElectronicState(NamedTuple):
    """Electronic state that is passed to a reference method; None or empty if not stated."""

    charge: int | None = None  # of the whole structure, e
    multiplicity: int | None = None  # 2S + 1
    moments: np.ndarray | None = None  # [n] initial magnetic moments, μB
    charges: np.ndarray | None = None  # [n] initial charges, e
    tags: np.ndarray | None = None  # [n] int64, ASE's tags
    info: Mapping[str, Plain] = {}  # further remarks of the file that some calculators read


class Stated(NamedTuple):
    """Charge and spin as stated by a file; None if not stated."""

    charge: int | None
    multiplicity: int | None  # from a multiplicity or from a number of unpaired electrons
    spin: int | None  # 2S + 1 or 2S: files use both


def stated(info: Mapping[Any, Any]) -> Stated:
    """Charge and spin stated by the remarks of a file.

    Raises:
      DataError: if a value is not a whole number, or two keys contradict each other.
    """
    unclear = [name for name in info if str(name).lower() in UNCLEAR]
    if unclear:
        raise DataError(
            f"structure: {unclear[0]}={shown(info[unclear[0]])} can mean S, 2S and 2S+1; allowed: multiplicity=2S+1"
        )
    charge, unpaired = _one(info, CHARGE), _one(info, UNPAIRED, least=0)
    multiplicity, spin = _one(info, MULTIPLICITY, least=1), _one(info, SPIN, least=0)
    if unpaired is not None and multiplicity not in (None, unpaired + 1):
        raise DataError(
            f"structure: multiplicity {multiplicity} and {unpaired} unpaired electrons contradict each other"
        )
    return Stated(charge, multiplicity if unpaired is None else unpaired + 1, spin)


def from_atoms(atoms: ase.Atoms) -> ElectronicState:
    """Electronic state of an ASE object.

    Results of a calculation (moments, charges) are not initial values and are ignored; so are moments and charges
    that are all zero.

    Args:
      atoms: `info` may state charge and spin; see docs/inputs.md for the keys.

    Raises:
      DataError: if a value is impossible, contradicts another one, or is ambiguous; see `check`.
    """
    words = stated(atoms.info)
    numbers = np.array(atoms.numbers, np.int64)
    meant = multiplicity(words, numbers)
    key_words.check_electrons(atoms.info, STATED, int(numbers.sum()), words.charge, meant)
    state = ElectronicState(
        words.charge,
        meant,
        _column(atoms, "initial_magmoms", "initial magnetic moments"),
        _column(atoms, "initial_charges", "initial charges"),
        np.array(atoms.get_tags(), np.int64) if atoms.get_tags().any() else None,
        _plain(atoms.info),
    )
    check(state, numbers)
    return state


def to_atoms(state: ElectronicState, atoms: ase.Atoms) -> None:
    """Write a state into an ASE object, from which `from_atoms` reads it again."""
    atoms.info.update(state.info)
    for key, value in (("charge", state.charge), ("multiplicity", state.multiplicity)):
        if value is not None:
            atoms.info[key] = value
    if state.moments is not None:
        atoms.set_initial_magnetic_moments(state.moments)
    if state.charges is not None:
        atoms.set_initial_charges(state.charges)
    if state.tags is not None:
        atoms.set_tags(state.tags)


def multiplicity(words: Stated, numbers: np.ndarray) -> int | None:
    """Spin multiplicity 2S + 1 from the keys of a file.

    `spin` means 2S + 1 if the number of electrons allows it; 0 means no unpaired electron.

    Raises:
      DataError: if `spin` contradicts the multiplicity, or cannot be 2S + 1.
    """
    spin, known = words.spin, words.multiplicity
    if spin is None:
        return known
    if known is not None:
        if known in (spin, spin + 1):
            return known
        raise DataError(f"structure: spin={spin} and multiplicity {known} contradict each other")
    electrons = int(numbers.sum()) - (words.charge or 0)
    meant = max(spin, 1)
    if (electrons - meant) % 2 == 1:
        return meant
    other = f"; multiplicity={spin + 1} if it is the number of unpaired electrons" if spin else ""
    raise DataError(
        f"structure: spin={spin} is not the multiplicity of {electrons} electrons ({_of_charge(words.charge)}); "
        f"allowed: multiplicity=2S+1 in its place{other}"
    )


def check(state: ElectronicState, numbers: np.ndarray) -> None:
    """Refuse an electronic state that is impossible for these atoms [n].

    Raises:
      DataError: if the number of electrons does not allow charge or multiplicity, arrays are not [n] finite numbers,
        or the initial charges contradict the charge.
    """
    n = len(numbers)
    for name, values in (("moments", state.moments), ("charges", state.charges), ("tags", state.tags)):
        if values is not None and (np.shape(values) != (n,) or not np.isfinite(values).all()):
            raise DataError(f"structure: got {name} of shape {np.shape(values)}; allowed: {n} finite numbers")
    electrons = int(np.sum(numbers)) - (state.charge or 0)
    if electrons < 1:
        raise DataError(
            f"structure: got charge {state.charge} of nuclei with {int(np.sum(numbers))} protons; allowed: less"
        )
    known = state.multiplicity
    if known is not None and (known < 1 or known > electrons + 1 or (electrons - known) % 2 == 0):
        even = "odd" if electrons % 2 == 0 else "even"
        raise DataError(
            f"structure: got multiplicity {known} of {electrons} electrons ({_of_charge(state.charge)}); "
            f"allowed: {even} numbers up to {electrons + 1}"
        )
    if state.charges is not None and state.charge is not None:
        total = float(np.sum(state.charges))
        if abs(total - state.charge) > NEAR:
            raise DataError(
                f"structure: charge {state.charge} and initial charges that add up to {total:.3g} contradict each other"
            )


def _of_charge(charge: int | None) -> str:
    return "no charge is stated" if charge is None else f"charge {charge}"


def _one(info: Mapping[Any, Any], keys: tuple[str, ...], least: int | None = None) -> int | None:
    """The whole number that is stated under one or several of the given keys."""
    found = {name: _whole(name, value, least) for name, value in info.items() if str(name).lower() in keys}
    if len(set(found.values())) > 1:
        raise DataError(f"structure: {shown(found)} contradict each other")
    return next(iter(found.values()), None)


def _whole(name: str, value: Any, least: int | None) -> int:
    """A whole number, also from text with a sign."""
    value = value.item() if isinstance(value, np.generic | np.ndarray) and np.size(value) == 1 else value
    text = str(value).strip()
    try:
        number = float("nan" if text in ("True", "False") else text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number) or number != round(number) or (least is not None and number < least):
        allowed = "a whole number" if least is None else f"a whole number, at least {least}"
        raise DataError(f"structure: got {name}={shown(value)}; allowed: {allowed}")
    return int(number)


def _column(atoms: ase.Atoms, name: str, words: str) -> np.ndarray | None:
    """Array of one number per atom; None if there is none or all are zero."""
    if name not in atoms.arrays:
        return None
    values = np.asarray(atoms.arrays[name])
    if values.dtype.kind not in "fiu":
        raise DataError(f"structure: {words} are {shown(values)}; allowed: numbers")
    if not values.any():
        return None
    if values.ndim != 1:
        raise DataError(f"structure: {words} are vectors (non-collinear); allowed: one number for each atom")
    return values.astype(np.float64)


def unread(info: Mapping[Any, Any], state: ElectronicState) -> list[str]:
    """Names of remarks that neither took effect nor are passed to a calculator."""
    return sorted(str(k) for k in info if k not in state.info and str(k).lower() not in STATED | _BOOKKEEPING)


def _plain(info: Mapping[Any, Any]) -> dict[str, Plain]:
    """Remarks that a calculator could read: single values that are neither results nor bookkeeping."""
    plain = {}
    for name, given in info.items():
        known, value = str(name).lower(), given.item() if isinstance(given, np.generic) else given
        if known in STATED or known in _BOOKKEEPING or _RESULTS.search(known) or not isinstance(name, str):
            continue
        if isinstance(value, str | int | float | bool):
            plain[name] = value
    return plain

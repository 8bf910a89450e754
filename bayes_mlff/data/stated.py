"""What labelled files say beside their labels: units, charge and spin."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import ase
import numpy as np

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data.electronic import CHARGE, MULTIPLICITY, NEAR, SPIN, UNCLEAR, UNPAIRED

UNIT_NAMES: Final = {
    "position": (
        *("r", "position", "pos", "length", "distance", "coordinate", "coord", "geometry", "lattice", "cell"),
        *("bond_length", "xyz"),
    ),
    "energy": ("e", "energy", "energie"),
    "force": ("f", "force", "gradient", "grad"),
    "stress": ("stress", "stresse", "virial_stress"),
}
"""Quantities that have units: the last words next to `unit` or `units`, in any case, singular or plural."""
UNCLEAR_UNITS: Final = "unclear"
"""Kind of keys that seem to state a unit but are not understood."""
_OTHER: Final = {
    *("time", "timestep", "charge", "dipole", "moment", "mass", "masse", "temperature", "velocity", "velocitie"),
    *("momentum", "momenta", "magmom", "spin", "polarizability", "quadrupole", "frequency", "angle"),
    *("formula", "asymmetric", "asym", "repeat", "repeating", "sub", "building", "structural"),
}
"""Quantities whose units do not concern labels, and "units" in the sense of parts of a crystal or molecule."""
_USUAL: Final = {
    **dict.fromkeys(("ev", "electronvolt"), ("energy", "eV")),
    **dict.fromkeys(("a", "ang", "angstrom", "å"), ("position", "A")),
    **dict.fromkeys(("ev/a", "ev/ang", "ev/angstrom", "ev/å"), ("force", "eV/A")),
}
CHARGES: Final = CHARGE
SPINS: Final = (*MULTIPLICITY, *SPIN, *UNCLEAR, *UNPAIRED, "2s")
ENSEMBLES: Final = {
    "metal": {"position": "A", "energy": "eV", "force": "eV/A"},
    "real": {"position": "A", "energy": "kcal/mol", "force": "kcal/mol/A"},
    "ase": {"position": "A", "energy": "eV", "force": "eV/A"},
    **{
        name: {"position": "bohr", "energy": "hartree", "force": "hartree/bohr"}
        for name in ("electron", "atomic", "au", "a.u.", "hartree", "atomic units")
    },
}
"""Meaning of the values of a bare `units`, as in LAMMPS and other programs."""


WHOLE: Final = 0.05
"""Largest deviation from a whole number of a sum of initial moments that means a number of electrons."""


class State(NamedTuple):
    """Charge and spin as a frame states them; None if it does not."""

    charge: float | None = None  # e
    spin: tuple[str, float] | None = None  # name and value, since `spin` means 2S + 1 in some files and 2S in others


def names_unit(name: str) -> str | None:
    """Quantity whose unit a key states: a kind of `UNIT_NAMES`, "" for all at once, `UNCLEAR_UNITS`; else None."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    joined = "_".join(words)
    if "unit" not in joined or "unit_cell" in joined or "unitcell" in joined:
        return None
    rest = [word for word in words if word not in ("unit", "units")]
    if len(rest) == len(words):  # written as one word
        glued = re.fullmatch(r"(.+?)_?units?", joined)
        start = re.fullmatch(r"units?_?(.+)", joined)
        if glued is None and (start is None or _kind(start[1].split("_")) in (None, UNCLEAR_UNITS)):
            return None
        found = glued or start
        rest = [] if found is None else found[1].split("_")
    return _kind(rest) if rest else ""


def _kind(words: list[str]) -> str | None:
    last = words[-1].removesuffix("s")
    if last in _OTHER:
        return None
    return next((kind for kind, names in UNIT_NAMES.items() if last in names or words[-1] in names), UNCLEAR_UNITS)


def units_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Units that a frame or file states, by position, energy, force and stress.

    Keys that seem to state units but are not understood are collected under `UNCLEAR_UNITS`, as text for a message.

    Raises:
      DataError: if one unit is stated twice with different values.
    """
    found: dict[str, str] = {}
    unclear: list[str] = []
    for name, value in _flat_units(values):
        kind, text = names_unit(name), _text(value)
        if kind is None:
            continue
        kinds = {kind: text} if text is not None else {}
        if kind == "":
            kinds = ENSEMBLES.get((text or "").strip().lower()) or _listed(text or "")
        elif kind == UNCLEAR_UNITS:
            kinds = {}
        if not kinds:
            # A number under an unknown name counts something else, for instance formula units.
            if kind != UNCLEAR_UNITS or np.asarray(value).dtype.kind not in "biufc":
                unclear.append(f"{name}={shown(value if text is None else text)}")
            continue
        for each, unit in kinds.items():
            if found.setdefault(each, unit) != unit:
                raise DataError(f"states {each} in {shown(found[each])} and in {shown(unit)}; allowed: one of them")
    return found | ({UNCLEAR_UNITS: ", ".join(unclear)} if unclear else {})


def _flat_units(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values; entries of a table of units, `units: {energy: eV}`, become `energy_unit`."""
    for name, value in values.items():
        if "unit" in name.lower() and isinstance(value, Mapping):
            yield from ((f"{key}_unit", inner) for key, inner in value.items())
        else:
            yield name, value


def _listed(text: str) -> dict[str, str]:
    """Units of a list such as `eV, Angstrom` if all are common and unambiguous; else nothing."""
    words = [word for word in re.split(r"[,;\s]+|\band\b", text.lower()) if word]
    return dict(_USUAL[word] for word in words) if all(word in _USUAL for word in words) else {}


def state_of(values: Mapping[str, Any], atoms: ase.Atoms | None = None) -> State:
    """Charge and spin that a frame states.

    Args:
      values: values of the frame by name; per-atom columns do not count as statements.
      atoms: its initial charges and, without periodic directions, initial moments are used if `values` state nothing.

    Raises:
      DataError: if a stated number is not a number, or charge or spin is stated twice with different values.
    """
    count = 0 if atoms is None else len(atoms)
    lower = {
        name.lower(): value for name, value in values.items() if not (count > 1 and np.shape(value)[:1] == (count,))
    }
    charges = [_number(name, lower[name]) for name in CHARGES if name in lower]
    if len(set(charges)) > 1:
        raise DataError(f"states charges {charges}; allowed: one")
    spins = [(name, _number(name, lower[name])) for name in SPINS if name in lower]
    agreed = [_meanings(*spin) for spin in spins]
    if agreed and not frozenset.intersection(*agreed):
        said = ", ".join(f"{name}={value:g}" for name, value in spins)
        raise DataError(f"states {said}, which contradict each other; allowed: one spin")
    state = State(charges[0] if charges else None, spins[0] if spins else None)
    return state if atoms is None else _from_columns(state, atoms)


def _from_columns(state: State, atoms: ase.Atoms) -> State:
    """Charge and spin from initial charges and moments, if nothing else states them; zeros do not count."""
    charges = np.asarray(atoms.arrays.get("initial_charges", 0.0))
    if charges.dtype.kind in "fiu" and np.isfinite(charges).all() and charges.any():
        total = float(charges.sum())
        if state.charge is None:
            state = state._replace(charge=float(round(total)) + 0.0)
        elif abs(total - state.charge) > NEAR:
            raise DataError(
                f"states charge {state.charge:g} and initial charges that add up to {total:.3g}; allowed: one charge"
            )
    moments = np.asarray(atoms.arrays.get("initial_magmoms", 0.0))
    collinear = moments.dtype.kind in "fiu" and moments.ndim == 1 and bool(np.isfinite(moments).all())
    if state.spin is not None or atoms.pbc.any() or not collinear or not moments.any():
        return state
    total = abs(float(moments.sum()))
    guess = state._replace(spin=("multiplicity", float(round(total)) + 1.0))
    # Inaccurate moments, from populations, are ignored if the number of electrons does not allow their sum.
    whole = abs(total - round(total)) < WHOLE
    return guess if whole or multiplicities(guess, atoms.numbers, periodic=False) else state


def multiplicities(state: State, numbers: np.ndarray, *, periodic: bool) -> frozenset[float]:
    """Possible values of 2S + 1; the lowest one if nothing is stated; empty if the number of electrons allows none.

    Args:
      state: of the frame; no charge counts as 0.
      numbers: atomic numbers of its atoms [n], without padding.
      periodic: crystals may have any number of unpaired electrons per cell.
    """
    electrons = int(np.sum(numbers)) - round(state.charge or 0.0)
    lowest = frozenset({1.0, 2.0}) if periodic else frozenset({1.0 + electrons % 2})
    stated = lowest if state.spin is None else _meanings(*state.spin)
    if periodic:
        return stated
    return frozenset(m for m in stated if m <= electrons + 1 and (electrons - m) % 2 == 1)


def _meanings(name: str, value: float) -> frozenset[float]:
    """Possible values of 2S + 1 of a statement; `spin` means 2S + 1 or 2S, some other keys may also mean S."""
    if name in MULTIPLICITY:
        found = {value}
    elif name in SPIN:
        found = {value, value + 1.0}
    elif name in UNCLEAR:
        found = {value, value + 1.0, 2.0 * value + 1.0}
    else:
        found = {value + 1.0}
    return frozenset(m for m in found if m >= 1.0 and m == round(m))


def _text(value: Any) -> str | None:
    """A text, or the common text of an array of equal texts."""
    array = np.asarray(value)
    if array.dtype.kind not in "US" or len(np.unique(array)) != 1:
        return None
    item = array.reshape(-1)[0]
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _number(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise DataError(f"{name} is {shown(value)}; allowed: a number")
    return float(array.reshape(-1)[0])

"""What labelled files say beside their labels: units, charge and spin, and which atoms were held."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import ase
import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, DataError, shown
from bayes_mlff.data.electronic import CHARGE, MULTIPLICITY, SPIN, UNCLEAR, UNPAIRED

UNIT_NAMES: Final = {
    "position": ("r", "position", "positions", "pos", "length", "distance", "coordinate", "coordinates", "coord"),
    "energy": ("e", "energy", "energies", "ref_energy"),
    "force": ("f", "force", "forces", "ref_forces", "gradient", "gradients"),
    "stress": ("stress", "ref_stress", "virial_stress"),
}
"""What names of units begin with, before `_unit` or `_units`, in any case."""
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
"""Meaning of a bare `units`, as LAMMPS and others use the words."""


class State(NamedTuple):
    """Charge and spin as a frame states them; None where it does not."""

    charge: float | None = None  # e
    spin: tuple[str, float] | None = None  # name and value, since `spin` means 2S + 1 here and 2S there


def units_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Units that a frame or file states, by position, energy, force and stress.

    Raises:
      DataError: if it states one twice and differently.
    """
    found: dict[str, str] = {}
    for name, value in values.items():
        word = name.lower()
        text = _text(value)
        if text is None:
            continue
        stem = word.removesuffix("s").removesuffix("unit").rstrip("_. ") if "unit" in word else None
        kinds = {kind: text for kind, names in UNIT_NAMES.items() if stem in names}
        if word in ("units", "unit"):
            kinds = ENSEMBLES.get(text.strip().lower(), {})
        for kind, unit in kinds.items():
            if found.setdefault(kind, unit) != unit:
                raise DataError(f"states {kind} in {shown(found[kind])} and in {shown(unit)}; allowed: one of them")
    return found


def state_of(values: Mapping[str, Any]) -> State:
    """Charge and spin that a frame states.

    Raises:
      DataError: if a number that it states is not one, or a charge is there twice and differently.
    """
    lower = {name.lower(): value for name, value in values.items()}
    charges = [_number(name, lower[name]) for name in CHARGES if name in lower]
    if len(set(charges)) > 1:
        raise DataError(f"states charges {charges}; allowed: one")
    spins = [(name, _number(name, lower[name])) for name in SPINS if name in lower]
    return State(charges[0] if charges else None, spins[0] if spins else None)


def held(atoms: ase.Atoms) -> np.ndarray | None:
    """Coordinates [n, 3] that constraints hold, those whose forces they set to zero; None if there are none."""
    probe = np.random.default_rng(0).uniform(1.0, 2.0, (len(atoms), 3))
    try:
        for constraint in atoms.constraints:
            constraint.adjust_forces(atoms, probe)
    except READER_ERRORS as error:
        raise DataError(f"a constraint cannot be used: {type(error).__name__}: {error}") from error
    found = probe == 0.0
    return found if found.any() else None


def _text(value: Any) -> str | None:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "US":
        return None
    item = array.reshape(-1)[0]
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _number(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise DataError(f"{name} is {shown(value)}; allowed: a number")
    return float(array.reshape(-1)[0])

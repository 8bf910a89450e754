"""Units of labelled files: from the configuration or the file, and the unit that fits predictions best."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core import units
from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data.label_settings import LabelFileSettings

POSITION_UNITS: Final = {"A": 1.0, "bohr": units.BOHR, "nm": 10.0}
ENERGY_UNITS: Final = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": units.KCAL_MOL,
    "kJ/mol": units.KJ_MOL,
    "hartree": units.HARTREE,
    "Ry": units.RYDBERG,
}
FORCE_UNITS: Final = {f"{e}/{r}": a / b for e, a in ENERGY_UNITS.items() for r, b in POSITION_UNITS.items()}
STRESS_UNITS: Final = {
    "eV/A^3": 1.0,
    "GPa": units.GPA,
    "kbar": 0.1 * units.GPA,
    "hartree/bohr^3": units.HARTREE / units.BOHR**3,
}
STRESS_SIGNS: Final = {"tension": 1.0, "compression": -1.0}
"""Sign of the stress, by what is positive in the file."""

_NAMES: Final = {
    "position": {
        "A": ("a", "ang", "angs", "angstrom", "angstroms", "å", "\u212b"),
        "bohr": ("bohr", "bohrs", "a0", "au", "a.u.", "atomicunits"),
        "nm": ("nm", "nanometer", "nanometers", "nanometre"),
    },
    "energy": {
        "eV": ("ev", "electronvolt", "electronvolts"),
        "meV": ("mev",),
        "kcal/mol": ("kcal/mol", "kcalmol-1", "kcalmol^-1", "kcalmol⁻¹", "kcalpermol", "kcal"),
        "kJ/mol": ("kj/mol", "kjmol-1", "kjmol^-1", "kjmol⁻¹", "kjpermol", "kj"),
        "hartree": ("hartree", "hartrees", "ha", "eh", "e_h", "au", "a.u.", "atomicunits"),
        "Ry": ("ry", "rydberg", "rydbergs"),
    },
}  # fmt: skip

_STRESSES: Final = {
    "eV/A^3": ("ev/a3", "ev/ang3", "ev/angstrom3", "ev/å3"),
    "GPa": ("gpa",),
    "kbar": ("kbar", "kb"),
    "hartree/bohr^3": ("hartree/bohr3", "ha/bohr3"),
}


class Units(NamedTuple):
    """Units of the numbers of one file."""

    positions: str
    energy: str
    forces: str
    stress: str
    sign: str
    remarks: tuple[str, ...] = ()  # what was taken from the file, or assumed


def settle(
    settings: LabelFileSettings,
    stated: Mapping[str, str],
    path: str,
    key: str,
    section: str = "data",
    *,
    with_forces: bool = True,
) -> Units:
    """Units of a file: from the configuration, else from the file, else Å, eV, eV/Å and eV/Å³.

    If the file states a unit of energy but none of forces, that of forces is energy over position.

    Args:
      settings: the configuration.
      stated: units that the file states, by `position`, `energy`, `force` and `stress`.
      path: path of the file, for messages.
      key: configuration key that names the file.
      section: configuration key of the settings.
      with_forces: False leaves the unit of forces, which are not read, out of the remarks.

    Raises:
      DataError: if the configuration contradicts the file, or if the file states an unknown unit and the configuration
        none.
    """
    kinds = {"position": "positions_unit", "energy": "energy_unit", "force": "forces_unit", "stress": "stress_unit"}
    usual = {"position": "A", "energy": "eV", "force": "eV/A", "stress": "eV/A^3"}
    taken: dict[str, str] = {}
    from_file, assumed = [], []
    for kind, name in kinds.items():
        wanted, text = getattr(settings, name), stated.get(kind)
        found = None if text is None else parse(kind, text)
        if text is not None and found is None and wanted is None:
            raise DataError(
                f"{key}: {path} states {shown(text)} as the unit of {kind}; allowed: {section}.{name} sets it"
            )
        if found is not None and wanted is not None and found != wanted:
            allowed = f"allowed: {found}, or leave it out"
            raise DataError(f"{section}.{name}: got {wanted}, but {path} states {found}; {allowed}")
        if kind == "force" and text is None and wanted is None and "energy" in stated:
            found = f"{taken['energy']}/{taken['position']}"
        taken[kind] = wanted or found or usual[kind]
        if wanted is None and (with_forces or kind != "force"):
            (assumed if found is None else from_file).append(f"{kind} {taken[kind]}")
    remarks = [f"{key}: units stated by the file: {', '.join(from_file)}"] if from_file else []
    needed = [text for text in assumed if not text.startswith("stress")]
    remarks += [f"{key}: units that nothing states, assumed: {', '.join(needed)}"] if needed else []
    sign = settings.stress_sign
    return Units(taken["position"], taken["energy"], taken["force"], taken["stress"], sign, tuple(remarks))


def parse(kind: str, text: str) -> str | None:
    """Name in this package of a unit of `position`, `energy`, `force` or `stress` in any spelling; None if unknown."""
    word = re.sub(r"/\(([^()]+)[*·/]([^()*·/]+)\)$", r"/\1/\2", re.sub(r"\s", "", text).lower())
    word = re.sub(r"[*·]", "", word)
    if kind == "stress":
        return next((name for name, words in _STRESSES.items() if word.replace("^", "") in words), None)
    if kind == "force":
        if word in ("au", "a.u.", "atomicunits"):
            return "hartree/bohr"
        word = re.sub(r"/?(angstrom|ang|bohr|nm|å|a)(\^-1|-1|⁻¹)$", r"/\1", word)
        energy, _, length = word.rpartition("/")
        parts = parse("energy", energy), parse("position", length)
        return None if None in parts else f"{parts[0]}/{parts[1]}"
    return next((name for name, words in _NAMES[kind].items() if word in words), None)


def likelier(
    labels: np.ndarray, predicted: np.ndarray, factors: Mapping[str, float], stated: str, *, times: float
) -> str | None:
    """A unit that fits predictions so much better than the stated one that the stated one must be a mistake.

    The distance of converted labels y of a frame from predictions p is |y - p|²/(|y|² + |p|²): 1 - ρ if both have the
    same size and correlation ρ, near 1 if one is much larger, 1 + ρ if the sign is wrong. The median over frames is
    used, so a poor model, or one that fails in some frames, causes no doubt.

    Args:
      labels: converted from the stated unit, [f, ...].
      predicted: of the same shape and in the same unit.
      factors: conversion factor of the labels by unit, including the stated unit.
      stated: unit of the file according to the configuration.
      times: required ratio of the distance in the stated unit to that in another one.

    Returns:
      The name of the unit; None if there is no such unit.
    """
    y, p = (x.reshape(len(x), -1) for x in (labels, predicted))

    def distance(unit: str) -> float:
        converted = y * (factors[unit] / factors[stated])
        sizes = np.sum(converted**2 + p**2, axis=1)
        far = np.sum((converted - p) ** 2, axis=1)
        return float(np.median(np.divide(far, sizes, out=np.ones_like(far), where=sizes > 0.0)))

    best = min(factors, key=distance)
    return best if distance(best) * times < distance(stated) else None

"""What a trigger found in a prediction and the limit that this was compared with, in memory, in words and on disk."""

from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.core.units import KCAL_MOL_PER_EV

ENERGY: Final = "energy"
"""Name of the trigger on σ of the total energy, whose value and limit have keys of their own in dataset.extxyz."""

SHOWN: Final = {
    "eV": ("kcal/mol", KCAL_MOL_PER_EV),
    "eV/atom": ("meV/atom", 1e3),
    "eV/Å": ("kcal/mol/Å", KCAL_MOL_PER_EV),
}
"""Units of statistics: the unit that users see unless they chose another, and the factor that leads to it."""

SUFFIX: Final = {"eV": "ev", "eV/atom": "ev_atom", "eV/Å": "ev_a"}
"""Ends of names of fields and columns, by unit."""

_KEY: Final = "trigger_sigma_"


class Reading(NamedTuple):
    """Statistic of one prediction beside the limit above which a label is asked for."""

    name: str  # of the statistic, such as 'energy'
    value: float
    limit: float
    unit: str  # of both: a key of `SHOWN`
    dof: float = 1.0  # effective number of components of the error, see `ensemble.calibration`
    atom: int | None = None  # whose force it is, counted from 0; None: of the whole structure


def columns(name: str, unit: str) -> tuple[str, str]:
    """Columns of thermo.csv with value and limit of a trigger beside that on the energy."""
    return f"trigger_sigma_{name}_{SUFFIX[unit]}", f"trigger_limit_{name}_{SUFFIX[unit]}"


def find(readings: tuple[Reading, ...], name: str = ENERGY) -> Reading | None:
    """The reading of a statistic, None if there is none."""
    return next((reading for reading in readings if reading.name == name), None)


def to_comment(readings: tuple[Reading, ...]) -> dict[str, str]:
    """Keys of the comment line: `sigma_crit` for the energy, `trigger_sigma_<name>="value limit unit"` for all others.

    Of the force on an atom the number of components and the atom follow.

    Raises:
      DataError: if a number is not finite.
    """
    values = {}
    for reading in readings:
        if not np.isfinite((*reading[1:3], reading.dof)).all():
            raise DataError(f"record.{reading.name}: got {reading[1:5]}; allowed: finite numbers")
        if reading.name == ENERGY:
            values["sigma_crit"] = repr(float(reading.limit))
        else:
            said = f"{float(reading.value)!r} {float(reading.limit)!r} {reading.unit}"
            if reading.atom is not None:
                said += f" {float(reading.dof)!r} {int(reading.atom)}"
            values[f"{_KEY}{reading.name}"] = f'"{said}"'
    return values


def from_comment(info: dict[str, Any], energy_sigma: float | None) -> tuple[Reading, ...]:
    """Read `to_comment` back.

    Args:
      info: keys of a frame.
      energy_sigma: eV, `predicted_energy_sigma` of the frame, which is the value of the trigger on the energy.

    Raises:
      DataError: if a key is there whose value is no reading.
    """
    found = []
    if "sigma_crit" in info:
        limit = info["sigma_crit"]
        if energy_sigma is None or isinstance(limit, bool) or not isinstance(limit, int | float | np.number):
            raise DataError(f"sigma_crit is {shown(limit)}; allowed: a finite number beside predicted_energy_sigma")
        if not np.isfinite(limit):
            raise DataError(f"sigma_crit is {shown(limit)}; allowed: a finite number")
        found.append(Reading(ENERGY, energy_sigma, float(limit), "eV"))
    for key, text in info.items():
        if key.startswith(_KEY):
            found.append(_parse(key, text))
    return tuple(found)


def _parse(key: str, text: object) -> Reading:
    try:
        value, limit, unit, *rest = str(text).split()
        reading = Reading(key.removeprefix(_KEY), float(value), float(limit), unit)
        if rest:
            dof, atom = rest
            reading = reading._replace(dof=float(dof), atom=int(atom))
    except ValueError as error:
        raise DataError(
            f"{key} is {shown(text)}; allowed: value, limit and unit, or also components and atom"
        ) from error
    if reading.unit not in SHOWN or not np.isfinite((*reading[1:3], reading.dof)).all():
        raise DataError(f"{key} is {shown(text)}; allowed: finite numbers and a unit of {', '.join(SHOWN)}")
    if not reading.dof > 0.0 or (reading.atom is not None and reading.atom < 0):
        raise DataError(f"{key} is {shown(text)}; allowed: a positive number of components, and an atom from 0 on")
    return reading

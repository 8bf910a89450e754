"""What a trigger found in a prediction and the limit that this was compared with, in memory, in words and on disk."""

from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.core.units import KCAL_MOL_PER_EV

ENERGY: Final = "energy"
"""Name of the trigger on σ of the total energy, whose value and limit have keys of their own in dataset.extxyz."""

SHOWN: Final = {"eV": ("kcal/mol", KCAL_MOL_PER_EV), "eV/Å": ("kcal/mol/Å", KCAL_MOL_PER_EV)}
"""Units of statistics: the unit that users see, and the factor that leads to it."""

_KEY: Final = "trigger_sigma_"


class Reading(NamedTuple):
    """Statistic of one prediction beside the limit above which a label is asked for."""

    name: str  # of the statistic, such as 'energy'
    value: float
    limit: float
    unit: str  # of both: a key of `SHOWN`

    def shown(self) -> tuple[float, float, str]:
        """Value and limit in the unit that users see, and that unit."""
        unit, factor = SHOWN[self.unit]
        return self.value * factor, self.limit * factor, unit


def find(readings: tuple[Reading, ...], name: str = ENERGY) -> Reading | None:
    """The reading of a statistic, None if there is none."""
    return next((reading for reading in readings if reading.name == name), None)


def to_comment(readings: tuple[Reading, ...]) -> dict[str, str]:
    """Keys of the comment line: `sigma_crit` for the energy, `trigger_sigma_<name>="value limit unit"` for all others.

    Raises:
      DataError: if a number is not finite.
    """
    values = {}
    for reading in readings:
        if not np.isfinite(reading[1:3]).all():
            raise DataError(f"record.{reading.name}: got {reading[1:3]}; allowed: finite numbers")
        if reading.name == ENERGY:
            values["sigma_crit"] = repr(float(reading.limit))
        else:
            said = f"{float(reading.value)!r} {float(reading.limit)!r} {reading.unit}"
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
        value, limit, unit = str(text).split()
        reading = Reading(key.removeprefix(_KEY), float(value), float(limit), unit)
    except ValueError as error:
        raise DataError(f"{key} is {shown(text)}; allowed: value, limit and unit") from error
    if reading.unit not in SHOWN or not np.isfinite(reading[1:3]).all():
        raise DataError(f"{key} is {shown(text)}; allowed: two finite numbers and a unit of {', '.join(SHOWN)}")
    return reading

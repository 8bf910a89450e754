"""Units of labelled files, and the doubt about a unit that the pretrained model contradicts."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from bayes_mlff.core import units

ENERGY_UNITS: Final = {
    "eV": 1.0,
    "kcal/mol": units.KCAL_MOL,
    "kJ/mol": units.KCAL_MOL / 4.184,
    "hartree": units.HARTREE,
}
FORCE_UNITS: Final = {
    "eV/A": 1.0,
    "kcal/mol/A": units.KCAL_MOL,
    "kJ/mol/A": units.KCAL_MOL / 4.184,
    "hartree/bohr": units.HARTREE / units.BOHR,
}
STRESS_UNITS: Final = {"eV/A^3": 1.0, "GPa": units.GPA, "kbar": 0.1 * units.GPA}
STRESS_SIGNS: Final = {"tension": 1.0, "compression": -1.0}
"""By what is positive in the file."""


def likelier(
    labels: np.ndarray, predicted: np.ndarray, factors: Mapping[str, float], stated: str, *, times: float
) -> str | None:
    """The unit that fits predictions so much better than the stated one that this must be a mistake.

    The distance of labels y of a frame, converted, from predictions p is |y - p|²/(|y|² + |p|²): 1 - ρ where they are
    as large and correlated with ρ, near 1 where one is much larger, 1 + ρ where the sign is wrong. The median over
    frames counts, so that a model that is poor, or wild in some frames, raises no doubt.

    Args:
      labels: converted from the stated unit, [f, ...].
      predicted: of the same shape and in the same unit.
      factors: by unit, those that labels in it are multiplied by; the stated one is among them.
      stated: unit of the file according to the configuration.
      times: how much smaller the distance of another unit has to be.

    Returns:
      Its name, None if there is no such one.
    """
    y, p = (x.reshape(len(x), -1) for x in (labels, predicted))

    def distance(unit: str) -> float:
        converted = y * (factors[unit] / factors[stated])
        sizes = np.sum(converted**2 + p**2, axis=1)
        far = np.sum((converted - p) ** 2, axis=1)
        return float(np.median(np.divide(far, sizes, out=np.ones_like(far), where=sizes > 0.0)))

    best = min(factors, key=distance)
    return best if distance(best) * times < distance(stated) else None

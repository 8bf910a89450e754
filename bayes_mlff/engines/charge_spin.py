"""Charge and spin of a structure: from the structure, the settings or the initial moments, else the lowest spin."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import Structure

WHOLE: Final = 0.1
"""Sums of initial charges or moments are rounded to a whole number if they are this close to it."""

SAME_MOMENT: Final = 1e-6
"""Initial moments, μB, are equal within this tolerance."""


class Electrons(NamedTuple):
    """Charge and spin multiplicity of a structure, and where they come from."""

    charge: int
    multiplicity: int
    lowest: int  # lowest possible multiplicity: 1 or 2
    count: int  # number of all electrons, including core electrons
    charge_from: str  # source of the charge; empty if it is assumed
    multiplicity_from: str  # source of the multiplicity; empty if it is assumed

    @property
    def line(self) -> str:
        """Charge and multiplicity with their sources, in one line."""
        return self._line(f"multiplicity {self.multiplicity}, the lowest of {self.count} electrons")

    def line_without_spin(self, moments: Sequence[float] | None) -> str:
        """The same for a calculator that is told no spin, since nothing states one and it has no keyword for it.

        Args:
          moments: initial magnetic moments, μB, that it is told.
        """
        if moments is not None and np.any(moments):
            return self._line("spin as the calculator finds it from the initial moments")
        spin = f"spin of {self.count} electrons as the calculator has it without moments, which is paired for most"
        return self._line(spin)

    def _line(self, assumed_spin: str) -> str:
        told = [
            f"{name} {value} ({source})"
            for name, value, source in (
                ("charge", self.charge, self.charge_from),
                ("multiplicity", self.multiplicity, self.multiplicity_from),
            )
            if source
        ]
        silent = [] if self.charge_from else [f"charge {self.charge}"]
        silent += [] if self.multiplicity_from else [assumed_spin]
        said = ", ".join(told)
        return said + ("; " if told and silent else "") + (f"assumed: {', '.join(silent)}" if silent else "")


def initial_moments(
    configured: Sequence[float] | None, structure: Structure, key: str, *, own: str = "the structure's file"
) -> tuple[float, ...] | None:
    """Initial moments, μB, of the configuration or of the structure; they must not contradict each other.

    Raises:
      ConfigError: if both state moments that differ.
    """
    stated = structure.electronic.moments
    if stated is None or (not np.any(stated) and configured is not None):
        return None if configured is None else tuple(configured)
    if configured is not None and not np.allclose(stated, configured, rtol=0.0, atol=SAME_MOMENT):
        raise ConfigError(key, list(configured), f"nothing, or the moments of {own}: {np.asarray(stated).tolist()}")
    return tuple(float(moment) for moment in stated)


def settle(
    structure: Structure,
    moments: Sequence[float] | None,
    *,
    charge: tuple[str, int] | None = None,
    multiplicity: tuple[str, int] | None = None,
) -> Electrons:
    """Determine charge and multiplicity from all statements.

    Args:
      structure: with the charge and multiplicity of its file or of `structure` in the configuration.
      moments: initial magnetic moments, μB; their sum gives the multiplicity if nothing else states it.
      charge: key and value of the engine's setting for the total charge, e.
      multiplicity: key and value of the engine's setting for the spin multiplicity.

    Raises:
      ConfigError: if two statements contradict each other, or the number of electrons does not allow that spin.
    """
    total, source = _stated_charge(structure)
    if charge is not None:
        if source and total != charge[1]:
            raise ConfigError(charge[0], charge[1], f"{total}, as {source} says, or nothing")
        total, source = charge[1], source or charge[0]
    count = int(structure.numbers.sum()) - total
    if count < 0:
        raise ConfigError(
            charge[0] if charge else "structure.charge",
            total,
            f"at most {int(structure.numbers.sum())}, the number of electrons",
        )
    lowest = 1 + count % 2
    spin, spin_source = structure.electronic.multiplicity, "structure"
    if multiplicity is not None:
        if spin is not None and spin != multiplicity[1]:
            raise ConfigError(
                multiplicity[0], multiplicity[1], f"what belongs to multiplicity {spin} of the structure, or nothing"
            )
        spin, spin_source = multiplicity[1], "structure" if spin is not None else multiplicity[0]
    if spin is not None:
        if spin < 1 or (spin - lowest) % 2 or spin > count + 1:
            key = "structure.multiplicity" if spin_source == "structure" else spin_source
            raise ConfigError(
                key,
                spin,
                f"{'an even' if count % 2 else 'an odd'} multiplicity of at most {count + 1}: {count} electrons",
            )
        return Electrons(total, spin, lowest, count, source, spin_source)
    unpaired = 0 if moments is None else round(abs(float(np.sum(moments))))
    if unpaired and unpaired % 2 == count % 2 and unpaired <= count:
        return Electrons(total, unpaired + 1, lowest, count, source, "sum of the initial moments")
    return Electrons(total, lowest, lowest, count, source, "")


def _stated_charge(structure: Structure) -> tuple[int, str]:
    """Charge of the structure and its source; 0 and an empty text if it states none."""
    stated, charges = structure.electronic.charge, structure.electronic.charges
    if charges is None or not np.any(charges):
        return (0, "") if stated is None else (stated, "structure")
    total = float(np.sum(charges))
    whole = round(total)
    if stated is None and abs(total - whole) > WHOLE:
        raise ConfigError(
            "structure.charge", None, f"a number: the initial charges add up to {total:.3g}, to no whole one"
        )
    if stated is not None and abs(total - stated) > 0.5:
        raise ConfigError("structure.charge", stated, f"{whole}: the initial charges add up to {total:.3g}")
    return (whole, "sum of the initial charges") if stated is None else (stated, "structure")


def spread(total: int, n: int) -> tuple[float, ...]:
    """Distribute a whole number evenly over n atoms; if the sum would not be exact, all of it is on the first atom."""
    even = np.full(n, total / n)
    return tuple(even.tolist()) if float(even.sum()) == total else (float(total), *(0.0,) * (n - 1))

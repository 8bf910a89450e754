"""Comparison of what a program says of some structures with the ensemble's own prediction."""

from typing import Final, NamedTuple

import ase
import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.interfaces import ase_files
from bayes_mlff.interfaces.example import Answer
from bayes_mlff.interfaces.programs import Program

RELATIVE: Final = {"energy": 2e-7, "forces": 1e-3, "stress": 1e-3}
"""Allowed differences in relation to the largest value: constants of programs differ in the eighth digit of a total
energy, and a rotated structure is rounded differently in float32."""

ABSOLUTE: Final = {"energy": 1e-3, "forces": 1e-4, "stress": 1e-6}
"""Allowed in addition, in eV, eV/Å and eV/Å³."""


class Difference(NamedTuple):
    """Largest difference of one quantity over all frames and components."""

    quantity: str
    unit: str
    largest: float  # absolute value of the difference
    of: float  # largest absolute value of the quantity itself

    @property
    def row(self) -> str:
        """Text of a table."""
        return f"{self.largest:.1e} {self.unit} (values up to {self.of:.3g})"


class Parity(NamedTuple):
    """Result of a comparison."""

    frames: int
    differences: tuple[Difference, ...]


def compare(program: Program, calculator: EnsembleCalculator, frames: list[ase.Atoms]) -> Parity:
    """Evaluate structures through a program and directly.

    Args:
      program: to compare with.
      calculator: of the ensemble, as the program uses it.
      frames: structures with the same atoms.

    Raises:
      ConfigError: if the program is missing, or cannot have such a structure.
      DataError: if a difference is larger than rounding explains.
    """
    own = ase_files.evaluate(calculator, frames)
    calculator.reset()  # or else a program that asks for the last structure would get what is remembered
    theirs = program.evaluate(calculator, frames)
    differences = [
        _difference("energy", "eV", own, theirs),
        _difference("forces", "eV/Å", own, theirs),
    ]
    if all(answer.stress is not None for answer in (*own, *theirs)):
        differences.append(_difference("stress", "eV/Å³", own, theirs))
    for found in differences:
        allowed = RELATIVE[found.quantity] * found.of + ABSOLUTE[found.quantity]
        if not found.largest <= allowed:
            raise DataError(
                f"{program.title}: {found.quantity} differ by {found.largest:.3g} {found.unit} from the ensemble's "
                f"own; allowed: {allowed:.3g} (nothing was written)"
            )
    return Parity(len(frames), tuple(differences))


def _difference(name: str, unit: str, own: list[Answer], theirs: list[Answer]) -> Difference:
    left, right = (np.array([getattr(answer, name) for answer in answers]) for answers in (own, theirs))
    return Difference(name, unit, float(np.max(np.abs(left - right))), float(np.max(np.abs(left))))

"""Calculators with one fault, in the process of the test."""

import copy
import sys

import numpy as np
from ase.build import molecule
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    CalculatorSetupError,
    all_changes,
)
from ase.calculators.emt import EMT

from bayes_mlff.data.structure import Structure, from_ase


def water(seed: int = 0) -> Structure:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    return from_ase(atoms)


def planted(behaviour: str) -> type[Calculator]:
    """A calculator with one fault."""

    class Faulty(EMT):
        count = 0
        made = 0

        def __init__(self, gentle: bool = False, **kwargs):
            super().__init__(**kwargs)
            type(self).made += 1
            self.gentle = gentle

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            type(self).count += 1
            if behaviour == "stale geometry" and self.results:
                return
            kept = getattr(self, "results_before", None)
            super().calculate(atoms, properties, system_changes)
            if behaviour == "stale numbers" and kept is not None:
                self.results = kept
            self.results_before = copy.deepcopy(self.results)
            if behaviour in (spoilt := {"nan": ("forces", (1, 2)), "stress nan": ("stress", 3)}):
                name, place = spoilt[behaviour]
                self.results[name][place] = np.nan
            if behaviour == "energy nan":
                self.results["energy"] = self.results["free_energy"] = float("nan")
            if behaviour == "shape":
                self.results["forces"] = self.results["forces"][:-1]
            if behaviour == "free energy":
                self.results["free_energy"] = self.results["energy"] - 1.0
            if behaviour == "own error" and not self.gentle:
                raise sys.modules["planted_package"].OwnConvergenceError("did not converge")
            if behaviour == "failed":
                raise CalculationFailed("scf")
            if behaviour == "failed once" and type(self).count == 1:
                raise CalculationFailed("scf")
            if behaviour == "setup":
                raise CalculatorSetupError("no pseudopotential")
            if behaviour == "executable":
                raise FileNotFoundError("pw.x")
            if behaviour == "bug":
                raise KeyError("a bug of the calculator")

        def get_property(self, name, atoms=None, allow_calculation=True):
            if behaviour == "stale geometry" and self.results:
                return self.results[name]
            return super().get_property(name, atoms, allow_calculation)

    return Faulty

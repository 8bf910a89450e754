"""ASE calculator that uses a reference engine of this package."""

from typing import Any, ClassVar, cast

import ase
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    CalculatorSetupError,
    PropertyNotImplementedError,
    all_changes,
)

from bayes_mlff.core.errors import EngineFailedError, EngineSetupError
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.engine import Engine


class EngineCalculator(Calculator):
    """Lets ASE's optimisers, dynamics and writers use the same engine, with the same checks, as a run.

    Energy and free energy are both the energy consistent with the forces, eV; forces in eV/Å; stress, if the
    engine computes it, in eV/Å³, tension positive, Voigt order xx yy zz yz xz xy.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, engine: Engine):
        super().__init__()
        self._engine = engine

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """List changes since the last label; also of `info`, such as a charge, which ASE does not compare."""
        changes = list(super().check_state(atoms, tol=tol))
        before = self.atoms
        if before is not None and not changes and not _same_remarks(before, atoms):
            return list(all_changes)
        return changes

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """Label `atoms`; ASE calls this when a property of a new geometry is asked for.

        Raises:
          CalculationFailed: if the engine cannot label this geometry.
          CalculatorSetupError: if it can label no geometry.
          PropertyNotImplementedError: if the stress is requested and the engine has none.
        """
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        try:
            label = self._engine.label(from_ase(cast(ase.Atoms, self.atoms), constraints=False)).label
        except EngineFailedError as error:
            raise CalculationFailed(str(error)) from error
        except EngineSetupError as error:
            raise CalculatorSetupError(str(error)) from error
        self.results = {"energy": label.energy, "free_energy": label.energy, "forces": label.forces}
        if label.stress is not None:
            s = label.stress
            self.results["stress"] = s[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        elif "stress" in properties:
            raise PropertyNotImplementedError(f"{self._engine.description}: no stress")


def _same_remarks(before: ase.Atoms, now: ase.Atoms) -> bool:
    """True if charge, spin and other plain values of `info`, and the tags, are the same."""

    def plain(atoms: ase.Atoms) -> dict[str, Any]:
        return {key: value for key, value in atoms.info.items() if isinstance(value, str | int | float | bool)}

    return plain(before) == plain(now) and before.get_tags().tolist() == now.get_tags().tolist()

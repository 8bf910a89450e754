"""Common base of engines with an ASE calculator, whether it runs in this process or in another."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from pydantic import JsonValue

from bayes_mlff.core.errors import EngineFailedError, EngineSetupError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.calculator_settings import CalculatorSettings, all_arguments, describe, lacking
from bayes_mlff.engines.charge_spin import initial_moments
from bayes_mlff.engines.electrons import Told, tell
from bayes_mlff.engines.engine import EngineBase
from bayes_mlff.engines.moments import check_count
from bayes_mlff.engines.work_folder import WorkFolder

_MOMENTS_KEY = "engine.initial_magmoms"


class CalculatorEngine(EngineBase):
    """An engine that passes charge and spin to an ASE calculator, and reads its results."""

    def __init__(self, settings: CalculatorSettings, directory: Path | None, base: Path | None):
        """Prepare everything that does not depend on the process in which the calculator runs.

        Args:
          settings: settings of the calculator.
          directory: run directory; as long as it does not exist, the engine works in a temporary folder.
          base: folder of the configuration, whose modules and files the settings may name.
        """
        self._settings = settings
        self._base = None if base is None else str(base.resolve())
        self._folder = WorkFolder(directory)
        self._initial_magmoms = settings.initial_magmoms

    @abc.abstractmethod
    def _keywords(self) -> Mapping[str, Sequence[str]]:
        """Declared keywords of each calculator that the settings name."""

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        return describe(self._settings)

    def assumptions(self, structure: Structure) -> tuple[str, ...]:
        """See `Engine.assumptions`."""
        return self._tell(structure, self._settings.arguments).remarks

    def _tell(self, structure: Structure, arguments: dict[str, JsonValue]) -> Told:
        """Charge and spin as they are passed to a calculator with these arguments."""
        check_count(self._initial_magmoms, structure, _MOMENTS_KEY)
        moments = initial_moments(self._initial_magmoms, structure, _MOMENTS_KEY)
        s = self._settings
        return tell(structure, s.calculator, arguments, moments=moments, reads=s.reads, names=self._keywords())

    def _tell_first(self, structure: Structure) -> Told:
        """Like `_tell` for the first attempt; the arguments of all other attempts are checked, too."""
        first, *_ = [self._tell(structure, arguments) for arguments in all_arguments(self._settings)]
        return first

    def _wants_stress(self, structure: Structure) -> bool:
        return self._settings.stress and structure.is_periodic

    def _refuse_without(self, properties: Sequence[str], structure: Structure) -> None:
        """Raise EngineSetupError if a calculator with these properties cannot label the structure."""
        wanted = ["energy", "forces", *(["stress"] if self._wants_stress(structure) else [])]
        missing = [name for name in wanted if name not in properties]
        if missing:
            raise EngineSetupError(lacking(self._settings, missing))

    def _label_of(self, answer: Mapping[str, Any]) -> Label:
        """Convert the result of `calls.evaluate` to arrays; `verified_label` checks their shapes and values."""
        try:
            energy = np.array(answer["energy"], np.float64).item()
            forces = np.array(answer["forces"], np.float64)
            stress = None if answer["stress"] is None else np.array(answer["stress"], np.float64)
        except (TypeError, ValueError) as error:
            raise EngineFailedError(f"{self.description}: unusable result: {error}") from error
        if stress is not None and stress.shape == (6,):
            stress = voigt_6_to_full_3x3_stress(stress)
        return Label(energy, forces, stress)

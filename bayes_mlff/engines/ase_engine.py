"""Reference engine that runs any ASE calculator in this process."""

import importlib
import json
import time
from pathlib import Path
from typing import Any, Literal

import ase
from ase.calculators.calculator import BaseCalculator
from pydantic import Field

from bayes_mlff.core.errors import EngineFailedError, EngineRetryError, EngineSetupError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import GEOMETRY, Structure
from bayes_mlff.engines import calls, factories
from bayes_mlff.engines.calculator_engine import CalculatorEngine
from bayes_mlff.engines.calculator_settings import (
    RETRY_EXCEPTIONS,
    SETUP_EXCEPTIONS,
    CalculatorSettings,
    all_arguments,
    level_hash,
    root_package,
)
from bayes_mlff.engines.electrons import Told
from bayes_mlff.engines.engine import EngineResult, retry, with_geometry
from bayes_mlff.engines.work_folder import working_in
from bayes_mlff.engines.worker.child import OutputCheck


class AseSettings(CalculatorSettings):
    """An ASE calculator inside this process.

    It works in the folder `engine` of the run directory. Relative paths in `arguments` and `output_file` start from
    there, unless they name a file next to the configuration.
    """

    name: Literal["ase"] = Field(
        default="ase", description="Reference method: an ASE calculator in the process of the run."
    )


class AseEngine(CalculatorEngine):
    """An `Engine` that uses one ASE calculator. It has no state to save."""

    def __init__(self, settings: AseSettings, directory: Path | None = None, *, base: Path | None = None):
        """Import the calculator's class and the configured exceptions; nothing is calculated.

        Args:
          settings: settings of the calculator.
          directory: run directory; as long as it does not exist, the engine works in a temporary folder.
          base: folder of the configuration, whose modules and files the settings may name.

        Raises:
          EngineSetupError: if an import path does not exist, naming the module and how to install it.
        """
        super().__init__(settings, directory, base)
        self._names = _import_calculators(settings, self._base)
        named = tuple(_import_exception(path, self._base) for path in settings.retry_exceptions)
        own = (error for path in self._names for error in _own_exceptions(path))
        self._retry_exceptions = (*RETRY_EXCEPTIONS, *own, *named)
        self._calculator: BaseCalculator | None = None
        self._made_for = ""
        self._held: list[Any] = []

    @property
    def settings_hash(self) -> str:
        """See `Engine.settings_hash`; it contains the versions of ASE and of the calculator's package."""
        s = self._settings
        return level_hash(s, ase.__version__, factories.identity(s.calculator, s.arguments, self._base))

    def check(self, structure: Structure) -> None:
        """See `Engine.check`: makes the calculator and checks which properties it implements."""
        told = self._tell_first(structure)
        with working_in(self._folder.path()):
            calculator = self._usable(told)
        self._refuse_without(calculator.implemented_properties, structure)

    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`; the energy is the free energy if there is one, since forces are its derivative."""
        start = time.perf_counter()
        if not self._settings.reuse_calculator:
            self._drop()
        self.check(structure)
        (label, evaluated, note), reasons = retry(
            lambda number: self._attempt(structure, number),
            1 + len(self._settings.retries),
            description=self.description,
        )
        if reasons:
            self._drop()  # the next label starts with the first solver settings again
        seconds = time.perf_counter() - start
        settled = self._tell(structure, self._settings.arguments).settled
        return EngineResult(label, evaluated, True, seconds, len(reasons) + 1, (*reasons, note), settled)

    def restore_state(self, state: bytes | None) -> None:
        """Start with a new calculator; any state is refused with a DataError, since this engine never saves one."""
        super().restore_state(state)
        self._drop()

    def close(self) -> None:
        """Release the calculator; it is closed if it has a `close` method (sockets and child processes)."""
        self._drop()
        self._folder.close()

    def _keywords(self) -> dict[str, list[str]]:
        return self._names

    def _drop(self) -> None:
        calculator, self._calculator = self._calculator, None
        close = getattr(calculator, "close", None)
        if callable(close):
            close()
        calls.release(self._held)

    def _usable(self, told: Told) -> BaseCalculator:
        """The calculator for these arguments; a new one if arguments, atomic properties or the folder have changed."""
        made_for = json.dumps([str(Path.cwd()), told.arguments, told.tags, told.info], default=str)
        if self._calculator is not None and made_for == self._made_for:
            return self._calculator
        self._drop()
        arguments = factories.with_files(told.arguments, self._base)
        try:
            calculator = factories.make(self._settings.calculator, arguments, self._base)
            self._held = calls.claim_folders(calculator, str(Path.cwd()))
        except (factories.UnusableError, calls.FolderTakenError) as error:
            raise EngineSetupError(str(error)) from error
        self._calculator, self._made_for = calculator, made_for
        return calculator

    def _attempt(self, structure: Structure, number: int) -> tuple[Label, Structure, str]:
        """One attempt; from the second attempt on with a new calculator."""
        if number > 0:
            self._drop()
        told = self._tell(structure, all_arguments(self._settings)[number])
        with working_in(self._folder.path()):
            return self._evaluate(structure, told)

    def _evaluate(self, structure: Structure, told: Told) -> tuple[Label, Structure, str]:
        calculator = self._usable(told)
        atoms = calls.atoms_of({name: getattr(structure, name) for name in GEOMETRY}, told.atoms)
        check = self._settings.output_check
        watch = OutputCheck(*check) if check is not None else None
        try:
            answer = calls.evaluate(calculator, atoms, self._wants_stress(structure))
        except SETUP_EXCEPTIONS as error:
            self._drop()
            raise EngineSetupError(f"{self.description}: {type(error).__name__}: {error}") from error
        except self._retry_exceptions as error:
            self._drop()
            raise EngineRetryError(f"{type(error).__name__}: {error}") from error
        except (Exception, SystemExit) as error:
            self._drop()
            where = factories.place_of(error)
            raise EngineFailedError(f"{self.description}: {type(error).__name__}: {error}{where}") from error
        complaint = watch.complaint() if watch is not None else None
        if complaint is not None:
            raise EngineRetryError(complaint)
        evaluated = getattr(calculator, "atoms", None)
        if not isinstance(evaluated, ase.Atoms):
            raise EngineSetupError(f"{self.description}: the calculator does not report which geometry it evaluated")
        geometry = with_geometry(structure, evaluated.numbers, evaluated.positions, evaluated.cell.array, evaluated.pbc)
        return self._label_of(answer), geometry, f"energy is the calculator's {answer['energy_name']}"


def _import_calculators(settings: CalculatorSettings, base: str | None) -> dict[str, list[str]]:
    """Import the calculators that the settings name; returns the declared keywords of each."""
    try:
        found = {settings.calculator: factories.find_factory(settings.calculator, "engine.calculator", base)}
        for arguments in all_arguments(settings):
            for place, item in factories.descriptions(arguments, "engine.arguments"):
                path = item["calculator"]
                found[path] = factories.find_factory(path, f"{place}.calculator", base)
    except factories.UnusableError as error:
        raise EngineSetupError(str(error)) from error
    return {path: factories.keywords(factory) for path, factory in found.items()}


def _import_exception(path: str, base: str | None) -> type[Exception]:
    try:
        found = factories.find(path, "engine.retry_exceptions", base)
    except factories.UnusableError as error:
        raise EngineSetupError(str(error)) from error
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise EngineSetupError(f"engine.retry_exceptions: {path!r} is not an exception class")
    return found


def _own_exceptions(path: str) -> tuple[type[Exception], ...]:
    """Error classes of a calculator's package that its top level or the calculator's module exports.

    For example, GPAW's KohnShamConvergenceError is neither an ASE error nor a RuntimeError.
    """
    root, module = root_package(path), path.rpartition(":" if ":" in path else ".")[0]
    exported = [
        *vars(importlib.import_module(root)).values(),
        *vars(importlib.import_module(module)).values(),
    ]
    return tuple(
        value
        for value in exported
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__.split(".")[0] == root
    )

"""Any ASE calculator as a reference engine."""

import copy
import functools
import importlib
import importlib.metadata
import re
import subprocess
import sys
import time
from pathlib import PurePath
from types import TracebackType
from typing import Any, Final, Literal, Self

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator, CalculatorError, CalculatorSetupError
from ase.stress import voigt_6_to_full_3x3_stress
from pydantic import Field, JsonValue, field_validator, model_validator

from bayes_mlff.core.errors import DataError, EngineRetryError, EngineSetupError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure, geometry, to_ase
from bayes_mlff.otf.dft.engine import CommonSettings, EngineResult, climb, hash_settings
from bayes_mlff.otf.dft.moments import check_count
from bayes_mlff.otf.dft.worker_child import OutputCheck

LEVEL: Final = {"calculator", "arguments", "stress", "initial_magmoms"}
"""Settings that identify the level of theory; the others are speed, effort and checks."""

_INSTALL: Final = {
    "gpaw": "python -m bayes_mlff.otf.dft.install_gpaw --python {python}, or with a C++ compiler and a siteconfig.py "
    "of your own: GPAW_CONFIG=siteconfig.py {python} -m pip install gpaw gpaw-data",
    "tblite": "{python} -m pip install 'bayes-mlff[xtb]'",
    "chgnet": "{python} -m pip install torch chgnet",
}

SETUP_EXCEPTIONS: Final = (
    CalculatorSetupError,  # ASE: parameters or installation
    NotImplementedError,  # ASE: a property, or (EMT) an element, that the calculator does not have
    ImportError,  # a package that the calculator imports late
    FileNotFoundError,  # an executable, basis or pseudopotential
    PermissionError,
)
"""What says that a calculator can never work as configured."""

RETRY_EXCEPTIONS: Final = (
    CalculatorError,  # ASE: CalculationFailed, SCFError, ReadError, PropertyNotPresent
    RuntimeError,  # most programs without an error class of their own
    ArithmeticError,
    np.linalg.LinAlgError,
    OSError,  # a lost socket or pipe
    EOFError,
    AssertionError,  # ASE's CP2K when its child process died
    subprocess.SubprocessError,
)
"""What a calculator may raise for one geometry, beside the error classes of its own package."""


class CalculatorSettings(CommonSettings):
    """An ASE calculator, and what a usable answer of it is.

    Many calculators continue from their previous density. Whoever needs resumed runs to repeat to the last
    bit sets `reuse_calculator` to false, and pays for a cold start at every label.
    """

    calculator: str = Field(description="Import path, such as 'tblite.ase:TBLite' or 'ase.calculators.emt.EMT'.")
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="Keyword arguments of the calculator.")
    retries: tuple[dict[str, JsonValue], ...] = Field(
        default=({},),
        description="For each further attempt, what to change in `arguments`; each has a new calculator. "
        "Solver settings only: a change of the level of theory would mix labels.",
    )
    retry_exceptions: tuple[str, ...] = Field(
        default=(), description="Import paths of further exceptions that mean: this geometry failed."
    )
    stress: bool = Field(default=False, description="Ask for the stress of periodic structures.")
    initial_magmoms: tuple[float, ...] | None = Field(default=None, description="One moment for each atom, μB.")
    reuse_calculator: bool = Field(default=True, description="Keep one calculator for all labels.")
    output_file: str | None = Field(
        default=None, description="What the program writes about its convergence, from where it is started."
    )
    unconverged_pattern: str | None = Field(
        default=None, description="Regular expression that in `output_file` means: not converged."
    )

    @field_validator("unconverged_pattern")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from error
        return value

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.output_file is None) != (self.unconverged_pattern is None):
            raise ValueError("output_file and unconverged_pattern go together: set both or none")
        path = PurePath(self.output_file or "")
        if ".." in path.parts and not path.is_absolute():
            raise ValueError("output_file must be an absolute path, or one below where the program is started")
        return self

    @property
    def output_check(self) -> tuple[str, str] | None:
        """File and pattern, if the program's output is to be read."""
        if self.output_file is None or self.unconverged_pattern is None:
            return None
        return self.output_file, self.unconverged_pattern

    def __hash__(self) -> int:
        """Hash by value, although the arguments are mappings."""
        return hash(self.model_dump_json())


class AseSettings(CalculatorSettings):
    """An ASE calculator inside this process."""

    name: Literal["ase"] = "ase"


class AseEngine:
    """An `Engine` around one ASE calculator. It has no state to save."""

    def __init__(self, settings: AseSettings):
        """Import the calculator's class and the exceptions to expect; nothing is calculated.

        Raises:
          EngineSetupError: if an import path leads nowhere, naming the module and how to install it.
        """
        self._settings = settings
        self._factory = _import_object(settings.calculator, "engine.calculator")
        named = tuple(_import_exception(path) for path in settings.retry_exceptions)
        self._retry_exceptions = (*RETRY_EXCEPTIONS, *_own_exceptions(settings.calculator), *named)
        self._calculator: BaseCalculator | None = None

    @property
    def settings_hash(self) -> str:
        """See `Engine.settings_hash`; the version is that of ASE and of the calculator's package."""
        return level_hash(self._settings, ase.__version__, _version(root_package(self._settings.calculator)))

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        return describe(self._settings)

    def check(self, structure: Structure) -> None:
        """See `Engine.check`: makes the calculator and asks which properties it has."""
        check_count(self._settings.initial_magmoms, structure, "engine.initial_magmoms")
        if self._calculator is None:
            self._calculator = self._make({})
        wanted = ["energy", "forces", *(["stress"] if self._wants_stress(structure) else [])]
        missing = [name for name in wanted if name not in self._calculator.implemented_properties]
        if missing:
            raise EngineSetupError(lacking(self._settings, missing))

    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`; the energy is the free energy where there is one, as forces need it."""
        start = time.perf_counter()
        if not self._settings.reuse_calculator:
            self.close()
        self.check(structure)
        (label, evaluated, note), reasons = climb(
            lambda rung: self._attempt(structure, rung),
            1 + len(self._settings.retries),
            description=self.description,
        )
        if reasons:
            self.close()  # the next label starts with the first solver settings again
        seconds = time.perf_counter() - start
        return EngineResult(label, evaluated, True, seconds, len(reasons) + 1, (*reasons, note))

    def save_state(self) -> bytes | None:
        """None: a calculator's state is its own."""
        return None

    def restore_state(self, state: bytes | None) -> None:
        """Start from a new calculator.

        Raises:
          DataError: if there is a state, since this engine never saved one.
        """
        if state is not None:
            raise DataError("engine state: an ASE calculator has none; the state belongs to another engine")
        self.close()

    def close(self) -> None:
        """Drop the calculator, and close it if it can be closed (sockets and child processes)."""
        calculator, self._calculator = self._calculator, None
        close = getattr(calculator, "close", None)
        if callable(close):
            close()

    def __enter__(self) -> Self:
        """Return this engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()

    def _wants_stress(self, structure: Structure) -> bool:
        return self._settings.stress and structure.is_periodic

    def _make(self, changes: dict[str, JsonValue]) -> BaseCalculator:
        """A new calculator; EngineSetupError if it does not accept its arguments."""
        arguments = copy.deepcopy({**self._settings.arguments, **changes})
        try:
            return self._factory(**arguments)
        except (TypeError, ValueError, KeyError, *SETUP_EXCEPTIONS, *self._retry_exceptions) as error:
            raise EngineSetupError(
                f"engine.arguments: {self._settings.calculator} refuses {arguments}: {type(error).__name__}: {error}"
            ) from error

    def _attempt(self, structure: Structure, rung: int) -> tuple[Label, Structure, str]:
        """One evaluation, on a new calculator from the second rung on."""
        if rung > 0:
            self.close()
        if self._calculator is None:
            self._calculator = self._make(self._settings.retries[rung - 1] if rung > 0 else {})
        calculator = self._calculator
        atoms = to_ase(structure)
        if self._settings.initial_magmoms is not None:
            atoms.set_initial_magnetic_moments(self._settings.initial_magmoms)
        check = self._settings.output_check
        watch = OutputCheck(*check) if check is not None else None
        try:
            label, note = _evaluate(calculator, atoms, self._wants_stress(structure))
        except SETUP_EXCEPTIONS as error:
            self.close()
            raise EngineSetupError(f"{self.description}: {type(error).__name__}: {error}") from error
        except self._retry_exceptions as error:
            self.close()
            raise EngineRetryError(f"{type(error).__name__}: {error}") from error
        complaint = watch.complaint() if watch is not None else None
        if complaint is not None:
            raise EngineRetryError(complaint)
        evaluated = getattr(calculator, "atoms", None)
        if not isinstance(evaluated, ase.Atoms):
            raise EngineSetupError(f"{self.description}: the calculator does not say which geometry it evaluated")
        return label, geometry(evaluated), note


def _evaluate(calculator: BaseCalculator, atoms: ase.Atoms, with_stress: bool) -> tuple[Label, str]:
    """Energy consistent with the forces, forces and stress; forces first, as the others come along."""
    forces = np.array(calculator.get_property("forces", atoms), np.float64)
    stress = np.array(calculator.get_property("stress", atoms), np.float64) if with_stress else None
    if stress is not None and stress.shape == (6,):
        stress = voigt_6_to_full_3x3_stress(stress)
    name = "free_energy" if "free_energy" in calculator.implemented_properties else "energy"
    energy = np.array(calculator.get_property(name, atoms), np.float64)
    return Label(float(energy), forces, stress), f"energy is the calculator's {name}"


def level_hash(settings: CalculatorSettings, ase_version: str, package: str) -> str:
    """`Engine.settings_hash` of a calculator; wherever it runs, it is the same level of theory."""
    return hash_settings("ase", f"ase {ase_version}, {package}", settings.model_dump(mode="json", include=LEVEL))


def describe(settings: CalculatorSettings) -> str:
    """The calculator as one would write it in Python."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in settings.arguments.items())
    return f"ASE {settings.calculator}({arguments})"


def lacking(settings: CalculatorSettings, missing: list[str]) -> str:
    """What to say about a calculator without some properties."""
    without = ", or engine.stress: false" if missing == ["stress"] else ""
    return (
        f"engine.calculator: {settings.calculator} has no {' and no '.join(missing)}; "
        f"allowed: one that has energy, forces{' and stress' if settings.stress else ''}{without}"
    )


def install_command(package: str, python: str) -> str:
    """How to install the package of a calculator for an interpreter."""
    return _INSTALL.get(package, "{python} -m pip install " + package).format(python=python)


def root_package(path: str) -> str:
    """First part of an import path."""
    return path.replace(":", ".").split(".")[0]


def _import_object(path: str, key: str) -> Any:
    """The object behind 'package.module:Name' or 'package.module.Name'."""
    module, _, name = path.rpartition(":" if ":" in path else ".")
    if not module or not name:
        raise EngineSetupError(f"{key}: got {path!r}; allowed: 'package.module:Name'")
    root = root_package(path)
    install = install_command(root, sys.executable)
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise EngineSetupError(f"{key}: cannot import module {module!r} ({error}); {install}") from error
    except (TypeError, ValueError) as error:
        raise EngineSetupError(f"{key}: got {path!r} ({error}); allowed: 'package.module:Name'") from error
    except AttributeError as error:
        raise EngineSetupError(f"{key}: module {module!r} has no {name!r}") from error


def _import_exception(path: str) -> type[Exception]:
    found = _import_object(path, "engine.retry_exceptions")
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise EngineSetupError(f"engine.retry_exceptions: {path!r} is not an exception class")
    return found


def _own_exceptions(path: str) -> tuple[type[Exception], ...]:
    """Error classes of a calculator's package, if its top level or the calculator's module exports them.

    GPAW's KohnShamConvergenceError, for one, is neither an ASE error nor a RuntimeError.
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


@functools.cache
def _version(root: str) -> str:
    """Distribution and version behind a package; the bare name if it belongs to no distribution."""
    names = importlib.metadata.packages_distributions().get(root, [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names))) or root

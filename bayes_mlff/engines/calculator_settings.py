"""Settings of ASE calculators, in this process or another, and the meaning of their exceptions."""

import re
import subprocess
from pathlib import PurePath
from typing import Final, Literal, Self

import numpy as np
from ase.calculators.calculator import CalculatorError, CalculatorSetupError
from pydantic import Field, JsonValue, field_validator, model_validator

from bayes_mlff.data.level import Level
from bayes_mlff.engines.engine import CommonSettings, hash_settings
from bayes_mlff.engines.levels import of_calculator

LEVEL: Final = {"calculator", "arguments", "stress", "initial_magmoms"}
"""Settings that identify the level of theory; the others concern speed, effort and checks."""

SETUP_EXCEPTIONS: Final = (
    CalculatorSetupError,  # ASE: parameters or installation
    NotImplementedError,  # ASE: a property, or (EMT) an element, that the calculator does not have
    ImportError,  # a package that the calculator imports late
    FileNotFoundError,  # an executable, basis or pseudopotential
    PermissionError,
)
"""Exceptions which mean that a calculator can never work as configured."""

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
"""Exceptions that a calculator may raise for a single geometry, in addition to those of its own package."""


class CalculatorSettings(CommonSettings):
    """An ASE calculator, and how a failed calculation is recognised.

    Many calculators continue from their previous density. For resumed runs that are bit-identical, set
    `reuse_calculator` to false; then every label starts without a previous density and takes longer.
    """

    calculator: str = Field(
        description="Import path of an ASE calculator, such as tblite.ase:TBLite, or my_calc:make of a my_calc.py "
        "beside the configuration."
    )
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Keyword arguments of the calculator; a mapping {calculator: PATH, arguments: {...}} among them "
        "becomes a calculator itself.",
    )
    retries: tuple[dict[str, JsonValue], ...] = Field(
        default=({},),
        description="Changes of engine.arguments for each further attempt, which has a new calculator; the default is "
        "one plain retry. Solver settings only: a change of the level of theory would mix labels.",
    )
    retry_exceptions: tuple[str, ...] = Field(
        default=(),
        description="Import paths of further exceptions by which the calculator says that it cannot label a geometry.",
    )
    reads: tuple[Literal["info", "initial", "arguments"], ...] = Field(
        default=(),
        description="Where a calculator without known keywords reads charge and spin from: atoms.info (charge, spin "
        "and multiplicity), the sums of initial charges and moments, or the arguments as they are.",
    )
    stress: bool = Field(
        default=False, description="Whether the calculator gives the stress of periodic structures; npt needs it."
    )
    initial_magmoms: tuple[float, ...] | None = Field(
        default=None, description="Initial magnetic moment of each atom, μB; null means those of the structure, if any."
    )
    reuse_calculator: bool = Field(
        default=True,
        description="Whether one calculator object is kept for all labels, so that it can start from its last result.",
    )
    output_file: str | None = Field(
        default=None,
        description="Path of the file in which the program reports its convergence; null means that no file is "
        "searched.",
    )
    unconverged_pattern: str | None = Field(
        default=None,
        description="Regular expression that, if found in engine.output_file, means that the calculation has not "
        "converged.",
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
    def gives_stress(self) -> bool:
        """True if the stress of periodic structures is calculated."""
        return self.stress

    @property
    def level(self) -> Level | None:
        """See `CommonSettings.level`: known for some calculators."""
        return of_calculator(self.calculator, self.arguments)

    @property
    def output_check(self) -> tuple[str, str] | None:
        """File and pattern of unconverged output; None if no file is searched."""
        if self.output_file is None or self.unconverged_pattern is None:
            return None
        return self.output_file, self.unconverged_pattern

    def __hash__(self) -> int:
        """Hash by value, since mappings have no hash of their own."""
        return hash(self.model_dump_json())


def level_hash(settings: CalculatorSettings, ase_version: str, package: str) -> str:
    """`Engine.settings_hash` of a calculator; it does not depend on the process in which it runs."""
    level = settings.model_dump(mode="json", include=LEVEL | ({"reads"} if settings.reads else set()))
    return hash_settings("ase", f"ase {ase_version}, {package}", level)


def describe(settings: CalculatorSettings) -> str:
    """The calculator as a Python expression."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in settings.arguments.items())
    return f"ASE {settings.calculator}({arguments})"


def lacking(settings: CalculatorSettings, missing: list[str]) -> str:
    """Message about a calculator that lacks some properties."""
    without = ", or engine.stress: false" if missing == ["stress"] else ""
    return (
        f"engine.calculator: {settings.calculator} has no {' and no '.join(missing)}; "
        f"allowed: one that has energy, forces{' and stress' if settings.stress else ''}{without}"
    )


def root_package(path: str) -> str:
    """First part of an import path."""
    return path.replace(":", ".").split(".", maxsplit=1)[0]


def all_arguments(settings: CalculatorSettings) -> tuple[dict[str, JsonValue], ...]:
    """Arguments of each attempt, the first one without changes."""
    return tuple({**settings.arguments, **changes} for changes in ({}, *settings.retries))

"""Interface of reference engines, and functions that engines have in common."""

import abc
import hashlib
import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from bayes_mlff.core.errors import DataError, EngineFailedError, EngineRetryError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.level import Level
from bayes_mlff.data.structure import Structure

T = TypeVar("T")


class CommonSettings(BaseModel):
    """Settings that every engine has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min_distance_angstrom: float = Field(
        default=0.5, ge=0.0, description="Smallest distance between two atoms that the reference is asked to label, Å."
    )
    subtract_net_force: bool = Field(
        default=False,
        description="Whether the mean force over all atoms is subtracted, which grids and plane waves do not make "
        "zero.",
    )

    @property
    def gives_stress(self) -> bool:
        """True if the labels of periodic structures come with a stress."""
        return False

    @property
    def level(self) -> Level | None:
        """Level of theory of the labels; None if it does not follow from the settings."""
        return None


class Settled(NamedTuple):
    """Charge, e, and multiplicity for which a label was calculated; None if they are not passed to the method."""

    charge: int | None = None
    multiplicity: int | None = None


class EngineResult(NamedTuple):
    """One finished reference calculation."""

    label: Label
    structure: Structure  # the evaluated geometry, as the engine reports it
    converged: bool  # as the engine reports it
    seconds: float  # wall clock, all attempts
    attempts: int  # 1 if the first try succeeded
    diagnostics: tuple[str, ...]  # one line for each failed attempt, then remarks on the successful one
    settled: Settled = Settled()

    def labelled(self, structure: Structure) -> Structure:
        """The requested structure with the charge and multiplicity for which it was labelled."""
        state = structure.electronic
        charge, multiplicity = self.settled
        return structure._replace(
            electronic=state._replace(
                charge=state.charge if charge is None else charge,
                multiplicity=state.multiplicity if multiplicity is None else multiplicity,
            )
        )


@runtime_checkable
class Engine(Protocol):
    """A reference method, which computes energy and forces of a structure.

    An engine is a context manager and may keep a state, such as a density, that speeds up the next call.
    """

    @property
    def settings_hash(self) -> str:
        """`sha256:` and the hash of name, version and all settings that affect labels."""
        ...

    @property
    def description(self) -> str:
        """Description of the level of theory in one line."""
        ...

    def check(self, structure: Structure) -> None:
        """Check, without an expensive calculation, whether structures like this one can be labelled.

        Raises:
          EngineSetupError: naming what is missing and the command that installs it.
          ConfigError: if a setting contradicts the structure.
        """
        ...

    def assumptions(self, structure: Structure) -> tuple[str, ...]:
        """Charge and spin that are used for this structure, and where they come from; one line each.

        Raises:
          ConfigError: if a setting contradicts the structure.
        """
        ...

    def label(self, structure: Structure) -> EngineResult:
        """Compute energy (eV), forces (eV/Å) and perhaps stress (eV/Å³, tension positive).

        Raises:
          EngineSetupError: the engine can never work as configured.
          EngineFailedError: this geometry has no label, after all retries; the engine remains usable.
        """
        ...

    def save_state(self) -> bytes | None:
        """Save everything besides the structure that the next label depends on; None if there is nothing."""
        ...

    def restore_state(self, state: bytes | None) -> None:
        """Restore the result of `save_state`, so that the next labels equal those of an uninterrupted run."""
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class EngineBase(abc.ABC):
    """Base class of engines: a context manager without state to save or resources to release.

    A new engine is one module with a sub-class of `CommonSettings` and a sub-class of this one, which implements the
    abstract methods and is constructed as in `registry.MakeEngine`; and one row of `registry.ENGINES`.
    """

    @property
    @abc.abstractmethod
    def settings_hash(self) -> str:
        """See `Engine.settings_hash`."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """See `Engine.description`."""

    @abc.abstractmethod
    def check(self, structure: Structure) -> None:
        """See `Engine.check`."""

    @abc.abstractmethod
    def assumptions(self, structure: Structure) -> tuple[str, ...]:
        """See `Engine.assumptions`."""

    @abc.abstractmethod
    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`."""

    def save_state(self) -> bytes | None:
        """See `Engine.save_state`; None."""
        return None

    def restore_state(self, state: bytes | None) -> None:
        """See `Engine.restore_state`.

        Raises:
          DataError: if there is a state, since this engine never saves one.
        """
        if state is not None:
            raise DataError(f"engine state: {self.description} has none; the state belongs to another engine")

    def close(self) -> None:  # noqa: B027 (an engine that holds nothing need not say so)
        """Release processes and memory."""

    def __enter__(self) -> Self:
        """Return this engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()


def with_geometry(
    structure: Structure, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> Structure:
    """The requested structure with the geometry that an engine reports as evaluated."""
    return structure._replace(
        numbers=np.array(numbers, np.int64),
        positions=np.array(positions, np.float64),
        cell=np.array(cell, np.float64),
        pbc=np.array(pbc, bool),
    )


def hash_settings(name: str, version: str, settings: Mapping[str, JsonValue]) -> str:
    """Identify a level of theory.

    Args:
      name: name of the engine.
      version: version of its program.
      settings: all settings that affect labels, but not those of speed and effort.

    Returns:
      `sha256:` and 64 hexadecimal digits over canonical JSON; with the prefix no reader of text files takes
      a hash such as 12e34 for a number.
    """
    text = json.dumps({"name": name, "version": version, "settings": settings}, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def retry(attempt: Callable[[int], T], attempts: int, *, description: str) -> tuple[T, tuple[str, ...]]:
    """Try several solver settings until one succeeds.

    Args:
      attempt: maps the number of the attempt, 0 to attempts - 1, to a result; raises EngineRetryError if the next
        attempt may succeed.
      attempts: number of attempts.
      description: description of the engine, for the error.

    Returns:
      The result, and why each earlier attempt failed.

    Raises:
      EngineFailedError: if no attempt succeeded, with the reason of each.
    """
    reasons: list[str] = []
    for number in range(attempts):
        try:
            return attempt(number), tuple(reasons)
        except EngineRetryError as error:
            reasons.append(f"attempt {number + 1} of {attempts}: {error}")
    raise EngineFailedError(f"{description}: this geometry could not be labelled; " + "; ".join(reasons))


def read_state(state: bytes, keys: set[str]) -> dict[str, Any]:
    """Read a state that an engine saved as a JSON object with exactly these keys.

    Raises:
      DataError: if it is anything else, such as the state of another engine.
    """
    try:
        saved = json.loads(state)
    except ValueError:
        saved = None
    if not isinstance(saved, dict) or set(saved) != keys:
        raise DataError("engine state: it was saved by another engine")
    return saved

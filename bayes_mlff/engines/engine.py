"""What every reference engine promises, and the checks that no engine is trusted to make itself."""

import hashlib
import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from ase.neighborlist import neighbor_list
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from bayes_mlff.core.errors import DataError, EngineFailedError, EngineRetryError
from bayes_mlff.data.labels import Label, check_label
from bayes_mlff.data.structure import Structure, to_ase

ECHO_TOLERANCE: Final = 1e-8
"""Largest difference, Å, between the geometry asked for and the one that an engine says it evaluated."""

T = TypeVar("T")


class CommonSettings(BaseModel):
    """What can be set for every engine."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min_distance_angstrom: float = Field(
        default=0.5, ge=0.0, description="Smallest distance between two atoms that the reference is asked to label, Å."
    )
    subtract_net_force: bool = Field(
        default=False,
        description="Whether the mean force over all atoms is subtracted, which grids and plane waves do not make "
        "zero.",
    )


class Settled(NamedTuple):
    """Charge, e, and multiplicity for which a label was calculated; None where the method is not told."""

    charge: int | None = None
    multiplicity: int | None = None


class EngineResult(NamedTuple):
    """One finished reference calculation."""

    label: Label
    structure: Structure  # the geometry that was evaluated, as the engine reports it
    converged: bool  # as the engine reports it
    seconds: float  # wall clock, all attempts
    attempts: int  # 1 if the first try succeeded
    diagnostics: tuple[str, ...]  # one line for each attempt that failed, then remarks on the one that did not
    settled: Settled = Settled()

    def labelled(self, structure: Structure) -> Structure:
        """The structure that was asked for, with charge and multiplicity for which its label holds."""
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
    """A reference method: from a structure to its energy and forces.

    An engine is a context manager and may keep a state, such as a density, that speeds up the next call.
    """

    @property
    def settings_hash(self) -> str:
        """`sha256:` and the hash of name, version and all settings that change labels."""
        ...

    @property
    def description(self) -> str:
        """The level of theory in one line."""
        ...

    def check(self, structure: Structure) -> None:
        """Find out cheaply whether structures like this one can be labelled at all.

        Raises:
          EngineSetupError: naming what is missing and the command that installs it.
          ConfigError: if a setting contradicts the structure.
        """
        ...

    def assumptions(self, structure: Structure) -> tuple[str, ...]:
        """What is taken for granted about the electrons of this structure, and who said so; one line each.

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
        """Everything that the next label depends on besides its structure; None if there is no such thing."""
        ...

    def restore_state(self, state: bytes | None) -> None:
        """Continue from `save_state`, so that the next labels are those of the uninterrupted run."""
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def with_geometry(
    structure: Structure, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> Structure:
    """The structure that was asked for, with the geometry that an engine says it evaluated."""
    return structure._replace(
        numbers=np.array(numbers, np.int64),
        positions=np.array(positions, np.float64),
        cell=np.array(cell, np.float64),
        pbc=np.array(pbc, bool),
    )


def hash_settings(name: str, version: str, settings: Mapping[str, JsonValue]) -> str:
    """Identify a level of theory.

    Args:
      name: of the engine.
      version: of the program behind it.
      settings: whatever changes labels; settings of speed and effort stay out.

    Returns:
      `sha256:` and 64 hexadecimal digits over canonical JSON; the prefix keeps a reader of text files from
      taking a hash such as 12e34 for a number.
    """
    text = json.dumps({"name": name, "version": version, "settings": settings}, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def climb(attempt: Callable[[int], T], attempts: int, *, description: str) -> tuple[T, tuple[str, ...]]:
    """Try one solver setting after another until one succeeds.

    Args:
      attempt: from the rung, 0 to attempts - 1, to a result; EngineRetryError if the next may help.
      attempts: number of rungs.
      description: of the engine, for the error.

    Returns:
      The result, and why each earlier attempt failed.

    Raises:
      EngineFailedError: with every attempt's reason, if no rung succeeded.
    """
    reasons: list[str] = []
    for rung in range(attempts):
        try:
            return attempt(rung), tuple(reasons)
        except EngineRetryError as error:
            reasons.append(f"attempt {rung + 1} of {attempts}: {error}")
    raise EngineFailedError(f"{description}: this geometry could not be labelled; " + "; ".join(reasons))


def refuse_close_contacts(structure: Structure, min_distance_angstrom: float) -> None:
    """Refuse a geometry on which a reference calculation would be wasted.

    Args:
      structure: periodic images, an atom's own included, count as neighbours.
      min_distance_angstrom: smallest distance accepted, Å; 0 accepts everything.

    Raises:
      EngineFailedError: naming the closest pair and its distance.
    """
    if min_distance_angstrom <= 0.0:
        return
    first, second, distance = neighbor_list("ijd", to_ase(structure), min_distance_angstrom)
    if distance.size == 0:
        return
    k = int(np.argmin(distance))
    symbols = to_ase(structure).get_chemical_symbols()
    i, j = int(first[k]), int(second[k])
    raise EngineFailedError(
        f"atoms {i} ({symbols[i]}) and {j} ({symbols[j]}) are {distance[k]:.3f} Å apart; allowed: at least "
        f"{min_distance_angstrom} Å; the reference calculation was not started"
    )


def verified_label(
    engine: Engine, structure: Structure, *, min_distance_angstrom: float, subtract_net_force: bool = False
) -> EngineResult:
    """Label a structure and believe nothing.

    Args:
      engine: any engine.
      structure: what to label.
      min_distance_angstrom: see `refuse_close_contacts`.
      subtract_net_force: remove the mean force from every atom.

    Returns:
      The engine's result, known to be converged, finite, of the right shape and for this very geometry.

    Raises:
      EngineFailedError: if atoms are too close, the engine failed, or its answer fails one of these checks.
      EngineSetupError: the engine can never work as configured.
    """
    refuse_close_contacts(structure, min_distance_angstrom)
    result = engine.label(structure)
    if not result.converged:
        raise EngineFailedError(f"{engine.description}: the engine reports an unconverged result; it is not a label")
    _refuse_other_geometry(structure, result.structure, engine.description)
    try:
        check_label(result.label, len(structure.numbers))
    except DataError as error:
        raise EngineFailedError(f"{engine.description}: unusable result: {error}") from error
    if not subtract_net_force:
        return result
    net = result.label.forces.mean(axis=0)
    note = f"mean force of {np.linalg.norm(net):.2e} eV/Å removed from every atom"
    label = result.label._replace(forces=result.label.forces - net)
    return result._replace(label=label, diagnostics=(*result.diagnostics, note))


def _refuse_other_geometry(asked: Structure, evaluated: Structure, description: str) -> None:
    """Raise EngineFailedError if an engine answered for another geometry."""
    stale = f"{description}: the result belongs to another geometry than the one asked for"
    if asked.positions.shape != evaluated.positions.shape or asked.cell.shape != evaluated.cell.shape:
        raise EngineFailedError(f"{stale}: there are {len(evaluated.numbers)} atoms, not {len(asked.numbers)}")
    if not np.array_equal(asked.numbers, evaluated.numbers) or not np.array_equal(asked.pbc, evaluated.pbc):
        raise EngineFailedError(f"{stale}: elements, their order or the periodic directions differ")
    for name, ours, theirs in (
        ("positions", asked.positions, evaluated.positions),
        ("cell", asked.cell, evaluated.cell),
    ):
        difference = float(np.abs(ours - theirs).max())
        if not difference <= ECHO_TOLERANCE:
            raise EngineFailedError(f"{stale}: {name} differ by {difference:.3g} Å; allowed: {ECHO_TOLERANCE} Å")


class VerifiedEngine:
    """An engine whose every label passed `verified_label` and is not an earlier label served again."""

    def __init__(self, engine: Engine, *, min_distance_angstrom: float, subtract_net_force: bool = False):
        self._engine = engine
        self._min_distance_angstrom = min_distance_angstrom
        self._subtract_net_force = subtract_net_force
        self._previous: EngineResult | None = None

    @property
    def settings_hash(self) -> str:
        """The engine's own hash, extended if the mean force is removed."""
        if not self._subtract_net_force:
            return self._engine.settings_hash
        return hash_settings("subtract_net_force", "1", {"engine": self._engine.settings_hash})

    @property
    def description(self) -> str:
        """The engine's own description."""
        return self._engine.description

    def check(self, structure: Structure) -> None:
        """See `Engine.check`."""
        self._engine.check(structure)

    def assumptions(self, structure: Structure) -> tuple[str, ...]:
        """See `Engine.assumptions`."""
        return self._engine.assumptions(structure)

    def label(self, structure: Structure) -> EngineResult:
        """See `verified_label`.

        Raises:
          EngineFailedError: also if the numbers are exactly those of the previous, different geometry.
        """
        result = verified_label(
            self._engine,
            structure,
            min_distance_angstrom=self._min_distance_angstrom,
            subtract_net_force=self._subtract_net_force,
        )
        if self._previous is not None and _is_served_again(self._previous, result):
            raise EngineFailedError(
                f"{self.description}: energy and all forces equal those of the previous, different geometry "
                "to the last bit; the calculation was not run"
            )
        self._previous = result
        return result

    def save_state(self) -> bytes | None:
        """See `Engine.save_state`."""
        return self._engine.save_state()

    def restore_state(self, state: bytes | None) -> None:
        """See `Engine.restore_state`."""
        self._engine.restore_state(state)

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()

    def __enter__(self) -> Self:
        """Return this engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()


def _is_served_again(before: EngineResult, now: EngineResult) -> bool:
    """True for bit-equal energies and non-zero forces of geometries that are no translates."""
    if before.label.forces.shape != now.label.forces.shape or before.label.energy != now.label.energy:
        return False
    if not np.array_equal(before.label.forces, now.label.forces) or not now.label.forces.any():
        return False
    moved = now.structure.positions - before.structure.positions
    deformed = np.abs(now.structure.cell - before.structure.cell).max()
    return bool(max(np.abs(moved - moved[:1]).max(), deformed) > ECHO_TOLERANCE)

"""Checks that are made on the labels of every engine."""

from typing import Final

import numpy as np
from ase.neighborlist import neighbor_list

from bayes_mlff.core.errors import DataError, EngineFailedError
from bayes_mlff.data.labels import check_label
from bayes_mlff.data.structure import Structure, to_ase
from bayes_mlff.engines.engine import Engine, EngineBase, EngineResult, hash_settings

ECHO_TOLERANCE: Final = 1e-8
"""Largest difference, Å, between the requested geometry and the one that an engine reports as evaluated."""


def refuse_close_contacts(structure: Structure, min_distance_angstrom: float) -> None:
    """Refuse a geometry with atoms so close that a reference calculation would be wasted.

    Args:
      structure: the geometry; periodic images count as neighbours, also those of the same atom.
      min_distance_angstrom: smallest accepted distance, Å; 0 accepts everything.

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
    """Label a structure and check the result.

    Args:
      engine: any reference method.
      structure: the structure to label.
      min_distance_angstrom: see `refuse_close_contacts`.
      subtract_net_force: subtract the mean force from every atom.

    Returns:
      The engine's result; it is converged, finite, of the right shape and for exactly this geometry.

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


class VerifiedEngine(EngineBase):
    """An engine whose labels are checked by `verified_label` and must differ from the previous label."""

    def __init__(self, engine: Engine, *, min_distance_angstrom: float, subtract_net_force: bool = False):
        self._engine = engine
        self._min_distance_angstrom = min_distance_angstrom
        self._subtract_net_force = subtract_net_force
        self._previous: EngineResult | None = None

    @property
    def settings_hash(self) -> str:
        """The engine's own hash, extended if the mean force is subtracted."""
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
          EngineFailedError: also if the result is exactly that of the previous, different geometry.
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


def _is_served_again(before: EngineResult, now: EngineResult) -> bool:
    """True if energy and non-zero forces are bit-equal although the geometries are not translations of each other."""
    if before.label.forces.shape != now.label.forces.shape or before.label.energy != now.label.energy:
        return False
    if not np.array_equal(before.label.forces, now.label.forces) or not now.label.forces.any():
        return False
    moved = now.structure.positions - before.structure.positions
    deformed = np.abs(now.structure.cell - before.structure.cell).max()
    return bool(max(np.abs(moved - moved[:1]).max(), deformed) > ECHO_TOLERANCE)

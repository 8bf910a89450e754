"""Requests labels from the reference: stored labels are reused, new ones are checked, refused ones are stored."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.core.errors import ConfigError, DataError, EngineFailedError, EngineSetupError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.label_notes import COMPARED, GIVEN, REJECTED
from bayes_mlff.data.readings import Reading
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import Engine, EngineResult, Settled
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.otf import agreement, plausibility
from bayes_mlff.otf.criteria import threshold_ev
from bayes_mlff.otf.given import NOTHING, Given
from bayes_mlff.otf.plausibility import Expectation
from bayes_mlff.otf.problem import Problem
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.interruption import Interruption

ATTEMPTS = 2
"""Number of calls for one geometry; if no label is plausible then, it counts as a failure."""

SAME_GEOMETRY = 1e-3
"""Å. A resumed run repeats up to a chunk of steps, and another processor rounds differently."""


class Request(NamedTuple):
    """A geometry to be labelled, and what the model has said of it."""

    step: int  # MD step
    reason: str  # 'initial', 'uncertain' or 'audit'; a label that the run was started from has 'given'
    structure: Structure
    pretrained: float  # energy of the model before fine-tuning, eV
    offset_ev: float  # added to energies of the reference; without effect where it follows from this label
    law: ErrorLaw  # of errors of the energy, when the label is requested
    predictive: Predictive | None = None  # of the ensemble; None for the structure that defines the energy offset
    readings: tuple[Reading, ...] = ()  # values of the triggers' statistics at this step, and their limits
    asked: tuple[str, ...] = ()  # names of the triggers that request the label


class Reference:
    """The engine of a run and all labels that it has made so far."""

    def __init__(
        self,
        problem: Problem,
        engine: Engine,
        run: RunDirectory,
        interruption: Interruption | None = None,
        given: Given = NOTHING,
    ):
        """Read the labels of a run.

        Raises:
          ConfigError: if they were made with another method.
          DataError: if a file of labels is damaged.
        """
        self._problem, self._engine, self._run = problem, engine, run
        self._interruption, self._given = interruption or Interruption(), given
        self._refused_path = run.path / REJECTED
        self.labels = {r.step: r for r in self._recovered(run.dataset)}
        self.refused = self._recovered(self._refused_path, repeats=True)
        self.compared = self._recovered(run.path / COMPARED)

    def _recovered(self, path: Path, *, repeats: bool = False) -> list[LabelRecord]:
        if not path.exists():
            return []
        torn = dataset.recover(path)
        if torn.bytes_removed:
            self._run.log(
                "dataset_recovered", file=path.name, frames=torn.frames_kept, bytes_removed=torn.bytes_removed
            )
        records = dataset.read(path, repeats=repeats)
        if any(record.engine_hash != self._engine.settings_hash for record in records):
            allowed = "the method with which the labels of this run were made; start another run for another method"
            raise ConfigError("engine", self._engine.description, allowed)
        return records

    @property
    def labelled(self) -> Structure:
        """A labelled structure, with its electronic state; the initial structure if there are no labels."""
        return next((r.structure for r in self.labels.values()), self._problem.structure)

    def calls_before(self, step: int) -> list[LabelRecord]:
        """All reference calculations before a step, also of labels that were refused or only compared, by time."""
        paid = [*(r for r in self.labels.values() if r.reason != GIVEN), *self.refused, *self.compared]
        return sorted((r for r in paid if r.step < step), key=lambda r: r.step)

    def values_before(self, step: int) -> dict[str, list[float]]:
        """Values of the triggers' statistics at the labels up to a step, by name."""
        found: dict[str, list[float]] = {}
        for reading in (each for r in self.labels.values() if r.step <= step for each in r.readings):
            found.setdefault(reading.name, []).append(reading.value)
        return found

    def confirm(self, first: Structure) -> None:
        """Compare given labels of unknown origin with the reference, which calculates one of each origin again.

        If the first structure of the run is among them, there is nothing to do before it is labelled; see `agree`.
        Of the others that whose forces are of median size is chosen.

        Raises:
          ConfigError: if they differ.
          EngineFailedError, EngineSetupError: if there is no label.
          RunInterruptedError: if the end of the run was requested.
        """
        for number, doubted in enumerate(self._given.doubted(self._engine.settings_hash)):
            if any(same_geometry(record.structure, first) for record in doubted):
                continue
            middle = sorted(doubted, key=lambda r: float(np.mean(np.square(r.label.forces))))[len(doubted) // 2]
            made = next((r for r in self.compared if same_geometry(r.structure, middle.structure)), None)
            self.agree(made or self._compared(middle, first, number))

    def _compared(self, given: LabelRecord, first: Structure, number: int) -> LabelRecord:
        """The label of the reference for the geometry of a given one, stored when this returns."""
        structure = first._replace(positions=given.structure.positions, cell=given.structure.cell)
        self._interruption.before_label(self._longest_s())
        with self._interruption.patience(0.0):
            result = self._engine.label(structure)
        made = given._replace(
            structure=result.labelled(structure),
            label=result.label,
            step=number,
            reason="compared",
            engine_hash=self._engine.settings_hash,
            engine_seconds=result.seconds,
        )
        dataset.append(self._run.path / COMPARED, made)
        self.compared.append(made)
        self._run.log("label_compared", engine_s=round(result.seconds, 3))
        self._engine.restore_state(None)  # the run itself begins as without it
        return made

    def agree(self, made: LabelRecord) -> None:
        """Compare a label of the reference with given ones of unknown origin of the same geometry, if there are some.

        Raises:
          ConfigError: naming both numbers, if they differ.
        """
        doubted = (r for each in self._given.doubted(self._engine.settings_hash) for r in each)
        for record in doubted:
            if made.reason != GIVEN and same_geometry(record.structure, made.structure):
                agreement.check(record, made.label, self._problem)

    def _known(self, structure: Structure) -> LabelRecord | None:
        """A given label of this geometry that the reference has made; None if there is none."""
        own = (r for r in self._given.labels if r.engine_hash == self._engine.settings_hash)
        return next((record for record in own if same_geometry(record.structure, structure)), None)

    def ask(self, request: Request) -> LabelRecord:
        """Get a plausible label: one that is known, else from the engine; stored when this returns.

        Raises:
          EngineFailedError: if there is no label, or none that is plausible.
          EngineSetupError: if the engine can never work as configured.
          DataError: if the label of this step belongs to another geometry.
          RunInterruptedError: if the end of the run was requested, or the calculation would not end in time.
        """
        found = self.known(request)
        if found is not None:
            return found
        refused = self._refusals(request)
        while len(refused) < ATTEMPTS:
            if refused:
                self._engine.restore_state(None)  # the previous density or moments may be the cause
            self._interruption.before_label(self._longest_s())
            with self._interruption.patience(0.0):
                result = self._engine.label(request.structure)
            record = self.believed(request, result)
            if record is not None:
                return record
            refused = self._refusals(request)
        self._engine.restore_state(None)
        raise EngineFailedError(f"{self._engine.description}: label not believed: {refused[-1]}")

    def known(self, request: Request) -> LabelRecord | None:
        """The label of a request that need not be calculated, stored when this returns; None if there is none.

        Raises:
          DataError: if the label of this step belongs to another geometry.
        """
        paid = self.labels.get(request.step)
        if paid is not None:
            if not same_geometry(paid.structure, request.structure):
                raise DataError(f"{self._run.dataset}: the label of step {request.step} belongs to another geometry")
            return paid
        given = self._known(request.structure)
        if given is None:
            return None
        state = given.structure.electronic
        settled = Settled(state.charge, state.multiplicity)
        free = EngineResult(given.label, request.structure, True, 0.0, 0, (), settled)
        record = self._record(request._replace(reason=GIVEN), free)
        return self._stored(record, {"step": request.step, "engine_s": 0.0, "attempts": 0})

    def believed(self, request: Request, result: EngineResult) -> LabelRecord | None:
        """The label of a finished calculation, stored when this returns; None if it is not plausible and was refused.

        Raises:
          EngineSetupError: if the result lacks a stress that the dynamics needs.
        """
        step, record = request.step, self._record(request, result)
        against = self._objections(record, result, request.law)
        for remark in result.diagnostics:
            self._run.log("engine_remark", step=step, remark=remark)
        spent = {"step": step, "engine_s": round(result.seconds, 3), "attempts": result.attempts}
        if not against:
            return self._stored(record, spent)
        record = record._replace(reason=f"{request.reason}; " + "; ".join(against))
        dataset.append(self._refused_path, record, repeats=True)
        self.refused.append(record)
        self._run.log("label_refused", reason=record.reason, **spent)
        return None

    def _refusals(self, request: Request) -> list[str]:
        """Why earlier labels of this geometry were refused."""
        here = (r for r in self.refused if r.step == request.step)
        return [r.reason for r in here if same_geometry(r.structure, request.structure)]

    def _stored(self, record: LabelRecord, spent: Mapping[str, Any]) -> LabelRecord:
        """Store a label, after which it may be used."""
        dataset.append(self._run.dataset, record)
        self.labels[record.step] = record
        self._run.log("label", reason=record.reason, asked=list(record.asked), **spent)
        return record

    def _longest_s(self) -> float:
        """Longest calculation so far, s."""
        return max((r.engine_seconds for r in (*self.labels.values(), *self.refused)), default=0.0)

    def _record(self, request: Request, result: EngineResult) -> LabelRecord:
        problem, label, step = self._problem, result.label, request.step
        scale, predictive = problem.scale(request.offset_ev), request.predictive
        if problem.integrator.needs_stress and label.stress is None:
            raise EngineSetupError(
                f"step {step}: {self._engine.description} gave no stress; allowed: an engine that does, with "
                "engine.stress on, or a dynamics.ensemble other than 'npt'"
            )
        matched = scale if predictive is not None else scale.matching(request.pretrained, label.energy)
        record = LabelRecord(
            structure=result.labelled(request.structure),
            label=label,
            step=step,
            time_fs=step * problem.config.dynamics.timestep_fs,
            reason=request.reason,
            energy_offset=matched.offset_ev,
            pretrained_energy=request.pretrained,
            engine_hash=self._engine.settings_hash,
            engine_seconds=result.seconds,
            asked=request.asked,
        )
        if predictive is None:
            return record
        sigma = float(predictive.energy_sigma[0])
        exceeds = error_law.exceedance_probability(request.law, sigma, threshold_ev(problem, step))
        record = record._replace(
            predicted_energy_mean=scale.network_to_total(float(predictive.energy_mean[0])),
            predicted_energy_sigma=sigma,
            predicted_forces_mean=np.asarray(predictive.forces_mean[0], np.float64),
            predicted_forces_sigma=np.asarray(predictive.forces_sigma[0], np.float64),
            readings=request.readings,
            confidence=1.0 - float(exceeds),
        )
        if predictive.stress_mean is None or predictive.stress_sigma is None:
            return record
        return record._replace(
            predicted_stress_mean=np.asarray(predictive.stress_mean[0], np.float64),
            predicted_stress_sigma=np.asarray(predictive.stress_sigma[0], np.float64),
        )

    def _objections(self, record: LabelRecord, result: EngineResult, law: ErrorLaw) -> tuple[str, ...]:
        mean, sigma = record.predicted_energy_mean, record.predicted_energy_sigma
        forces, forces_sigma = record.predicted_forces_mean, record.predicted_forces_sigma
        if mean is None or sigma is None or forces is None or forces_sigma is None:
            return ()
        guards, factor = self._problem.config.guards, float(error_law.scale(law, sigma)) / sigma
        return plausibility.objections(
            record.structure,
            record.label,
            scale=self._problem.scale(record.energy_offset),
            threshold_ev=float(threshold_ev(self._problem, record.step)),
            expected=Expectation(mean, sigma * factor, forces, forces_sigma * factor),
            before=max((r for r in self.labels.values() if r.step < record.step), key=lambda r: r.step, default=None),
            remarks=result.diagnostics,
            sigmas=guards.label_sigmas,
            thresholds=guards.label_thresholds,
        )


def same_geometry(left: Structure, right: Structure) -> bool:
    """Whether two geometries are the same to `SAME_GEOMETRY`, up to lattice translations of single atoms."""
    close = partial(np.allclose, rtol=0.0, atol=SAME_GEOMETRY)
    if not np.array_equal(left.numbers, right.numbers) or not close(left.cell, right.cell):
        return False
    apart = left.positions - right.positions
    periodic = np.asarray(left.pbc, bool)
    if periodic.any():
        vectors = left.cell[periodic]
        apart = apart - np.round(apart @ np.linalg.pinv(vectors)) @ vectors
    return close(apart, 0.0)

"""The on-the-fly loop: run dynamics until uncertain, call the reference, learn, finish the step, continue."""

import contextlib
import time

import jax
import numpy as np

from bayes_mlff.core.errors import (
    EngineError,
    EngineFailedError,
    RunDirectoryError,
    RunInterruptedError,
    RunStoppedError,
)
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.label_notes import GIVEN, INITIAL
from bayes_mlff.engines.engine import Engine
from bayes_mlff.ensemble import energy_scale
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.chunk import Stop
from bayes_mlff.md.integrators import MDState
from bayes_mlff.otf import artefact, audits, calibrating, carried, course, criteria, crowding, guards, storm
from bayes_mlff.otf.calibrating import Told
from bayes_mlff.otf.dynamics import Dynamics, Ran
from bayes_mlff.otf.first_state import first_state
from bayes_mlff.otf.given import NOTHING, Given
from bayes_mlff.otf.learning import Learner
from bayes_mlff.otf.problem import Problem, pretrained_energy, recording
from bayes_mlff.otf.reference import Reference, Request, same_geometry
from bayes_mlff.otf.state import HostState, Observer, RunState, Setback, recentred
from bayes_mlff.runs import checkpoint
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.interruption import SAVING_S, Interruption


class Session:
    """The work of one process on one run."""

    def __init__(
        self,
        problem: Problem,
        engine: Engine,
        run: RunDirectory,
        observer: Observer,
        interruption: Interruption | None = None,
        given: Given = NOTHING,
    ):
        self.problem, self.engine, self.run, self.observer = problem, engine, run, observer
        self.interruption, self._given = interruption or Interruption(), given
        self._learner = Learner(problem, run, observer, self.interruption)
        self._pretrained_energy = pretrained_energy(problem)
        self._dynamics = Dynamics(problem)
        self._reference = Reference(problem, engine, run, self.interruption, given)
        self._files = course.Files(problem, run, recording(problem))
        self._artefact = artefact.Artefact(problem.config, problem.potential, run)

    # -- from nothing, or from a checkpoint ------------------------------------------------------------------

    def start(self) -> RunState:
        """Label the initial structure, set the energy offset and sample the first chains, with what is given."""
        config, structure = self.problem.config, self.problem.structure
        key_md, key_params, key_chains = jax.random.split(jax.random.key(config.seed), 3)
        state = first_state(self.problem, key_md, key_params, key_chains)
        pretrained = self._pretrained_energy(state.device.neighbors.graph)
        self.observer.working("reference calculation of the first structure")
        self._reference.confirm(structure)
        first = Request(0, INITIAL, structure, pretrained, state.host.offset_ev, state.host.calibration)
        record = self._reference.ask(first)
        self._reference.agree(record)
        scale = self.problem.scale().matching(pretrained, record.label.energy)
        clock = audits.draw(config.seed, 0, 0, config.audit_steps)
        trusted = scale.reference_to_total(record.label.energy)
        state = state._replace(host=state.host._replace(offset_ev=scale.offset_ev, trusted_ev=trusted, clock=clock))
        self.observer.label(step=0, reason=record.reason, error_ev=None, sigma_ev=None, seconds=record.engine_seconds)
        state = self._learn(self._with_given(state, record, key_params), record)
        md = course.begun(state.device.md, record.label)
        state = state._replace(device=state.device._replace(md=md, trusted=md, engine=self._engine_state()))
        self._commit(state)
        return state

    def _with_given(self, state: RunState, first: LabelRecord, key: jax.Array) -> RunState:
        """The state before its first update with the labels and the samples that the run was given."""
        given = self._given
        if not given.labels and given.ensemble is None:
            return state
        if given.ensemble is not None:
            params = carried.parameters(given.ensemble, self.problem, state.host.offset_ev, jax.random.fold_in(key, 1))
            state = state._replace(device=state.device._replace(params=params))
        for known in given.labels:
            if not same_geometry(known.structure, first.structure):
                state = self._learner.add(state, known)
        self.run.log("started_from", labels=len(given.labels), ensemble=given.ensemble is not None)
        return state

    def resume(self) -> RunState:
        """Continue from the newest intact checkpoint, or start if there is none yet."""
        if not any(self.run.checkpoints.glob("*.ckpt")):
            return self.start()
        arrays, metadata, remarks = checkpoint.newest(self.run.checkpoints)
        for remark in remarks:
            self.run.log("checkpoint_skipped", remark=remark)
        key = jax.random.key(0)
        template = first_state(self.problem, key, key, key)
        device = checkpoint.restore(template.device, arrays)
        host = HostState.from_json(metadata)
        if device.md.position.shape != template.device.md.position.shape:
            raise RunDirectoryError("checkpoint: another number of atoms than the configured structure")
        host = host._replace(clock=course.kept_up(self.problem, host, host.step))
        self.run.truncate(metadata["sizes"])
        self.engine.restore_state(device.engine.tobytes() or None)
        self.run.log("resumed", step=host.step)
        state = RunState(device, host)
        self._artefact.keep(state, self._reference.labelled)
        return state

    # -- the loop ---------------------------------------------------------------------------------------------

    def finish(self, state: RunState) -> RunState:
        """Run until the schedule ends.

        Raises:
          RunStoppedError: if the run cannot continue without a decision of the user.
          EngineError: if the reference gave no label.
          RunInterruptedError: if the end of the run was requested.
        """
        n_steps = self.problem.config.n_steps
        self.run.log("run_started", step=state.host.step, n_steps=n_steps)
        try:
            while state.host.step < n_steps:
                self.interruption.check(state.host.step, n_steps)
                state = self.advance(state)
        except (RunStoppedError, RunInterruptedError, EngineError) as error:
            if isinstance(error, RunStoppedError):
                self.run.log("stopped", step=state.host.step, reason=str(error))
            with contextlib.suppress(RunDirectoryError):  # what ended the run matters more than one more copy
                artefact.publish(self.run)
            raise
        artefact.publish(self.run)
        self.run.log("finished", step=state.host.step, labels=int(state.device.training_set.count))
        return state

    def advance(self, state: RunState) -> RunState:
        """Run one chunk and act on its stop bits."""
        started = time.perf_counter()
        state = recentred(state)
        ran = self._run(state)
        chunk, step = ran.chunk, state.host.step + ran.steps
        if ran.tripped is not None:
            return self._roll_back(state, ran, Setback(step, "guard", ran.tripped))
        if Stop.NEIGHBOR_OVERFLOW in ran.stop:
            return self._grow_neighbors(state, chunk.md)
        seconds = time.perf_counter() - started
        self.observer.chunk(step=step, steps=ran.steps, seconds=seconds, readings=ran.readings)
        self._files.chunk(step, ran, seconds)
        anchor = guards.anchored(self.problem.config, state.host, chunk, ran.steps - ran.labelled)
        device = state.device._replace(md=chunk.md, neighbors=chunk.neighbors)
        moved = RunState(device, state.host._replace(step=step, anchor=anchor))
        if ran.labelled:
            try:
                moved = self._intervene(moved, ran)
            except EngineFailedError as error:
                return self._roll_back(state, ran, Setback(step, "reference", str(error)))
        unsound = guards.not_finite(moved)
        if unsound == ("md",):
            return self._roll_back(state, ran, Setback(step, "guard", guards.UNSOUND))
        if unsound:
            raise RunStoppedError(
                f"step {step}: {', '.join(unsound)} not finite; the run stands at step {state.host.step}; a "
                "smaller sampler.step_size usually helps: change it and resume"
            )
        last_ev = moved.host.trusted_ev if ran.labelled else None
        self._files.steps(state.host, ran, ran.steps, moved.device.md, last_ev)
        self._commit(moved)
        return moved

    def triggers(self, host: HostState) -> tuple[Trigger, ...]:
        """The triggers with their limits in the next chunk."""
        return criteria.triggers(self.problem, host)

    def _run(self, state: RunState) -> Ran:
        ahead = course.ahead(self.problem, state, self._reference, self.triggers(state.host))
        return self._dynamics.run(state, ahead)

    def _roll_back(self, state: RunState, ran: Ran, setback: Setback) -> RunState:
        """Discard the last step of a chunk; in its place, return to the trusted state.

        Raises:
          RunStoppedError: if the configuration says so, or after too many roll-backs.
        """
        back, last = course.returned(self.problem, state, setback, self._reference)
        back = back._replace(device=back.device._replace(engine=self._engine_state()))
        self.observer.notice(step=setback.step, text=f"back to step {last}: {setback.reason}")
        self._files.back(state.host, ran, back, last)
        self._commit(back)
        return back

    def _intervene(self, state: RunState, ran: Ran) -> RunState:
        """Label the geometry at which the dynamics stopped, learn, and finish the step with the reference forces."""
        host, config, chunk = state.host, self.problem.config, ran.chunk
        calls = self._reference.calls_before(host.step)
        if len(calls) >= config.max_labels:
            raise RunStoppedError(
                f"step {host.step}: max_labels = {config.max_labels} reached; raise it in the configuration and resume"
            )
        storm.refuse_storm(config.guards, calls, host.step, criteria.criteria(self.problem, host.step))
        self.observer.working("reference calculation")
        request = Request(
            host.step,
            "audit" if Stop.AUDIT in ran.stop else "uncertain",
            crowding.structure_of(self.problem, chunk.md, host),
            self._pretrained_energy(state.device.neighbors.graph),
            host.offset_ev,
            host.calibration,
            chunk.predictive,
            ran.readings,
            ran.asked,
        )
        record = self._reference.ask(request)
        learnt = record.reason == GIVEN  # before the first step, so that the error of the model says nothing
        if learnt:
            self.observer.notice(step=host.step, text="the label of this geometry is one that the run was started from")
        else:
            host = self._calibrated(host, ran, record)
        state = state._replace(host=course.trusted(self.problem, host, record))
        state = state if learnt else self._learn(state, record)
        md = course.finished(self.problem, chunk.md, record.label)
        return state._replace(device=state.device._replace(md=md, trusted=md, engine=self._engine_state()))

    def _calibrated(self, host: HostState, ran: Ran, record: LabelRecord) -> HostState:
        """Report the errors of the predictions and update the calibrations."""
        self.observer.label(
            step=host.step,
            reason=_why(ran),
            error_ev=energy_scale.error(record),
            sigma_ev=record.predicted_energy_sigma,
            seconds=record.engine_seconds,
        )
        told = Told(record, Stop.AUDIT in ran.stop, tuple(map(bool, np.asarray(ran.chunk.asked))))
        return calibrating.calibrated(self.problem, self.run, self.observer, host, told)

    def _learn(self, state: RunState, record: LabelRecord) -> RunState:
        return self._learner.learn(state, record)

    # -- small things ------------------------------------------------------------------------------------------

    def _grow_neighbors(self, state: RunState, crowded: MDState) -> RunState:
        state = crowding.with_room(self.problem, state, crowded)
        spec = state.host.spec
        self.run.log("neighbors_grown", step=state.host.step, capacity=spec.capacity, images=spec.images)
        return state

    def _commit(self, state: RunState) -> None:
        metadata = state.host.to_json() | {"sizes": self.run.sizes()}
        with self.interruption.patience(SAVING_S):
            self._artefact.keep(state, self._reference.labelled)
            checkpoint.write(self.run.checkpoints, state.host.step, state.device, metadata)

    def _engine_state(self) -> np.ndarray:
        return np.frombuffer(self.engine.save_state() or b"", np.uint8)


def _why(ran: Ran) -> str:
    """The reason for a label in words, with the triggers that requested it if the run has several."""
    reason = "audit" if Stop.AUDIT in ran.stop else "uncertain"
    return f"{reason}: {', '.join(ran.asked)}" if len(ran.triggers) > 1 and ran.asked else reason

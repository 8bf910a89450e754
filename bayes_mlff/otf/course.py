"""What one walker does between chunks of dynamics, in a run of its own and in a campaign alike."""

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.integrators import MDState
from bayes_mlff.otf import audits, criteria, guards
from bayes_mlff.otf.dynamics import Ahead, Ran
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.reference import Reference
from bayes_mlff.otf.state import HostState, RunState, Setback
from bayes_mlff.runs import recorder
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.recorder import Recording


def ahead(problem: Problem, state: RunState, reference: Reference, triggers: tuple[Trigger, ...]) -> Ahead:
    """The next chunk of a walker, after the labels that it has, with the limits that its triggers have there."""
    host, config = state.host, problem.config
    silent = silent_steps(problem, host, reference)
    steps = min(config.dynamics.chunk_steps, config.n_steps - host.step, silent or config.n_steps)
    audit, known = host.clock.due - host.step if host.clock.due else 0, reference.values_before(host.step)
    allowed = guards.limits(problem, state, steps=steps, triggers=triggers, audit=audit, known=known)
    return Ahead(steps, triggers, allowed, silent > 0)


def silent_steps(problem: Problem, host: HostState, reference: Reference) -> int:
    """Number of steps from here on in which no trigger may request a label; see `criteria.silent_steps`."""
    paid = [step for step, record in reference.labels.items() if record.reason == "uncertain"]
    return criteria.silent_steps(host, problem.config.min_steps_between_labels, reference.labels, paid)


def kept_up(problem: Problem, host: HostState, step: int) -> audits.Clock:
    """The clock of audits at a step."""
    config = problem.config
    return audits.kept_up(host.clock, config.seed, step, config.audit_steps)


def begun(md: MDState, label: Label) -> MDState:
    """The first state of a walker, with the forces of its first label, and the stress if that has one."""
    force, stress = _on_device(label, md)
    return md.set(force=force, stress=md.stress if stress is None else stress)


def finished(problem: Problem, md: MDState, label: Label) -> MDState:
    """The state at the end of a step with the forces of the reference."""
    return problem.integrator.finish(md, *_on_device(label, md))


def _on_device(label: Label, md: MDState) -> tuple[jax.Array, jax.Array | None]:
    """Forces [n, 3] eV/Å and stress [3, 3] eV/Å³ of a label (None if it has none) in the precision of the dynamics."""
    dtype = md.position.dtype
    return jnp.asarray(label.forces, dtype), None if label.stress is None else jnp.asarray(label.stress, dtype)


def trusted(problem: Problem, host: HostState, record: LabelRecord) -> HostState:
    """The values of a walker that has got a label of its present geometry."""
    trusted_ev = problem.scale(host.offset_ev).reference_to_total(record.label.energy)
    return host._replace(trusted_ev=trusted_ev, clock=kept_up(problem, host, host.step), anchor=None)


def returned(problem: Problem, state: RunState, setback: Setback, reference: Reference) -> tuple[RunState, int]:
    """The trusted state with new velocities, at the step of a setback, and the step of the label that it follows.

    Raises:
      RunStoppedError: if the configuration says so, or after too many of them.
    """
    host = state.host
    last = max((step for step in reference.labels if step < setback.step), default=0)
    guards.permit(problem.config.guards, host, setback, last)
    md = guards.back(problem, state.device.trusted, setback.step, len(host.setbacks))
    around = guards.neighbors_of(md, state.device.neighbors, host.spec)
    clock, setbacks = kept_up(problem, host, setback.step), (*host.setbacks, setback)
    host = host._replace(step=setback.step, clock=clock, anchor=None, setbacks=setbacks)
    return RunState(state.device._replace(md=md, neighbors=around), host), last


class Files:
    """Events, rows and frames of one walker."""

    def __init__(self, problem: Problem, run: RunDirectory, constants: Recording):
        self._problem, self.run, self._constants = problem, run, constants

    def chunk(self, step: int, ran: Ran, seconds: float) -> None:
        """Log a chunk that ended at `step`."""
        drift = recorder.drift(ran.chunk, ran.steps - ran.labelled)
        numbers = {"step": step, "steps": ran.steps, "seconds": round(seconds, 4)}
        self.run.log("chunk", **numbers, stop=int(ran.stop), drift_ev=drift)

    def back(self, before: HostState, ran: Ran, after: RunState, trusted_step: int) -> None:
        """Log a return to the trusted state, and write the steps of the chunk that led to it."""
        setbacks = after.host.setbacks
        self.run.log("rolled_back", **setbacks[-1]._asdict(), trusted_step=trusted_step, rollbacks=len(setbacks))
        md = after.device.md
        ran = ran._replace(chunk=guards.rewritten(ran.chunk, md))
        self.steps(before, ran, ran.steps, md, before.trusted_ev)

    def steps(
        self, before: HostState, ran: Ran, steps: int, md: MDState | None = None, last_ev: float | None = None
    ) -> None:
        """Write rows and frames of a chunk.

        Args:
          before: state before its first step.
          ran: the chunk.
          steps: number of its steps to write.
          md: state after the last of them, if that was finished with other forces.
          last_ev: energy of the last of them, eV, if it is not that of the model.
        """
        if steps < 1:
            return
        potential = np.array(ran.chunk.thermo.potential[:steps], np.float64)
        potential = self._problem.scale().network_to_total(potential)
        if last_ev is not None:
            potential[-1] = last_ev
        stretch = recorder.Stretch(before.step, before.origin, ran.chunk, potential, md, ran.triggers)
        recorder.record(self.run, self._constants, stretch)

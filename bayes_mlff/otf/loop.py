"""The on-the-fly loop: run until uncertain, ask the reference, learn, finish the step, go on."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import DataError, EngineFailedError, RunDirectoryError, RunStoppedError
from bayes_mlff.data import neighbors
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.graph import Graph, pad_slots
from bayes_mlff.data.labels import Label
from bayes_mlff.data.neighbors import NeighborSpec
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import Engine
from bayes_mlff.ensemble import calibration
from bayes_mlff.md.chunk import Chunk, RunChunk, Stop
from bayes_mlff.md.integrators import MDState
from bayes_mlff.otf import audits, calibrating, guards, storm
from bayes_mlff.otf.calibrating import Told
from bayes_mlff.otf.problem import (
    Problem,
    chain_update,
    dynamics_chunk,
    ensemble,
    first_dynamics,
    first_origin,
    first_parameters,
    learning_graph,
    pretrained_energy,
    recording,
)
from bayes_mlff.otf.reference import Reference
from bayes_mlff.otf.state import DeviceState, HostState, Observer, RunState, Setback, recentred
from bayes_mlff.posterior import training_set as training
from bayes_mlff.runs import checkpoint, recorder
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.interruption import SAVING_S, Interruption

INITIAL_CAPACITY = 64
"""Label slots to begin with; doubled when full, at the price of one compilation."""


class Session:
    """One process working on one run."""

    def __init__(
        self,
        problem: Problem,
        engine: Engine,
        run: RunDirectory,
        observer: Observer,
        interruption: Interruption | None = None,
    ):
        self.problem, self.engine, self.run, self.observer = problem, engine, run, observer
        self.interruption = interruption or Interruption()
        self._update, self._ensemble = chain_update(problem), ensemble(problem)
        self._pretrained_energy = pretrained_energy(problem)
        self._chunk: tuple[NeighborSpec, RunChunk] | None = None
        self._reference = Reference(problem, engine, run, self.interruption)
        self._recording = recording(problem)

    # -- from nothing, or from a checkpoint ------------------------------------------------------------------

    def start(self) -> RunState:
        """Label the initial structure, set the energy offset and sample the first chains."""
        config, structure = self.problem.config, self.problem.structure
        key_md, key_params, key_chains = jax.random.split(jax.random.key(config.seed), 3)
        state = self._template(key_md, key_params, key_chains)
        pretrained = self._pretrained_energy(state.device.neighbors.graph)
        self.observer.working("reference calculation of the first structure")
        record = self._reference.ask(0, "initial", structure, pretrained=pretrained, predictive=None, host=state.host)
        offset = pretrained - record.label.energy
        clock = audits.draw(config.seed, 0, 0, self._audit_steps)
        host = state.host._replace(offset_ev=offset, trusted_ev=record.label.energy + offset, clock=clock)
        state = state._replace(host=host)
        self.observer.label(step=0, reason="initial", error_ev=None, sigma_ev=None, seconds=record.engine_seconds)
        state = self._learn(state, record)
        force, stress = _on_device(record.label, state.device.md)
        md = state.device.md.set(force=force, stress=state.device.md.stress if stress is None else stress)
        state = state._replace(device=state.device._replace(md=md, trusted=md, engine=self._engine_state()))
        self._commit(state)
        return state

    def resume(self) -> RunState:
        """Continue from the newest intact checkpoint, or start if there is none yet."""
        if not any(self.run.checkpoints.glob("*.ckpt")):
            return self.start()
        arrays, metadata, remarks = checkpoint.newest(self.run.checkpoints)
        for remark in remarks:
            self.run.log("checkpoint_skipped", remark=remark)
        key = jax.random.key(0)
        template = self._template(key, key, key)
        device = checkpoint.restore(template.device, arrays)
        host = HostState.from_json(metadata)
        if device.md.position.shape != template.device.md.position.shape:
            raise RunDirectoryError("checkpoint: another number of atoms than the configured structure")
        clock = audits.kept_up(host.clock, self.problem.config.seed, host.step, self._audit_steps)
        host = host._replace(clock=clock)
        self.run.truncate(metadata["sizes"])
        self.engine.restore_state(device.engine.tobytes() or None)
        self.run.log("resumed", step=host.step)
        return RunState(device, host)

    def _template(self, key_md: jax.Array, key_params: jax.Array, key_chains: jax.Array) -> RunState:
        problem, config = self.problem, self.problem.config
        spec, state, md = first_dynamics(problem, key_md)
        params = first_parameters(problem, key_params)
        device = DeviceState(
            md,
            md,
            state,
            params,
            problem.chains.init(params, key_chains),
            training.allocate(learning_graph(problem, problem.structure, slack=1.1), INITIAL_CAPACITY),
            np.zeros(0, np.uint8),
        )
        prior = calibration.init(config.calibration.a, config.calibration.b)
        return RunState(device, HostState(0, 0.0, prior, spec, origin=first_origin(problem)))

    # -- the loop ---------------------------------------------------------------------------------------------

    def finish(self, state: RunState) -> RunState:
        """Run until the schedule ends.

        Raises:
          RunStoppedError: if the run cannot go on by itself.
          EngineError: if the reference gave no label.
          RunInterruptedError: if the run was asked to end.
        """
        n_steps = self.problem.config.n_steps
        self.run.log("run_started", step=state.host.step, n_steps=n_steps)
        while state.host.step < n_steps:
            self.interruption.check(state.host.step, n_steps)
            try:
                state = self.advance(state)
            except RunStoppedError as error:
                self.run.log("stopped", step=state.host.step, reason=str(error))
                raise
        self.run.log("finished", step=state.host.step, labels=int(state.device.training_set.count))
        return state

    def advance(self, state: RunState) -> RunState:
        """Run one chunk and do what its stop bits ask for."""
        started = time.perf_counter()
        state = recentred(state)
        host, device = state.host, state.device
        sigma_crit = self.sigma_crit(host)
        limit = min(self.problem.config.dynamics.chunk_steps, self.problem.config.n_steps - host.step)
        unasked = self._unasked_steps(host)
        if unasked:
            limit = min(limit, unasked)
        dtype = device.md.position.dtype
        audit = host.clock.due - host.step if host.clock.due else 0
        known = self._reference.sigmas_before(host.step)
        allowed = guards.limits(self.problem, state, steps=limit, sigma_crit=sigma_crit, audit=audit, known_sigma=known)
        chunk = self._run_chunk(host.spec)(
            device.params,
            device.md,
            device.neighbors,
            jnp.asarray(jnp.inf if unasked else sigma_crit, dtype),
            jnp.asarray(limit, jnp.int32),
            allowed,
        )
        stop, steps = Stop(int(chunk.stop)), int(chunk.steps)
        reason = guards.tripped(stop, chunk, allowed)
        if reason is not None:
            return self._roll_back(state, chunk, sigma_crit, Setback(host.step + steps, "guard", reason))
        if Stop.NEIGHBOR_OVERFLOW in stop:
            return self._grow_neighbors(state, chunk.md)
        sigma = float(chunk.predictive.energy_sigma[0])
        seconds = time.perf_counter() - started
        self.observer.chunk(
            step=host.step + steps, steps=steps, seconds=seconds, sigma_ev=sigma, sigma_crit_ev=sigma_crit
        )
        labelled = bool(stop & (Stop.UNCERTAIN | Stop.AUDIT))
        drift = recorder.drift(chunk, steps - labelled)
        self.run.log(
            "chunk", step=host.step + steps, steps=steps, seconds=round(seconds, 4), stop=int(stop), drift_ev=drift
        )
        anchor = guards.anchored(self.problem.config, host, chunk, steps - labelled)
        moved = RunState(
            device._replace(md=chunk.md, neighbors=chunk.neighbors),
            host._replace(step=host.step + steps, anchor=anchor),
        )
        potential = np.asarray(chunk.thermo.potential[:steps], np.float64) + self.problem.isolated_ev
        if labelled:
            try:
                moved = self._intervene(moved, chunk, sigma_crit, stop)
            except EngineFailedError as error:
                setback = Setback(moved.host.step, "reference", str(error))
                return self._roll_back(state, chunk, sigma_crit, setback)
            potential[-1] = moved.host.trusted_ev
        unsound = guards.not_finite(moved)
        if unsound == ("md",):
            return self._roll_back(state, chunk, sigma_crit, Setback(moved.host.step, "guard", guards.UNSOUND))
        if unsound:
            raise RunStoppedError(
                f"step {moved.host.step}: {', '.join(unsound)} not finite; the run stands at step {host.step}; a "
                "smaller sampler.step_size usually helps: change it and resume"
            )
        recorder.record(
            self.run, self._recording, host.step, host.origin, chunk, potential, moved.device.md, sigma_crit
        )
        self._commit(moved)
        return moved

    def _roll_back(self, state: RunState, chunk: Chunk, sigma_crit: float, setback: Setback) -> RunState:
        """Throw the last step of a chunk away, and take in its place the way back to the trusted state.

        Raises:
          RunStoppedError: if the configuration wants it, or the run has gone back too often.
        """
        host, problem = state.host, self.problem
        last = max((step for step in self._reference.labels if step < setback.step), default=0)
        guards.permit(problem.config.guards, host, setback, last)
        md = guards.back(problem, state.device.trusted, setback.step, len(host.setbacks))
        chunk = guards.rewritten(chunk, md)
        potential = np.asarray(chunk.thermo.potential[: int(chunk.steps)], np.float64) + problem.isolated_ev
        potential[-1] = host.trusted_ev
        clock = audits.kept_up(host.clock, problem.config.seed, setback.step, self._audit_steps)
        host = host._replace(step=setback.step, clock=clock, anchor=None, setbacks=(*host.setbacks, setback))
        around = guards.neighbors_of(md, state.device.neighbors, host.spec)
        device = state.device._replace(md=md, neighbors=around, engine=self._engine_state())
        back = RunState(device, host)
        self.observer.notice(step=setback.step, text=f"back to step {last}: {setback.reason}")
        self.run.log("rolled_back", **setback._asdict(), trusted_step=last, rollbacks=len(host.setbacks))
        recorder.record(self.run, self._recording, state.host.step, state.host.origin, chunk, potential, md, sigma_crit)
        self._commit(back)
        return back

    @property
    def _audit_steps(self) -> float:
        config = self.problem.config
        return config.audits.interval_ps * 1000.0 / config.dynamics.timestep_fs

    def sigma_crit(self, host: HostState) -> float:
        """Energy σ, eV, above which a geometry is labelled."""
        problem = self.problem
        sigma = calibration.critical_sigma(host.calibration, problem.threshold_ev, confidence=problem.config.confidence)
        return float(sigma)

    def _unasked_steps(self, host: HostState) -> int:
        """Steps from here on in which uncertainty asks for no label, since one was just learnt or gone back to.

        What uncertainty had asked for before a kill, and a longer silence was configured, is asked for again.
        """
        labels, between = self._reference.labels, self.problem.config.min_steps_between_labels
        last = max((step for step in (*labels, *(s.step for s in host.setbacks)) if step <= host.step), default=0)
        paid = (step for step, r in labels.items() if step > host.step and r.reason == "uncertain")
        ahead = min(paid, default=last + between + 1)
        return max(0, min(last + between, ahead - 1) - host.step)

    def _run_chunk(self, spec: NeighborSpec) -> RunChunk:
        if self._chunk is None or self._chunk[0] != spec:
            length = self.problem.config.dynamics.chunk_steps
            self._chunk = spec, dynamics_chunk(self.problem, spec, length)
        return self._chunk[1]

    def _intervene(self, state: RunState, chunk: Chunk, sigma_crit: float, stop: Stop) -> RunState:
        """Label the geometry at which MD stopped, learn, and finish the step with the reference forces."""
        host, config = state.host, self.problem.config
        calls = self._reference.calls_before(host.step)
        if len(calls) >= config.max_labels:
            raise RunStoppedError(
                f"step {host.step}: max_labels = {config.max_labels} reached; raise it in the configuration and resume"
            )
        storm.refuse_storm(config.guards, calls, host.step, self.problem.threshold_ev)
        structure, reason = self._structure(chunk.md, host), "audit" if Stop.AUDIT in stop else "uncertain"
        pretrained = self._pretrained_energy(state.device.neighbors.graph)
        self.observer.working("reference calculation")
        record = self._reference.ask(
            host.step,
            reason,
            structure,
            pretrained=pretrained,
            predictive=chunk.predictive,
            host=host,
            sigma_crit=sigma_crit,
        )
        reference = record.label.energy + host.offset_ev
        error = _given(record.predicted_energy_mean) - reference
        sigma = _given(record.predicted_energy_sigma)
        self.observer.label(
            step=host.step, reason=reason, error_ev=error, sigma_ev=sigma, seconds=record.engine_seconds
        )
        told = Told(host.step, error, sigma, sigma_crit, stop)
        host = calibrating.calibrated(self.problem, self.run, self.observer, host, told)
        clock = audits.kept_up(host.clock, config.seed, host.step, self._audit_steps)
        state = state._replace(host=host._replace(trusted_ev=reference, clock=clock, anchor=None))
        state = self._learn(state, record)
        md = self.problem.integrator.finish(chunk.md, *_on_device(record.label, chunk.md))
        return state._replace(device=state.device._replace(md=md, trusted=md, engine=self._engine_state()))

    def _learn(self, state: RunState, record: LabelRecord) -> RunState:
        """Put a label into the training set and continue the chains."""
        started = time.perf_counter()
        device, host = state.device, state.host
        known = device.training_set
        if int(known.count) == known.capacity:
            known = training.grow(known, 2 * known.capacity)
        energy = record.label.energy + host.offset_ev - self.problem.isolated_ev
        graph, slots = learning_graph(self.problem, record.structure), known.graphs.neighbors.shape[2]
        if graph.neighbors.shape[1] > slots:
            graph = learning_graph(self.problem, record.structure, slack=1.1)
            known = training.grow(known, known.capacity, neighbors=graph.neighbors.shape[1])
        graph = pad_slots(graph, known.graphs.neighbors.shape[2])
        known = training.append(known, graph, energy, record.label.forces, record.label.stress)
        params, chains, rounds = device.params, device.chains, 0
        while rounds == 0 or (rounds < self.problem.config.sampler.rounds and not self._fits(params, graph, energy)):
            with self.interruption.patience(0.0):  # the label is on the disk, and the update can be repeated
                params, chains, info = self._update(params, chains, known)
                finite = bool(jnp.all(info.finite))
            if not finite:
                raise RunStoppedError(
                    f"step {host.step}: a chain became non-finite; a smaller sampler.step_size usually helps"
                )
            rounds += 1
        seconds = time.perf_counter() - started
        force_error = None
        if record.predicted_forces_mean is not None:
            force_error = float(np.sqrt(np.mean((record.predicted_forces_mean - record.label.forces) ** 2)))
        count = int(known.count)
        self.observer.update(step=host.step, labels=count, rounds=rounds, seconds=seconds, force_error_ev_a=force_error)
        self.run.log("update", step=host.step, labels=count, rounds=rounds, seconds=round(seconds, 3))
        return state._replace(device=device._replace(params=params, chains=chains, training_set=known))

    def _fits(self, params: jax.Array, graph: Graph, energy: float) -> bool:
        """True if the mean energy of a label, eV on the network's scale, is off by at most half of the threshold."""
        error = float(self._ensemble(params, graph).energy_mean[0]) - energy
        return abs(error) <= 0.5 * self.problem.threshold_ev

    def _grow_neighbors(self, state: RunState, crowded: MDState) -> RunState:
        """Make room for the geometry that did not fit, and go back to the last committed step."""
        device, host, spec = state.device, state.host, state.host.spec
        elements, crowd = self.problem.potential.config.elements, self._structure(crowded, host)
        slack = 1.25
        while True:
            wanted, _ = neighbors.allocate(crowd, elements, spec.r_max, skin=spec.skin, slack=slack)
            # One more image at a time: were the cell collapsing, the number of images would exhaust the memory.
            images = tuple(old + (new > old) for new, old in zip(wanted.images, spec.images, strict=True))
            if wanted.capacity > spec.capacity or images != spec.images:
                break
            slack *= 1.25
        here, state_n = neighbors.allocate(
            self._structure(device.md, host), elements, spec.r_max, skin=spec.skin, origin=host.origin
        )
        capacity = max(here.capacity, wanted.capacity, spec.capacity)
        larger = spec._replace(capacity=capacity, images=images)
        state_n = neighbors.widen(state_n, capacity)
        self.run.log("neighbors_grown", step=host.step, capacity=capacity, images=images)
        moved = device._replace(neighbors=neighbors.update(state_n, larger))
        return RunState(moved, host._replace(spec=larger))

    # -- small things ------------------------------------------------------------------------------------------

    def _commit(self, state: RunState) -> None:
        metadata = state.host.to_json() | {"sizes": self.run.sizes()}
        with self.interruption.patience(SAVING_S):
            checkpoint.write(self.run.checkpoints, state.host.step, state.device, metadata)

    def _structure(self, md: MDState, host: HostState) -> Structure:
        start = self.problem.structure
        cell = np.asarray(md.cell, np.float64) if self.problem.integrator.needs_stress else start.cell
        positions = self.problem.positions(np.asarray(md.position, np.float64), cell, host.origin)
        return start._replace(positions=positions, cell=cell)

    def _engine_state(self) -> np.ndarray:
        return np.frombuffer(self.engine.save_state() or b"", np.uint8)


def _given(value: float | None) -> float:
    if value is None:
        raise DataError("dataset: a label without a prediction cannot calibrate")
    return value


def _on_device(label: Label, md: MDState) -> tuple[jax.Array, jax.Array | None]:
    """Forces and stress of a label in the precision of the dynamics."""
    dtype = md.position.dtype
    return jnp.asarray(label.forces, dtype), None if label.stress is None else jnp.asarray(label.stress, dtype)

"""The loop of a production: a chunk of dynamics of all replicas, their files, a checkpoint."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import units
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import NeighborSpec
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import triggers as triggering
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md import replicas
from bayes_mlff.md.chunk import Chunk, Limits, RunChunk, Stop
from bayes_mlff.md.integrators import MDState
from bayes_mlff.otf import crowding, guards
from bayes_mlff.otf import motion as motions
from bayes_mlff.otf.state import Anchor, shift_needed
from bayes_mlff.production import tally as tallies
from bayes_mlff.production.config import noun
from bayes_mlff.production.first_state import first_state, next_part, with_forces
from bayes_mlff.production.folder import Folders
from bayes_mlff.production.setup import Part, Setup
from bayes_mlff.production.state import DeviceState, HostState, Observer, ProductionState, Progress, Stopped
from bayes_mlff.runs import checkpoint, recorder
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import Frame
from bayes_mlff.runs.interruption import SAVING_S, Interruption
from bayes_mlff.runs.trajectory import constants


class Session:
    """The work of one process on one production."""

    def __init__(
        self,
        setup: Setup,
        directory: RunDirectory,
        observer: Observer,
        interruption: Interruption | None = None,
    ):
        self.setup, self.directory, self.observer = setup, directory, observer
        self.interruption = interruption or Interruption()
        self.folders = Folders(directory.path, setup)
        self._compiled: tuple[tuple[int, NeighborSpec], RunChunk] | None = None

    def resume(self) -> ProductionState:
        """Continue from the newest intact checkpoint, or begin if there is none yet.

        Raises:
          RunDirectoryError: if the checkpoints do not fit.
        """
        self.folders.make()
        state = first_state(self.setup)
        if not any(self.directory.checkpoints.glob("*.ckpt")):
            self.folders.clear()
            self.observer.working("compiling the potential, and computing the first forces")
            state = with_forces(self.setup, state)
            self._commit(state)
            return state
        arrays, metadata, remarks = checkpoint.newest(self.directory.checkpoints)
        for remark in remarks:
            self.directory.log("checkpoint_skipped", remark=remark)
        device = checkpoint.restore(state.device, arrays)
        if device.md.position.shape != state.device.md.position.shape:
            raise RunDirectoryError("checkpoint: another number of atoms or replicas than configured")
        self.folders.truncate(metadata["files"])
        found = ProductionState(device, HostState.from_json(metadata))
        self.directory.log("resumed", part=self.setup.parts[found.host.part].name, step=found.host.step)
        return found

    def finish(self, state: ProductionState) -> ProductionState:
        """Run until all parts are done or all replicas have stopped.

        Raises:
          RunInterruptedError: if the end was requested.
        """
        total = self.setup.n_steps
        while state.host.running.any():
            part = self.setup.parts[state.host.part]
            if state.host.step >= part.n_steps:
                if state.host.part + 1 == len(self.setup.parts):
                    break
                state = next_part(self.setup, state)
                continue
            self.interruption.check(part.before + state.host.step, total, f", in the {noun(part.name)}")
            state = self.advance(state)
        self.directory.log("finished", step=self._total(state.host))
        return state

    def advance(self, state: ProductionState) -> ProductionState:
        """Run one chunk of all replicas."""
        started = time.perf_counter()
        state, part = _recentred(state), self.setup.parts[state.host.part]
        host = state.host
        steps = min(part.dynamics.chunk_steps, part.n_steps - host.step)
        limit = np.where(host.running, steps, 0).astype(np.int32)
        bounds, device = self._bounds(part, host, steps), state.device
        silent = self.setup.config.on_uncertain == "warn" or not self.setup.watch.known
        chunk = self._chunk(host)(
            self.setup.params,
            device.md,
            device.neighbors,
            self._watched(device.md.position.dtype, silent),
            jnp.asarray(limit),
            replicas.stack(bounds),
        )
        ones = _apart(chunk)
        ends = [self._end(one, limits) for one, limits in zip(ones, bounds, strict=True)]
        crowded = [(i, ones[i].md) for i, end in enumerate(ends) if end.crowded]
        if crowded:
            return self._grow(state, crowded)
        after = host._replace(step=host.step + steps)
        for i in np.flatnonzero(host.running).tolist():
            after = self._keep(host, after, part, i, ones[i], ends[i])
        moved = DeviceState(chunk.md, chunk.neighbors)
        if not after.running.all():  # their geometries may be nothing that neighbours can be searched for
            moved = replicas.where(jnp.asarray(after.running), moved, device)
        done = ProductionState(moved, after)
        self._commit(done)
        self._report(done.host, part, steps, time.perf_counter() - started)
        return done

    # -- one replica ----------------------------------------------------------------------------------------------

    def _end(self, one: Chunk, bounds: Limits) -> "_End":
        """How the chunk of one replica ended."""
        stop = Stop(int(one.stop))
        tripped = guards.tripped(stop, one, bounds, self.setup.watch.triggers)
        crowded = Stop.NEIGHBOR_OVERFLOW in stop and tripped is None
        return _End(stop, int(one.steps), tripped, crowded)

    def _keep(self, before: HostState, after: HostState, part: Part, i: int, one: Chunk, end: "_End") -> HostState:
        """Write what one replica has done, and count it; a step at which a guard trips is left out."""
        setup, made = self.setup, self.setup.recording(part)
        steps = end.steps - (end.tripped is not None)
        md, kind = None, None
        if end.tripped is not None:
            kind = Stopped(before.part, before.step + steps, "guard", end.tripped)
        elif Stop.UNCERTAIN in end.stop:
            stress = None if one.predictive.stress_mean is None else one.predictive.stress_mean[0]
            integrator = part.varied.of(jax.tree.map(lambda x: x[i], part.varied.schedules))
            md = integrator.finish(one.md, one.predictive.forces_mean[0], stress)
            kind = Stopped(before.part, before.step + steps, "uncertain", self._why(one))
        if not setup.has_sigma:
            one = one._replace(thermo=_without_sigma(one))
        if steps:
            potential = np.asarray(one.thermo.potential[:steps], np.float64) + setup.atomic_ev
            origin, triggers = before.origins[i], setup.watch.triggers
            stretch = recorder.Stretch(before.step, origin, one, potential, md, triggers)
            recorder.record(self.folders.of(part.name, i), made, stretch)
            counted = tallies.added(before.tallies[-1][i], _steps(setup, before.step, one, steps, md), triggers, made)
            latest = list(after.tallies[-1])
            latest[i] = counted
            after = after._replace(tallies=(*after.tallies[:-1], tuple(latest)))
        if kind is None:
            return after
        self._store_stop(before, part, i, one if md is None else one._replace(md=md), kind)
        stopped = list(after.stopped)
        stopped[i] = kind
        return after._replace(stopped=tuple(stopped))

    def _why(self, one: Chunk) -> str:
        """Which statistics are above their limits in the last step."""
        readings = triggering.readings(self.setup.watch.triggers, one.measured)
        said = []
        for trigger, reading, above in zip(self.setup.watch.triggers, readings, one.asked.tolist(), strict=True):
            if above:
                unit, factor = trigger.statistic.shown_unit
                value, most = factor * reading.value, factor * reading.limit
                said.append(f"{trigger.statistic.said} is {value:.4g} {unit}, its limit {most:.4g}")
        return "; ".join(said)

    def _store_stop(self, host: HostState, part: Part, i: int, one: Chunk, kind: Stopped) -> None:
        """Write the geometry at which a replica stopped, if it is one, and log the reason."""
        structure = self._structure(one.md, host, i)
        self.observer.say(f"  replica {i + 1} stopped in the {noun(part.name)} at step {kind.step}: {kind.reason}")
        self.directory.log("replica_stopped", replica=i + 1, part=part.name, step=kind.step, reason=kind.reason)
        if not np.isfinite(structure.positions).all() or not np.isfinite(structure.cell).all():
            return
        file = self.folders.stopped(part.name, i)
        file.trajectory.unlink(missing_ok=True)
        step = host.step + int(one.steps)
        momenta = np.asarray(one.md.momentum, np.float64) if kind.kind == "uncertain" else None
        time_fs = step * part.dynamics.timestep_fs
        frame = Frame(step, time_fs, structure.positions, structure.cell, None, momenta)
        about = constants(self.setup.structure, self.setup.motion.masses)
        file.append_frames(structure.numbers, structure.pbc, [frame], about)

    # -- all replicas ------------------------------------------------------------------------------------------------

    def _chunk(self, host: HostState) -> RunChunk:
        """The compiled dynamics of a part, compiled anew only when the neighbour lists grow."""
        key = host.part, host.spec
        if self._compiled is None or self._compiled[0] != key:
            part = self.setup.parts[host.part]
            self.observer.working(f"compiling the {noun(part.name)}")
            self._compiled = key, self.setup.chunk(part, host.spec)
        return self._compiled[1]

    def _watched(self, dtype: Any, silent: bool) -> tuple[Trigger, ...]:
        known = [t if np.isfinite(float(t.limit)) else Trigger(t.statistic, np.inf) for t in self.setup.watch.triggers]
        each = triggering.on_device(tuple(known), dtype, silent=silent)
        return replicas.stack([each] * self.setup.config.replicas)

    def _bounds(self, part: Part, host: HostState, steps: int) -> list[Limits]:
        found = []
        for i, dynamics in enumerate(part.each):
            first = host.tallies[-1][i].first_ev
            found.append(
                guards.bounds(
                    self.setup.config.guards,
                    dynamics,
                    self.setup.structure,
                    part.integrator,
                    step=host.step,
                    steps=steps,
                    confirmed_ev=host.confirmed_ev[i],
                    highest=list(self.setup.watch.highest),
                    anchor=None if first is None else Anchor(1, first),
                    dtype=jnp.dtype(jnp.float32),
                )
            )
        return found

    def _structure(self, md: MDState, host: HostState, i: int) -> Structure:
        """Geometry of one replica in the coordinates of the structure's file."""
        start = self.setup.structure
        moving = self.setup.recording(self.setup.parts[0]).moving_cell
        cell = np.asarray(md.cell, np.float64) if moving else start.cell
        positions = motions.everywhere(start, np.asarray(md.position, np.float64), cell, host.origins[i])
        return start._replace(positions=positions, cell=cell)

    def _grow(self, state: ProductionState, crowded: list[tuple[int, MDState]]) -> ProductionState:
        """The last committed state with larger neighbour lists, sufficient for the geometries that did not fit."""
        host, elements, spec = state.host, self.setup.elements, state.host.spec
        for i, md in crowded:
            spec = crowding.larger(spec, elements, self._structure(md, host, i))
        each = [state.device.md.set(position=p, cell=c) for p, c in zip(*_geometries(state.device.md), strict=True)]
        present = [(self._structure(one, host, i), host.origins[i]) for i, one in enumerate(each)]
        spec, lists = crowding.roomier(spec, elements, present)
        self.directory.log("neighbors_grown", step=host.step, capacity=spec.capacity, images=spec.images)
        device = state.device._replace(neighbors=replicas.stack(lists))
        return ProductionState(device, host._replace(spec=spec))

    def _commit(self, state: ProductionState) -> None:
        metadata = state.host.to_json() | {"files": self.folders.sizes()}
        with self.interruption.patience(SAVING_S):
            checkpoint.write(self.directory.checkpoints, self._total(state.host), state.device, metadata)

    def _total(self, host: HostState) -> int:
        return self.setup.parts[host.part].before + host.step

    def _report(self, host: HostState, part: Part, steps: int, seconds: float) -> None:
        done = host.tallies[-1]
        counted = sum(each.steps for each in done)
        share = sum(each.above for each in done) / max(counted, 1) if self.setup.watch.known else float("nan")
        dynamics = part.dynamics
        self.directory.log("chunk", part=part.name, step=host.step, steps=steps, seconds=round(seconds, 4))
        now = host.step * dynamics.timestep_fs / 1000.0
        running = int(host.running.sum())
        self.observer.progress(
            Progress(part.name, now, dynamics.duration_ps, steps, seconds, dynamics.timestep_fs, running, share)
        )


def _apart(chunk: Chunk) -> list[Chunk]:
    """The chunks of each replica on the host, without random keys and neighbours."""
    host = jax.device_get(chunk._replace(md=chunk.md.set(rng=None), neighbors=None))  # pyright: ignore[reportArgumentType]
    return [jax.tree.map(lambda x, i=i: x[i], host) for i in range(len(host.stop))]


def _geometries(md: MDState) -> tuple[np.ndarray, np.ndarray]:
    """Positions [r, n, 3] and cells [r, 3, 3] on the host."""
    return np.asarray(md.position), np.asarray(md.cell)


class _End(NamedTuple):
    """How the chunk of one replica ended."""

    stop: Stop
    steps: int  # begun
    tripped: str | None  # why it cannot continue
    crowded: bool  # its neighbours have no room


def _without_sigma(one: Chunk) -> Any:
    """Values of the steps, without the σ that one sample does not have."""
    thermo = one.thermo
    nothing = np.full_like(np.asarray(thermo.statistics), np.nan)
    return thermo._replace(statistics=nothing, sigma_force_max=np.full_like(np.asarray(thermo.potential), np.nan))


def _steps(setup: Setup, before: int, one: Chunk, steps: int, md: MDState | None) -> tallies.Steps:
    """Values of the steps of one replica for its tally."""
    thermo = one.thermo
    potential, kinetic, work, statistics, dof, place = (
        np.array(x[:steps], np.float64)
        for x in (thermo.potential, thermo.kinetic, thermo.work, thermo.statistics, thermo.dof, thermo.place)
    )
    if md is not None:
        kinetic[-1], work[-1] = (float(x) for x in (recorder.kinetic_energy(md), recorder.total_work(md)))
    unknown = np.full(steps, np.nan)
    volume = pressure = unknown
    if setup.structure.is_periodic:
        volume = np.abs(np.linalg.det(np.asarray(one.frames.cell[:steps], np.float64)))
    if one.frames.stress is not None:
        stress = np.asarray(one.frames.stress[:steps], np.float64)
        pressure = (2.0 * kinetic / (3.0 * volume) - np.trace(stress, axis1=1, axis2=2) / 3.0) / units.GPA
    number = before + 1 + np.arange(steps)
    return tallies.Steps(number, potential, kinetic, work, statistics, dof, place, pressure, volume)


def _recentred(state: ProductionState) -> ProductionState:
    """Move origins close to atoms that have drifted far, since float32 loses precision there."""
    md = state.device.md
    positions = np.asarray(md.position)
    free = None if md.free is None else np.asarray(md.free)
    by = np.stack([shift_needed(p, None if free is None else free[i]) for i, p in enumerate(positions)])
    if not by.any():
        return state
    md = md.set(position=md.position - jnp.asarray(by, md.position.dtype)[:, None, :])
    near = jax.vmap(neighbors.move)(state.device.neighbors, md.position, md.cell)
    origins = tuple(origin.moved(each) for origin, each in zip(state.host.origins, by, strict=True))
    return ProductionState(state.device._replace(md=md, neighbors=near), state.host._replace(origins=origins))

"""Validation of a finished run: reference calculations on random frames, which unlike the labels are unbiased."""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data import dataset, neighbors
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import Engine, EngineResult
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.otf.problem import Problem, ensemble, pretrained
from bayes_mlff.otf.state import RunState
from bayes_mlff.runs import trajectory
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.interruption import Interruption
from bayes_mlff.runs.validation import Validation


def random_frames(
    run: RunDirectory, count: int, seed: int, labelled: Collection[int] = ()
) -> list[tuple[int, Structure]]:
    """Draw frames of the trajectory without replacement, in order of time; fewer where there are not as many.

    Args:
      run: open run directory.
      count: number of frames.
      seed: of the draw.
      labelled: steps of labels, whose frames are left out: the model has learnt them.

    Raises:
      RunDirectoryError: if the trajectory is damaged.
    """
    stored = trajectory.frames(run.trajectory)
    drawn = np.random.default_rng(seed).permutation(stored.count)[: count + len(labelled)]
    chosen = np.sort(drawn)
    frames = trajectory.read_some(run.trajectory, stored, chosen)
    known = set(labelled)
    order = [i for i in np.searchsorted(chosen, drawn) if int(frames.step[i]) not in known]
    return [(int(frames.step[i]), frames.structure(i)) for i in sorted(order[:count])]


def validate(
    problem: Problem,
    engine: Engine,
    run: RunDirectory,
    state: RunState,
    progress: Callable[[int, int], None],
    interruption: Interruption | None = None,
) -> Validation:
    """Label random frames, each stored before the next, and compare with the final and the pretrained model.

    Args:
      problem: constants of the run.
      engine: reference method.
      run: open run directory; `validation.extxyz` and `validation.npz` are written.
      state: final state of the run.
      progress: called with the number of finished frames and of all frames.
      interruption: checked before each frame.

    Raises:
      RunInterruptedError: if the end of the run was requested; all frames so far are on the disk.
      EngineError: if a frame cannot be labelled; another call continues with the remaining frames.
    """
    labelled = [record.step for record in dataset.read(run.dataset)]
    asked = problem.config.validation_frames
    frames = random_frames(run, asked, problem.config.seed, labelled)
    if len(frames) < asked:
        run.log("random_frames_missing", asked=asked, found=len(frames))
    reference, compare = _Frames(problem, engine, run, state, interruption or Interruption()), Comparison(problem)
    rows = []
    for done, (step, frame) in enumerate(frames):
        structure = as_labelled(problem, frame)
        record = reference.label(step, structure, f", {done} of {len(frames)} random frames")
        rows.append((step, *compare(state, structure, record)))
        progress(done + 1, len(frames))
    return stored(run, rows)


def stored(run: RunDirectory, rows: list[tuple[float, ...]]) -> Validation:
    """Store the fields of `Validation` of all frames in the directory of a run."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(Validation._fields)
    result = Validation(*(np.array(column, np.float64) for column in columns))
    run.store_validation(**result._asdict())
    return result


def as_labelled(problem: Problem, frame: Structure) -> Structure:
    """A frame of the trajectory as a structure for the engine."""
    cell = frame.cell if problem.integrator.needs_stress else problem.structure.cell
    return problem.structure._replace(positions=problem.positions(frame.positions, cell, Origin()), cell=cell)


class _Frames:
    """Labels of random frames, from the disk or from the engine."""

    def __init__(self, problem: Problem, engine: Engine, run: RunDirectory, state: RunState, asked: Interruption):
        self._problem, self._engine, self._run, self._host, self._asked = problem, engine, run, state.host, asked
        if run.validation.exists():
            dataset.recover(run.validation)
        self._known = {r.step: r for r in dataset.read(run.validation)} if run.validation.exists() else {}

    def label(self, step: int, structure: Structure, progress: str) -> LabelRecord:
        """The label of a frame; stored on the disk when this returns.

        Raises:
          RunInterruptedError: if the end of the run was requested.
          EngineError: if the frame cannot be labelled.
        """
        self._asked.check(self._host.step, self._problem.config.n_steps, progress)
        if step in self._known:
            return self._known[step]
        self._asked.before_label(max((r.engine_seconds for r in self._known.values()), default=0.0))
        with self._asked.patience(0.0):
            result = self._engine.label(structure)
        record = record_of(self._problem, self._engine, step, structure, self._host.offset_ev, result)
        dataset.append(self._run.validation, record)
        self._run.log("random_frame", step=step, engine_s=round(result.seconds, 3))
        self._known[step] = record
        return record


class Comparison:
    """Predictions of the final and the pretrained model for labelled geometries of one composition."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._evaluate, self._pretrained = ensemble(problem), pretrained(problem)

    def __call__(self, state: RunState, structure: Structure, record: LabelRecord) -> tuple[float, ...]:
        """The fields of `Validation` after the step."""
        host, graph = state.host, self._graph(state, structure)
        scale, predictive = self._problem.scale(host.offset_ev), self._evaluate(state.device.params, graph)
        before = self._pretrained(graph)
        return (
            scale.reference_to_total(record.label.energy),
            scale.network_to_total(float(predictive.energy_mean[0])),
            float(predictive.energy_sigma[0]),
            self._problem.scale().network_to_total(float(before.energy[0])),
            _force_error(predictive.forces_mean[0], record),
            _force_error(before.forces[0], record),
        )

    def _graph(self, state: RunState, structure: Structure) -> Graph:
        device, host = state
        moved = neighbors.move(
            device.neighbors,
            jnp.asarray(host.origin.local(structure.positions, structure.cell), device.md.position.dtype),
            jnp.asarray(neighbors.complete_cell(structure.cell, structure.pbc), device.md.cell.dtype),
        )
        searched = neighbors.update(moved, host.spec)
        if searched.overflow:
            elements = self._problem.potential.config.elements
            _, searched = neighbors.allocate(structure, elements, host.spec.r_max, skin=host.spec.skin)
        return searched.graph


def _force_error(forces: jax.Array, record: LabelRecord) -> float:
    """Root mean square error, eV/Å, of the components that the structure leaves free; 0 if none is."""
    fixed = record.structure.fixed
    error = np.asarray(forces, np.float64) - record.label.forces
    return rmse(error[~fixed] if fixed is not None else error) if fixed is None or not fixed.all() else 0.0


def record_of(
    problem: Problem, engine: Engine, step: int, structure: Structure, offset: float, result: EngineResult
) -> LabelRecord:
    """The label of a random frame."""
    return LabelRecord(
        structure=result.labelled(structure),
        label=result.label,
        step=step,
        time_fs=step * problem.config.dynamics.timestep_fs,
        reason="validation",
        energy_offset=offset,
        pretrained_energy=None,
        engine_hash=engine.settings_hash,
        engine_seconds=result.seconds,
    )

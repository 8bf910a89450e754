"""Reference calculations on random frames of a finished run: an unbiased sample, unlike the labels."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data import dataset, neighbors
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import Engine, EngineResult
from bayes_mlff.otf.problem import Problem, ensemble, pretrained_energy
from bayes_mlff.otf.state import RunState
from bayes_mlff.runs import trajectory
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.interruption import Interruption
from bayes_mlff.runs.validation import Validation


def random_frames(run: RunDirectory, count: int, seed: int) -> list[tuple[int, Structure]]:
    """Draw frames of the trajectory without replacement, in order of time.

    Raises:
      RunDirectoryError: if the trajectory has fewer frames or is damaged.
    """
    stored = trajectory.frames(run.trajectory)
    if stored.count < count:
        raise RunDirectoryError(
            f"{run.trajectory}: {stored.count} frames; allowed: at least validation_frames = {count}"
        )
    chosen = np.sort(np.random.default_rng(seed).choice(stored.count, count, replace=False))
    frames = trajectory.read_some(run.trajectory, stored, chosen)
    return [(int(step), frames.structure(i)) for i, step in enumerate(frames.step)]


def validate(
    problem: Problem,
    engine: Engine,
    run: RunDirectory,
    state: RunState,
    progress: Callable[[int, int], None],
    interruption: Interruption | None = None,
) -> Validation:
    """Label random frames, each durable before the next, and compare with the final and the pretrained model.

    Args:
      problem: of the run.
      engine: reference method.
      run: open run directory; `validation.extxyz` and `validation.npz` are written.
      state: final state.
      progress: told how many frames of how many are done.
      interruption: asked before each frame.

    Raises:
      RunInterruptedError: if the run has been asked to end; every frame so far is on the disk.
      EngineError: if a frame has no label; calling again goes on with the remaining frames.
    """
    config = problem.config
    frames = random_frames(run, config.validation_frames, config.seed)
    if run.validation.exists():
        dataset.recover(run.validation)
    known = {r.step: r for r in dataset.read(run.validation)} if run.validation.exists() else {}
    evaluate = ensemble(problem)
    pretrained = pretrained_energy(problem)
    rows = []
    asked = interruption or Interruption()
    for done, (step, frame) in enumerate(frames):
        cell = frame.cell if problem.integrator.needs_stress else problem.structure.cell
        positions = problem.positions(frame.positions, cell, Origin())
        structure = problem.structure._replace(positions=positions, cell=cell)
        asked.check(state.host.step, config.n_steps, f", {done} of {len(frames)} random frames")
        record = known.get(step)
        if record is None:
            asked.before_label(max((r.engine_seconds for r in known.values()), default=0.0))
            with asked.patience(0.0):
                result = engine.label(structure)
            record = _record(problem, engine, step, structure, state.host.offset_ev, result)
            dataset.append(run.validation, record)
            run.log("random_frame", step=step, engine_s=round(result.seconds, 3))
            known[step] = record
        moved = neighbors.move(
            state.device.neighbors,
            jnp.asarray(state.host.origin.local(positions, cell), state.device.md.position.dtype),
            jnp.asarray(neighbors.complete_cell(structure.cell, structure.pbc), state.device.md.cell.dtype),
        )
        searched = neighbors.update(moved, state.host.spec)
        if searched.overflow:
            spec, elements = state.host.spec, problem.potential.config.elements
            _, searched = neighbors.allocate(structure, elements, spec.r_max, skin=spec.skin)
        graph = searched.graph
        predictive = evaluate(state.device.params, graph)
        rows.append(
            (
                step,
                record.label.energy + state.host.offset_ev,
                float(predictive.energy_mean[0]) + problem.isolated_ev,
                float(predictive.energy_sigma[0]),
                pretrained(graph),
            )
        )
        progress(done + 1, len(frames))
    result = Validation(*(np.array(column) for column in zip(*rows, strict=True)))
    run.store_validation(**result._asdict())
    return result


def _record(
    problem: Problem, engine: Engine, step: int, structure: Structure, offset: float, result: EngineResult
) -> LabelRecord:
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

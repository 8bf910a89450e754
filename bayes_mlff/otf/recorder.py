"""Rows of thermo.csv and frames of the trajectory, from the arrays of a chunk."""

import numpy as np

from bayes_mlff.core import units
from bayes_mlff.otf.chunk import Chunk
from bayes_mlff.otf.integrators import MDState, kinetic_energy
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.rundir import RunDirectory


def record(
    run: RunDirectory,
    problem: Problem,
    before: int,
    chunk: Chunk,
    potential: np.ndarray,
    md: MDState,
    sigma_crit: float,
) -> None:
    """Append the steps of a chunk to the growing files of a run.

    Args:
      run: open run directory.
      problem: of the run.
      before: last step that is already there.
      chunk: what the dynamics returned.
      potential: [steps] potential energies with those of the isolated atoms, eV; the last may be the reference's.
      md: state after the last step, finished with the reference forces if that step was labelled.
      sigma_crit: energy σ, eV, above which a geometry was labelled.
    """
    config, steps = problem.config.dynamics, len(potential)
    kinetic = np.asarray(chunk.thermo.kinetic[:steps], np.float64)
    kinetic[-1] = float(kinetic_energy(md))
    number = before + 1 + np.arange(steps)
    freedom = 3 * len(problem.structure.numbers)
    columns = [
        number,
        number * config.timestep_fs,
        2.0 * kinetic / (freedom * units.KB),
        potential,
        kinetic,
        potential + kinetic,
        np.asarray(chunk.thermo.sigma[:steps]),
        np.full(steps, sigma_crit),
        np.asarray(chunk.thermo.sigma_force_max[:steps]),
    ]
    run.append_thermo(np.stack(columns, axis=1))
    frames = np.asarray(chunk.frames[:steps], np.float64)
    kept = [i for i in range(steps) if number[i] % config.trajectory_every == 0]
    start = problem.structure
    run.append_frames(
        start.numbers,
        start.cell,
        start.pbc,
        ((int(number[i]), number[i] * config.timestep_fs, frames[i]) for i in kept),
    )

"""Rows of thermo.csv and frames of the trajectory, from the arrays of a chunk."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bayes_mlff.core import units
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.md.chunk import Chunk
from bayes_mlff.md.integrators import MDState, kinetic_energy, total_work
from bayes_mlff.runs.directory import Frame, RunDirectory
from bayes_mlff.runs.trajectory import constants


class Recording(NamedTuple):
    """What the rows and frames of a run are made with."""

    structure: Structure  # the initial one
    masses: np.ndarray  # [n] amu
    positions: Callable[[np.ndarray, np.ndarray, Origin], np.ndarray]  # those of dynamics in the frame of the file, Å
    timestep_fs: float
    n_steps: int  # of the whole run
    thermo_every: int  # steps
    trajectory_every: int  # steps
    moving_cell: bool
    degrees_of_freedom: int
    carried_ev: float  # kinetic energy of the centre of mass, which is no heat


def record(
    run: RunDirectory,
    made: Recording,
    before: int,
    origin: Origin,
    chunk: Chunk,
    potential: np.ndarray,
    md: MDState,
    sigma_crit: float,
) -> None:
    """Append the steps of a chunk to the growing files of a run.

    Args:
      run: open run directory.
      made: constants of the run.
      before: last step that is already there.
      origin: of the positions of the chunk.
      chunk: what the dynamics returned.
      potential: [steps] potential energies with those of the isolated atoms, eV; the last may be the reference's.
      md: state after the last step, finished with the reference forces if that step was labelled.
      sigma_crit: energy σ, eV, above which a geometry was labelled.
    """
    steps, start = len(potential), made.structure
    kinetic = np.asarray(chunk.thermo.kinetic[:steps], np.float64)
    work = np.asarray(chunk.thermo.work[:steps], np.float64)
    kinetic[-1], work[-1] = float(kinetic_energy(md)), float(total_work(md))
    thermal = kinetic - made.carried_ev
    number = before + 1 + np.arange(steps)
    cells = np.broadcast_to(start.cell, (steps, 3, 3))
    if made.moving_cell:
        cells = np.asarray(chunk.frames.cell[:steps], np.float64)
    positions = made.positions(np.asarray(chunk.frames.positions[:steps], np.float64), cells, origin)
    momenta = np.array(chunk.frames.momenta[:steps], np.float64)
    momenta[-1] = np.asarray(md.momentum, np.float64)
    stress = None
    if chunk.frames.stress is not None:
        stress = np.array(chunk.frames.stress[:steps], np.float64)
        stress[-1] = np.asarray(md.stress, np.float64)
    volume = np.abs(np.linalg.det(cells)) if start.is_periodic else np.full(steps, np.nan)
    pressure = np.full(steps, np.nan)
    if stress is not None:
        pressure = 2.0 * thermal / (3.0 * volume) - np.trace(stress, axis1=1, axis2=2) / 3.0
    columns = [
        number,
        number * made.timestep_fs,
        2.0 * thermal / (made.degrees_of_freedom * units.KB),
        potential,
        kinetic,
        potential + kinetic,
        np.asarray(chunk.thermo.sigma[:steps]),
        np.full(steps, sigma_crit),
        np.asarray(chunk.thermo.sigma_force_max[:steps]),
        potential + kinetic - work,
        volume,
        pressure / units.GPA,
    ]
    logged = number % made.thermo_every == 0
    logged[-1] |= bool(chunk.stop) or number[-1] == made.n_steps  # a labelled step, or the last of all
    run.append_thermo(np.stack(columns, axis=1)[logged])
    run.append_frames(
        start.numbers,
        start.pbc,
        (
            Frame(
                step=int(n),
                time_fs=n * made.timestep_fs,
                positions=positions[i],
                cell=cells[i],
                stress=None if stress is None else stress[i],
                momenta=momenta[i],
            )
            for i, n in enumerate(number)
            if n % made.trajectory_every == 0
        ),
        constants(start, made.masses),
    )


def drift(chunk: Chunk, steps: int) -> float:
    """Change of the conserved energy, eV, from the first to the last step of a chunk that the model took alone."""
    if steps < 1:
        return 0.0
    thermo = chunk.thermo
    potential, kinetic, work = (
        np.asarray(x[:steps], np.float64) for x in (thermo.potential, thermo.kinetic, thermo.work)
    )
    conserved = potential + kinetic - work
    return float(conserved[-1] - conserved[0])

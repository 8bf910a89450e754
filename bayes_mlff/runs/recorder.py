"""Writes rows of thermo.csv and frames of the trajectory from the arrays of a chunk."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bayes_mlff.core import units
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.chunk import Chunk
from bayes_mlff.md.integrators import MDState, kinetic_energy, total_work
from bayes_mlff.runs.growing_files import THERMO_COLUMNS, Frame, GrowingFiles
from bayes_mlff.runs.trajectory import constants


class Recording(NamedTuple):
    """Constants of a run that its rows and frames depend on."""

    structure: Structure  # the initial one
    masses: np.ndarray  # [n] amu
    positions: Callable[[np.ndarray, np.ndarray, Origin], np.ndarray]  # from MD to the axes of the input file, Å
    timestep_fs: float
    n_steps: int  # of the whole run
    thermo_every: int  # steps
    trajectory_every: int  # steps
    moving_cell: bool
    degrees_of_freedom: int
    carried_ev: float  # kinetic energy of the centre of mass, eV, which does not count for the temperature


class Stretch(NamedTuple):
    """Consecutive steps of a run."""

    before: int  # last step that is already on the disk
    origin: Origin  # origin of the positions in the chunk
    chunk: Chunk  # result of the dynamics
    potential: np.ndarray  # [steps] eV, with the energies of the isolated atoms; the last may be a reference energy
    md: MDState | None  # after the last step, finished with other forces if that was labelled; None: as in the chunk
    triggers: tuple[Trigger, ...]  # conditions for labelling a geometry


def record(run: GrowingFiles, made: Recording, stretch: Stretch) -> None:
    """Append steps to the growing files of a run.

    Args:
      run: files to append to.
      made: constants of the run.
      stretch: the steps to append.
    """
    number = stretch.before + 1 + np.arange(len(stretch.potential))
    moved = _geometries(made, stretch)
    columns = _columns(made, stretch, number, moved)
    logged = number % made.thermo_every == 0
    logged[-1] |= bool(stretch.chunk.stop) or number[-1] == made.n_steps  # a labelled step, or the last of the run
    run.append_thermo(np.stack(list(columns.values()), axis=1)[logged], tuple(columns))
    start = made.structure
    frames = (_frame(made, moved, i, int(n)) for i, n in enumerate(number) if n % made.trajectory_every == 0)
    run.append_frames(start.numbers, start.pbc, frames, constants(start, made.masses))


class _Geometries(NamedTuple):
    """Arrays for the frames of a stretch."""

    positions: np.ndarray  # [steps, n, 3] Å
    cells: np.ndarray  # [steps, 3, 3] Å, rows
    momenta: np.ndarray  # [steps, n, 3] sqrt(amu·eV)
    stress: np.ndarray | None  # [steps, 3, 3] eV/Å³, tension positive


def _geometries(made: Recording, stretch: Stretch) -> _Geometries:
    frames, steps = stretch.chunk.frames, len(stretch.potential)
    cells = np.broadcast_to(made.structure.cell, (steps, 3, 3))
    if made.moving_cell:
        cells = np.asarray(frames.cell[:steps], np.float64)
    positions = made.positions(np.asarray(frames.positions[:steps], np.float64), cells, stretch.origin)
    momenta = np.array(frames.momenta[:steps], np.float64)
    if stretch.md is not None:
        momenta[-1] = np.asarray(stretch.md.momentum, np.float64)
    stress = None
    if frames.stress is not None:
        stress = np.array(frames.stress[:steps], np.float64)
        if stretch.md is not None:
            stress[-1] = np.asarray(stretch.md.stress, np.float64)
    return _Geometries(positions, cells, momenta, stress)


def _frame(made: Recording, moved: _Geometries, i: int, step: int) -> Frame:
    return Frame(
        step=step,
        time_fs=step * made.timestep_fs,
        positions=moved.positions[i],
        cell=moved.cells[i],
        stress=None if moved.stress is None else moved.stress[i],
        momenta=moved.momenta[i],
    )


def _columns(made: Recording, stretch: Stretch, number: np.ndarray, moved: _Geometries) -> dict[str, np.ndarray]:
    """Columns of thermo.csv [steps] by name; those of triggers on other quantities than the energy come last."""
    thermo, steps = stretch.chunk.thermo, len(number)
    kinetic, work = (np.array(x[:steps], np.float64) for x in (thermo.kinetic, thermo.work))
    if stretch.md is not None:
        kinetic[-1], work[-1] = float(kinetic_energy(stretch.md)), float(total_work(stretch.md))
    thermal, total = kinetic - made.carried_ev, stretch.potential + kinetic
    unknown = np.full(steps, np.nan)
    volume = np.abs(np.linalg.det(moved.cells)) if made.structure.is_periodic else unknown
    pressure = unknown
    if moved.stress is not None:
        pressure = 2.0 * thermal / (3.0 * volume) - np.trace(moved.stress, axis1=1, axis2=2) / 3.0
    found = {
        "step": number,
        "time_fs": number * made.timestep_fs,
        "temperature_k": 2.0 * thermal / (made.degrees_of_freedom * units.KB),
        "potential_ev": stretch.potential,
        "kinetic_ev": kinetic,
        "total_ev": total,
        "sigma_force_max_ev_a": np.asarray(thermo.sigma_force_max[:steps]),
        "conserved_ev": total - work,
        "volume_a3": volume,
        "pressure_gpa": pressure / units.GPA,
    }
    for i, trigger in enumerate(stretch.triggers):
        value, limit = trigger.statistic.columns
        found[value] = np.asarray(thermo.statistics[:steps, i])
        dof = np.asarray(thermo.dof[:steps, i], np.float64)
        found[limit] = np.array([trigger.at(j).limit_of(each) for j, each in enumerate(dof)])
    return {name: found.get(name, unknown) for name in (*THERMO_COLUMNS, *found)}


def drift(chunk: Chunk, steps: int) -> float:
    """Change of the conserved energy, eV, from the first to the last of `steps` steps with the model's forces."""
    if steps < 1:
        return 0.0
    thermo = chunk.thermo
    potential, kinetic, work = (
        np.asarray(x[:steps], np.float64) for x in (thermo.potential, thermo.kinetic, thermo.work)
    )
    conserved = potential + kinetic - work
    return float(conserved[-1] - conserved[0])

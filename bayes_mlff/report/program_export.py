"""A folder with which another program uses a trained ensemble: its copy, an example, and the parity of the two."""

import json
from pathlib import Path
from typing import Final, NamedTuple

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
from ase import units as ase_units

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import dataset, structure_files
from bayes_mlff.data.structure import to_ase
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.data.structure_settings import StructureSettings
from bayes_mlff.ensemble import files, saved
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.interfaces import packages, parity, programs
from bayes_mlff.interfaces.example import Example
from bayes_mlff.interfaces.parity import Parity
from bayes_mlff.interfaces.programs import Program
from bayes_mlff.md.integrators import initial_state
from bayes_mlff.otf import config as configuration
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.directory import CONFIG, DATASET

START: Final = "start.extxyz"
FRAMES: Final = 5
"""Largest number of structures that are compared."""
STEPS: Final = 100
TIMESTEP_FS: Final = 0.5
TEMPERATURE_K: Final = 300.0
DISPLACED: Final = 0.05
"""Standard deviation of the displacements of atoms where only one structure is known, Å."""


class Exported(NamedTuple):
    """What was written, and what is to be known of it."""

    program: Program
    files: tuple[str, ...]
    parity: Parity
    remarks: tuple[str, ...]  # what was assumed, a sentence each


class _Source(NamedTuple):
    """What an example starts from, and the frames to compare."""

    initial: InitialStructure
    frames: list[ase.Atoms]
    timestep_fs: float
    temperature_k: float
    remarks: list[str]


def export(path: Path, name: str, folder: Path, *, structure: Path | None = None) -> Exported:
    """Write a folder for another program, after a comparison of its predictions with the ensemble's own.

    Args:
      path: directory of a run or a fine-tuning, or the file of an ensemble.
      name: of the program, see `programs.PROGRAMS`.
      folder: a new or an empty folder.
      structure: file of the structure to begin with; None: that of the run.

    Raises:
      ConfigError: if there is something in the folder, the program is unknown or missing or cannot have the structure,
        or there is no ensemble or no structure.
      DataError: if the ensemble cannot predict the structure, or the predictions differ.
      RunDirectoryError, WeightsError: if run or ensemble are damaged or of another format.
    """
    program = programs.find(name)
    refuse_used(folder)
    ensemble = saved.load(path)
    ensemble.require_forces(f"dynamics in {name}", conservative=True)
    for package in program.packages:
        packages.load(package, name)
    source = _from_file(structure) if structure is not None else _from_run(path)
    compared = parity.compare(program, EnsembleCalculator(ensemble), source.frames)
    folder.mkdir(parents=True, exist_ok=True)
    saved.save(ensemble, folder / files.NAME)
    _write_start(source, folder / START)
    moving = ase.io.read(folder / START)
    assert isinstance(moving, ase.Atoms)
    example = Example(folder.resolve().name, moving, source.timestep_fs, STEPS)
    written = program.files(example)
    exported = Exported(
        program, (files.NAME, START, *written, "parity.json", "README.md"), compared, tuple(source.remarks)
    )
    written |= {"parity.json": _as_json(compared), "README.md": readme(name, exported)}
    for file, text in written.items():
        (folder / file).write_text(text, encoding="utf-8")
    return exported


def refuse_used(folder: Path) -> None:
    """Refuse a folder that has files.

    Raises:
      ConfigError: if there is something in it, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("output", str(folder), "a new or an empty folder")


def _from_run(path: Path) -> _Source:
    """The first structure of a run, and its newest labelled frames."""
    if not (path / CONFIG).is_file() or not (path / starts.FOLDER / starts.STRUCTURE).is_file():
        raise ConfigError("--structure", None, f"the file of a structure, since {path} is not the directory of a run")
    dynamics = configuration.load(path / CONFIG).dynamics
    labelled = [to_ase(record.structure) for record in dataset.read(path / DATASET)[-FRAMES:]]
    initial = starts.read(path).initial
    temperature = dynamics.initial_temperature_k
    remarks = [f"start: the first structure of the run, time step {dynamics.timestep_fs:g} fs as there"]
    return _Source(initial, labelled, dynamics.timestep_fs, temperature, remarks)


def _from_file(path: Path) -> _Source:
    """A structure of a file, and displaced copies of it."""
    if not path.is_file():
        raise ConfigError("--structure", str(path), "a file that exists")
    initial = structure_files.read(StructureSettings(file=str(path)), path)
    rng, frames = np.random.default_rng(0), [to_ase(initial.structure)]
    for _ in range(FRAMES - 1):
        frames.append(frames[0].copy())
        frames[-1].positions += DISPLACED * rng.standard_normal((len(frames[0]), 3))
    said = f"start: {path.name}, time step {TIMESTEP_FS:g} fs; compared: this and {FRAMES - 1} displaced copies of it"
    return _Source(initial, frames, TIMESTEP_FS, TEMPERATURE_K, [*initial.remarks, said])


def _write_start(source: _Source, path: Path) -> None:
    """The structure with velocities, in the file that all programs start from."""
    atoms = to_ase(source.initial.structure)
    if source.initial.velocities is not None:
        atoms.set_velocities(source.initial.velocities / ase_units.fs)
        source.remarks.append("velocities: those of the structure's file")
    else:
        place = jnp.asarray(atoms.positions, jnp.float32)
        drawn = initial_state(place, atoms.numbers, source.temperature_k, jax.random.key(0), masses=atoms.get_masses())
        atoms.set_momenta(np.asarray(drawn.momentum, np.float64))
        source.remarks.append(f"velocities: drawn at {source.temperature_k:g} K, the centre of mass at rest")
    if source.initial.structure.fixed is not None and source.initial.structure.fixed.any():
        source.remarks.append("held coordinates are not held in the example: hold them by means of the program")
    ase.io.write(path, atoms, format="extxyz")


def _as_json(compared: Parity) -> str:
    rows = {each.quantity: {"unit": each.unit, "largest": each.largest, "of": each.of} for each in compared.differences}
    return json.dumps({"frames": compared.frames, "differences": rows}, indent=2) + "\n"


def readme(name: str, exported: Exported) -> str:
    """README of a folder."""
    program = exported.program
    install = f'pip install "bayes-mlff[{name}]"' if program.packages else "pip install bayes-mlff"
    rows = "".join(f"| {each.quantity} | {each.row} |\n" for each in exported.parity.differences)
    remarks = "".join(f"- {text}\n" for text in exported.remarks)
    return (
        f"# A trained ensemble in {program.title}\n\n"
        f"In this folder, where `{install}` is done:\n\n    {program.command}\n\n"
        f"runs {STEPS} steps without thermostat (NVE) from `{START}`. {program.sigma}\n\n"
        f"Largest difference of {program.title} from the ensemble's own prediction, "
        f"{exported.parity.frames} structures:\n\n"
        f"| | |\n|---|---|\n{rows}\n{remarks}"
    )

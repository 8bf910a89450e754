"""Read one labelled file as frames in Å, eV and eV/Å, and report what was read and what was assumed."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayes_mlff.core.errors import ConfigError, DataError, brief
from bayes_mlff.core.numbers import padded
from bayes_mlff.data import frame_checks, held_forces
from bayes_mlff.data.label_settings import LabelFileSettings, Wanted
from bayes_mlff.data.label_units import (
    ENERGY_UNITS,
    FORCE_UNITS,
    POSITION_UNITS,
    STRESS_SIGNS,
    STRESS_UNITS,
    Units,
    settle,
)
from bayes_mlff.data.labelled_files import LabelKeys, LabelledStructure, known_suffix, read_labelled
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.data.labels import Label
from bayes_mlff.data.molecule_sets import NpzKeys, read_npz, read_npz_remarks
from bayes_mlff.data.npz import array_names
from bayes_mlff.data.stated import UNCLEAR_UNITS, State
from bayes_mlff.data.structure import check

SUFFIXES = ".npz, or .xyz, .extxyz, .traj, .db or .json, the latter also followed by .gz, .bz2 or .xz"


class LabelledSet(NamedTuple):
    """Frames of one file and the units, charges and spins that it states."""

    frames: Frames
    units: Units  # of the numbers in the file
    states: list[State]  # charge and spin as stated by each frame
    remarks: list[str]  # what was read and what was assumed, one sentence each


class _Raw(NamedTuple):
    """Frames in the units of their file."""

    frames: Frames
    held: np.ndarray | None  # [f, n, 3] held coordinates
    units: dict[str, str]
    states: list[State]
    remarks: list[str]


def read_file(path: Path, settings: LabelFileSettings, wanted: Wanted, key: str) -> LabelledSet:
    """Read a file and convert it.

    Args:
      path: of the file.
      settings: keys and units.
      wanted: which labels are needed.
      key: of the configuration that names the file.

    Raises:
      ConfigError: if the suffix of its name is not that of a supported format.
      DataError: if a label is missing or not finite, a unit contradicts the configuration, or stress is needed
        and a frame lacks it.
    """
    if path.suffix == ".npz":
        raw = _npz(path, settings, wanted, key)
    elif known_suffix(path):
        raw = _structures(path, settings, wanted, key)
    else:
        raise ConfigError(key, str(path), f"a file with the suffix {SUFFIXES}")
    frames = raw.frames
    _understood(raw, settings, wanted, str(path), key)
    units = settle(settings, raw.units, str(path), key, wanted.section, with_forces=wanted.forces)
    frames = _converted(frames, units)
    for index in range(frames.size):
        try:
            check(frames.structure(index))
        except DataError as error:
            raise DataError(f"{path}: frame {index}: {error} (positions in {units.positions})") from error
    if not wanted.forces:
        return LabelledSet(frames, units, raw.states, [*raw.remarks, *units.remarks])
    frames, remarks = held_forces.masked(frames, raw.held, key)
    return LabelledSet(frames, units, raw.states, [*raw.remarks, *units.remarks, *remarks])


def _understood(raw: _Raw, settings: LabelFileSettings, wanted: Wanted, path: str, key: str) -> None:
    """Refuse a key that seems to state units but is not understood, unless the configuration gives the units."""
    unclear = raw.units.get(UNCLEAR_UNITS)
    if unclear is None:
        return
    names = {"position": "positions_unit", "energy": "energy_unit", "force": "forces_unit", "stress": "stress_unit"}
    needed = {"position"} | ({"force"} if wanted.forces else set())
    needed |= {"energy"} if raw.frames.energy is not None else set()
    needed |= {"stress"} if wanted.stress else set()
    stated = raw.units.keys() | ({"force"} if "energy" in raw.units else set())
    missing = [
        f"{wanted.section}.{name}"
        for kind, name in names.items()
        if kind in needed and kind not in stated and getattr(settings, name) is None
    ]
    if missing:
        raise DataError(
            f"{key}: {path} states {unclear}, which is not understood; allowed: say it by {', '.join(missing)}"
        )


def _npz(path: Path, settings: LabelFileSettings, wanted: Wanted, key: str) -> _Raw:
    keys = NpzKeys(settings.numbers_key, settings.positions_key, settings.energies_key, settings.forces_key)
    found = read_npz(path, keys=keys, energies_optional=not wanted.energy, with_forces=wanted.forces)
    count = len(found.positions)
    beside = read_npz_remarks(path, count, len(found.numbers))
    atoms = (np.tile(found.numbers, (count, 1)), np.zeros((count, 3), bool))
    frames = Frames(*atoms, found.positions, np.zeros((count, 3, 3)), _known(found.energies), found.forces, None)
    frames = frames if wanted.forces else frames.without_any_forces()
    unused = not wanted.forces and keys.forces in array_names(path)
    return _Raw(frames, None, beside.units, beside.states, _of_forces(keys.forces if unused else None, key))


def _structures(path: Path, settings: LabelFileSettings, wanted: Wanted, key: str) -> _Raw:
    keys = LabelKeys(settings.xyz_energy_key, settings.xyz_forces_key, settings.xyz_stress_key)
    read = read_labelled(path, keys, energies_optional=not wanted.energy, with_forces=wanted.forces)
    frame_checks.complete(read.frames, wanted, key, read.keys)
    frames = _stack(read.frames)
    names = [] if frames.energy is None else [str(read.keys.energy)]
    names += [str(read.keys.forces)] if wanted.forces else []
    names += [] if frames.stress is None else [str(read.keys.stress)]
    remarks = [f"{key}: labels are {', '.join(map(brief, names))} of the file"]
    if not wanted.forces:
        return _Raw(
            frames.without_any_forces(), None, read.units, read.states, remarks + _of_forces(read.keys.forces, key)
        )
    if not any(structure.fixed is not None for structure, _ in read.frames):
        return _Raw(frames, None, read.units, read.states, remarks)
    held = np.zeros(frames.forces.shape, bool)
    for index, (structure, _) in enumerate(read.frames):
        if structure.fixed is not None:
            held[index, : len(structure.fixed)] = structure.fixed
    return _Raw(frames, held, read.units, read.states, remarks)


def _of_forces(name: str | None, key: str) -> list[str]:
    """A sentence on forces that are there and not read."""
    return [] if name is None else [f"{key}: the forces of the file ({brief(name)}) are not used"]


def _converted(frames: Frames, units: Units) -> Frames:
    length = POSITION_UNITS[units.positions]
    stress = STRESS_UNITS[units.stress] * STRESS_SIGNS[units.sign]
    return frames._replace(
        positions=frames.positions * length,
        cells=frames.cells * length,
        energy=None if frames.energy is None else frames.energy * ENERGY_UNITS[units.energy],
        forces=frames.forces * FORCE_UNITS[units.forces],
        stress=None if frames.stress is None else frames.stress * stress,
    )


def _stack(labelled: list[LabelledStructure]) -> Frames:
    """One set of structures, padded to the number of atoms of the largest one."""
    rows = [(s.numbers, s.positions, label.forces) for s, label in labelled]
    most = max(len(numbers) for numbers, *_ in rows)
    numbers, positions, forces = (
        np.stack([padded(x, (most, *x.shape[1:])) for x in column]) for column in zip(*rows, strict=True)
    )
    pbc, cells = (np.stack(x) for x in zip(*((s.pbc, s.cell) for s, _ in labelled), strict=True))
    labels: list[Label] = [label for _, label in labelled]
    energy = _known(np.array([label.energy for label in labels]))
    stress = [label.stress for label in labels if label.stress is not None]
    whole = np.stack(stress) if len(stress) == len(labels) else None
    return Frames(numbers, pbc, positions, cells, energy, forces, whole)


def _known(energies: np.ndarray) -> np.ndarray | None:
    """Energies [f] eV; None if the file has none."""
    return None if np.isnan(energies).any() else energies

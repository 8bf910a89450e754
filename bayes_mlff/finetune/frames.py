"""Labelled sets of one composition: read, converted, checked before anything is computed, and made into graphs."""

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.labels import Label
from bayes_mlff.data.molecule_sets import LabelledStructure, NpzKeys, read_extxyz, read_npz
from bayes_mlff.data.structure import Structure
from bayes_mlff.finetune.config import DataConfig, FinetuneConfig

ENERGY_UNITS: Final = {
    "eV": 1.0,
    "kcal/mol": units.KCAL_MOL,
    "kJ/mol": units.KCAL_MOL / 4.184,
    "hartree": units.HARTREE,
}
FORCE_UNITS: Final = {
    "eV/A": 1.0,
    "kcal/mol/A": units.KCAL_MOL,
    "kJ/mol/A": units.KCAL_MOL / 4.184,
    "hartree/bohr": units.HARTREE / units.BOHR,
}
LARGEST_FORCE: Final = 10.0
"""RMS force component above which the unit is doubted, eV/Å; 300 to 1000 K give 0.5 to 3."""
CLOSEST_PAIR: Final = 0.5
"""Distance of two atoms below which positions are not in Å."""


class Frames(NamedTuple):
    """Labelled frames with the same atoms in the same order; float64, on the host."""

    numbers: np.ndarray  # [n] atomic numbers
    pbc: np.ndarray  # [3] bool
    positions: np.ndarray  # [f, n, 3] Å
    cells: np.ndarray  # [f, 3, 3] Å, rows
    energy: np.ndarray  # [f] eV
    forces: np.ndarray  # [f, n, 3] eV/Å
    stress: np.ndarray | None  # [f, 3, 3] eV/Å³, tension positive; None unless every frame has it

    @property
    def size(self) -> int:
        """Number of frames."""
        return len(self.energy)

    def structure(self, index: int) -> Structure:
        """One geometry."""
        return Structure(self.numbers, self.positions[index], self.cells[index], self.pbc)

    def take(self, index: np.ndarray) -> "Frames":
        """Some of the frames."""
        rows = (self.positions[index], self.cells[index], self.energy[index], self.forces[index])
        return Frames(self.numbers, self.pbc, *rows, None if self.stress is None else self.stress[index])


class DataSets(NamedTuple):
    """What is learnt from, what σ is scaled on, and what is only predicted."""

    train: Frames
    validation: Frames | None
    test: Frames | None

    def named(self) -> dict[str, Frames]:
        """Those that exist, by the names of their keys in the configuration."""
        pairs = zip(self._fields, self, strict=True)
        return {name: frames for name, frames in pairs if frames is not None}

    def digest(self) -> str:
        """SHA-256 of what is learnt from and chosen by: atoms, pbc, geometries and all labels, with their shapes."""
        total = hashlib.sha256()
        for frames in (self.train, self.validation):
            if frames is None:
                continue
            labels = (frames.energy, frames.forces, frames.stress)
            for array in (frames.numbers, frames.pbc, frames.positions, frames.cells, *labels):
                total.update(b"none" if array is None else f"{array.dtype} {array.shape}".encode())
                total.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


def read(config: FinetuneConfig, *, base: Path = Path()) -> DataSets:
    """Read and check all sets of a configuration.

    Args:
      config: its paths, keys, units and number of frames.
      base: directory against which relative paths are resolved.

    Returns:
      The sets; of the training set only the frames to use.

    Raises:
      ConfigError: if a file has another suffix, there are fewer frames than asked for, or stress is to be learnt
        and not known.
      DataError: if a label is missing or not finite, sets differ in their atoms, a number cannot be in the unit
        stated, or a geometry is there twice; the message names the set and the frames.
    """
    data = config.data
    paths = {"train": data.train, "validation": data.validation, "test": data.test}
    sets = {name: _read(base / path, data, f"data.{name}") for name, path in paths.items() if path is not None}
    sets["train"] = _choose(sets["train"], data)
    first = sets["train"]
    for name, frames in sets.items():
        if not np.array_equal(frames.numbers, first.numbers) or not np.array_equal(frames.pbc, first.pbc):
            raise DataError(f"data.{name}: other atoms, another order of atoms or another pbc than data.train")
        _check_numbers(frames, f"data.{name}")
    if config.targets.endswith("stress") and (first.stress is None or not first.pbc.all()):
        raise ConfigError(
            "targets", config.targets, "without stress, since the training frames are not crystals that all have it"
        )
    if data.duplicates == "refuse":
        _check_duplicates(sets)
    return DataSets(first, sets.get("validation"), sets.get("test"))


def _read(path: Path, data: DataConfig, key: str) -> Frames:
    if path.suffix == ".npz":
        keys = NpzKeys(data.numbers_key, data.positions_key, data.energies_key, data.forces_key)
        found = read_npz(path, keys=keys)
        cells = np.zeros((len(found.positions), 3, 3))
        frames = Frames(found.numbers, np.zeros(3, bool), found.positions, cells, found.energies, found.forces, None)
    elif path.suffix in (".xyz", ".extxyz"):
        labelled = read_extxyz(
            path, energy_key=data.xyz_energy_key, forces_key=data.xyz_forces_key, stress_key=data.xyz_stress_key
        )
        frames = _stack(labelled, key)
    else:
        raise ConfigError(key, str(path), "a file with the suffix .npz, .xyz or .extxyz")
    return frames._replace(
        energy=frames.energy * ENERGY_UNITS[data.energy_unit], forces=frames.forces * FORCE_UNITS[data.forces_unit]
    )


def _stack(labelled: list[LabelledStructure], key: str) -> Frames:
    first = labelled[0].structure
    for index, (structure, _) in enumerate(labelled):
        if not np.array_equal(structure.numbers, first.numbers):
            raise DataError(f"{key}: frame {index} has other atoms, or in another order, than frame 0")
        if not np.array_equal(structure.pbc, first.pbc):
            raise DataError(f"{key}: frame {index} has pbc {structure.pbc.tolist()}; allowed: {first.pbc.tolist()}")
    labels: list[Label] = [label for _, label in labelled]
    stress = [label.stress for label in labels if label.stress is not None]
    return Frames(
        first.numbers,
        first.pbc,
        np.stack([s.positions for s, _ in labelled]),
        np.stack([s.cell for s, _ in labelled]),
        np.array([label.energy for label in labels]),
        np.stack([label.forces for label in labels]),
        np.stack(stress) if len(stress) == len(labels) else None,
    )


def _choose(frames: Frames, data: DataConfig) -> Frames:
    count = frames.size if data.frames is None else data.frames
    if count > frames.size:
        raise ConfigError("data.frames", count, f"at most the {frames.size} frames of {data.train}")
    if data.draw_seed is None:
        return frames.take(np.arange(count))
    return frames.take(np.sort(np.random.default_rng(data.draw_seed).choice(frames.size, count, replace=False)))


def _check_numbers(frames: Frames, key: str) -> None:
    rms = float(np.sqrt(np.mean(frames.forces**2)))
    if rms > LARGEST_FORCE:
        raise DataError(
            f"{key}: the RMS force component is {rms:.3g} eV/Å; allowed: at most {LARGEST_FORCE:g}. "
            f"data.forces_unit says what unit the file is in: {', '.join(FORCE_UNITS)}"
        )
    for index in range(frames.size):
        structure = frames.structure(index)
        cell = neighbors.complete_cell(structure.cell, structure.pbc)
        first, second, _ = neighbors.pairs(structure, cell, CLOSEST_PAIR)
        if len(first):
            raise DataError(
                f"{key}: frame {index}: atoms {first[0]} and {second[0]} are closer than {CLOSEST_PAIR} Å; "
                "allowed: positions in Å"
            )


def _check_duplicates(sets: dict[str, Frames]) -> None:
    seen: dict[bytes, str] = {}
    pairs = []
    for name, frames in sets.items():
        for index in range(frames.size):
            rounded = np.concatenate([frames.positions[index], frames.cells[index]]).round(6) + 0.0
            here = f"{name} {index}"
            before = seen.setdefault(rounded.tobytes(), here)
            if before != here:
                pairs.append(f"{here} = {before}")
    if pairs:
        shown = ", ".join(pairs[:10]) + (", ..." if len(pairs) > 10 else "")
        raise DataError(
            f"data: {len(pairs)} geometries are there twice ({shown}; frames counted from 0 among those used); "
            "allowed: each once, or data.duplicates: allow"
        )


def graphs(
    sets: dict[str, Frames], elements: tuple[int, ...], r_max: float, *, dtype: type = np.float32
) -> dict[str, Graph]:
    """Find all neighbours on the host.

    Args:
      sets: by name.
      elements: atomic numbers of the model's species.
      r_max: cutoff, Å.
      dtype: of the positions.

    Returns:
      By name, leaves [f, ...] with as many neighbour slots as the fullest atom of any frame of any set needs.

    Raises:
      DataError: if the model does not know an element.
    """
    made = {
        name: [
            neighbors.allocate(frames.structure(i), elements, r_max, skin=0.0, slack=1.0, dtype=dtype)
            for i in range(frames.size)
        ]
        for name, frames in sets.items()
    }
    slots = max(spec.capacity for rows in made.values() for spec, _ in rows)
    wide = {name: [neighbors.widen(state, slots).graph for _, state in rows] for name, rows in made.items()}
    return {name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows) for name, rows in wide.items()}

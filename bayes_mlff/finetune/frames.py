"""Labelled sets of one composition: read, converted, checked before anything is computed, and made into graphs."""

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.labels import Label
from bayes_mlff.data.molecule_sets import LabelledStructure, NpzKeys, read_extxyz, read_npz
from bayes_mlff.data.structure import Structure
from bayes_mlff.finetune.config import DataConfig, FinetuneConfig
from bayes_mlff.finetune.label_units import ENERGY_UNITS, FORCE_UNITS, STRESS_SIGNS, STRESS_UNITS

LARGEST_FORCE: Final = 10.0
"""RMS force component above which the unit is doubted, eV/Å; 300 to 1000 K give 0.5 to 3."""
CLOSEST_PAIR: Final = 0.5
"""Distance of two atoms below which positions are not in Å."""
SAME_GEOMETRY: Final = 1e-3
"""Å by which no coordinate and no component of the cell differs between geometries that count as one."""


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
      ConfigError: if a file has another suffix, or there are fewer frames than asked for.
      DataError: if a label is missing or not finite, sets differ in their atoms, a number cannot be in the unit
        stated, stress is to be learnt and a frame of any set lacks it, or a geometry is there twice; the message names
        the set and the frames.
    """
    data = config.data
    paths = {"train": data.train, "validation": data.validation, "test": data.test}
    with_stress = config.targets.endswith("stress")
    sets = {
        name: _read(base / path, data, f"data.{name}", with_stress=with_stress)
        for name, path in paths.items()
        if path is not None
    }
    sets |= _set_aside(sets["train"], data)
    sets["train"] = _choose(sets["train"], data)
    first = sets["train"]
    for name, frames in sets.items():
        if not np.array_equal(frames.numbers, first.numbers) or not np.array_equal(frames.pbc, first.pbc):
            raise DataError(f"data.{name}: other atoms, another order of atoms or another pbc than data.train")
        _check_numbers(frames, f"data.{name}")
    if data.duplicates == "refuse":
        _check_duplicates(sets)
    return DataSets(first, sets.get("validation"), sets.get("test"))


def _read(path: Path, data: DataConfig, key: str, *, with_stress: bool) -> Frames:
    if path.suffix == ".npz":
        keys = NpzKeys(data.numbers_key, data.positions_key, data.energies_key, data.forces_key)
        found = read_npz(path, keys=keys)
        cells = np.zeros((len(found.positions), 3, 3))
        frames = Frames(found.numbers, np.zeros(3, bool), found.positions, cells, found.energies, found.forces, None)
    elif path.suffix in (".xyz", ".extxyz"):
        labelled = read_extxyz(
            path, energy_key=data.xyz_energy_key, forces_key=data.xyz_forces_key, stress_key=data.xyz_stress_key
        )
        if with_stress:
            _check_stress(labelled, data.xyz_stress_key, key)
        frames = _stack(labelled, key)
    else:
        raise ConfigError(key, str(path), "a file with the suffix .npz, .xyz or .extxyz")
    if with_stress and not frames.pbc.all():
        raise DataError(f"{key}: {path} holds no crystals; allowed: targets without stress")
    factor = STRESS_UNITS[data.stress_unit] * STRESS_SIGNS[data.stress_sign]
    return frames._replace(
        energy=frames.energy * ENERGY_UNITS[data.energy_unit],
        forces=frames.forces * FORCE_UNITS[data.forces_unit],
        stress=None if frames.stress is None else frames.stress * factor,
    )


def _check_stress(labelled: list[LabelledStructure], stress_key: str, key: str) -> None:
    for index, (_, label) in enumerate(labelled):
        if label.stress is None:
            raise DataError(
                f"{key}: frame {index} lacks {stress_key}; allowed: stress in every frame of every set "
                "(data.xyz_stress_key names it), or targets without stress"
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


def _set_aside(whole: Frames, data: DataConfig) -> dict[str, Frames]:
    """Disjoint sets drawn from the training file: those asked for by their number of frames, and what is left."""
    counts = {"validation": data.validation_frames or 0, "test": data.test_frames or 0}
    taken = sum(counts.values())
    if taken == 0:
        return {}
    if taken >= whole.size:
        raise ConfigError(
            "data.validation_frames + data.test_frames", taken, f"less than the {whole.size} frames of {data.train}"
        )
    order = np.random.default_rng(data.draw_seed or 0).permutation(whole.size)
    ends = np.cumsum([*counts.values()])
    drawn = dict(zip(counts, np.split(order[:taken], ends[:-1]), strict=True))
    sets = {name: whole.take(np.sort(index)) for name, index in drawn.items() if len(index)}
    return sets | {"train": whole.take(np.sort(order[taken:]))}


def _choose(frames: Frames, data: DataConfig) -> Frames:
    count = frames.size if data.frames is None else data.frames
    if count > frames.size:
        raise ConfigError("data.frames", count, f"at most the {frames.size} frames of {data.train} that are left")
    if data.frames_seed is not None:
        order = np.random.default_rng(data.frames_seed).permutation(frames.size)
        return frames.take(np.sort(order[:count]))
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
    names = [f"{name} {index}" for name, frames in sets.items() for index in range(frames.size)]
    geometries = np.concatenate(
        [np.concatenate([frames.positions, frames.cells], axis=1).reshape(frames.size, -1) for frames in sets.values()]
    )
    # The nearest two of every frame, one of which is mostly the frame itself.
    _, near = KDTree(geometries).query(geometries, k=2, p=np.inf, distance_upper_bound=SAME_GEOMETRY)
    found = {
        (max(i, j), min(i, j))
        for i, row in enumerate(np.asarray(near))
        for j in map(int, row)
        if j not in (i, len(names))
    }
    if found:
        pairs = [f"{names[later]} = {names[before]}" for later, before in sorted(found)]
        shown = ", ".join(pairs[:10]) + (", ..." if len(pairs) > 10 else "")
        raise DataError(
            f"data: {len(pairs)} pairs of geometries are the same to {SAME_GEOMETRY} Å ({shown}; frames counted from 0 "
            "among those used); allowed: each once, or data.duplicates: allow"
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
    return {name: jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *rows) for name, rows in wide.items()}

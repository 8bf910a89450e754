"""Labelled sets of any structures: read, converted, padded to one number of atoms, and made into graphs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data.graph import Graph, padded
from bayes_mlff.data.labels import Label
from bayes_mlff.data.molecule_sets import LabelledStructure, NpzKeys, read_extxyz, read_npz
from bayes_mlff.finetune import frame_checks
from bayes_mlff.finetune.config import DataConfig, FinetuneConfig
from bayes_mlff.finetune.label_units import ENERGY_UNITS, FORCE_UNITS, STRESS_SIGNS, STRESS_UNITS
from bayes_mlff.finetune.labelled import DataSets, Frames


def read(config: FinetuneConfig, *, base: Path = Path()) -> DataSets:
    """Read and check all sets of a configuration.

    Args:
      config: its paths, keys, units and number of frames.
      base: directory against which relative paths are resolved.

    Returns:
      The sets, padded to the atoms of the largest frame of all; of the training set only the frames to use.

    Raises:
      ConfigError: if a file has another suffix, or there are fewer frames than asked for.
      DataError: if a label is missing or not finite, a number cannot be in the unit stated, stress is to be learnt and
        a frame of any set lacks it or does not repeat in three directions, or a geometry is there twice; the message
        names the set and the frames. Energies may be missing from all frames of all sets if forces are the targets.
    """
    data = config.data
    paths = {"train": data.train, "validation": data.validation, "test": data.test}
    sets = {name: _read(base / path, config, f"data.{name}") for name, path in paths.items() if path is not None}
    frame_checks.same_labels(sets)
    sets |= _set_aside(sets["train"], data)
    sets["train"] = _choose(sets["train"], data)
    for name, frames in sets.items():
        frame_checks.plausible(frames, f"data.{name}")
    most = max(int(frames.atoms.max()) for frames in sets.values())
    sets = {name: frames.resized(most) for name, frames in sets.items()}
    if data.duplicates == "refuse":
        frame_checks.no_duplicates(sets)
    return DataSets(sets["train"], sets.get("validation"), sets.get("test"))


def _read(path: Path, config: FinetuneConfig, key: str) -> Frames:
    data, forces_only = config.data, config.targets == "forces"
    if path.suffix == ".npz":
        keys = NpzKeys(data.numbers_key, data.positions_key, data.energies_key, data.forces_key)
        found = read_npz(path, keys=keys, energies_optional=forces_only)
        count = len(found.positions)
        atoms = (np.tile(found.numbers, (count, 1)), np.zeros((count, 3), bool))
        frames = Frames(*atoms, found.positions, np.zeros((count, 3, 3)), _known(found.energies), found.forces, None)
    elif path.suffix in (".xyz", ".extxyz"):
        labelled = read_extxyz(
            path, energy_key=data.xyz_energy_key, forces_key=data.xyz_forces_key, stress_key=data.xyz_stress_key,
            energies_optional=forces_only,
        )  # fmt: skip
        frame_checks.complete(labelled, config, key)
        frames = _stack(labelled)
    else:
        raise ConfigError(key, str(path), "a file with the suffix .npz, .xyz or .extxyz")
    if config.learns_stress and not frames.pbc.all():
        molecules = np.flatnonzero(~frames.pbc.all(axis=1))
        which = "no crystals" if len(molecules) == frames.size else f"other frames than crystals, frame {molecules[0]}"
        raise DataError(f"{key}: {path} holds {which}; allowed: targets without stress")
    factor = STRESS_UNITS[data.stress_unit] * STRESS_SIGNS[data.stress_sign]
    return frames._replace(
        energy=None if frames.energy is None else frames.energy * ENERGY_UNITS[data.energy_unit],
        forces=frames.forces * FORCE_UNITS[data.forces_unit],
        stress=None if frames.stress is None else frames.stress * factor,
    )


def _stack(labelled: list[LabelledStructure]) -> Frames:
    """One set of structures, padded to the atoms of the largest."""
    rows = [(s.numbers, s.positions, label.forces) for s, label in labelled]
    most = max(len(numbers) for numbers, *_ in rows)
    numbers, positions, forces = (
        np.stack([np.pad(x, [(0, most - len(x)), (0, 0)][: x.ndim]) for x in column])
        for column in zip(*rows, strict=True)
    )
    pbc, cells = (np.stack(x) for x in zip(*((s.pbc, s.cell) for s, _ in labelled), strict=True))
    labels: list[Label] = [label for _, label in labelled]
    energy = _known(np.array([label.energy for label in labels]))
    stress = [label.stress for label in labels if label.stress is not None]
    whole = np.stack(stress) if len(stress) == len(labels) else None
    return Frames(numbers, pbc, positions, cells, energy, forces, whole)


def _known(energies: np.ndarray) -> np.ndarray | None:
    """Energies, if they are not those of a file without."""
    return None if np.isnan(energies).any() else energies


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
      By name, leaves [f, ...] with the atoms that the frames are padded to and as many neighbour slots as the fullest
      atom of any frame of any set needs.

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
    wide = {
        name: [padded(state.graph, sets[name].numbers.shape[1], slots) for _, state in rows]
        for name, rows in made.items()
    }
    return {name: jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *rows) for name, rows in wide.items()}

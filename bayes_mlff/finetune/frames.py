"""Labelled sets of any structures: read, converted, padded to one number of atoms, and made into graphs."""

from pathlib import Path
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import frame_checks, frame_states, neighbors
from bayes_mlff.data.graph import Graph, padded
from bayes_mlff.data.label_settings import Wanted
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.data.labelled_reading import LabelledSet, read_file
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.data_config import DataConfig
from bayes_mlff.finetune.labelled import DataSets

SPARE: Final = 50
"""Largest number of unused training frames that are kept for the checks of the labels."""


def read(config: FinetuneConfig, *, base: Path = Path()) -> DataSets:
    """Read and check all sets of a configuration.

    Args:
      config: paths, keys, units and number of frames.
      base: directory against which relative paths are resolved.

    Returns:
      The sets, padded to the largest number of atoms of any frame; the training set has only the frames to use.

    Raises:
      ConfigError: if a file has another suffix, or there are fewer frames than requested.
      DataError: if a label is missing or not finite, energies are per atom of elements that a frame lacks, a number is
        implausible in the stated unit, stress is a target and a frame of any set lacks it or is not periodic in three
        directions, or a geometry is duplicated; the message names the set and the frames. Energies may be missing from
        all frames of all sets if forces are the targets, and forces if energies are.
    """
    data = config.data
    paths = {"train": data.train, "validation": data.validation, "test": data.test}
    files = {name: _read(base / path, config, f"data.{name}") for name, path in paths.items() if path is not None}
    sets = {name: file.frames for name, file in files.items()}
    frame_checks.same_labels(sets)
    state: dict[str, float] = {}
    if data.electronic_states == "refuse":
        named = {f"data.{name}": file for name, file in files.items()}
        state = frame_states.common_state(named, or_allow=", or data.electronic_states: allow")
    for name, file in files.items():
        if data.doubtful_units == "refuse":
            frame_checks.bond_lengths(file.frames, file.units, f"data.{name}")
        frame_checks.plausible(file.frames, f"data.{name}", large_forces=data.doubtful_units == "allow")
    sets |= _set_aside(sets["train"], data)
    whole = sets["train"]
    used = _choose(whole.size, data)
    spare = np.setdiff1d(np.arange(whole.size), used)[:SPARE]
    sets["train"] = whole.take(used)
    most = max(int(frames.atoms.max()) for frames in sets.values())
    sets = {name: frames.resized(most) for name, frames in sets.items()}
    if data.duplicates == "refuse":
        frame_checks.no_duplicates(sets)
    units = {name: files[name if name in files else "train"].units for name in sets}
    remarks = tuple(remark for file in files.values() for remark in file.remarks)
    return DataSets(sets["train"], sets.get("validation"), sets.get("test"), units, state, remarks, whole.take(spare))


def _read(path: Path, config: FinetuneConfig, key: str) -> LabelledSet:
    """Read one file."""
    wanted = Wanted(
        energy=config.learns_energy,
        forces=config.learns_forces,
        stress=config.learns_stress,
        or_no_energy=", or with targets: forces in none",
        or_no_stress=", or targets without stress",
    )
    found = read_file(path, config.data, wanted, key)
    found = found._replace(frames=_total(found.frames, config.data, key))
    pbc = found.frames.pbc
    if config.learns_stress and not pbc.all():
        molecules = np.flatnonzero(~pbc.all(axis=1))
        which = "no crystals" if len(molecules) == len(pbc) else f"other frames than crystals, frame {molecules[0]}"
        raise DataError(f"{key}: {path} holds {which}; allowed: targets without stress")
    return found


def _total(frames: Frames, data: DataConfig, key: str) -> Frames:
    """The frames with total energies."""
    if frames.energy is None:
        return frames
    units = data.energy_units(frames.numbers)
    without = np.flatnonzero(units == 0.0)
    if len(without):
        raise DataError(
            f"{key}: frame {without[0]} has no atom of {', '.join(data.energy_per)}, per which energies are "
            "(data.energy_per); allowed: one or more in every frame"
        )
    return frames._replace(energy=frames.energy * units)


def _set_aside(whole: Frames, data: DataConfig) -> dict[str, Frames]:
    """Disjoint sets drawn from the training file: the requested numbers of frames, and the rest."""
    counts = {"validation": data.validation_frames or 0, "test": data.test_frames or 0}
    taken = sum(counts.values())
    if taken == 0:
        return {}
    if taken >= whole.size:
        raise ConfigError(
            "data.validation_frames" if data.validation_frames else "data.test_frames",
            taken,
            f"less than the {whole.size} frames of {data.train}, data.validation_frames and data.test_frames together",
        )
    order = np.random.default_rng(data.draw_seed or 0).permutation(whole.size)
    ends = np.cumsum([*counts.values()])
    drawn = dict(zip(counts, np.split(order[:taken], ends[:-1]), strict=True))
    sets = {name: whole.take(np.sort(index)) for name, index in drawn.items() if len(index)}
    return sets | {"train": whole.take(np.sort(order[taken:]))}


def _choose(size: int, data: DataConfig) -> np.ndarray:
    """Indices, ascending, of the training frames to use."""
    count = size if data.frames is None else data.frames
    if count > size:
        raise ConfigError("data.frames", count, f"at most the {size} frames of {data.train} that are left")
    if data.frames_seed is not None:
        return np.sort(np.random.default_rng(data.frames_seed).permutation(size)[:count])
    if data.draw_seed is None:
        return np.arange(count)
    return np.sort(np.random.default_rng(data.draw_seed).choice(size, count, replace=False))


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
      Graphs by name of the set, leaves [f, ...]; the number of neighbour slots is the largest number of neighbours
      of any atom in any set.

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

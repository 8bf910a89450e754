"""Labelled sets of LaMnO3 from the committed run: pool, validation and test frames as extended XYZ."""

import os
from pathlib import Path
from typing import Final

import numpy as np
from ase import Atoms
from ase.io import read, write

SOURCE: Final = Path(__file__).parents[1] / "results" / "lamno3"
VALIDATION: Final = 10
"""Labels that are set aside to scale σ, and for the optimisers to choose the best step."""


def labels() -> list[Atoms]:
    """All labels of the run, in the order in which it took them."""
    return _read("dataset.extxyz")


def random_frames() -> list[Atoms]:
    """The random frames of the run whose time is not that of a label."""
    taken = {round(atoms.info["time_fs"], 3) for atoms in labels()}
    return [atoms for atoms in _read("validation.extxyz") if round(atoms.info["time_fs"], 3) not in taken]


def write_sets(folder: Path, seed: int) -> tuple[Path, Path, Path]:
    """Write the sets of a seed, unless they are there.

    Args:
      folder: where they are written.
      seed: of the order of the labels; the last ones are for validation.

    Returns:
      Paths of pool, validation and test set. The m training frames are the first of the pool.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = labels()
    order = np.random.default_rng(seed).permutation(len(every))
    shuffled = [every[i] for i in order]
    parts = {
        f"pool-s{seed}": shuffled[:-VALIDATION],
        f"validation-s{seed}": shuffled[-VALIDATION:],
        "test": random_frames(),
    }
    paths = []
    for name, frames in parts.items():
        path = folder / f"{name}.extxyz"
        if not path.is_file():
            unfinished = path.with_suffix(f".{os.getpid()}")
            write(unfinished, frames, format="extxyz")
            unfinished.replace(path)
        paths.append(path)
    return paths[0], paths[1], paths[2]


def _read(name: str) -> list[Atoms]:
    found = read(SOURCE / name, index=":", format="extxyz")
    assert isinstance(found, list)
    return found

"""The labelled sets of a fine-tuning."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bayes_mlff.data.label_units import Units
from bayes_mlff.data.labelled_frames import Frames


class DataSets(NamedTuple):
    """Training set, validation set (σ is scaled on it) and test set (only predicted)."""

    train: Frames
    validation: Frames | None
    test: Frames | None
    units: Mapping[str, Units] = {}  # of the files, by name of the set
    state: Mapping[str, float] = {}  # charge and spin that all frames share, by key
    remarks: tuple[str, ...] = ()  # sentences on what was read from the files and what was assumed
    spare: Frames | None = None  # some unused frames of the training file, unpadded, for the checks of the labels

    def named(self) -> dict[str, Frames]:
        """The existing sets by the names of their keys in the configuration."""
        pairs = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: frames for name, frames in pairs.items() if frames is not None}

    @property
    def atomic_numbers(self) -> np.ndarray:
        """Atomic numbers of all elements in any set, ascending."""
        found = np.unique(np.concatenate([frames.numbers.ravel() for frames in self.named().values()]))
        return found[found > 0]

    def digest(self) -> str:
        """SHA-256 of the training and validation sets: atoms, pbc, geometries and all labels, with their shapes.

        It does not depend on padding, which also depends on the other sets.
        """
        total = hashlib.sha256()
        for frames in (self.train, self.validation):
            if frames is None:
                continue
            # Fields that earlier versions did not have are included only if present.
            every = frames.resized(int(frames.atoms.max()))
            for array in every if every.without_forces is not None else every[:-1]:
                total.update(b"none" if array is None else f"{array.dtype} {array.shape}".encode())
                total.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return total.hexdigest()

"""Labelled frames of any atoms as padded arrays, and the sets that a fine-tuning has of them."""

import hashlib
from typing import NamedTuple

import numpy as np

from bayes_mlff.data.structure import Structure


class Frames(NamedTuple):
    """Labelled frames of any atoms, all padded to the same number of them; float64, on the host."""

    numbers: np.ndarray  # [f, n] atomic numbers, 0 on padding
    pbc: np.ndarray  # [f, 3] bool
    positions: np.ndarray  # [f, n, 3] Å, 0 on padding
    cells: np.ndarray  # [f, 3, 3] Å, rows
    energy: np.ndarray | None  # [f] eV; None if not labelled
    forces: np.ndarray  # [f, n, 3] eV/Å, 0 on padding
    stress: np.ndarray | None  # [f, 3, 3] eV/Å³, tension positive; None unless every frame has it

    @property
    def size(self) -> int:
        """Number of frames."""
        return len(self.positions)

    @property
    def node_mask(self) -> np.ndarray:
        """[f, n] False on padding."""
        return self.numbers > 0

    @property
    def atoms(self) -> np.ndarray:
        """Number of atoms of each frame, [f]."""
        return np.count_nonzero(self.numbers, axis=1)

    @property
    def force_rms(self) -> float:
        """Root mean square of all force components, eV/Å."""
        return float(np.sqrt(np.sum(self.forces**2) / (3 * np.sum(self.atoms))))

    def structure(self, index: int) -> Structure:
        """One geometry, without padding."""
        real = self.node_mask[index]
        return Structure(self.numbers[index, real], self.positions[index, real], self.cells[index], self.pbc[index])

    def take(self, index: np.ndarray) -> "Frames":
        """Some of the frames."""
        return Frames(*(None if array is None else array[index] for array in self))  # pyright: ignore[reportArgumentType]

    def resized(self, atoms: int) -> "Frames":
        """The same with room for so many atoms, at least as many as the largest frame has."""

        def resize(x: np.ndarray) -> np.ndarray:
            cut = x[:, :atoms]
            return np.pad(cut, [(0, atoms - cut.shape[1] if axis == 1 else 0) for axis in range(x.ndim)])

        return self._replace(numbers=resize(self.numbers), positions=resize(self.positions), forces=resize(self.forces))


class DataSets(NamedTuple):
    """What is learnt from, what σ is scaled on, and what is only predicted."""

    train: Frames
    validation: Frames | None
    test: Frames | None

    def named(self) -> dict[str, Frames]:
        """Those that exist, by the names of their keys in the configuration."""
        pairs = zip(self._fields, self, strict=True)
        return {name: frames for name, frames in pairs if frames is not None}

    @property
    def atomic_numbers(self) -> np.ndarray:
        """Of all elements that are in any set, ascending."""
        found = np.unique(np.concatenate([frames.numbers.ravel() for frames in self.named().values()]))
        return found[found > 0]

    def digest(self) -> str:
        """SHA-256 of what is learnt from and chosen by: atoms, pbc, geometries and all labels, with their shapes.

        It does not depend on padding, which follows other sets, too.
        """
        total = hashlib.sha256()
        for frames in (self.train, self.validation):
            if frames is None:
                continue
            for array in frames.resized(int(frames.atoms.max())):
                total.update(b"none" if array is None else f"{array.dtype} {array.shape}".encode())
                total.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return total.hexdigest()

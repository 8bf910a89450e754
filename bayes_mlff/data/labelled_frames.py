"""Labelled frames of any composition as padded arrays."""

from typing import NamedTuple

import numpy as np

from bayes_mlff.core.numbers import padded
from bayes_mlff.data.structure import Structure


class Frames(NamedTuple):
    """Labelled frames of any composition, padded to the same number of atoms; float64, on the host."""

    numbers: np.ndarray  # [f, n] atomic numbers, 0 on padding
    pbc: np.ndarray  # [f, 3] bool
    positions: np.ndarray  # [f, n, 3] Å, 0 on padding
    cells: np.ndarray  # [f, 3, 3] Å, rows
    energy: np.ndarray | None  # [f] eV; None if not labelled
    forces: np.ndarray  # [f, n, 3] eV/Å, 0 on padding
    stress: np.ndarray | None  # [f, 3, 3] eV/Å³, tension positive; None unless every frame has it
    without_forces: np.ndarray | None = None  # [f, n, 3] True where the force component is unknown; None: all are known

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
        """Root mean square of all known force components, eV/Å."""
        known = self.known_forces
        return float(np.sqrt(np.sum(self.forces[known] ** 2) / max(1, np.count_nonzero(known))))

    @property
    def known_forces(self) -> np.ndarray:
        """[f, n, 3] False on padding and for unknown force components."""
        atoms = np.repeat(self.node_mask[..., None], 3, axis=-1)
        return atoms if self.without_forces is None else atoms & ~self.without_forces

    def without_any_forces(self) -> "Frames":
        """The same frames with all forces unknown."""
        return self._replace(forces=np.zeros_like(self.forces), without_forces=np.ones(self.forces.shape, bool))

    def structure(self, index: int) -> Structure:
        """One geometry, without padding."""
        real = self.node_mask[index]
        return Structure(self.numbers[index, real], self.positions[index, real], self.cells[index], self.pbc[index])

    def take(self, index: np.ndarray) -> "Frames":
        """Some of the frames."""
        return Frames(*(None if array is None else array[index] for array in self))  # pyright: ignore[reportArgumentType]

    def resized(self, atoms: int) -> "Frames":
        """The same frames padded to so many atoms, at least the number of the largest frame."""

        def resize(x: np.ndarray) -> np.ndarray:
            cut = x[:, :atoms]
            return padded(cut, (len(cut), atoms, *cut.shape[2:]))

        return self._replace(
            **{name: resize(getattr(self, name)) for name in ("numbers", "positions", "forces")},
            without_forces=None if self.without_forces is None else resize(self.without_forces),
        )

"""Atomic reference energies: difference between reference and network energies, as a sum over the atoms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.data.neighbors import check_elements
from bayes_mlff.models.config import ArchitectureConfig


def composition(numbers: np.ndarray, elements: tuple[int, ...]) -> np.ndarray:
    """Number of atoms of each element, [..., e], from atomic numbers [..., n], 0 on padding.

    Raises:
      DataError: if there are other elements.
    """
    check_elements(numbers[numbers > 0], elements)
    return np.sum(numbers[..., None] == np.array(elements), axis=-2)


def independent(counts: np.ndarray) -> np.ndarray:
    """Select linearly independent compositions [r, e] from [f, e]."""
    chosen = np.zeros((0, counts.shape[1]), np.int64)
    for row in np.unique(counts, axis=0) if len(counts) else counts:
        wider = np.concatenate([chosen, row[None]])
        if np.linalg.matrix_rank(wider) > len(chosen):
            chosen = wider
    return chosen


def determined(counts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether compositions [..., e] are linear combinations of known ones [r, e], which determine their energies."""
    inside = counts @ np.linalg.pinv(known.astype(np.float64)) @ known if len(known) else np.zeros(counts.shape)
    return np.abs(counts - inside).max(axis=-1) < 1e-6 * np.maximum(1.0, np.abs(counts).max(axis=-1))


def atomic_reference_energy(architecture: ArchitectureConfig, offset_ev: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Sum of the atomic reference energies, eV: reference energy = network energy + this sum.

    Args:
      architecture: elements and the energies of their isolated atoms.
      offset_ev: energy minus reference of c networks: [c, e] per atom of each element, or [c] for any structure.
      numbers: atomic numbers [..., n], 0 on padding.

    Returns:
      [c, ...]
    """
    counts = composition(numbers, architecture.elements)
    isolated = counts @ np.array(architecture.energy_shifts)
    if offset_ev.ndim == 1:
        return isolated[None] - offset_ev.reshape(-1, *[1] * isolated.ndim)
    return isolated[None] - np.tensordot(offset_ev, counts, axes=(-1, -1))


OWN_ARRAYS: Final = ("own_compositions", "own_offset_ev")
"""Names of the arrays of `OwnLevels` in a file."""


class OwnLevels(NamedTuple):
    """Levels of compositions that sums over elements do not give: each has its own zero of the energies."""

    compositions: np.ndarray  # [k, e] number of atoms of each element
    offset_ev: np.ndarray  # [c, k] energy of c networks minus reference, of a structure of this composition

    def stored(self) -> dict[str, np.ndarray]:
        """Arrays for a file, by name."""
        arrays = np.array(self.compositions, np.int64, order="C"), np.array(self.offset_ev, np.float64, order="C")
        return dict(zip(OWN_ARRAYS, arrays, strict=True))

    @classmethod
    def read(cls, path: Path, found: Sequence[np.ndarray | None], offset_ev: np.ndarray) -> "OwnLevels | None":
        """Levels that a file holds, None if it holds none.

        Args:
          path: of the file, for messages.
          found: its arrays, in the order of their names.
          offset_ev: [c, e] its energies of elements.

        Raises:
          WeightsError: if they do not fit its other arrays.
        """
        compositions, above = found
        if compositions is None and above is None:
            return None
        shape = None if compositions is None else (len(offset_ev), len(compositions))
        sound = above is not None and above.dtype.kind == "f" and bool(np.isfinite(above).all())
        if compositions is None or above is None or above.shape != shape or not sound:
            raise WeightsError(
                f"{path}: levels of compositions that do not fit together; allowed: a fine-tuned ensemble"
            )
        if compositions.shape[1:] != offset_ev.shape[1:] or not np.all(compositions.sum(axis=1) > 0):
            raise WeightsError(f"{path}: compositions of other elements have levels; allowed: a fine-tuned ensemble")
        return cls(compositions, above)

    def known(self, counts: np.ndarray) -> np.ndarray:
        """Whether compositions [..., e] are whole multiples of these, as those of supercells are."""
        return np.any(self._multiples(counts) > 0, axis=-1)

    def beyond(self, offset_ev: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """What the levels of compositions [..., e] are above sums over elements, [c, ...] eV; 0 where none is known.

        Args:
          offset_ev: [c, e] eV per atom of each element.
          counts: [..., e].
        """
        above = self.offset_ev - offset_ev @ self.compositions.T
        multiples = self._multiples(counts)
        nearest = np.argmin(np.where(multiples > 0, multiples, np.inf), axis=-1)  # itself, if it is among them
        times = np.take_along_axis(multiples, nearest[..., None], axis=-1)[..., 0]
        return above[:, nearest] * times

    def _multiples(self, counts: np.ndarray) -> np.ndarray:
        """How many times each composition is in others, [..., k]; 0 where these are no whole multiples of it."""
        sizes = counts.sum(axis=-1)[..., None] // self.compositions.sum(axis=-1)
        same = np.all(sizes[..., None] * self.compositions == counts[..., None, :], axis=-1)
        return np.where(same, sizes, 0)


def offsets(
    architecture: ArchitectureConfig, energy: ArrayLike, numbers: np.ndarray, reference_ev: np.ndarray
) -> np.ndarray:
    """Energy of networks minus reference, per atom of each element, by least squares over the frames.

    It is the minimum-norm solution, so that frames of one composition give their mean difference for that composition,
    and an element that is in no frame gets zero.

    Args:
      architecture: elements and the energies of their isolated atoms.
      energy: [c, f] eV, of the networks, without isolated atoms.
      numbers: atomic numbers [f, n], 0 on padding.
      reference_ev: [f] total energies.

    Returns:
      [c, e] eV per atom.
    """
    counts = composition(numbers, architecture.elements)
    above = np.asarray(energy) - (reference_ev - counts @ np.array(architecture.energy_shifts))[None]
    return per_atom(counts, above)


def per_atom(counts: np.ndarray, above_ev: np.ndarray) -> np.ndarray:
    """Energies per atom of each element, [c, e] eV, whose sums over compositions [f, e] are nearest to [c, f] eV.

    The minimum-norm solution of least squares.
    """
    # Counts are small whole numbers: singular values of independent compositions are far above this.
    return np.linalg.lstsq(counts.astype(np.float64), above_ev.T, rcond=1e-9)[0].T

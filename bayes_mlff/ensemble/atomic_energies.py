"""Atomic reference energies: what lies between a network and the reference, as a sum over the atoms of a structure."""

import numpy as np
from numpy.typing import ArrayLike

from bayes_mlff.data.neighbors import check_elements
from bayes_mlff.models.config import ArchitectureConfig


def composition(numbers: np.ndarray, elements: tuple[int, ...]) -> np.ndarray:
    """How many atoms of each element there are, [..., e], of atomic numbers [..., n], 0 on padding.

    Raises:
      DataError: if there are other elements.
    """
    check_elements(numbers[numbers > 0], elements)
    return np.sum(numbers[..., None] == np.array(elements), axis=-2)


def independent(counts: np.ndarray) -> np.ndarray:
    """Compositions [r, e] among those of [f, e], in their order, of which none follows from the ones before it."""
    chosen = np.zeros((0, counts.shape[1]), np.int64)
    for row in np.unique(counts, axis=0) if len(counts) else counts:
        wider = np.concatenate([chosen, row[None]])
        if np.linalg.matrix_rank(wider) > len(chosen):
            chosen = wider
    return chosen


def determined(counts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether compositions [..., e] are linear combinations of known ones [r, e], and their energies so determined."""
    inside = counts @ np.linalg.pinv(known.astype(np.float64)) @ known if len(known) else np.zeros(counts.shape)
    return np.abs(counts - inside).max(axis=-1) < 1e-6 * np.maximum(1.0, np.abs(counts).max(axis=-1))


def atomic_reference_energy(architecture: ArchitectureConfig, offset_ev: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Sum of the atomic reference energies, which added to the energies of networks gives those of the reference, eV.

    Args:
      architecture: elements and the energies of their isolated atoms.
      offset_ev: of c networks, energy minus reference: [c, e] per atom of each element, or [c] of any structure.
      numbers: atomic numbers [..., n], 0 on padding.

    Returns:
      [c, ...]
    """
    counts = composition(numbers, architecture.elements)
    isolated = counts @ np.array(architecture.energy_shifts)
    if offset_ev.ndim == 1:
        return isolated[None] - offset_ev.reshape(-1, *[1] * isolated.ndim)
    return isolated[None] - np.tensordot(offset_ev, counts, axes=(-1, -1))


def offsets(
    architecture: ArchitectureConfig, energy: ArrayLike, numbers: np.ndarray, reference_ev: np.ndarray
) -> np.ndarray:
    """Energy of networks minus reference, per atom of each element: the least squares over frames.

    It is the minimum-norm solution, so that frames of one composition give their mean difference for that composition,
    and an element that is in no frame gets zero.

    Args:
      architecture: elements and the energies of their isolated atoms.
      energy: [c, f] eV, as the networks give it, without isolated atoms.
      numbers: atomic numbers [f, n], 0 on padding.
      reference_ev: [f] total energies.

    Returns:
      [c, e] eV per atom.
    """
    counts = composition(numbers, architecture.elements)
    above = np.asarray(energy) - (reference_ev - counts @ np.array(architecture.energy_shifts))[None]
    # Counts are small whole numbers: what is linearly independent is so by far more than this.
    return np.linalg.lstsq(counts.astype(np.float64), above.T, rcond=1e-9)[0].T

"""Atomic reference energies between the networks and the labels of a fine-tuning (ADR 0022 and 0033)."""

from typing import NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.ensemble import atomic_energies
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.models.config import ArchitectureConfig


class Levels(NamedTuple):
    """Energy of networks minus reference per atom of each element, and the compositions for which this is known."""

    reference: np.ndarray  # [f] eV, energies of the training frames that it was fitted to
    pretrained: np.ndarray  # [1, e] eV, of the pretrained network
    learnt: np.ndarray  # [1, e] eV, of the labels that the networks learn
    compositions: np.ndarray  # [r, e] linearly independent compositions whose energies are known


def settle(
    config: FinetuneConfig, architecture: ArchitectureConfig, train: Frames, pretrained_ev: np.ndarray
) -> Levels:
    """What is subtracted from the labels before anything is learnt.

    Args:
      config: from `identity.stated`.
      architecture: elements and the energies of their isolated atoms.
      train: training frames.
      pretrained_ev: [1, f] eV, of the pretrained network.
    """
    elements, reference = architecture.elements, train.energy
    if reference is None:  # the samples get the atomic reference energies of the pretrained model
        isolated = atomic_energies.atomic_reference_energy(architecture, np.zeros(1), train.numbers)[0]
        reference = isolated + pretrained_ev[0]
    if config.likelihood.energy_zero == "absolute":
        zero = np.zeros((1, len(elements)))
        return Levels(reference, zero, zero, np.eye(len(elements), dtype=np.int64))
    above = atomic_energies.offsets(architecture, pretrained_ev, train.numbers, reference)
    # Random networks have no atomic reference energies: their labels are shifted to a mean of zero.
    learnt = above
    if config.from_random_weights:
        learnt = atomic_energies.offsets(architecture, np.zeros_like(pretrained_ev), train.numbers, reference)
    counts = atomic_energies.composition(train.numbers, elements)
    known = atomic_energies.independent(counts if train.energy is not None else counts[:0])
    return Levels(reference, above, learnt, known)


def of_samples(
    config: FinetuneConfig, architecture: ArchitectureConfig, train: Frames, levels: Levels, energies_ev: np.ndarray
) -> np.ndarray:
    """Energy of every sample minus reference, [c, e] eV per atom of each element.

    Args:
      config: from `identity.stated`.
      architecture: elements and the energies of their isolated atoms.
      train: training frames.
      levels: from `settle`.
      energies_ev: [c, f] eV, of the samples on the training frames.
    """
    if config.learns_energy and not config.fits_energy_zero:
        return np.repeat(levels.learnt, len(energies_ev), axis=0)
    # Forces and differences of energies do not determine the energy zero of a sample.
    return atomic_energies.offsets(architecture, energies_ev, train.numbers, levels.reference)


def check(config: FinetuneConfig, sets: DataSets, elements: tuple[int, ...]) -> None:
    """Refuse energies alone where atomic reference energies leave nothing to learn, or nothing to compare.

    Raises:
      DataError: naming the set.
    """
    if config.learns_forces or config.likelihood.energy_zero == "absolute":
        return
    known = atomic_energies.independent(atomic_energies.composition(sets.train.numbers, elements))
    if len(known) >= sets.train.size:
        raise DataError(
            f"data.train: atomic reference energies reproduce the energies of all {sets.train.size} frames, whose "
            "compositions are linearly independent, so that nothing is left to learn; allowed: several frames of a "
            "composition, or likelihood.energy_zero: absolute where labels and model have the same zero"
        )
    for name, frames in sets.named().items():
        if not atomic_energies.determined(atomic_energies.composition(frames.numbers, elements), known).any():
            raise DataError(
                f"data.{name}: no frame has a composition whose energy the training frames determine; allowed: one or "
                "more, or likelihood.energy_zero: absolute where labels and model have the same zero"
            )


def rmse(
    config: FinetuneConfig, architecture: ArchitectureConfig, frames: Frames, levels: Levels, energies_ev: np.ndarray
) -> np.ndarray:
    """Root mean square error [c] eV of the total energies [c, f] of networks, where their zero is known.

    If the zero is fitted to the training frames afterwards, errors are relative to their mean.
    """
    assert frames.energy is not None
    counts = atomic_energies.composition(frames.numbers, architecture.elements)
    known = atomic_energies.determined(counts, levels.compositions)
    atomic = atomic_energies.atomic_reference_energy(architecture, levels.learnt, frames.numbers)
    error = (energies_ev + atomic - frames.energy)[:, known]
    if config.fits_energy_zero:
        error = error - error.mean(axis=1, keepdims=True)
    return np.sqrt(np.mean(error**2, axis=1))

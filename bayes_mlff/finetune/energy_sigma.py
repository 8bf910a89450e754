"""σ of energies that are not learnt: they follow from the forces, and only their level was fitted.

How far samples differ in such energies says next to nothing about the error of any one frame. What is measured is the
scatter of the training energies around their fitted level, and the error on validation frames, where there are some.
"""

import numpy as np
from scipy import stats

from bayes_mlff.finetune.evaluate import Quality
from bayes_mlff.posterior.likelihood import PerAtom

CENTRAL = 0.95
"""Probability of the interval that is to hold as much whatever the number of frames is."""


def scatter(error: np.ndarray, atoms: np.ndarray, fitted: int, least: float | PerAtom) -> float | PerAtom | None:
    """Standard deviation of energies around sums of atomic reference energies that were fitted to them.

    Args:
      error: [f] eV, mean of the samples minus reference, after the fit.
      atoms: [f] numbers of atoms.
      fitted: number of fitted constants, counting linearly independent ones only.
      least: smallest value, whose kind, total or per atom, the result has.

    Returns:
      The value, None if there are no more frames than constants.
    """
    left = len(error) - fitted
    if left < 1:
        return None
    if isinstance(least, PerAtom):
        return PerAtom(max(float(least.sigma), float(np.sqrt(np.sum((error / atoms) ** 2) / left))))
    return max(float(least), float(np.sqrt(np.sum(error**2) / left)))


def allowance(frames: int) -> float:
    """Factor on a σ that so many errors were used for, by which its normal 95 % interval is that of Student's t."""
    tail = 0.5 + 0.5 * CENTRAL
    return float(stats.t.ppf(tail, frames) / stats.norm.ppf(tail))


def factor(validation: Quality | None, scaled: float, left: int) -> float:
    """Factor on the σ of energies that are not learnt.

    Args:
      validation: errors on the validation frames; None without any.
      scaled: factor by which the mean square of σ is that of these errors.
      left: training frames less the constants fitted to them.

    Returns:
      Infinity if nothing was measured.
    """
    if validation is not None:
        return scaled * allowance(len(validation.error))
    return allowance(left) if left > 0 else float("inf")

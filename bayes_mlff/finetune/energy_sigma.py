"""σ of energies that are not learnt: they follow from the forces, and only atomic reference energies were fitted.

The spread of the samples in such energies says almost nothing about the error of a frame. Instead, σ is measured as the
scatter of the training energies after this fit, and by the error on validation frames if there are any.
"""

import numpy as np
from scipy import stats

from bayes_mlff.finetune.evaluate import Quality
from bayes_mlff.posterior.likelihood import PerAtom

CENTRAL = 0.95
"""Probability of the interval whose coverage should not depend on the number of frames."""


def scatter(error: np.ndarray, atoms: np.ndarray, fitted: int, least: float | PerAtom) -> float | PerAtom | None:
    """Standard deviation of energies around sums of atomic reference energies that were fitted to them.

    Args:
      error: [f] eV, mean of the samples minus reference, after the fit.
      atoms: [f] numbers of atoms.
      fitted: number of linearly independent fitted constants.
      least: smallest value; the result is of the same kind, total or per atom.

    Returns:
      The standard deviation; None if there are no more frames than constants.
    """
    left = len(error) - fitted
    if left < 1:
        return None
    if isinstance(least, PerAtom):
        return PerAtom(max(float(least.sigma), float(np.sqrt(np.sum((error / atoms) ** 2) / left))))
    return max(float(least), float(np.sqrt(np.sum(error**2) / left)))


def allowance(frames: int) -> float:
    """Factor on a σ from so many errors that makes its normal 95 % interval equal to that of Student's t."""
    tail = 0.5 + 0.5 * CENTRAL
    return float(stats.t.ppf(tail, frames) / stats.norm.ppf(tail))


def factor(validation: Quality | None, scaled: float, left: int) -> float:
    """Factor on the σ of energies that are not learnt.

    Args:
      validation: errors on the validation frames; None without any.
      scaled: factor that makes the mean square of σ equal to that of these errors.
      left: number of training frames minus that of the constants fitted to them.

    Returns:
      The factor; infinity if there are no errors to estimate it from.
    """
    if validation is not None:
        return scaled * allowance(len(validation.error))
    return allowance(left) if left > 0 else float("inf")

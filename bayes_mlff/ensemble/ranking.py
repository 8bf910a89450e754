"""Whether σ knows where the errors are: ranks of absolute errors and σ, and the slope of one against the other.

A σ that is right on average may still be the same everywhere, and then says nothing of single predictions. How large a
rank correlation can be depends on how much σ varies: even errors that are drawn from exactly the predicted laws have
a small one where σ hardly varies. So the correlation is stated beside that of such errors.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

DRAWS: Final = 400
"""Simulated sets of errors for the rank correlation that is possible."""

QUANTILES: Final = 5
"""Parts of equal size, in the order of σ, over which the slope is taken."""

FEWEST: Final = 5
"""Errors in each part for a slope, and in all for a rank correlation."""


class Ranking(NamedTuple):
    """What σ knows of the errors."""

    count: int  # errors
    rho: float  # Spearman's rank correlation of |error| with σ
    p: float  # probability of such a correlation if there is none
    possible: float  # median of the correlation of normal errors with exactly these σ
    slope: float | None  # of the logarithm of the RMS error against that of σ over quintiles; 1 if σ is right
    range: float  # 90th percentile of σ over its 10th


def ranking(error: ArrayLike, sigma: ArrayLike, *, each: int = 1, seed: int = 0) -> Ranking | None:
    """Compare absolute errors with their σ.

    Args:
      error: [m] predicted minus reference, or root mean squares of several such errors each.
      sigma: [m] calibrated, in the same unit; the order decides but for `possible`, `slope` and `range`.
      each: number of independent errors in one entry.
      seed: of the simulated errors.

    Returns:
      The comparison; None with fewer than `FEWEST` errors, or where σ does not vary.

    Raises:
      ValueError: if sizes differ or a σ is not positive.
    """
    error, sigma = np.abs(np.asarray(error, np.float64)), np.asarray(sigma, np.float64)
    if error.shape != sigma.shape or error.ndim != 1 or not (sigma > 0.0).all():
        raise ValueError(f"sigma: got shape {sigma.shape}; allowed: a positive one for each of {error.shape} errors")
    if error.size < FEWEST or np.ptp(sigma) < 1e-6 * np.mean(sigma):
        return None
    found: Any = stats.spearmanr(error, sigma)
    drawn = np.sqrt(np.random.default_rng(seed).chisquare(each, (DRAWS, sigma.size)) / each) * sigma
    ranks = stats.rankdata(sigma)
    possible = np.median([np.corrcoef(stats.rankdata(row), ranks)[0, 1] for row in drawn])
    low, high = np.quantile(sigma, (0.1, 0.9))
    return Ranking(
        error.size, float(found.statistic), float(found.pvalue), float(possible), slope(error, sigma), float(high / low)
    )


def slope(error: np.ndarray, sigma: np.ndarray) -> float | None:
    """Slope of log RMS error against log RMS σ over quintiles of σ; None with too few errors or none but zeros."""
    if error.size < QUANTILES * FEWEST:
        return None
    parts = np.array_split(np.argsort(sigma, kind="stable"), QUANTILES)
    x, y = (np.array([np.mean(np.square(each[part])) for part in parts]) for each in (sigma, error))
    if not (y > 0.0).all():
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def sentence(found: Ranking) -> str:
    """In words, for reports."""
    said = f"Spearman's ρ of |error| with σ {found.rho:.2f}, where {found.possible:.2f} is possible"
    steep = "" if found.slope is None else f"; slope of log RMS error against log σ {found.slope:.2f}"
    return f"{said}{steep}; 90th percentile of σ {found.range:.2g} times its 10th"

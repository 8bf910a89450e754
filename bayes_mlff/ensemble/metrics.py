"""Metrics of predictions and their uncertainties; errors are predicted minus reference, of any shape."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special


class Coverage(NamedTuple):
    """Share of true values inside central predictive intervals."""

    level: np.ndarray  # [l] nominal probability
    observed: np.ndarray  # [l] share of truths inside
    lower: np.ndarray  # [l] lower end of the binomial confidence interval of the share
    upper: np.ndarray  # [l] upper end
    count: int  # number of true values


class Share(NamedTuple):
    """A share of trials with its confidence interval."""

    observed: float
    lower: float
    upper: float


class Binned(NamedTuple):
    """Mean log likelihood by intervals of absolute error."""

    edges: np.ndarray  # [k + 1] unit of the error; interval i is [edges[i], edges[i + 1])
    mll: np.ndarray  # [k] nats; nan for an empty interval
    count: np.ndarray  # [k]


class Curve(NamedTuple):
    """Two sequences for a plot."""

    x: np.ndarray  # [m]
    y: np.ndarray  # [m]


def rmse(error: ArrayLike) -> float:
    """Root mean square error, in the unit of the error.

    Raises:
      ValueError: if there is no error or one is not finite.
    """
    return float(np.sqrt(np.mean(np.square(_flat("error", error)))))


def mae(error: ArrayLike) -> float:
    """Mean absolute error, in the unit of the error.

    Raises:
      ValueError: if there is no error or one is not finite.
    """
    return float(np.mean(np.abs(_flat("error", error))))


def mean_log_likelihood(error: ArrayLike, sigma: ArrayLike) -> float:
    """Mean log density of N(0, sigma²) at the errors, nats per scalar.

    Args:
      error: m errors, for instance force components.
      sigma: m positive standard deviations, same unit.

    Returns:
      The mean. In a unit that makes the numbers c times larger it is smaller by log(c).

    Raises:
      ValueError: if sizes differ, are zero, or a sigma is not positive.
    """
    error, sigma = _pair(error, sigma)
    return float(np.mean(_log_density(error, sigma)))


def mean_log_likelihood_by_error(error: ArrayLike, sigma: ArrayLike, edges: Sequence[float]) -> Binned:
    """Mean log likelihood within intervals of the absolute error.

    Args:
      error: m errors.
      sigma: m positive standard deviations, same unit.
      edges: at least two increasing bounds; the last may be `inf`.

    Returns:
      Mean and count per interval, lower bound included and upper excluded; errors outside all are left out.

    Raises:
      ValueError: as `mean_log_likelihood`, or if edges do not increase.
    """
    bounds = np.asarray(edges, np.float64)
    if bounds.ndim != 1 or bounds.size < 2 or not (np.diff(bounds) > 0).all():
        raise ValueError(f"edges: got {edges!r}; allowed: at least two increasing numbers")
    error, sigma = _pair(error, sigma)
    density = _log_density(error, sigma)
    bins = bounds.size - 1
    index = np.searchsorted(bounds, np.abs(error), side="right") - 1
    inside = (index >= 0) & (index < bins)
    count = np.bincount(index[inside], minlength=bins)
    total = np.bincount(index[inside], density[inside], minlength=bins)
    return Binned(bounds, np.divide(total, count, out=np.full(bins, np.nan), where=count > 0), count)


def rescale_factor(error: ArrayLike, sigma: ArrayLike) -> float:
    """Factor on sigma that makes the mean predicted variance equal the mean square error of a validation set.

    Args:
      error: m errors of the validation set.
      sigma: m positive standard deviations, same unit.

    Returns:
      sqrt(mean e² / mean sigma²), to multiply every sigma of the test set.

    Raises:
      ValueError: as `mean_log_likelihood`.
    """
    error, sigma = _pair(error, sigma)
    return float(np.sqrt(np.mean(np.square(error)) / np.mean(np.square(sigma))))


def auc_roc(error: ArrayLike, sigma: ArrayLike, threshold: float) -> float:
    """Area under the ROC curve of "sigma is large" as a test for "|error| > threshold".

    The area is the probability that a large error has a larger sigma than a small one, ties counting one
    half: the Mann-Whitney statistic from mid-ranks (Hanley & McNeil 1982, Radiology 143, 29).

    Args:
      error: m errors.
      sigma: m positive standard deviations; only their order matters.
      threshold: in the unit of the error.

    Returns:
      1 if sigma separates the two classes, 0.5 if it carries no information.

    Raises:
      ValueError: as `mean_log_likelihood`, or if all errors are on one side of the threshold.
    """
    error, sigma = _pair(error, sigma)
    large = np.abs(error) > threshold
    positives = int(large.sum())
    negatives = large.size - positives
    if positives == 0 or negatives == 0:
        got = f"{positives} of {large.size} errors above {threshold!r}"
        raise ValueError(f"threshold: got {got}; allowed: errors on both sides")
    from scipy.stats import rankdata

    statistic = rankdata(sigma)[large].sum() - positives * (positives + 1) / 2
    return float(statistic / (positives * negatives))


def crps(error: ArrayLike, sigma: ArrayLike) -> float:
    """Mean continuous ranked probability score of N(0, sigma²) at the errors; smaller is better.

    Closed form sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)), z = e/sigma (Gneiting & Raftery 2007, J. Am.
    Stat. Assoc. 102, 359, section 4.2, there with the opposite sign).

    Args:
      error: m errors.
      sigma: m positive standard deviations, same unit.

    Returns:
      The mean score, in the unit of the error.

    Raises:
      ValueError: as `mean_log_likelihood`.
    """
    error, sigma = _pair(error, sigma)
    z = error / sigma
    score = z * (2 * special.ndtr(z) - 1) + 2 * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi)
    return float(np.mean(sigma * score))


def normal_pit(error: ArrayLike, sigma: ArrayLike) -> np.ndarray:
    """Predictive distribution function N(0, sigma²) at the errors: uniform on [0, 1] if sigma is right.

    Args:
      error: m errors.
      sigma: m positive standard deviations, same unit.

    Returns:
      [m] values in [0, 1].

    Raises:
      ValueError: as `mean_log_likelihood`.
    """
    return special.ndtr(np.divide(*_pair(error, sigma)))


def binomial_share(successes: int, trials: int, *, confidence: float = 0.95) -> Share:
    """Share of successes with its exact (conservative) interval (Clopper & Pearson 1934, Biometrika 26, 404).

    Args:
      successes: 0 to trials.
      trials: at least 1.
      confidence: of the interval, in (0, 1).

    Returns:
      The share and the ends of its interval.

    Raises:
      ValueError: if a number is out of range.
    """
    if not (0 <= successes <= trials and trials > 0 and 0.0 < confidence < 1.0):
        got = f"{successes} of {trials} at {confidence:g}"
        raise ValueError(f"successes: got {got}; allowed: 0 to all of at least one, at more than 0 and less than 1")
    tail, failures = (1.0 - confidence) / 2, trials - successes
    lower = special.betaincinv(successes, failures + 1, tail) if successes else 0.0
    upper = special.betaincinv(successes + 1, failures, 1.0 - tail) if failures else 1.0
    return Share(successes / trials, float(lower), float(upper))


def coverage(pit: ArrayLike, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95), *, confidence: float = 0.95) -> Coverage:
    """Share of truths inside the central predictive interval of each level.

    Args:
      pit: m values of the predictive distribution function at the truth, from `normal_pit` or from
        `calibration.probability_integral`.
      levels: nominal probabilities in (0, 1).
      confidence: of the binomial interval of each share, see `binomial_share`.

    Returns:
      Observed shares with exact (conservative) binomial intervals.

    Raises:
      ValueError: if there is no value, one is outside [0, 1], or a level or the confidence is not in (0, 1).
    """
    values, nominal = _unit_interval(pit), _levels(levels)
    hits = (np.abs(2.0 * values[None, :] - 1.0) <= nominal[:, None]).sum(axis=1)
    shares = [binomial_share(int(k), values.size, confidence=confidence) for k in hits]
    observed, lower, upper = (np.array(column) for column in zip(*shares, strict=True))
    return Coverage(nominal, observed, lower, upper, values.size)


def calibration_curve(pit: ArrayLike, levels: Sequence[float] | None = None) -> Curve:
    """Observed share of values of the predictive distribution function below each nominal probability.

    The diagonal is perfect calibration (Kuleshov et al. 2018). Unlike `coverage` it also shows a bias.

    Args:
      pit: m values in [0, 1].
      levels: nominal probabilities in (0, 1), by default every 0.05.

    Returns:
      x the nominal probabilities, y the observed shares.

    Raises:
      ValueError: as `coverage`.
    """
    values = _unit_interval(pit)
    nominal = _levels(np.arange(1, 20) / 20 if levels is None else levels)
    return Curve(nominal, (values[None, :] <= nominal[:, None]).mean(axis=1))


def sigma_error_curve(error: ArrayLike, sigma: ArrayLike, *, width: float = 200.0) -> Curve:
    """Local root mean square error as a function of the predicted standard deviation.

    Points are sorted by sigma; sigma² and e² are smoothed along that order by a Gaussian of the given
    standard deviation, mirrored at the ends, and the roots are returned. The diagonal is perfect calibration.

    Args:
      error: m errors.
      sigma: m positive standard deviations, same unit.
      width: standard deviation of the filter, in points.

    Returns:
      x the smoothed sigma, y the smoothed error, both [m] in the unit of the error.

    Raises:
      ValueError: as `mean_log_likelihood`.
    """
    from scipy.ndimage import gaussian_filter1d

    error, sigma = _pair(error, sigma)
    order = np.argsort(sigma, kind="stable")
    return Curve(*(np.sqrt(gaussian_filter1d(np.square(v[order]), width)) for v in (sigma, error)))


def _log_density(error: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Of N(0, sigma²) at the errors."""
    return -0.5 * (error / sigma) ** 2 - 0.5 * np.log(2 * np.pi) - np.log(sigma)


def _flat(name: str, value: ArrayLike) -> np.ndarray:
    array = np.asarray(value, np.float64).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {array.size} numbers; allowed: at least one, all finite")
    return array


def _pair(error: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    error, sigma = _flat("error", error), _flat("sigma", sigma)
    if error.size != sigma.size or not (sigma > 0.0).all():
        got = f"{sigma.size} numbers, the smallest {sigma.min()!r}"
        raise ValueError(f"sigma: got {got}; allowed: a positive one for each of {error.size} errors")
    return error, sigma


def _unit_interval(pit: ArrayLike) -> np.ndarray:
    values = _flat("pit", pit)
    if values.min() < 0.0 or values.max() > 1.0:
        raise ValueError(f"pit: got values from {values.min()} to {values.max()}; allowed: 0 to 1")
    return values


def _levels(levels: ArrayLike) -> np.ndarray:
    nominal = _flat("levels", levels)
    if nominal.min() <= 0.0 or nominal.max() >= 1.0:
        raise ValueError(f"levels: got {levels!r}; allowed: numbers above 0 and below 1")
    return nominal

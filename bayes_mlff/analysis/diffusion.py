"""Mean square displacements and diffusion coefficients with an honest error.

Mean square displacements at neighbouring lags share most of their data, so that a straight line through them by
ordinary least squares has an error that is far too small. Here the line is fitted by generalised least squares with
the covariance of a random walk whose positions have independent noise, as vibrations have (Bullerjahn, von Bülow and
Hummer 2020, J. Chem. Phys. 153, 024116). The covariance is exact for independent steps: for displacements x and y with
fourth joint cumulant κ, Cov(x², y²) = 2 Cov(x, y)² + κ. The cumulant is what rare hops add: their number decides the
error, not that of the frames. Frames are thinned until a random walk fits.
"""

from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from bayes_mlff.analysis import averages

MOST_LAGS: Final = 12
"""Largest number of lags of a fit; more add nothing but sensitivity to what is not a random walk."""

FEWEST_STEPS: Final = 20
"""Least number of steps of a thinned path."""

ENOUGH: Final = 0.05
"""Least p value of both tests with which a random walk is accepted."""

_BENT: Final = 2
"""Lags at the begin without which the slope must be the same."""

_SAFETY: Final = 2
"""Once strides had to grow, so many more are taken: what a test refuses no longer may still be a bias."""


class Fit(NamedTuple):
    """A random walk that was fitted to mean square displacements."""

    stride: int  # frames from one step of the walk to the next
    slope: float  # Å² per step, of all dimensions together
    slope_error: float  # standard error
    offset: float  # Å², from vibrations
    p_value: float  # of the χ² test that the displacements are on a line
    bend_p_value: float  # of the test that the slope is the same without the shortest lags (Hausman 1978)
    lags: np.ndarray  # [m] steps
    msd: np.ndarray  # [m] Å²
    msd_error: np.ndarray  # [m] Å², standard errors of a walk like this

    @property
    def accepted(self) -> bool:
        """Whether neither test refuses a random walk."""
        return min(self.p_value, self.bend_p_value) >= ENOUGH


class Diffusion(NamedTuple):
    """Diffusion coefficient of one kind of atoms, Å²/fs."""

    value: float
    error: float  # standard error
    lower: float  # 95 % interval; 0 if the value is not significant
    upper: float
    significant: bool  # whether the value exceeds three standard errors: otherwise only the upper end means anything
    fit: Fit
    tried: list[Fit]  # with every stride


def mean_square_displacement(series: list[np.ndarray]) -> np.ndarray:
    """Mean over atoms, trajectories and starting times.

    Args:
      series: continuous paths [t, a, 3] Å, of one length.

    Returns:
      [t] Å², by lag in frames.
    """
    walks = np.concatenate(series, axis=1)
    frames = len(walks)
    product = averages.lagged_products(walks)
    square = np.sum(walks**2, axis=(1, 2))
    total = np.concatenate([[0.0], np.cumsum(square)])
    both = total[frames - np.arange(frames)] + total[-1] - total[np.arange(frames)]
    found = (both - 2.0 * product) / ((frames - np.arange(frames)) * walks.shape[1])
    return np.maximum(found, 0.0)


def covariance(steps: int, lags: int, *, step: float, noise: float, cumulant: float = 0.0) -> np.ndarray:
    """Covariance of time-averaged mean square displacements of one walker in one dimension.

    Args:
      steps: K, of the walk; overlapping windows are averaged.
      lags: M; lags are 1 to M steps.
      step: variance of a step, Å².
      noise: twice the variance of the independent noise of a position, Å².
      cumulant: fourth cumulant of a step, Å⁴; zero if it is Gaussian.

    Returns:
      [M, M] Å⁴.
    """
    m = np.arange(1, lags + 1)[:, None, None]
    n = np.arange(1, lags + 1)[None, :, None]
    k = np.arange(-lags, lags + 1)  # the second window begins k steps after the first
    common = np.maximum(np.minimum(m, k + n) - np.maximum(k, 0), 0)
    ends = (k == 0).astype(float) + (k == m - n) - (k == m) - (k == -n)
    number = np.maximum(np.minimum(steps - m, steps - n - k) - np.maximum(-k, 0) + 1, 0)
    each = 2.0 * (step * common + 0.5 * noise * ends) ** 2 + cumulant * common
    return np.sum(number * each, axis=-1) / ((steps - m[..., 0] + 1) * (steps - n[..., 0] + 1))


def fit(series: list[np.ndarray], stride: int) -> Fit | None:
    """Fit a random walk to paths of which only every `stride`-th frame is used.

    Args:
      series: continuous paths [t, a, d] Å, of one length; atoms count as independent walkers of one kind.
      stride: frames.

    Returns:
      The fit; None if fewer than `FEWEST_STEPS` steps remain, or nothing moves.
    """
    walks = np.concatenate(series, axis=1)[::stride]
    steps, walkers, dimensions = len(walks) - 1, walks.shape[1], walks.shape[2]
    if steps < FEWEST_STEPS:
        return None
    lags = np.arange(1, min(MOST_LAGS, steps // 4) + 1)
    msd = np.array([np.mean(np.sum((walks[m:] - walks[:-m]) ** 2, axis=-1)) for m in lags])
    if msd[0] <= 0.0:
        return None
    directions, cumulant = _shape(np.diff(walks, axis=0).reshape(-1, dimensions))
    line = np.stack([np.ones(lags.size), lags], axis=1)
    slope, offset = max(float(msd[-1] - msd[0]) / float(lags[-1] - 1), 0.1 * float(msd[0])), 0.0
    spread = np.eye(lags.size)
    for _ in range(20):
        step, noise = max(slope, 1e-6 * float(msd[0])) / directions, max(offset, 0.0) / directions
        one = covariance(steps, lags.size, step=step, noise=noise, cumulant=cumulant / directions)
        spread = one * directions / walkers
        (offset, slope), errors = _least_squares(line, msd, spread)
    left = msd - line @ [offset, slope]
    p = float(stats.chi2.sf(left @ np.linalg.solve(spread, left), lags.size - 2))
    (_, later), later_errors = _least_squares(line[_BENT:], msd[_BENT:], spread[_BENT:, _BENT:])
    bend = (later - slope) / np.sqrt(max(later_errors[1] ** 2 - errors[1] ** 2, 1e-300))
    return Fit(stride, slope, errors[1], offset, p, 2.0 * float(stats.norm.sf(abs(bend))), lags, msd,
               np.sqrt(np.diag(spread)))  # fmt: skip


def _shape(steps: np.ndarray) -> tuple[float, float]:
    """Effective number of directions of steps [s, d] Å, and the fourth cumulant of their squares, Å⁴, at least 0."""
    second = steps.T @ steps / len(steps)
    square = float(np.sum(second**2))
    return float(np.trace(second)) ** 2 / square, max(float(np.var(np.sum(steps**2, axis=1))) - 2.0 * square, 0.0)


def _least_squares(line: np.ndarray, values: np.ndarray, spread: np.ndarray) -> tuple[list[float], list[float]]:
    """Coefficients and standard errors of generalised least squares."""
    weighted = np.linalg.solve(spread, line)
    of_coefficients = np.linalg.inv(line.T @ weighted)
    return (of_coefficients @ (weighted.T @ values)).tolist(), np.sqrt(np.diag(of_coefficients)).tolist()


def coefficient(series: list[np.ndarray], interval_fs: float) -> Diffusion | None:
    """Diffusion coefficient D, from a mean square displacement of 2 d D t in d dimensions.

    The shortest stride is taken at which a random walk is accepted, here and at the next longer one; if that is not
    the shortest of all, one twice as long. The 95 % interval is that of a variance with as many degrees of freedom
    as the relative error of D corresponds to.

    Args:
      series: continuous paths [t, a, d] Å, of one length.
      interval_fs: time between frames, fs.

    Returns:
      D; None if the paths are too short, nothing moves, or no stride makes them a random walk.
    """
    frames, dimensions = len(series[0]), series[0].shape[-1]
    octaves = np.log2(max((frames - 1) / FEWEST_STEPS, 1.0))
    strides = np.unique(np.round(2.0 ** np.arange(0.0, octaves + 1e-9, 0.5)).astype(int))
    tried = [found for stride in strides.tolist() if (found := fit(series, stride)) is not None]
    passed = [each.accepted for each in tried]
    first = next((i for i in range(len(tried)) if all(passed[i : i + 2])), None)
    if first is None:
        return None
    chosen = tried[min(first + _SAFETY, len(tried) - 1) if first else 0]
    unit = 1.0 / (2.0 * dimensions * chosen.stride * interval_fs)
    value, error = chosen.slope * unit, chosen.slope_error * unit
    if value > 3.0 * error:
        freedom = 2.0 * (value / error) ** 2
        ends = freedom * value / stats.chi2.ppf([0.975, 0.025], freedom)
        return Diffusion(value, error, float(ends[0]), float(ends[1]), True, chosen, tried)
    return Diffusion(value, error, 0.0, max(value, 0.0) + 1.96 * error, False, chosen, tried)

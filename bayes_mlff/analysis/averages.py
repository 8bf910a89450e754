"""Means of correlated series: moving averages, standard errors from blocks, and rates of rare events."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

BLOCKS: Final = 5
"""Number of blocks of each series for standard errors."""

_SHARE: Final = 0.2
_LONGEST_FS: Final = 5000.0


class Mean(NamedTuple):
    """A mean with its standard error."""

    value: np.ndarray
    error: np.ndarray  # nan if unknown


class Rate(NamedTuple):
    """Rate of events that are independent of each other."""

    count: int
    time_fs: float
    per_fs: float
    lower_per_fs: float  # exact interval of a Poisson rate
    upper_per_fs: float

    @property
    def per_ps(self) -> float:
        """The rate, 1/ps."""
        return 1e3 * self.per_fs

    @property
    def interval_per_ps(self) -> list[float]:
        """Its interval, 1/ps."""
        return [1e3 * self.lower_per_fs, 1e3 * self.upper_per_fs]

    def said(self, of: str) -> str:
        """The rate and its interval in words, per `of`, which ends in ps."""
        lower, upper = self.interval_per_ps
        return f"{self.per_ps:.3g} per {of}, 95 % interval {lower:.3g} to {upper:.3g}"


def window_fs(time_fs: np.ndarray) -> float:
    """Window of a moving average, fs, for times [f] in fs: a fifth of the trajectory, at most 5 ps."""
    return min(_LONGEST_FS, _SHARE * float(time_fs[-1] - time_fs[0]))


def moving_average(time_fs: np.ndarray, values: np.ndarray, window_fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the frames within half a window before and after.

    Args:
      time_fs: [f] fs, rising.
      values: [f, ...].
      window_fs: fs.

    Returns:
      Times [g] whose whole window lies inside the run, and the means [g, ...].
    """
    half = 0.5 * window_fs * (1.0 + 1e-9)
    slack = 1e-9 * window_fs
    kept = time_fs[(time_fs - half >= time_fs[0] - slack) & (time_fs + half <= time_fs[-1] + slack)]
    low, high = np.searchsorted(time_fs, kept - half), np.searchsorted(time_fs, kept + half)
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    count = (high - low).reshape(-1, *(1,) * (values.ndim - 1))
    return kept, (total[high] - total[low]) / count


def block_mean(series: Sequence[np.ndarray], *, blocks: int = BLOCKS) -> Mean:
    """Mean over all frames of all series, with the standard error that the means of blocks show.

    Args:
      series: [f, ...] each; lengths may differ, frames weigh the same.
      blocks: consecutive parts of each series; long enough, they are independent.

    Returns:
      Mean and standard error [...]; nan where a series has fewer frames than blocks.
    """
    total = np.concatenate(series)
    if min(len(each) for each in series) < blocks:
        return Mean(total.mean(axis=0), np.full(total.shape[1:], np.nan))
    means = np.array([part.mean(axis=0) for each in series for part in np.array_split(each, blocks)])
    return Mean(total.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(len(means)))


def lagged_products(values: np.ndarray) -> np.ndarray:
    """Σ values(t)·values(t + lag) over starting times and all further axes, by lag in frames: [t] from [t, ...].

    By Fourier transforms (Kneller et al. 1995, Comput. Phys. Commun. 91, 191).
    """
    frames = len(values)
    spectrum = np.fft.rfft(values.reshape(frames, -1), n=2 * frames, axis=0)
    return np.fft.irfft(np.sum(np.abs(spectrum) ** 2, axis=1), n=2 * frames)[:frames]


def rate(count: int, time_fs: float, *, level: float = 0.95) -> Rate:
    """Rate of `count` independent events within a time, with its exact interval (Garwood 1936, Biometrika 28, 437).

    Args:
      count: events.
      time_fs: fs in which they were counted.
      level: probability of the interval.
    """
    tail = 0.5 * (1.0 - level)
    low = 0.5 * float(stats.chi2.ppf(tail, 2 * count)) if count else 0.0
    high = 0.5 * float(stats.chi2.isf(tail, 2 * count + 2))
    return Rate(count, time_fs, count / time_fs, low / time_fs, high / time_fs)

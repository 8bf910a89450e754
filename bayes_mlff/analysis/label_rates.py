"""Whether labels are more frequent around events than elsewhere: an exact test of two Poisson rates."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Comparison(NamedTuple):
    """Events inside windows against those elsewhere."""

    inside: int
    inside_fs: float
    outside: int
    outside_fs: float
    ratio: float  # of the rates; infinite without any outside, nan without any at all
    lower: float  # 95 % interval of the ratio
    upper: float
    p_value: float  # two-sided, that the rates are equal


def windows(events_fs: np.ndarray, half_fs: float, begin_fs: float, end_fs: float) -> np.ndarray:
    """Union of windows around events, cut off at the ends.

    Args:
      events_fs: [e] times, fs, in any order.
      half_fs: time before and after an event, fs.
      begin_fs: begin of what was observed.
      end_fs: its end.

    Returns:
      [w, 2] begin and end of windows that do not overlap, rising.
    """
    merged: list[list[float]] = []
    for time in np.sort(events_fs).tolist():
        begin, end = max(time - half_fs, begin_fs), min(time + half_fs, end_fs)
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return np.array(merged).reshape(-1, 2)


def count_inside(times_fs: np.ndarray, spans: np.ndarray) -> int:
    """Number of times [l] within windows [w, 2], ends included."""
    return int(np.any((times_fs[:, None] >= spans[:, 0]) & (times_fs[:, None] <= spans[:, 1]), axis=1).sum())


def compare(inside: int, inside_fs: float, outside: int, outside_fs: float, *, level: float = 0.95) -> Comparison:
    """Compare two Poisson rates, exactly (Przyborowski and Wilenski 1940, Biometrika 31, 313).

    With equal rates, the number inside is binomial given the total, with the share of time as its probability. The
    interval of the ratio is that of Clopper and Pearson for this probability, transformed.

    Args:
      inside: events inside windows.
      inside_fs: time of the windows, fs, positive.
      outside: events elsewhere.
      outside_fs: time elsewhere, fs, positive.
      level: probability of the interval.
    """
    total, odds = inside + outside, inside_fs / outside_fs
    if total == 0:
        return Comparison(0, inside_fs, 0, outside_fs, np.nan, 0.0, np.inf, 1.0)
    test = stats.binomtest(inside, total, odds / (1.0 + odds))
    ends = test.proportion_ci(level, method="exact")
    lower, upper = (x / (1.0 - x) / odds if x < 1.0 else np.inf for x in (float(ends.low), float(ends.high)))
    ratio = inside / outside / odds if outside else np.inf
    return Comparison(inside, inside_fs, outside, outside_fs, ratio, lower, upper, float(test.pvalue))

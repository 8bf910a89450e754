"""Whole numbers, numbers in messages, and arrays of a size that is wanted."""

import os
from collections.abc import Sequence

import numpy as np


def largest_divisor(n: int, most: int) -> int:
    """The largest divisor of n that is not above `most`."""
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def padded(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An array with zeros after what it holds along each axis, up to a shape that is nowhere smaller."""
    result = np.zeros(shape, x.dtype)
    result[tuple(slice(size) for size in x.shape)] = x
    return result


def apart(value: float, limit: float, digits: int = 4) -> tuple[str, str]:
    """A number and what it was compared with, with as many digits as it takes to see which is larger.

    Args:
      value: the number, which differs from `limit`.
      limit: what it was compared with.
      digits: significant digits to begin with.
    """
    for more in range(digits, 18):
        said = f"{value:.{more}g}", f"{limit:.{more}g}"
        first, second = (float(text) for text in said)
        if (first < second, first > second) == (value < limit, value > limit):
            return said
    return repr(float(value)), repr(float(limit))

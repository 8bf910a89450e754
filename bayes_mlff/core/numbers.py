"""Small tools for integers, for numbers in messages and for padded arrays."""

import os
from collections.abc import Sequence

import numpy as np


def largest_divisor(n: int, most: int) -> int:
    """Largest divisor of n that does not exceed `most`."""
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def padded(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Pad an array with zeros at the end of each axis, up to a shape that is at least as large along every axis."""
    result = np.zeros(shape, x.dtype)
    result[tuple(slice(size) for size in x.shape)] = x
    return result


def apart(value: float, limit: float, digits: int = 4) -> tuple[str, str]:
    """Format a number and the limit that it was compared with, using enough digits to show which is larger.

    Args:
      value: the number, which differs from `limit`.
      limit: what it was compared with.
      digits: smallest number of significant digits.
    """
    for more in range(digits, 18):
        said = f"{value:.{more}g}", f"{limit:.{more}g}"
        first, second = (float(text) for text in said)
        if (first < second, first > second) == (value < limit, value > limit):
            return said
    return repr(float(value)), repr(float(limit))

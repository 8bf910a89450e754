"""Whole numbers."""


def largest_divisor(n: int, most: int) -> int:
    """The largest divisor of n that is not above `most`."""
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)

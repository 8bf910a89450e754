"""Confidence intervals of averages over scalars that are correlated within a structure."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from bayes_mlff.ensemble.metrics import Share

REPEATS: Final = 2000


def structure_share(
    values: ArrayLike, structures: int, *, confidence: float = 0.95, repeats: int = REPEATS, seed: int = 0
) -> Share:
    """Mean of hits, or of any scalars, with an interval that takes whole structures as independent.

    Percentile bootstrap over structures (Efron & Tibshirani 1993, ch. 13). Force components of one structure share
    their errors, so that an interval that counts each of them, as the binomial one does, is too narrow.

    Args:
      values: m scalars, those of a structure next to each other, as many for each.
      structures: at least 2; divides m.
      confidence: of the interval, in (0, 1).
      repeats: of the bootstrap.
      seed: of its draws.

    Raises:
      ValueError: if the number of structures does not divide that of the values, or a number is out of range.
    """
    flat = np.asarray(values, np.float64).ravel()
    if structures < 2 or flat.size == 0 or flat.size % structures:
        raise ValueError(f"structures: got {structures} for {flat.size} values; allowed: a divisor of at least 2")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: got {confidence!r}; allowed: a number above 0 and below 1")
    means = flat.reshape(structures, -1).mean(axis=1)
    drawn = np.random.default_rng(seed).integers(0, structures, (repeats, structures))
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(means[drawn].mean(axis=1), [tail, 100.0 - tail])
    return Share(float(means.mean()), float(low), float(high))

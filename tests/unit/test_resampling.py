"""Intervals that take structures as independent, not the scalars within them."""

import numpy as np
import pytest

from bayes_mlff.ensemble.metrics import binomial_share
from bayes_mlff.ensemble.resampling import structure_share


def test_interval_is_that_of_the_structure_means():
    random = np.random.default_rng(0)
    values = random.normal(size=(400, 1)) + 0.1 * random.normal(size=(400, 27))
    share = structure_share(values, 400)
    means = values.mean(axis=1)
    assert share.observed == pytest.approx(means.mean(), rel=1e-12)
    # Quantiles of 2000 draws scatter by about 3 % of the half width.
    half = 1.96 * means.std(ddof=1) / np.sqrt(400)
    assert (share.upper - share.lower) / 2 == pytest.approx(half, rel=0.12)
    narrow = structure_share(values, 400, confidence=0.5)
    assert narrow.upper - narrow.lower == pytest.approx(2 * half * 0.6745 / 1.96, rel=0.15)


def test_correlated_hits_have_a_wider_interval_than_the_binomial_one():
    hits = np.repeat(np.random.default_rng(1).random(100) < 0.9, 27)
    share, each = structure_share(hits, 100), binomial_share(int(hits.sum()), hits.size)
    assert share.observed == pytest.approx(each.observed)
    assert share.upper - share.lower > 4 * (each.upper - each.lower)


def test_same_seed_same_interval_and_impossible_input():
    values = np.random.default_rng(2).random(60)
    assert structure_share(values, 20) == structure_share(values, 20) != structure_share(values, 20, seed=1)
    for arguments in ((values, 7), (values, 1), ([], 2)):
        with pytest.raises(ValueError, match="structures"):
            structure_share(*arguments)
    with pytest.raises(ValueError, match="confidence"):
        structure_share(values, 20, confidence=1.0)

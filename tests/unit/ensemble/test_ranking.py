"""Rank correlation and slope of errors against σ, on errors drawn from known laws."""

import numpy as np
import pytest
from scipy import stats

from bayes_mlff.ensemble.ranking import ranking, sentence, slope


def drawn(seed=0, m=20_000, power=1.0):
    """Errors whose true σ is a power of the one that is said."""
    rng = np.random.default_rng(seed)
    sigma = rng.lognormal(0.0, 0.4, m)
    return rng.normal(0.0, sigma**power), sigma


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_slope_is_the_power_that_errors_grow_with(power):
    error, sigma = drawn(power=power)
    assert slope(error, sigma) == pytest.approx(power, abs=0.06 + 0.05 * power)


def test_errors_of_exactly_these_sigmas_reach_what_is_possible():
    error, sigma = drawn(m=4_000)
    found = ranking(error, sigma)
    assert found.rho == stats.spearmanr(np.abs(error), sigma).statistic
    assert found.rho == pytest.approx(found.possible, abs=4.5 / np.sqrt(4_000))  # of ranks, as if independent
    assert found.count == 4_000 and found.p < 1e-6
    assert found.range == pytest.approx(np.exp(2 * 1.2816 * 0.4), rel=0.06)
    independent = ranking(np.random.default_rng(9).normal(size=4_000), sigma)
    assert abs(independent.rho) < 4.5 / np.sqrt(4_000) < independent.possible


def test_more_errors_in_an_entry_make_more_possible():
    error, sigma = drawn(m=400)
    assert ranking(error, sigma, each=27).possible > ranking(error, sigma).possible + 0.2


def test_what_cannot_be_said_is_not_said():
    error, sigma = drawn(m=24)
    assert ranking(error[:4], sigma[:4]) is None
    assert ranking(error, np.ones(24)) is None
    assert ranking(error, sigma).slope is None and "slope" not in sentence(ranking(error, sigma))
    error, sigma = drawn(m=25)
    assert "slope of log RMS error" in sentence(ranking(error, sigma))
    assert slope(np.zeros(25), sigma) is None
    with pytest.raises(ValueError, match="sigma: got shape"):
        ranking(error, sigma[:3])

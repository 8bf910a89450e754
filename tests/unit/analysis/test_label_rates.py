"""The exact comparison of two rates: against enumeration, scipy and its own false-alarm rate."""

from math import comb

import numpy as np
import pytest
from scipy import stats

from bayes_mlff.analysis import label_rates


def test_p_value_is_that_of_an_enumeration():
    got = label_rates.compare(7, 50.0, 20, 450.0)
    p = 0.1
    weight = [comb(27, k) * p**k * (1 - p) ** (27 - k) for k in range(28)]
    assert got.p_value == pytest.approx(sum(w for w in weight if w <= weight[7] * (1 + 1e-9)), rel=1e-10)
    assert got.ratio == pytest.approx((7 / 50.0) / (20 / 450.0))


def test_the_interval_ends_where_the_test_refuses():
    got = label_rates.compare(7, 50.0, 20, 450.0)
    for ratio, tail in ((got.lower, "greater"), (got.upper, "less")):
        share = ratio * 50.0 / (ratio * 50.0 + 450.0)
        assert stats.binomtest(7, 27, share, alternative=tail).pvalue == pytest.approx(0.025, rel=1e-6)


def test_the_published_ratio_with_its_time():
    """56 % more around hops: a ratio of 1.56, significant with some hundred labels."""
    got = label_rates.compare(78, 1000.0, 200, 4000.0)
    assert got.ratio == pytest.approx(1.56)
    assert got.p_value < 0.002 and got.lower > 1.0


@pytest.mark.parametrize(
    ("inside", "outside", "ratio", "lower", "upper"),
    [(0, 9, 0.0, 0.0, None), (9, 0, np.inf, None, np.inf), (0, 0, np.nan, 0.0, np.inf)],
)
def test_no_events_on_one_side(inside, outside, ratio, lower, upper):
    got = label_rates.compare(inside, 100.0, outside, 300.0)
    assert got.ratio == pytest.approx(ratio, nan_ok=True)
    assert lower is None or got.lower == lower
    assert upper is None or got.upper == upper
    assert got.lower < got.upper


def test_equal_rates_are_rarely_called_different():
    """An exact test refuses at most 5 %; of 500, more than 46 happen once in 1e4 times."""
    rng = np.random.default_rng(9)
    inside, outside = rng.poisson(5.0, 500), rng.poisson(45.0, 500)
    found = [label_rates.compare(int(a), 100.0, int(b), 900.0) for a, b in zip(inside, outside, strict=True)]
    refused = sum(each.p_value < 0.05 for each in found)
    assert 4 < refused <= 46
    assert sum(not each.lower <= 1.0 <= each.upper for each in found) <= 46


def test_windows_are_joined_and_cut():
    got = label_rates.windows(np.array([500.0, 90.0, 130.0, 5.0, -80.0, 990.0]), 50.0, 0.0, 1000.0)
    assert got.tolist() == [[0.0, 180.0], [450.0, 550.0], [940.0, 1000.0]]
    assert label_rates.count_inside(np.array([0.0, 180.0, 180.1, 449.9, 500.0]), got) == 3
    assert label_rates.windows(np.zeros(0), 50.0, 0.0, 10.0).shape == (0, 2)
    assert label_rates.count_inside(np.array([1.0]), np.zeros((0, 2))) == 0

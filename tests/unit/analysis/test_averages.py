"""Moving averages, errors from blocks, and rates of rare events."""

import numpy as np
import pytest
from scipy import stats

from bayes_mlff.analysis import averages


def test_moving_average_is_the_mean_of_whole_windows():
    time = np.array([0.0, 10.0, 20.0, 30.0, 45.0, 50.0, 60.0])
    values = np.stack([time**2, np.sin(time)], axis=1)
    middle, mean = averages.moving_average(time, values, 40.0)
    assert middle.tolist() == [20.0, 30.0]
    assert np.allclose(mean[0], values[:4].mean(axis=0), rtol=1e-14)
    assert np.allclose(mean[1], values[1:6].mean(axis=0), rtol=1e-14)
    assert averages.moving_average(time[:2], values[:2], 40.0)[0].size == 0


def test_errors_from_blocks_are_those_of_correlated_series():
    """An AR(1) series with a known error of its mean; of 200 errors from 5 blocks the mean square is within 25 %."""
    rng, kept, frames = np.random.default_rng(8), 0.9, 2000
    noise = rng.normal(size=(frames, 200))
    series = np.empty_like(noise)
    series[0] = noise[0] / np.sqrt(1 - kept**2)
    for t in range(1, frames):
        series[t] = kept * series[t - 1] + noise[t]
    got = averages.block_mean([series])
    exact = 1.0 / (1.0 - kept) / np.sqrt(frames)
    assert np.sqrt(np.mean(got.error**2)) == pytest.approx(exact, rel=0.25)
    assert np.sqrt(np.mean(got.value**2)) == pytest.approx(exact, rel=0.25)
    assert np.isnan(averages.block_mean([series[:3]]).error).all()


def test_rates_of_rare_events_have_exact_intervals():
    got = averages.rate(3, 200.0)
    assert got.per_fs == 0.015
    assert stats.poisson.sf(2, 200.0 * got.lower_per_fs) == pytest.approx(0.025, rel=1e-9)
    assert stats.poisson.cdf(3, 200.0 * got.upper_per_fs) == pytest.approx(0.025, rel=1e-9)
    assert averages.rate(0, 10.0).lower_per_fs == 0.0

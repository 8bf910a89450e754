"""Metrics against closed forms, numerical integration and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from bayes_mlff.ensemble import metrics


def _sample(seed: int, size: int, *, factor: float = 1.0):
    """Errors from N(0, (factor sigma)²) with sigma spread over a decade."""
    rng = np.random.default_rng(seed)
    sigma = np.exp(rng.uniform(-1.2, 1.2, size))
    return factor * sigma * rng.normal(size=size), sigma


def test_rmse_and_mae_of_a_small_example():
    assert metrics.rmse([[3.0, -4.0]]) == pytest.approx(np.sqrt(12.5), rel=1e-14)
    assert metrics.mae([[3.0, -4.0]]) == 3.5


def test_mean_log_likelihood_of_a_small_example():
    expected = -0.5 * np.log(2 * np.pi) - 0.5 * (np.log(2.0) + np.log(0.5)) - 0.5 * (1 / 4 + 4.0) / 2
    assert metrics.mean_log_likelihood([1.0, 1.0], [2.0, 0.5]) == pytest.approx(expected, rel=1e-13)


def test_right_sigma_has_the_highest_likelihood():
    error, sigma = _sample(0, 20_000)
    best = metrics.mean_log_likelihood(error, sigma)
    assert best > metrics.mean_log_likelihood(error, 1.1 * sigma)
    assert best > metrics.mean_log_likelihood(error, sigma / 1.1)


def test_split_by_error_adds_up_to_the_whole():
    error, sigma = _sample(1, 500)
    split = metrics.mean_log_likelihood_by_error(error, sigma, [0.0, 0.5, 1.0, 2.0, np.inf])
    assert split.count.sum() == 500
    whole = np.sum(split.mll * split.count) / 500
    assert whole == pytest.approx(metrics.mean_log_likelihood(error, sigma), rel=1e-12)
    second = (np.abs(error) >= 0.5) & (np.abs(error) < 1.0)
    assert split.mll[1] == pytest.approx(metrics.mean_log_likelihood(error[second], sigma[second]), rel=1e-12)


def test_split_marks_empty_intervals_and_leaves_out_the_rest():
    split = metrics.mean_log_likelihood_by_error([0.1, -0.7, 1.0, 9.0], [1.0] * 4, [0.0, 0.5, 0.7, 2.0])
    assert split.count.tolist() == [1, 0, 2]
    assert np.isnan(split.mll).tolist() == [False, True, False]


def test_rescaled_variance_is_the_mean_square_error():
    error, sigma = _sample(2, 50_000, factor=2.5)
    factor = metrics.rescale_factor(error, sigma)
    assert np.mean((factor * sigma) ** 2) == pytest.approx(metrics.rmse(error) ** 2, rel=1e-12)
    assert factor == pytest.approx(2.5, rel=0.03)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-2, 2), st.integers(1, 4)), min_size=2, max_size=30))
def test_auc_is_the_share_of_ordered_pairs(points):
    error, sigma = (np.array(v, float) for v in zip(*points, strict=True))
    large = np.abs(error) > 1.0
    if large.all() or not large.any():
        with pytest.raises(ValueError, match="both sides"):
            metrics.auc_roc(error, sigma, 1.0)
        return
    difference = sigma[large][:, None] - sigma[~large][None, :]
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert metrics.auc_roc(error, sigma, 1.0) == pytest.approx(expected, rel=1e-12)


def test_crps_is_the_integral_of_the_squared_distribution_difference():
    error, sigma = [0.7, -2.0, 0.0], [0.4, 1.5, 1.0]

    def one(e, s):
        left, _ = integrate.quad(lambda y: stats.norm.cdf(y, scale=s) ** 2, -20, e, epsabs=1e-12)
        right, _ = integrate.quad(lambda y: stats.norm.sf(y, scale=s) ** 2, e, 20, epsabs=1e-12)
        return left + right

    expected = np.mean([one(e, s) for e, s in zip(error, sigma, strict=True)])
    assert metrics.crps(error, sigma) == pytest.approx(expected, rel=1e-8)
    assert metrics.crps(np.multiply(3, error), np.multiply(3, sigma)) == pytest.approx(3 * expected, rel=1e-8)


def test_coverage_counts_central_intervals():
    pit = [0.5, 0.3, 0.05, 0.999]
    got = metrics.coverage(pit, [0.5, 0.95])
    np.testing.assert_array_equal(got.observed, [0.5, 0.75])
    assert got.count == 4
    # Clopper-Pearson ends are beta quantiles.
    np.testing.assert_allclose(got.lower, stats.beta.ppf(0.025, [2, 3], [3, 2]), rtol=1e-10)
    np.testing.assert_allclose(got.upper, stats.beta.ppf(0.975, [3, 4], [2, 1]), rtol=1e-10)


def test_coverage_and_calibration_curve_of_right_sigmas_are_nominal():
    # 40 000 points, |z| < 4.5 at 4 levels and 19 levels: false alarm below 2e-4.
    error, sigma = _sample(3, 40_000)
    pit = metrics.normal_pit(error, sigma)
    got = metrics.coverage(pit)
    slack = 4.5 * np.sqrt(got.level * (1 - got.level) / 40_000)
    assert (np.abs(got.observed - got.level) < slack).all()
    curve = metrics.calibration_curve(pit)
    assert (np.abs(curve.y - curve.x) < 4.5 * np.sqrt(curve.x * (1 - curve.x) / 40_000)).all()
    wrong = metrics.coverage(metrics.normal_pit(error, 0.9 * sigma))
    assert (np.abs(wrong.observed - wrong.level) > slack).all()


def test_calibration_curve_shows_a_bias_that_coverage_hides():
    curve = metrics.calibration_curve([0.6, 0.7, 0.8, 0.9], [0.5, 0.75])
    np.testing.assert_array_equal(curve.y, [0.0, 0.5])


def test_sigma_error_curve_recovers_the_factor():
    # Relative noise of a smoothed e²: sqrt(2/(2 sqrt(pi) 200)) = 5.3 %, of its root 2.7 %; 5 sigma = 13 %.
    error, sigma = _sample(4, 5_000, factor=1.7)
    curve = metrics.sigma_error_curve(error, sigma)
    assert curve.x.shape == curve.y.shape == (5_000,)
    assert (np.diff(curve.x) >= 0).all()
    np.testing.assert_allclose(curve.y / curve.x, 1.7, rtol=0.14)
    assert np.mean(curve.y / curve.x) == pytest.approx(1.7, rel=0.05)


def test_sigma_error_curve_smooths_squares():
    curve = metrics.sigma_error_curve([1.0, 3.0], [1.0, 1.0], width=1e4)
    np.testing.assert_allclose(curve.y, np.sqrt(5.0), rtol=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.rmse([]),
        lambda: metrics.mae([np.nan]),
        lambda: metrics.crps([1.0, 2.0], [1.0]),
        lambda: metrics.mean_log_likelihood([1.0], [0.0]),
        lambda: metrics.coverage([1.5]),
        lambda: metrics.coverage([0.5], [1.0]),
        lambda: metrics.mean_log_likelihood_by_error([1.0], [1.0], [1.0, 0.0]),
    ],
)
def test_impossible_input_is_refused(call):
    with pytest.raises(ValueError, match="allowed"):
        call()

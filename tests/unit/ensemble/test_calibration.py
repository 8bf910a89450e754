"""Student-t calibration, against scipy's t distribution and numerical integration over the precision."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from bayes_mlff.ensemble import calibration
from bayes_mlff.ensemble.calibration import Calibration

STATES = st.builds(
    Calibration,
    a=st.floats(0.5, 10.0),
    b=st.floats(0.1, 50.0),
    n=st.one_of(st.just(0.0), st.floats(1.0, 1e6)),
    s=st.floats(0.0, 1e6),
)


def _t(state: Calibration):
    scale = np.sqrt((state.b + state.s / 2) / (state.a + state.n / 2))
    return stats.t(df=2 * state.a + state.n, scale=scale)


@pytest.mark.parametrize(("a", "expected"), [(3.0, 0.224), (1.5, 0.122)])
def test_published_first_thresholds(a, expected):
    assert calibration.critical_sigma(calibration.init(a, 10.0), 1.0) == pytest.approx(expected, abs=5e-4)


def test_posterior_predictive_by_integration_over_the_precision():
    # P(|e| > eps) = E_lambda[2 Phi(-eps sqrt(lambda)/sigma)], lambda ~ Gamma(a + n/2, b + S/2).
    errors, sigmas = [0.8, -0.1, 2.5], [0.5, 0.4, 1.1]
    state = calibration.init(3.0, 10.0)
    for error, sigma in zip(errors, sigmas, strict=True):
        state = calibration.update(state, error, sigma)
    z2 = np.sum(np.square(np.divide(errors, sigmas)))
    posterior = stats.gamma(3.0 + 3 / 2, scale=1 / (10.0 + z2 / 2))
    expected, _ = integrate.quad(
        lambda x: posterior.pdf(x) * 2 * stats.norm.sf(1.3 * np.sqrt(x) / 0.6), 0, np.inf, epsabs=1e-13
    )
    assert calibration.exceedance_probability(state, 0.6, 1.3) == pytest.approx(expected, rel=1e-9)
    assert calibration.map_factor(state) == pytest.approx((10.0 + z2 / 2) / (3.0 + 1.5 - 1.0), rel=1e-14)
    # The most probable lambda, found on a grid, is the inverse of the factor.
    grid = np.linspace(0.05, 1.0, 20_001)
    assert 1 / calibration.map_factor(state) == pytest.approx(grid[np.argmax(posterior.pdf(grid))], rel=1e-3)


@settings(max_examples=200, deadline=None)
@given(STATES, st.floats(1e-6, 1e6))
def test_exceedance_equals_the_t_tail(state, ratio):
    got = calibration.exceedance_probability(state, ratio, 1.0)
    expected = 2 * _t(state).sf(1.0 / ratio)
    # Near tail 1 scipy itself is off by up to 1e-9 for one degree of freedom; see the closed forms below.
    tolerance = 1e-10 if expected < 0.999 else 1e-8
    assert np.isfinite(got)
    assert 0.0 <= got <= 1.0
    assert got == pytest.approx(expected, rel=tolerance, abs=1e-300)


@pytest.mark.parametrize("tau", [1e-9, 1e-6, 1e-3, 1.0, 1e3])
def test_closed_forms_for_one_and_two_degrees_of_freedom(tau):
    one = calibration.exceedance_probability(Calibration(0.5, 0.5, 0.0, 0.0), 1.0, tau)
    two = calibration.exceedance_probability(Calibration(1.0, 1.0, 0.0, 0.0), 1.0, tau)
    assert one == pytest.approx(2 / np.pi * np.arctan(1 / tau), rel=1e-10)
    assert two == pytest.approx(2 / (np.sqrt(2 + tau**2) * (np.sqrt(2 + tau**2) + tau)), rel=1e-10)


@pytest.mark.parametrize("n", [0.0, 1.0, 1e3, 1e6])
def test_far_tail_is_small_and_not_rounded(n):
    state = Calibration(3.0, 10.0, n, n)
    got = calibration.exceedance_probability(state, [1e-6, 1e-3, 1e-2, 0.1], 1.0)
    assert np.isfinite(got).all()
    assert (np.diff(got) >= 0).all()
    np.testing.assert_allclose(got, 2 * _t(state).sf([1e6, 1e3, 1e2, 10.0]), rtol=1e-10)
    if n == 0.0:  # leading term of the density's tail: a number far below the rounding of 1
        assert 0.0 < got[0] < 1e-30


@settings(max_examples=100, deadline=None)
@given(STATES, st.floats(0.5, 0.999), st.floats(1e-3, 10.0))
def test_critical_sigma_is_where_the_probability_crosses(state, confidence, threshold):
    critical = calibration.critical_sigma(state, threshold, confidence=confidence)
    around = critical * np.array([0.999, 1.0, 1.001])
    tail = calibration.exceedance_probability(state, around, threshold)
    assert tail[1] == pytest.approx(1 - confidence, rel=1e-8)
    assert tail[0] < 1 - confidence < tail[2]
    assert calibration.interval(state, critical, confidence=confidence) == pytest.approx(threshold, rel=1e-12)


def test_interval_and_probability_integral_agree_with_t():
    state = Calibration(1.5, 10.0, 7.0, 31.0)
    law = _t(state)
    assert calibration.interval(state, 0.2, confidence=0.9) == pytest.approx(0.2 * law.ppf(0.95), rel=1e-12)
    np.testing.assert_allclose(
        calibration.probability_integral(state, [-0.7, 0.0, 0.3], 0.2), law.cdf([-3.5, 0.0, 1.5]), rtol=1e-12
    )


def test_forgetting():
    state = calibration.init()
    for _ in range(400):
        state = calibration.update(state, 2.0, 1.0, decay=0.9)
    assert state.n == pytest.approx(10.0, rel=1e-12)  # 1/(1 - decay)
    assert state.s == pytest.approx(40.0, rel=1e-12)
    paper = calibration.update(calibration.update(calibration.init(), 1.0, 2.0), -3.0, 1.0)
    assert (paper.n, paper.s) == (2.0, 9.25)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_critical_sigma_has_a_bound_where_errors_are_forgotten(decay):
    state = calibration.init(1.5, 10.0)
    for _ in range(400):
        state = calibration.update(state, 0.0, 0.1, decay=decay)
    bound = calibration.largest_critical_sigma(1.5, 10.0, decay)
    assert calibration.critical_sigma(state, 1.0) == pytest.approx(bound, rel=1e-9)
    assert calibration.largest_critical_sigma(1.5, 10.0, 1.0) == np.inf


def test_large_errors_lower_the_critical_sigma_and_small_ones_raise_it():
    start = calibration.init()
    bad = calibration.update(start, 10.0, 1.0)
    good = calibration.update(start, 0.1, 1.0)
    crit = [calibration.critical_sigma(s, 1.0) for s in (bad, start, good)]
    assert crit[0] < crit[1] < crit[2]


def test_state_is_plain_floats():
    state = calibration.update(calibration.init(), np.float32(0.5), np.float64(0.25))
    assert all(type(x) is float for x in state)
    assert type(calibration.critical_sigma(state, 0.02)) is float


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.init(0.0, 10.0), "calibration.a"),
        (lambda: calibration.init(3.0, float("inf")), "calibration.b"),
        (lambda: calibration.update(calibration.init(), float("nan"), 1.0), "error"),
        (lambda: calibration.update(calibration.init(), 1.0, 0.0), "sigma"),
        (lambda: calibration.update(calibration.init(), 1.0, 1.0, decay=1.5), "decay"),
        (lambda: calibration.exceedance_probability(calibration.init(), 1.0, -1.0), "threshold"),
        (lambda: calibration.critical_sigma(calibration.init(), 1.0, confidence=1.0), "confidence"),
        (lambda: calibration.map_factor(calibration.init(1.0, 10.0)), "above 1"),
    ],
)
def test_impossible_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- norms of vectors: Fisher's F in place of Student's t ------------------------------------------------------------

DOF = st.floats(1.0, 3.0)


def _f(state: Calibration, dof: float):
    return stats.f(dof, 2 * state.a + state.n)


@settings(max_examples=100, deadline=None)
@given(st.builds(Calibration, a=st.floats(0.5, 10.0), b=st.floats(0.1, 50.0), n=st.floats(0.0, 1e4),
                 s=st.floats(0.0, 1e4)), DOF, st.floats(0.05, 20.0), st.floats(0.5, 0.999))  # fmt: skip
def test_norms_follow_fisher_and_limits_invert_the_tail(state, dof, ratio, confidence):
    scale2 = (state.b + state.s / 2) / (state.a + state.n / 2)
    expected = _f(state, dof).sf(1.0 / (ratio**2 * scale2))
    assert calibration.exceedance_probability(state, ratio, 1.0, dof=dof) == pytest.approx(
        expected, rel=1e-7, abs=1e-12
    )
    limit = calibration.critical_sigma(state, 1.0, confidence=confidence, dof=dof)
    tail = calibration.exceedance_probability(state, limit, 1.0, dof=dof)
    assert tail == pytest.approx(1.0 - confidence, rel=1e-6)
    assert calibration.interval(state, limit, confidence=confidence, dof=dof) == pytest.approx(1.0, rel=1e-12)
    assert 2 * stats.norm.sf(calibration.score_of_tail(tail)) == pytest.approx(1.0 - confidence, rel=1e-6)
    assert calibration.probability_integral(state, 1.0, limit, dof=dof) == pytest.approx(0.5 + confidence / 2, rel=1e-6)


def test_one_component_is_the_law_of_energies_to_the_last_bit():
    state = calibration.update(calibration.init(1.5, 10.0), 0.3, 0.1)
    assert state == calibration.update(calibration.init(1.5, 10.0), 0.3, 0.1, dof=1.0)
    scale = np.sqrt((10.0 + state.s / 2) / 2.0)
    assert calibration.critical_sigma(state, 0.02) == 0.02 / (scale * -special.stdtrit(4.0, (1.0 - 0.95) / 2))
    assert calibration.probability_integral(state, -0.2, 0.1) == special.stdtr(4.0, -0.2 / (0.1 * scale))


def test_a_vector_counts_as_many_observations_as_it_has_components():
    state = calibration.update(calibration.init(3.0, 10.0), 0.6, 0.2, dof=2.5)
    assert (state.n, state.s) == (2.5, pytest.approx(2.5 * 9.0))
    decayed = calibration.update(state, 0.2, 0.2, dof=1.5, decay=0.5)
    assert (decayed.n, decayed.s) == (2.75, pytest.approx(0.5 * 22.5 + 1.5))
    limits = calibration.critical_sigma(state, 1.0, dof=np.linspace(1.0, 3.0, 9))
    assert (np.diff(limits) > 0.0).all()
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="dof: got"):
            calibration.update(state, 0.1, 0.1, dof=wrong)

"""The online calibration covers at its stated level from the very first intervention on.

Every run draws its own precision factor lambda from the Gamma(a, b) prior and then errors from
N(0, sigma²/lambda) one after the other. Averaged over runs the predictive intervals then hold exactly,
whatever n, because the posterior is exact. Each assertion compares a share of 100 000 independent runs with
its nominal value at |z| < 4.5; with 22 assertions the false-alarm rate is below 2e-4, and seeds are fixed.
"""

import numpy as np
import pytest

from bayes_mlff.ensemble import calibration
from bayes_mlff.ensemble.calibration import Calibration

RUNS = 100_000
CHECKED = (0, 1, 5, 20, 50)  # interventions before the one that is tested
LEVEL = 0.95
THRESHOLD = 0.5


def _simulate(a: float, b: float, seed: int):
    """Yield, at each checked n, the state before the intervention, its sigmas and its errors."""
    rng = np.random.default_rng(seed)
    precision = rng.gamma(a, 1 / b, RUNS)
    state = calibration.init(a, b)._replace(s=np.zeros(RUNS))
    for n in range(max(CHECKED) + 1):
        # Sigmas as a trigger would give them: they depend on what was seen before; some are below critical.
        sigma = calibration.critical_sigma(state, THRESHOLD) * rng.lognormal(0.0, 0.7, RUNS)
        error = rng.normal(size=RUNS) * sigma / np.sqrt(precision)
        if n in CHECKED:
            yield n, state, sigma, error
        state = calibration.update(state, error, sigma)


def _z(hits: np.ndarray, probability: np.ndarray | float) -> float:
    expected = np.broadcast_to(probability, hits.shape)
    return float(np.sum(hits - expected) / np.sqrt(np.sum(expected * (1 - expected))))


def _coverage_z(state: Calibration, sigma: np.ndarray, error: np.ndarray) -> float:
    return _z(np.abs(error) <= calibration.interval(state, sigma, confidence=LEVEL), LEVEL)


@pytest.mark.parametrize("a", [3.0, 1.5])
def test_intervals_cover_from_the_first_intervention_on(a):
    checked = 0
    for n, state, sigma, error in _simulate(a, 10.0, seed=11):
        assert abs(_coverage_z(state, sigma, error)) < 4.5, f"after {n} interventions"
        checked += 1
    assert checked == len(CHECKED)


def test_trigger_probability_is_the_frequency_of_large_errors():
    for n, state, sigma, error in _simulate(3.0, 10.0, seed=12):
        large = np.abs(error) > THRESHOLD
        probability = calibration.exceedance_probability(state, sigma, THRESHOLD)
        silent = sigma <= calibration.critical_sigma(state, THRESHOLD, confidence=LEVEL)
        np.testing.assert_array_equal(silent, probability <= 1 - LEVEL)
        assert abs(_z(large, probability)) < 4.5, f"after {n} interventions"
        assert abs(_z(large[silent], probability[silent])) < 4.5, f"untriggered, after {n} interventions"
        assert large[silent].mean() < 1 - LEVEL


def _doubled_n(state: Calibration) -> Calibration:
    """Equivalent to an implementation that writes a + n in place of a + n/2."""
    return state._replace(n=2.0 * state.n)


def _doubled_s(state: Calibration) -> Calibration:
    """Equivalent to an implementation that writes b + S in place of b + S/2."""
    return state._replace(s=2.0 * state.s)


@pytest.mark.parametrize("wrong", [_doubled_n, _doubled_s])
def test_the_usual_mistakes_would_be_seen(wrong):
    simulated = _simulate(3.0, 10.0, seed=13)
    seen = {n: abs(_coverage_z(wrong(state), sigma, error)) for n, state, sigma, error in simulated}
    assert seen.pop(0) < 4.5  # without data the mistakes make no difference
    assert min(seen.values()) > 9.0, seen


def test_a_ten_per_cent_error_of_the_scale_would_be_seen():
    for _, state, sigma, error in _simulate(3.0, 10.0, seed=14):
        assert abs(_coverage_z(state, 1.1 * sigma, error)) > 9.0


def test_forgetting_follows_a_miscalibration_that_changes():
    # 200 interventions with true factor 1, then 100 with errors four times larger: the forgetting calibration
    # (memory of 20) covers again near its level; the one that never forgets stays well below it.
    rng = np.random.default_rng(15)
    runs = 2_000
    covered = {}
    for decay in (1.0, 0.95):
        state = calibration.init()._replace(s=np.zeros(runs))
        for factor, steps in ((1.0, 200), (4.0, 100)):
            for _ in range(steps):
                state = calibration.update(state, factor * rng.normal(size=runs), np.ones(runs), decay=decay)
        inside = np.abs(4.0 * rng.normal(size=runs)) <= calibration.interval(state, 1.0, confidence=LEVEL)
        covered[decay] = inside.mean()
    assert covered[1.0] < 0.90 < covered[0.95] < 0.99

"""Audits find over-confidence soon, and leave a right calibration alone.

Errors are drawn from the calibration's own law: a precision from the Gamma prior for each run, then normal errors.
The stated false-alarm rate is 1 % of *runs*, however many audits each has; 1 500 runs would have 15 alarms at
that rate, and more than 27 with probability 2e-3. Seeds are fixed. How soon over-confidence is found was measured
with 200 runs of another seed; the bounds lie three standard errors below.
"""

import numpy as np
import pytest

from bayes_mlff.ensemble import error_law
from bayes_mlff.otf import audits

SIGMA = 0.01


def first_alarm(rng, n_audits, *, widen=1.0, after=0, labels_between=0):
    """Number of the audit, from 1, that raises the calibration; 0 = none. Errors are `widen` times too large."""
    precision = rng.gamma(3.0, 1 / 10.0)
    state, scores = error_law.init(3.0, 10.0), ()
    for number in range(1, n_audits + 1):
        factor = widen if number > after else 1.0
        for _ in range(labels_between if number <= after or widen == 1.0 else 0):
            state = error_law.update(state, rng.normal() * SIGMA / np.sqrt(precision), SIGMA)
        error = factor * rng.normal() * SIGMA / np.sqrt(precision)
        outcome = audits.learn(state, scores, error, SIGMA, audited=True)
        if outcome.raised:
            return number
        state, scores = outcome.calibration, outcome.scores
    return 0


@pytest.mark.parametrize("between", [0, 2])
def test_a_right_calibration_is_rarely_raised(between):
    rng = np.random.default_rng(1)
    assert sum(first_alarm(rng, 10, labels_between=between) > 0 for _ in range(1_500)) <= 27


def test_a_right_calibration_is_rarely_raised_in_a_long_run():
    rng = np.random.default_rng(2)
    assert sum(first_alarm(rng, 80) > 0 for _ in range(300)) <= 9


@pytest.mark.parametrize(("widen", "within", "share"), [(10.0, 5, 0.85), (20.0, 3, 0.92)])
def test_an_over_confident_ensemble_is_found(widen, within, share):
    """Before anything is known, errors of 1.8 σ are expected with a wide law, which itself follows small factors."""
    rng = np.random.default_rng(3)
    found = np.array([first_alarm(rng, within, widen=widen) for _ in range(300)])
    assert np.mean(found > 0) > share


@pytest.mark.parametrize(("widen", "within", "share"), [(3.0, 20, 0.77), (5.0, 8, 0.87), (10.0, 3, 0.87)])
def test_a_phase_change_after_twenty_audits_is_found(widen, within, share):
    rng = np.random.default_rng(4)
    found = np.array([first_alarm(rng, 20 + within, widen=widen, after=20) for _ in range(300)])
    assert np.mean(found > 20) > share
    assert np.mean((found > 0) & (found <= 20)) < 0.04


def test_intervals_hold_again_after_the_raise():
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(300):
        state, scores, after = error_law.init(3.0, 10.0), (), 0
        for number in range(60):
            error = (5.0 if number >= 20 else 1.0) * rng.normal() * SIGMA
            if after >= 5:
                inside.append(abs(error) <= error_law.interval(state, SIGMA))
            outcome = audits.learn(state, scores, error, SIGMA, audited=True)
            state, scores = outcome.calibration, outcome.scores
            after += outcome.raised or after > 0
    assert 0.92 < np.mean(inside) <= 1.0

"""The law of errors with separate scales of spread and noise, against integration and simulation."""

import numpy as np
import pytest
from scipy import integrate, stats

from bayes_mlff.ensemble import calibration, error_law


def _mixed(seed: int = 0, n: int = 6):
    """A law with a floor after some errors, and what it was made of."""
    rng = np.random.default_rng(seed)
    sigma = np.sqrt(0.1**2 + rng.uniform(0.01, 0.2, n) ** 2)
    error = rng.normal(0.0, 3.0 * sigma)
    law = error_law.init(3.0, 10.0, floor=0.1)
    for e, s in zip(error, sigma, strict=True):
        law = error_law.update(law, e, s)
    return law, error, sigma


def _posterior(error, sigma, floor):
    """Weights of the ratios and Gamma laws of lambda from the definition, by integration over lambda."""
    weights, gammas = [], []
    for ratio, prior in zip(error_law.RATIOS, error_law.prior_weights(), strict=True):
        each = np.sqrt(ratio**2 * (sigma**2 - floor**2) + floor**2)
        z2 = np.sum((error / each) ** 2)

        def likelihood(x, each=each):
            return stats.gamma(3.0, scale=0.1).pdf(x) * np.prod(stats.norm.pdf(error, 0.0, each / np.sqrt(x)))

        weights.append(prior * integrate.quad(likelihood, 0.0, 20.0, epsabs=0.0, epsrel=1e-10, limit=200)[0])
        gammas.append(stats.gamma(3.0 + len(error) / 2, scale=1.0 / (10.0 + z2 / 2)))
    return np.array(weights) / np.sum(weights), gammas


def test_the_law_is_the_exact_posterior():
    law, error, sigma = _mixed()
    weights, gammas = _posterior(error, sigma, 0.1)
    np.testing.assert_allclose(np.exp(law.log_weight), weights, rtol=1e-7)
    new, limit = 0.17, 0.4
    each = np.sqrt(error_law.RATIOS**2 * (new**2 - 0.1**2) + 0.1**2)
    tails = [
        integrate.quad(lambda x, g=g, s=s: g.pdf(x) * 2 * stats.norm.sf(limit * np.sqrt(x) / s), 0, 20, limit=200)[0]
        for g, s in zip(gammas, each, strict=True)
    ]
    assert error_law.exceedance_probability(law, new, limit) == pytest.approx(np.sum(weights * tails), rel=1e-7)
    assert error_law.deviation(law, new) == pytest.approx(
        np.sqrt(np.sum(weights * each**2 * [1.0 / (g.args[0] - 1.0) / g.kwds["scale"] for g in gammas])), rel=1e-9
    )


def test_one_ratio_is_the_conjugate_law_to_the_last_bit():
    law, known = error_law.init(1.5, 10.0), calibration.init(1.5, 10.0)
    for error, sigma, dof in ((0.3, 0.1, 1.0), (0.5, 0.2, 2.5)):
        law, known = (
            error_law.update(law, error, sigma, dof=dof, decay=0.9),
            calibration.update(known, error, sigma, dof=dof, decay=0.9),
        )
    assert error_law.critical_sigma(law, 0.02, dof=2.0) == calibration.critical_sigma(known, 0.02, dof=2.0)
    assert error_law.interval(law, 0.3) == calibration.interval(known, 0.3)
    assert error_law.exceedance_probability(law, 0.3, 0.5) == calibration.exceedance_probability(known, 0.3, 0.5)
    assert error_law.probability_integral(law, -0.2, 0.1) == calibration.probability_integral(known, -0.2, 0.1)
    assert error_law.deviation(law, 0.3) == pytest.approx(0.3 * np.sqrt(calibration.map_factor(known)), rel=1e-15)
    limits = error_law.critical_sigma(law, 0.02, dof=np.linspace(1.0, 3.0, 9))
    np.testing.assert_array_equal(limits, calibration.critical_sigma(known, 0.02, dof=np.linspace(1.0, 3.0, 9)))


@pytest.mark.parametrize("n", [0, 1, 6, 40])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_limits_and_intervals_invert_the_probability(n, confidence):
    law, *_ = _mixed(n=n)
    threshold = 20.0 * float(error_law.interval(law, 0.1, confidence=confidence))
    critical = error_law.critical_sigma(law, threshold, confidence=confidence)
    assert critical > 0.1
    tail = error_law.exceedance_probability(law, critical * np.array([0.999, 1.0, 1.001]), threshold)
    assert tail[1] == pytest.approx(1.0 - confidence, rel=1e-6)
    assert tail[0] < 1.0 - confidence < tail[2]
    assert error_law.interval(law, critical, confidence=confidence) == pytest.approx(threshold, rel=1e-9)
    assert error_law.normal_score(law, threshold, critical) == pytest.approx(
        stats.norm.isf((1.0 - confidence) / 2), rel=1e-6
    )
    assert error_law.probability_integral(law, threshold, critical) == pytest.approx(0.5 + confidence / 2, rel=1e-7)


def test_many_thresholds_are_inverted_at_once():
    law, *_ = _mixed()
    thresholds = float(error_law.interval(law, 0.1)) * np.array([0.5, 1.5, 20.0])
    alone = [error_law.critical_sigma(law, threshold) for threshold in thresholds]
    np.testing.assert_array_equal(error_law.critical_sigma(law, thresholds), alone)
    single = error_law.init(3.0, 10.0)
    assert np.shape(error_law.critical_sigma(single, thresholds)) == (3,)


def test_where_the_floor_alone_is_too_uncertain_every_sigma_asks():
    law, *_ = _mixed()
    width = float(error_law.interval(law, 0.1))
    assert error_law.critical_sigma(law, 0.5 * width) == pytest.approx(0.05, rel=1e-12)
    assert error_law.critical_sigma(law, width * 1.0000001) == pytest.approx(0.1, rel=1e-3)


def test_errors_that_grow_with_the_spread_shrink_the_floor_and_others_leave_it():
    rng = np.random.default_rng(3)
    spread = np.geomspace(0.01, 1.0, 400)
    laws = []
    for sigma_of_error in (4.0 * spread, np.full(400, 0.3)):
        law = error_law.init(3.0, 10.0, floor=0.1)
        for s, e in zip(spread, rng.normal(0.0, sigma_of_error), strict=True):
            law = error_law.update(law, e, np.hypot(s, 0.1))
        laws.append(error_law.parts(law))
    growing, constant = laws
    assert growing.factor == pytest.approx(4.0, rel=0.1)
    assert growing.floor < 0.1  # the prior does not expect one much below that of the likelihood
    assert constant.floor == pytest.approx(0.3, rel=0.1)
    assert constant.factor < 0.4  # the smallest ratio has an eighth of the prior scale


def test_forgetting_returns_to_the_prior_of_the_ratios():
    law, *_ = _mixed(n=40)
    certain = np.max(np.exp(law.log_weight))
    # A spread of zero says nothing of the ratio: only forgetting changes the weights.
    for _ in range(200):
        law = error_law.update(law, 0.1, 0.1, decay=0.9)
    assert certain > 2.0 * error_law.prior_weights().max()
    np.testing.assert_allclose(np.exp(law.log_weight), error_law.prior_weights(), rtol=1e-6)
    assert law.each.n == pytest.approx(10.0)


def test_a_restart_forgets_what_is_not_kept():
    law, error, sigma = _mixed(n=6)
    kept = [(error[4], sigma[4], 1.0), (error[5], sigma[5], 1.0)]
    anew = error_law.restart(law, kept)
    expected = error_law.init(3.0, 10.0, floor=0.1)
    for e, s, _ in kept:
        expected = error_law.update(expected, e, s)
    assert anew == expected


def test_json_and_back():
    law, *_ = _mixed()
    assert error_law.ErrorLaw.from_json(law.to_json()) == law
    wrong = (("s", [1.0]), ("n", [-1.0]), ("log_weight", [0.0] * error_law.RATIOS.size), ("floor", -1.0), ("a", 0.0))
    for key, value in wrong:
        with pytest.raises(ValueError, match="allowed"):
            error_law.ErrorLaw.from_json({**law.to_json(), key: value})


def test_rounding_below_the_floor_is_the_floor():
    law, *_ = _mixed()
    assert error_law.interval(law, 0.1 * (1 - 1e-8)) == error_law.interval(law, 0.1)

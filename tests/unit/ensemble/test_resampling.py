"""Intervals that take structures as independent, not the scalars within them."""

import numpy as np
import pytest

from bayes_mlff.ensemble.metrics import binomial_share, rescale_factor
from bayes_mlff.ensemble.resampling import effective_trials, log_factor_error, structure_share


def even(hits, structures, **settings):
    """The share with as many scalars of each structure, one after the other."""
    return structure_share(hits, np.repeat(np.arange(structures), np.size(hits) // structures), **settings)


@pytest.mark.parametrize("structures", [5, 10, 40])
@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_intervals_hold_the_truth_of_beta_binomial_hits(structures, share):
    """Correlation 0.2 within 27 scalars.

    Of 1500 intervals with a true coverage of 95 % fewer than 93 % hold the truth once in 5000 times, for each of the
    nine cases.
    """
    random, repeats, correlation = np.random.default_rng(structures), 1500, 0.2
    spread = (1 - correlation) / correlation
    each = random.beta(share * spread, (1 - share) * spread, (repeats, structures, 1))
    hits = random.random((repeats, structures, 27)) < each
    found = [even(one, structures) for one in hits]
    assert np.mean([one.lower <= share <= one.upper for one in found]) >= 0.93


def test_structures_of_different_sizes():
    """Correlation 0.2 within 6 to 30 scalars: fewer than 93 % of 1500 hold the truth once in 5000 times."""
    random, share, spread = np.random.default_rng(7), 0.8, 4.0
    sizes = np.tile([6, 18, 30], 5)
    index = np.repeat(np.arange(len(sizes)), sizes)
    hits = random.random((1500, len(index))) < random.beta(share * spread, (1 - share) * spread, (1500, 15))[:, index]
    found = [structure_share(one, index) for one in hits]
    assert np.mean([one.lower <= share <= one.upper for one in found]) >= 0.93
    order = random.permutation(len(index))
    assert structure_share(hits[0][order], index[order]) == pytest.approx(found[0])
    # Equal scalars count as one each of structures of the mean size over scalars.
    whole = np.repeat(random.random(3000) < 0.9, np.tile([6, 18, 30], 1000))
    parts = np.split(whole, np.cumsum(np.tile([6, 18, 30], 1000))[:-1])
    assert effective_trials(parts, 0.95) == pytest.approx(54000 / (1260 / 54), rel=0.1)
    assert effective_trials([np.ones(6), np.ones(30)], 0.95) == pytest.approx(36 / 26)


def test_equal_scalars_count_once_and_independent_ones_all():
    random = np.random.default_rng(1)
    many = random.random(2000) < 0.9
    # The design effect of 2000 structures scatters by 3 %; Student's t and the added difference make 2 %.
    assert effective_trials(np.repeat(many[:, None], 27, axis=1), 0.95) == pytest.approx(2000, rel=1e-9)
    assert effective_trials(random.random((2000, 27)) < 0.9, 0.95) == pytest.approx(54000, rel=0.15)
    each = even(many, 2000)
    assert each == pytest.approx(binomial_share(int(many.sum()), 2000), rel=1e-9)
    assert even(np.repeat(many, 27), 2000) == pytest.approx(each, rel=1e-9)


def test_never_narrower_than_the_binomial_interval():
    random = np.random.default_rng(2)
    for structures in (2, 5, 40):
        alternating = np.tile([True, False, True], 9 * structures)  # every structure has the same share
        for hits in (alternating, random.random(27 * structures) < 0.9):
            share, each = even(hits, structures), binomial_share(int(hits.sum()), hits.size)
            assert share.observed == pytest.approx(each.observed)
            assert share.lower <= each.lower + 1e-12 and share.upper >= each.upper - 1e-12


def test_all_hits_of_few_structures_say_little():
    share = even(np.ones((5, 27), bool), 5)
    assert share.lower == pytest.approx(0.025**0.2) and share.lower < 0.6 and share.upper == 1.0
    share = even(np.zeros((5, 27), bool), 5)
    assert share.lower == 0.0 and share.upper == pytest.approx(1 - 0.025**0.2)
    narrow = even(np.ones(5), 5, confidence=0.5)
    assert narrow.lower == pytest.approx(0.25**0.2)


def test_impossible_input_is_named():
    hits = np.ones(60)
    for arguments in ((hits, 7), (hits, np.zeros(60)), (hits, np.arange(59)), ([], [])):
        with pytest.raises(ValueError, match="structures"):
            structure_share(*arguments)
    with pytest.raises(ValueError, match=r"hits: got numbers from 0\.5 to 0\.5"):
        even(0.5 * hits, 20)
    with pytest.raises(ValueError, match="confidence"):
        even(hits, 20, confidence=1.0)


def test_errors_of_the_factor_on_sigma():
    """10 structures of 27 errors, correlated by 0.3, sizes that sigma does not know by 0.2 in the logarithm.

    Fewer than 89 % of 1500 intervals hold the truth less than once in 10000 times where 92 % do.
    """
    random, index = np.random.default_rng(3), np.repeat(np.arange(10), 27)
    size = np.exp(random.normal(0.0, 0.2, (1500, 10)))[:, index]
    own, common = random.normal(size=(1500, 270)), random.normal(size=(1500, 10))[:, index]
    error = size * (np.sqrt(0.7) * own + np.sqrt(0.3) * common)
    sigma = np.full(270, 3.0)
    truth = np.log(np.sqrt(np.exp(2.0 * 0.2**2)) / 3.0)
    off = np.array([np.log(rescale_factor(one, sigma)) - truth for one in error])
    half = np.array([log_factor_error(one, sigma, index) for one in error])
    assert np.mean(np.abs(off) <= half) >= 0.89
    assert np.mean(np.abs(off) <= 0.5 * half) <= 0.89  # not because they are wide
    # Neither units nor a factor of sigma matter, nor the order.
    order = random.permutation(270)
    assert log_factor_error(2.0 * error[0][order], 0.1 * sigma, index[order]) == pytest.approx(half[0])
    assert log_factor_error(error[0], np.abs(error[0]), index) == 0.0
    with pytest.raises(ValueError, match="at least 2"):
        log_factor_error(error[0], sigma, np.zeros(270, int))

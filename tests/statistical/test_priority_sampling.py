"""Priority sampling: exact unbiasedness, and draws that follow the stated probabilities.

The chi-square tests fail by chance with probability 1e-6 each; seeds are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayes_mlff.posterior.minibatch import draw, draw_probability

CASES = [(6, 5, 5), (13, 12, 5), (13, 4, 5), (3, 0, 2), (40, 39, 3), (9, 8, 1)]
DRAWS = 20_000


def stated(n, newest, b):
    """Probability of each index, written down independently of the library."""
    first = 1 / b if b > 1 else 1 / n
    q = np.full(n, (1 - first) / (n - 1))
    q[newest] = first
    return q


def batches(n, newest, b, seed=0):
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    batch = jax.jit(jax.vmap(lambda key, count, last: draw(key, count, last, b), in_axes=(0, None, None)))(
        keys, jnp.int32(n), jnp.int32(newest)
    )
    return np.asarray(batch.indices), np.asarray(batch.weights)


@pytest.mark.parametrize(("n", "newest", "b"), CASES)
def test_estimator_is_unbiased(n, newest, b):
    """E = Σ_i q_i b w_i f_i over every index, with the weights the draws came with, equals the plain mean."""
    indices, weights = batches(n, newest, b)
    f = np.random.default_rng(1).normal(size=n) * 10.0 + 3.0
    weight_of = np.full(n, np.nan)
    weight_of[indices.ravel()] = weights.ravel()
    np.testing.assert_array_equal(weights, weight_of[indices])
    np.testing.assert_allclose((stated(n, newest, b) * b * weight_of * f).sum(), f.mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "newest", "b"), CASES)
def test_draws_follow_the_probabilities(n, newest, b):
    indices, _ = batches(n, newest, b, seed=2)
    assert indices.min() >= 0
    assert indices.max() < n
    observed = np.bincount(indices.ravel(), minlength=n)
    q = stated(n, newest, b)
    assert stats.chisquare(observed, q * indices.size).pvalue > 1e-6
    computed = draw_probability(jnp.arange(n, dtype=jnp.int32), jnp.int32(n), jnp.int32(newest), b)
    np.testing.assert_allclose(np.asarray(computed), q, rtol=1e-14)


SEVERAL = [(13, 3, 5), (13, 4, 5), (40, 30, 8), (9, 9, 4), (9, 2, 1), (6, 1, 5)]


def stated_of_several(n, fresh, b):
    """Probability of each index if the last `fresh` are new, written down independently of the library."""
    if fresh == n or b == 1:
        return np.full(n, 1 / n)
    each = min(1 / b, 1 / (2 * fresh))
    return np.array([(1 - fresh * each) / (n - fresh)] * (n - fresh) + [each] * fresh)


@pytest.mark.parametrize(("n", "fresh", "b"), SEVERAL)
def test_several_new_labels_are_drawn_by_their_probabilities_without_bias(n, fresh, b):
    keys = jax.random.split(jax.random.key(4), DRAWS)
    one = jax.vmap(lambda key, count, new: draw(key, count, count - 1, b, fresh=new), in_axes=(0, None, None))
    batch = jax.jit(one)(keys, jnp.int32(n), jnp.int32(fresh))
    indices, weights = np.asarray(batch.indices), np.asarray(batch.weights)
    q = stated_of_several(n, fresh, b)
    assert stats.chisquare(np.bincount(indices.ravel(), minlength=n), q * indices.size).pvalue > 1e-6
    np.testing.assert_allclose(weights, 1.0 / (n * b * q[indices]), rtol=1e-12)


def test_slots_are_independent():
    """Counts of the newest in a batch are binomial(b, 1/b)."""
    b = 5
    indices, _ = batches(11, 10, b, seed=3)
    counts = np.bincount((indices == 10).sum(axis=1), minlength=b + 1)
    expected = stats.binom.pmf(np.arange(b + 1), b, 1 / b) * DRAWS
    merged = np.append(counts[:4], counts[4:].sum()), np.append(expected[:4], expected[4:].sum())
    assert stats.chisquare(*merged).pvalue > 1e-6


@pytest.mark.parametrize("n", [1, 3, 5])
def test_takes_all_while_few(n):
    indices, weights = batches(n, n - 1, 5)
    np.testing.assert_array_equal(indices[:, :n], np.tile(np.arange(n), (DRAWS, 1)))
    assert indices.max() < n
    np.testing.assert_array_equal(weights, np.tile(np.where(np.arange(5) < n, 1 / n, 0.0), (DRAWS, 1)))


def test_dtype_follows_the_request():
    batch = draw(jax.random.key(0), jnp.int32(9), jnp.int32(8), 4, dtype=jnp.float32)
    assert batch.weights.dtype == jnp.float32
    assert batch.indices.dtype == jnp.int32


def test_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="batch_size"):
        draw(jax.random.key(0), jnp.int32(9), jnp.int32(8), 0)

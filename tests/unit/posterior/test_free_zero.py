"""Energies with an unknown constant in common: the likelihood knows their differences only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.noise_levels import noise_levels
from bayes_mlff.posterior.potential import Observations, potential, potential_and_gradient
from tests.support.toy_posterior import PARAMS, PRIOR, SIGMAS, filled, toy_predict


def marginal(params, training_set, count, with_energies):
    """U of the whole set with the energies' errors taken from their mean; the energies with a mask are left out."""
    energy = toy_predict(params, training_set.graphs).energy[:count] - training_set.energy[:count]
    known = jnp.asarray(np.asarray(with_energies)[:count], energy.dtype)
    mean = jnp.sum(known * energy) / jnp.sum(known)
    centred = 0.5 * jnp.sum(known * (energy - mean) ** 2) / SIGMAS.energy_sigma**2
    rest = training_set._replace(has_energy=jnp.zeros_like(training_set.has_energy))
    return potential(toy_predict, PRIOR, SIGMAS, count)(params, jax.random.key(0), rest) + centred / count


def evaluate(training_set, batch_size, keys, at_once=None, *, prefer_newest=False):
    function = potential_and_gradient(
        toy_predict, PRIOR, batch_size, prefer_newest=prefer_newest, at_once=at_once, free_zero=True
    )
    run = jax.jit(jax.vmap(function, in_axes=(None, 0, None)))
    return np.asarray(run(PARAMS, keys, Observations(training_set, SIGMAS))[1])


@pytest.mark.parametrize("at_once", [1, 4, None])
def test_the_gradient_is_that_of_the_marginal_likelihood(at_once):
    training_set, every = filled(7, 9), np.ones(9, bool)
    expected = jax.grad(marginal)(PARAMS, training_set, 7, every)
    found = evaluate(training_set, 7, jax.random.split(jax.random.key(0), 1), at_once)
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)
    some = every.copy()
    some[[1, 4]] = False
    training_set = training_set._replace(has_energy=training_set.has_energy & some)
    expected = jax.grad(marginal)(PARAMS, training_set, 7, some)
    found = evaluate(training_set, 7, jax.random.split(jax.random.key(0), 1), at_once)
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)


@pytest.mark.parametrize("prefer_newest", [False, True])
@pytest.mark.parametrize(("batch_size", "missing"), [(2, ()), (5, ()), (5, (1, 4))])
def test_minibatches_estimate_it_without_bias(batch_size, missing, prefer_newest):
    """Mean of 40 000 draws within 4.5 standard errors (false alarm 2e-5 a case, fixed seed)."""
    every = np.ones(12, bool)
    every[list(missing)] = False
    training_set = filled(9, 12)
    # The newest label differs most from the others, as it does when it has just been asked for.
    training_set = training_set._replace(
        has_energy=training_set.has_energy & every, energy=training_set.energy.at[8].add(2.0)
    )
    expected = np.asarray(jax.grad(marginal)(PARAMS, training_set, 9, every))
    draws = evaluate(training_set, batch_size, jax.random.split(jax.random.key(1), 40_000), prefer_newest=prefer_newest)
    error = 4.5 * draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - expected) < error).all()


def test_a_constant_in_all_labels_changes_nothing():
    training_set, keys = filled(9, 12), jax.random.split(jax.random.key(2), 3)
    shifted = training_set._replace(energy=training_set.energy + 50.0)
    for batch_size in (4, 9):
        found, other = (evaluate(labels, batch_size, keys, prefer_newest=True) for labels in (training_set, shifted))
        np.testing.assert_allclose(found, other, rtol=1e-9)


def test_one_label_says_nothing_about_differences_of_energies():
    training_set = filled(1, 4)
    without = training_set._replace(has_energy=jnp.zeros_like(training_set.has_energy))
    keys = jax.random.split(jax.random.key(3), 1)
    np.testing.assert_allclose(evaluate(training_set, 4, keys), evaluate(without, 4, keys), rtol=1e-12)


def test_levels_of_energies_are_their_scatter():
    training_set = filled(7, 9)
    level = noise_levels(toy_predict, np.array([1]), 5, floor_ev_a=1e-3, free_zero=True)
    _, likelihood = jax.jit(level)(PARAMS, Observations(training_set, Likelihood(1e-3)))
    errors = np.asarray(toy_predict(PARAMS, training_set.graphs).energy - training_set.energy)[:7]
    assert float(likelihood.energy_sigma) == pytest.approx(np.std(errors), rel=1e-9)

"""Samples with a zero of the energies: its law, and what it is added to."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from bayes_mlff.posterior import energy_zero
from bayes_mlff.posterior.chains import otf_chains
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.prior import GaussianPrior
from tests.support.toy_posterior import PARAMS, SIGMAS, filled, toy_predict

SHIFT = 3.0
CHAINS = 512


def linear(weights, graphs):
    """A mean that is linear in the only weight, with a σ of the forces of 1 eV/Å."""
    sigma = jnp.ones_like(graphs.node_mask, weights.dtype)
    return toy_predict(jnp.stack([weights[0], weights[0] * 0.0]), graphs)._replace(force_sigma=sigma)


def test_weights_and_zero_have_the_exact_joint_posterior():
    """Means within 4.5 standard errors, spreads within 25 % since the mass adapts throughout, normal residuals.

    The zero given the weight has an exact law, which a Kolmogorov-Smirnov test compares at the level 1e-4 (fixed seed).
    """
    known = filled(7, 8, with_stress=False)
    known = known._replace(energy=known.energy + SHIFT)
    chains = otf_chains(
        linear, GaussianPrior(jnp.asarray([0.1]), 0.5), Likelihood(0.3),
        step_size=0.05, cold_steps=100, ramp_steps=100, eps=1e-2, zero="fitted",
    )  # fmt: skip
    samples = energy_zero.joined(jnp.zeros([CHAINS, 1]))
    samples, _, info = chains.update(samples, chains.init(samples, jax.random.key(0)), known, 1000)
    assert np.asarray(info.finite).all()
    a, zero = np.asarray(samples).T

    r = np.asarray(known.graphs.positions)[:7, :3]
    squares, energies = (r**2).sum(axis=(1, 2)), np.asarray(known.energy)[:7]
    of_energies = np.stack([squares / 0.3, np.full(7, 1 / 0.3)], axis=1)
    of_forces = np.stack([(-2 * r).ravel(), np.zeros(r.size)], axis=1)
    design = np.vstack([of_energies, of_forces])
    target = np.concatenate([energies / 0.3, np.asarray(known.forces)[:7, :3].ravel()])
    precision = design.T @ design + np.diag([4.0, 0.0])
    covariance = np.linalg.inv(precision)
    mean = covariance @ (design.T @ target + np.array([0.1 * 4.0, 0.0]))
    for draws, centre, variance in ((a, mean[0], covariance[0, 0]), (zero, mean[1], covariance[1, 1])):
        assert abs(draws.mean() - centre) < 4.5 * draws.std(ddof=1) / np.sqrt(CHAINS)
        assert 0.75 < draws.std(ddof=1) / np.sqrt(variance) < 1.25
    given = (zero - (energies[:, None] - squares[:, None] * a).mean(axis=0)) / (0.3 / np.sqrt(7))
    assert stats.kstest(given, "norm").pvalue > 1e-4


def test_a_learnt_zero_stays():
    known = filled(3, 4)
    chains = otf_chains(
        toy_predict,
        GaussianPrior(PARAMS, 0.5),
        SIGMAS,
        step_size=1e-3,
        cold_steps=2,
        ramp_steps=2,
        thin=5,
        zero="learnt",
    )
    samples = energy_zero.joined(jnp.tile(PARAMS[None, :], (2, 1)), jnp.asarray([0.5, -1.0]))
    moved, _, _ = chains.update(samples, chains.init(samples, jax.random.key(0)), known, 10)
    np.testing.assert_array_equal(moved[:, -1], [0.5, -1.0])
    assert (np.asarray(moved)[:, :-1] != np.asarray(samples)[:, :-1]).all()


def test_labels_without_energies_leave_the_zero_at_zero():
    known = filled(3, 4)
    known = known._replace(has_energy=jnp.zeros_like(known.has_energy))
    assert float(energy_zero.draw(toy_predict, SIGMAS, PARAMS, known, jax.random.key(0))) == 0.0


def test_the_zero_is_added_to_energies_only():
    graphs = filled(3, 4).graphs
    plain, shifted = toy_predict(PARAMS, graphs), energy_zero.with_zero(toy_predict)(
        energy_zero.joined(PARAMS, 2.5), graphs
    )  # fmt: skip
    np.testing.assert_allclose(shifted.energy, plain.energy + 2.5, rtol=1e-14)
    for name in ("forces", "force_sigma", "stress"):
        np.testing.assert_array_equal(getattr(shifted, name), getattr(plain, name))

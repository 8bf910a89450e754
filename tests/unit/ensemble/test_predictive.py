"""Moments of a mixture of chains, against numpy and against sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.ensemble.predictive import combine
from bayes_mlff.models.energetics import Prediction

ENERGY_SIGMA, STRESS_SIGMA = 0.3, 0.02


def _prediction(seed: int, *, chains: int = 5, batch: int = 3, atoms: int = 4, with_stress: bool = True):
    rng = np.random.default_rng(seed)
    mask = np.arange(atoms) < atoms - 1
    forces = rng.normal(size=(chains, batch, atoms, 3)) * mask[:, None]
    sigma = np.where(mask, np.exp(rng.normal(size=(chains, batch, atoms))), 1.0)
    stress = jnp.asarray(rng.normal(size=(chains, batch, 3, 3))) if with_stress else None
    energy = 5.0 + rng.normal(size=(chains, batch))
    return Prediction(jnp.asarray(energy), jnp.asarray(forces), stress, jnp.asarray(sigma))


def test_moments_equal_their_definition():
    given = _prediction(0)
    got = jax.jit(lambda p: combine(p, energy_sigma=ENERGY_SIGMA, stress_sigma=STRESS_SIGMA))(given)

    def sigma(mean, variance_within):
        return np.sqrt(np.var(np.asarray(mean), axis=0, ddof=1) + variance_within)

    within = np.mean(np.square(given.force_sigma), axis=0)[:, :, None]
    np.testing.assert_allclose(got.energy_mean, np.mean(given.energy, 0), rtol=1e-13)
    np.testing.assert_allclose(got.energy_sigma, sigma(given.energy, ENERGY_SIGMA**2), rtol=1e-13)
    np.testing.assert_allclose(got.forces_mean, np.mean(given.forces, 0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(got.forces_sigma, sigma(given.forces, within), rtol=1e-13)
    np.testing.assert_allclose(got.stress_mean, np.mean(given.stress, 0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(got.stress_sigma, sigma(given.stress, STRESS_SIGMA**2), rtol=1e-13)
    np.testing.assert_array_equal(got.chain_energy, given.energy)


def test_variance_is_unbiased_for_few_chains():
    # 40 000 batches of K = 2 chains from N(0, 1) with own sigma 0.5: the variance averages to 1.25, to 0.75
    # with K in place of K - 1. Standard error sqrt(2/40 000) = 0.0071; |z| < 4.5, false-alarm rate 7e-6.
    energy = np.random.default_rng(1).normal(size=(2, 40_000))
    forces, sigma = jnp.zeros((2, 40_000, 1, 3)), jnp.ones((2, 40_000, 1))
    got = combine(Prediction(jnp.asarray(energy), forces, None, sigma), energy_sigma=0.5)
    assert abs(np.mean(np.square(got.energy_sigma)) - 1.25) < 4.5 * 0.0071


def test_padding_stays_inert():
    got = combine(_prediction(2), energy_sigma=ENERGY_SIGMA, stress_sigma=STRESS_SIGMA)
    np.testing.assert_array_equal(got.forces_mean[:, -1], 0.0)
    np.testing.assert_array_equal(got.forces_sigma[:, -1], 1.0)


def test_without_stress():
    got = combine(_prediction(3, with_stress=False), energy_sigma=ENERGY_SIGMA)
    assert got.stress_mean is None
    assert got.stress_sigma is None
    assert got.forces_sigma.shape == (3, 4, 3)


def test_dtype_follows_input_and_large_energies_keep_their_spread():
    single = jax.tree.map(lambda x: x.astype(jnp.float32), _prediction(4))
    # Total energies of -20 000 eV are multiples of 1/512 eV in float32: spreads must come out to that grid.
    energy = np.float32(-20_000.0) + np.arange(5, dtype=np.float32)[:, None] / 64 * np.ones(3, np.float32)
    got = combine(single._replace(energy=jnp.asarray(energy)), energy_sigma=1e-3, stress_sigma=STRESS_SIGMA)
    assert {x.dtype for x in got} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(got.energy_mean, -20_000.0 + 2 / 64, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.energy_sigma, np.sqrt(2.5 / 64**2 + 1e-6), rtol=1e-6)


def test_one_chain_only_on_request():
    one = _prediction(5, chains=1)
    with pytest.raises(ValueError, match="at least 2"):
        jax.eval_shape(lambda p: combine(p, energy_sigma=ENERGY_SIGMA, stress_sigma=STRESS_SIGMA), one)
    got = combine(one, energy_sigma=ENERGY_SIGMA, stress_sigma=STRESS_SIGMA, allow_single_chain=True)
    np.testing.assert_allclose(got.energy_sigma, ENERGY_SIGMA, rtol=1e-14)
    np.testing.assert_allclose(got.forces_sigma[..., 0], one.force_sigma[0], rtol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy_sigma": 0.0, "stress_sigma": STRESS_SIGMA}, "energy_sigma"),
        ({"energy_sigma": float("nan"), "stress_sigma": STRESS_SIGMA}, "energy_sigma"),
        ({"energy_sigma": ENERGY_SIGMA}, "stress_sigma: got None"),
    ],
)
def test_missing_or_impossible_sigma_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        combine(_prediction(6), **options)


def test_missing_chain_axis_is_refused():
    single = jax.tree.map(lambda x: x[0], _prediction(7))
    with pytest.raises(ValueError, match="chains, structures"):
        combine(single, energy_sigma=ENERGY_SIGMA, stress_sigma=STRESS_SIGMA)


def test_gradient_is_finite_where_chains_agree():
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), _prediction(8))

    def total(energy):
        return jnp.sum(combine(same._replace(energy=energy), energy_sigma=0.1, stress_sigma=0.1).energy_sigma)

    assert np.isfinite(jax.grad(total)(same.energy)).all()

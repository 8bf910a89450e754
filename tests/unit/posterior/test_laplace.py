"""Samples around an optimum: their law is the exact posterior of a model that is linear in its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior import energy_zero, laplace
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.prior import GaussianPrior
from tests.support.toy_posterior import filled

SCALE, LABELS, MANY = 0.7, 6, 4000
LIKELIHOOD = Likelihood(0.3, 0.05)
PRIOR = GaussianPrior(jnp.asarray([0.1, 0.0, -0.2]), SCALE)


def predict(weights, graphs):
    """E = Σ_j w_j Σ_i |r_i|^(2j), its forces, and a stress of w_1 on the diagonal; σ of the forces is 2 eV/Å."""
    mask = graphs.node_mask[..., None]
    r = jnp.where(mask, graphs.positions, 0.0)
    squares = jnp.sum(r**2, axis=-1, keepdims=True)
    of_power = [squares**j for j in range(4)]
    energy = sum(weights[j] * jnp.sum(of_power[j + 1], axis=(1, 2)) for j in range(3))
    forces = -2.0 * r * sum((j + 1) * weights[j] * of_power[j] for j in range(3))
    stress = weights[0] * jnp.broadcast_to(jnp.eye(3, dtype=weights.dtype), graphs.cell.shape)
    return Prediction(energy, forces, stress, jnp.full(graphs.node_mask.shape, 2.0, weights.dtype))


def design(known, *, energies=True) -> np.ndarray:
    """Rows of the labels in units of their σ [m, 4]: three weights and the zero of the energies; those of energies or
    of forces and stress."""

    def flat(sample):
        found = energy_zero.with_zero(predict)(sample, jax.tree.map(lambda x: x[:LABELS], known.graphs))
        if energies:
            return found.energy / 0.3
        return jnp.concatenate([found.forces[:, :3].ravel() / 2.0, found.stress.ravel() / 0.05])

    return np.asarray(jax.jacfwd(flat)(jnp.zeros(4)))


@pytest.fixture(scope="module")
def known():
    return filled(LABELS, 8)


def draws(known, *, directions, samples=MANY, key=0, free_zero=True):
    centre = jnp.asarray([0.3, -0.1, 0.2, 5.0])
    sample = laplace.sampler(predict, PRIOR, LIKELIHOOD, samples=samples, directions=directions, free_zero=free_zero)
    return centre, np.asarray(sample(centre, known, jax.random.key(key)))


def test_samples_have_the_exact_covariance_of_weights_and_zero(known):
    """Each entry within 4.5 standard errors of 4000 draws: a false alarm in about 1 of 15 000 seeds (fixed)."""
    centre, found = draws(known, directions=0)
    rows = design(known)
    exact = np.linalg.inv(rows.T @ rows + np.diag([SCALE**-2] * 3 + [0.0]))
    np.testing.assert_allclose(found.mean(axis=0), centre, atol=1e-12)
    sd = np.sqrt(np.diag(exact))
    off = np.abs(np.cov(found.T) - exact) / np.outer(sd, sd)
    assert off.max() < 4.5 * np.sqrt(2.0 / MANY)
    corner = np.linalg.inv(rows[:, :3].T @ rows[:, :3] + np.eye(3) / SCALE**2)
    assert np.abs(corner - exact[:3, :3]).max() > 0.2 * np.abs(exact[:3, :3]).max(), "the zero must matter here"


def test_directions_of_forces_and_stress_are_right_on_average(known):
    """The mean of GᵀG over 400 keys, within 4.5 of its standard errors (fixed seed)."""
    rows = design(known, energies=False)
    exact = (rows.T @ rows)[:3, :3]

    @jax.jit
    def gram(key):
        g = laplace.design(predict, LIKELIHOOD, jnp.zeros(3), known, 4, key).weights.reshape(8, 5, 3)[:, 1:]
        return jnp.einsum("ijk,ijl->kl", g, g)

    each = np.asarray(jax.lax.map(gram, jax.random.split(jax.random.key(3), 400)))
    error = each.std(axis=0, ddof=1) / np.sqrt(len(each))
    assert np.all(np.abs(each.mean(axis=0) - exact) < 4.5 * error + 1e-9 * np.abs(exact))


def test_forces_narrow_the_posterior(known):
    with_forces, without = (draws(known, directions=n)[1].std(axis=0) for n in (8, 0))
    assert np.all(with_forces[:3] < 0.9 * without[:3])


def test_labels_without_energies_leave_the_zero_alone(known):
    blind = known._replace(has_energy=jnp.zeros_like(known.has_energy))
    centre, found = draws(blind, directions=8, samples=50)
    np.testing.assert_allclose(found[:, -1], centre[-1], rtol=1e-12)
    assert np.all(found[:, :3].std(axis=0) > 1e-3)


def test_many_labels_get_fewer_directions_each():
    used = [laplace.directions_within(8, capacity, np.inf) for capacity in (1, 64, 128, 256, 512, 4096)]
    assert used == [8, 8, 7, 3, 1, 1]
    assert laplace.directions_within(0, 64, np.inf) == 0
    within = [laplace.directions_within(8, 64, rows) for rows in (63.0, 64.0, 127.0, 128.0, 320.0, 1e9)]
    assert within == [None, 0, 0, 1, 4, 8]


def test_a_learnt_zero_stays_and_narrows_the_weights(known):
    """The exact covariance without a free constant, within 4.5 standard errors of 4000 draws (fixed seed)."""
    centre, found = draws(known, directions=0, free_zero=False)
    rows = design(known)[:, :3]
    exact = np.linalg.inv(rows.T @ rows + np.eye(3) / SCALE**2)
    np.testing.assert_array_equal(found[:, 3], centre[3])
    sd = np.sqrt(np.diag(exact))
    assert (np.abs(np.cov(found[:, :3].T) - exact) / np.outer(sd, sd)).max() < 4.5 * np.sqrt(2.0 / MANY)


@pytest.mark.parametrize("free_zero", [True, False])
def test_what_all_gradients_share_costs_no_digits_in_float32(known, free_zero):
    """Spreads of 400 draws in float32 and in float64 agree within 20 %, four standard errors of the ratio (fixed seed).

    Without taking off the common part, float32 loses the positive definiteness of the matrix here.
    """

    def shifted(weights, graphs):
        found = predict(weights, graphs)
        return found._replace(energy=found.energy + 3e3 * weights[0].astype(found.energy.dtype))

    sharp = Likelihood(0.1)
    spreads = []
    for dtype in (jnp.float32, jnp.float64):
        labels = filled(LABELS, 8, dtype, with_stress=False)
        labels = labels._replace(graphs=labels.graphs._replace(positions=0.5 * labels.graphs.positions))
        sample = laplace.sampler(shifted, PRIOR, sharp, samples=400, directions=0, free_zero=free_zero)
        key = jax.random.key(1)
        drawn = np.asarray(sample(jnp.asarray([0.3, -0.1, 0.2, 5.0], dtype), labels, key), np.float64)
        spreads.append(drawn[:, 1:3].std(axis=0))
    np.testing.assert_allclose(spreads[0], spreads[1], rtol=0.2)


def test_what_cannot_be_sampled_is_a_stop_that_can_be_resumed(known):
    centre = jnp.asarray([0.3, -0.1, 0.2, 5.0])
    small = laplace.sampler(predict, PRIOR, LIKELIHOOD, samples=4, directions=2, memory_bytes=7 * 3 * 8)
    with pytest.raises(RunStoppedError, match=r"8 gradients of all weights.*memory_gib"):
        small(centre, known, jax.random.key(0))
    sample = laplace.sampler(predict, PRIOR, LIKELIHOOD, samples=4, directions=2)
    nowhere = known.graphs._replace(positions=known.graphs.positions * jnp.nan)
    with pytest.raises(RunStoppedError, match="step_size"):
        sample(centre, known._replace(graphs=nowhere), jax.random.key(0))


def test_a_new_label_compiles_nothing(known, count_compilations):
    centre = jnp.asarray([0.3, -0.1, 0.2, 5.0])
    sample = laplace.sampler(predict, PRIOR, LIKELIHOOD, samples=4, directions=2)
    sample(centre, known, jax.random.key(0))
    fewer = known._replace(count=known.count - 2)
    with count_compilations() as count:
        other = sample(centre, fewer, jax.random.key(0))
    assert count.value == 0
    assert other.std(axis=0)[0] > 0.0

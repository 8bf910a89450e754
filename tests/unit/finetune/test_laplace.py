"""Last-layer Laplace: linearity, Gauss-Newton matrix, evidence and samples against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from scipy import optimize, stats

from bayes_mlff.core.units import KCAL_MOL
from bayes_mlff.ensemble import saved as ensemble
from bayes_mlff.finetune import frames, laplace
from bayes_mlff.finetune.laplace import Curvature
from bayes_mlff.models import layers, registry
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.posterior import training_set as training
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.testing.tiny import tiny_nequip

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
LIKELIHOOD = Likelihood(0.01)


@pytest.fixture(scope="module")
def case():
    """Potential, flat model, its weights, and three labelled frames of water, the last without energy."""
    potential = registry.initialize(tiny_nequip((1, 8), energy_scales=(0.5, 0.5)), 0, jnp.float64)
    random = np.random.default_rng(0)
    f = 3
    sets = frames.Frames(
        np.tile([8, 1, 1], (f, 1)), np.zeros((f, 3), bool), WATER + 0.05 * random.normal(size=(f, 3, 3)),
        np.zeros((f, 3, 3)), random.normal(size=f), random.normal(size=(f, 3, 3)), None,
    )  # fmt: skip
    graphs = frames.graphs({"train": sets}, (1, 8), 3.0, dtype=np.float64)["train"]
    labels = training.allocate(jax.tree.map(lambda x: x[0], graphs), f + 1)
    for i in range(f):
        graph = jax.tree.map(lambda x, i=i: x[i], graphs)
        labels = training.append(labels, graph, float(sets.energy[i]) if i < 2 else None, sets.forces[i])
    predict = ensemble.flat_predictor(potential.config, with_stress=False)
    return potential, predict, potential.flat()[0], labels, graphs, sets


def test_predictions_are_linear_in_the_last_layer(case):
    potential, predict, params, _, graphs, _ = case
    index = layers.last_readout(potential)
    assert index.size == 2, "the readout of the tiny network has one layer, of two scalars"
    shift = jnp.zeros_like(params).at[index].set(jnp.asarray(np.random.default_rng(1).normal(size=index.size)))
    at = [predict(params + x * shift, graphs) for x in (0.0, 1.0, 3.0)]
    for field in ("energy", "forces"):
        zero, one, three = (getattr(p, field) for p in at)
        np.testing.assert_allclose(three - zero, 3.0 * (one - zero), rtol=1e-9, atol=1e-12)
        assert np.abs(one - zero).max() > 1e-3
    np.testing.assert_array_equal(at[0].force_sigma, at[2].force_sigma)


def test_curvature_equals_finite_differences_of_what_is_labelled(case):
    potential, predict, params, labels, graphs, sets = case
    index = layers.last_readout(potential)
    energy, forces = laplace.curvatures(predict, LIKELIHOOD, labels, params, index)
    assert (energy.count, forces.count) == (2, 27)
    base = predict(params, graphs)
    sigma = np.asarray(base.force_sigma)[..., None]
    columns = [predict(params.at[i].add(1.0), graphs) for i in index]
    rows = np.stack([((c.forces - base.forces) / sigma).ravel() for c in columns], axis=1)
    np.testing.assert_allclose(forces.gram, rows.T @ rows, rtol=1e-8)
    assert forces.square == pytest.approx(float(np.sum(((base.forces - sets.forces) / sigma) ** 2)), rel=1e-10)
    rows = np.stack([(c.energy - base.energy)[:2] / 0.01 for c in columns], axis=1)
    np.testing.assert_allclose(energy.gram, rows.T @ rows, rtol=1e-8)
    assert energy.square == pytest.approx(float(np.sum(((base.energy - sets.energy)[:2] / 0.01) ** 2)), rel=1e-10)


def test_noise_factors_change_the_sigma_of_what_is_labelled(case):
    *_, labels, _, _ = case
    with_energy, without = labels, labels._replace(has_energy=jnp.zeros_like(labels.has_energy))
    for used, factors, wanted in (
        (with_energy, (4.0, 9.0, 16.0), (0.01 / 2, 0.2 / 4)),
        (with_energy, (4.0, 9.0), (0.01 / 2, 0.2)),
        (without, (9.0, 16.0), (0.01, 0.2 / 4)),
        (without, (9.0,), (0.01, 0.2)),
    ):
        found = laplace.fitted(Likelihood(0.01, 0.2), used, laplace.Evidence(1.0, factors, 1.0, np.eye(2)))
        np.testing.assert_allclose(found, wanted)
    assert laplace.fitted(LIKELIHOOD, with_energy, laplace.Evidence(1.0, (4.0, 9.0), 1.0, np.eye(2))) == (0.005, None)


def test_the_last_readout_of_mace_is_that_of_the_last_interaction():
    config = MACEConfig(
        elements=(1, 8), r_max=3.0, hidden_irreps="2x0e+2x1o", num_interactions=2, max_ell=1, correlation=1,
        radial_widths=(4,), sigma_widths=(4,), average_neighbors=2.0, energy_scale=1.0, energy_shifts=(0.0, 0.0),
    )  # fmt: skip
    potential = registry.initialize(config, 0)
    marked = jnp.zeros_like(potential.flat()[0]).at[layers.last_readout(potential)].set(1.0)
    marked = marked.at[layers.last_sigma_bias(potential)].set(2.0)
    leaves = {"/".join(k): np.unique(v) for k, v in flatten_dict(potential.flat()[1](marked)).items() if np.any(v)}
    assert leaves == {"readout_1/dense_1/weight": [1.0], "sigma/dense_1/bias": [2.0]}


def log_evidence(kinds, rows, targets, prior, factors):
    """Log density of the targets with the weights integrated out, the prior centred on zero."""
    noise = np.concatenate([np.full(k.count, 1 / b) for k, b in zip(kinds, factors, strict=True)])
    return stats.multivariate_normal.logpdf(targets, cov=rows @ rows.T / prior + np.diag(noise))


def test_evidence_is_where_the_marginal_likelihood_is_greatest():
    random = np.random.default_rng(2)
    rows = random.normal(size=(90, 5))
    weights = 0.7 * random.normal(size=5)
    noise = np.concatenate([np.full(30, 0.5), np.full(60, 2.0)])
    targets = rows @ weights + noise * random.normal(size=90)
    parts = slice(0, 30), slice(30, 90)

    # The optimum depends on the precisions, which are sought by turns until both agree.
    prior, factors = 1.0, np.ones(2)
    for _ in range(200):
        precision = prior * np.eye(5) + sum(b * rows[p].T @ rows[p] for b, p in zip(factors, parts, strict=True))
        best = np.linalg.solve(precision, sum(b * rows[p].T @ targets[p] for b, p in zip(factors, parts, strict=True)))
        kinds = tuple(
            Curvature(rows[p].T @ rows[p], float(np.sum((rows[p] @ best - targets[p]) ** 2)), p.stop - p.start)
            for p in parts
        )
        found = laplace.evidence(kinds, float(best @ best))
        prior, factors = found.prior_precision, np.array(found.noise_factors)

    def loss(logs):
        return -log_evidence(kinds, rows, targets, np.exp(logs[0]), np.exp(logs[1:]))

    exact = np.exp(optimize.minimize(loss, np.zeros(3), tol=1e-10).x)
    np.testing.assert_allclose([prior, *factors], exact, rtol=1e-3)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(precision), rtol=1e-6)
    assert 0.0 < found.effective < 5.0


def test_samples_have_the_mean_and_the_covariance_of_the_posterior(case):
    potential, predict, params, labels, graphs, _ = case
    index = layers.last_readout(potential)
    drawn, found = laplace.approximate(
        potential, predict, LIKELIHOOD, labels, params, count=4000, key=jax.random.key(0)
    )
    np.testing.assert_allclose(drawn[:, index].mean(axis=0), params[index], atol=1e-9)
    root = np.linalg.cholesky(found.covariance)
    whitened = np.linalg.solve(root, np.cov(np.asarray(drawn[:, index]).T)) @ np.linalg.inv(root).T
    # Entries of a covariance of 4000 draws have a standard deviation of at most sqrt(2/4000) = 2.2 %; 5 σ.
    np.testing.assert_allclose(whitened, np.eye(index.size), atol=0.11)
    others = np.setdiff1d(np.arange(params.size), index)
    changed = others[np.asarray(drawn[0, others] != params[others])]
    assert changed.size == 1 and (drawn[:, changed[0]] == drawn[0, changed[0]]).all()
    before, after = predict(params, graphs).force_sigma, predict(drawn[0], graphs).force_sigma
    np.testing.assert_allclose(after, before / np.sqrt(found.noise_factors[1]), rtol=1e-9)
    assert np.isfinite(np.asarray(drawn)).all() and float(after.min()) > 1e-6 * KCAL_MOL

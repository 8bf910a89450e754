"""Prior, likelihood, training set and potential on toy models; the chains of an on-the-fly run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayes_mlff.core.errors import DataError
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior import prior as priors
from bayes_mlff.posterior.chains import otf_chains
from bayes_mlff.posterior.likelihood import Labels, Likelihood, PerAtom, log_likelihood
from bayes_mlff.posterior.potential import Observations, potential, potential_and_gradient
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.training_set import allocate, append, grow
from tests.support.toy_posterior import (
    PARAMS,
    PRIOR,
    RNG,
    SIGMAS,
    K,
    N,
    filled,
    reference_potential,
    small_chains,
    toy_graph,
    toy_predict,
)


def test_likelihood_equals_scipy_and_masks():
    b = 3
    prediction = Prediction(*(jnp.asarray(RNG.normal(size=s)) for s in ((b,), (b, N, 3), (b, 3, 3))), None)
    sigma = RNG.uniform(0.2, 2.0, size=(b, N))
    prediction = prediction._replace(force_sigma=jnp.asarray(sigma))
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool)
    has_energy, has_stress = np.array([True, False, True]), np.array([True, True, False])
    values = [RNG.normal(size=s) for s in ((b,), (b, N, 3), (b, 3, 3))]
    expected = np.zeros(b)
    for i in range(b):
        mean = [np.asarray(x)[i] for x in prediction[:3]]
        expected[i] += has_energy[i] * stats.norm.logpdf(values[0][i], mean[0], 0.3)
        expected[i] += stats.norm.logpdf(values[1][i], mean[1], sigma[i][:, None])[mask[i]].sum()
        expected[i] += has_stress[i] * stats.norm.logpdf(values[2][i], mean[2], 0.02).sum()
    values[0][~has_energy] = np.nan
    values[1][~mask] = np.nan
    values[2][~has_stress] = np.nan
    labels = Labels(*map(jnp.asarray, (*values, mask, has_energy, has_stress)))
    np.testing.assert_allclose(np.asarray(log_likelihood(SIGMAS, prediction, labels)), expected, rtol=1e-12)

    def loss(p):
        return jnp.sum(log_likelihood(SIGMAS, p, labels))

    gradient = jax.grad(loss)(prediction)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(gradient))
    assert not np.asarray(gradient.force_sigma)[~mask].any()


def test_sigma_per_atom_follows_the_mask():
    energy, mask = jnp.asarray([1.0, 2.0]), jnp.asarray([[True] * 4, [True, False, False, False]])
    shapes = (jnp.zeros((2, N, 3)), None, jnp.ones((2, N)))
    rest = (shapes[0], jnp.zeros((2, 3, 3)), mask, jnp.asarray([True, True]), jnp.asarray([False, False]))
    for sigma, each in ((PerAtom(0.1), (0.4, 0.1)), (0.1, (0.1, 0.1))):
        found = log_likelihood(Likelihood(sigma), Prediction(energy, *shapes), Labels(energy + 0.3, *rest))
        forces = 3 * np.sum(np.asarray(mask), axis=1) * stats.norm.logpdf(0.0)
        np.testing.assert_allclose(found, stats.norm.logpdf(0.3, 0.0, each) + forces, rtol=1e-12)


def test_likelihood_refuses_missing_stress():
    training_set = filled(1, 1)
    prediction = toy_predict(PARAMS, training_set.graphs)._replace(stress=None)
    labels = Labels(*training_set[1:4], training_set.graphs.node_mask, *training_set[4:6])
    with pytest.raises(ValueError, match=r"prediction\.stress"):
        log_likelihood(SIGMAS, prediction, labels)
    assert np.isfinite(np.asarray(log_likelihood(Likelihood(0.3), prediction, labels))).all()


@pytest.mark.parametrize("scale", [0.5, {"a": 0.5, "b": np.array([1.0, 2.0])}], ids=["number", "pytree"])
def test_prior_density_and_samples(scale):
    """Differences of log density by scipy; 4 000 samples within 4.5 standard errors (fixed seed)."""
    mean = {"a": jnp.asarray(1.0), "b": jnp.asarray([0.0, -2.0])}
    prior = GaussianPrior(mean, scale)
    flat_scale = np.array([0.5, 0.5, 0.5]) if scale == 0.5 else np.array([0.5, 1.0, 2.0])
    x, y = RNG.normal(size=(2, 3))
    pack = lambda v: {"a": jnp.asarray(v[0]), "b": jnp.asarray(v[1:])}  # noqa: E731
    got = priors.log_density(prior, pack(x)) - priors.log_density(prior, pack(y))
    reference = stats.norm(np.array([1.0, 0.0, -2.0]), flat_scale)
    np.testing.assert_allclose(float(got), (reference.logpdf(x) - reference.logpdf(y)).sum(), rtol=1e-12)
    draws = jax.vmap(lambda key: priors.sample(prior, key))(jax.random.split(jax.random.key(0), 4000))
    flat = np.concatenate([np.asarray(draws["a"])[:, None], np.asarray(draws["b"])], axis=1)
    z = (flat - np.array([1.0, 0.0, -2.0])) / flat_scale
    assert (np.abs(z.mean(axis=0)) * np.sqrt(4000) < 4.5).all()
    assert (np.abs(z.var(axis=0, ddof=1) - 1) / np.sqrt(2 / 3999) < 4.5).all()
    assert np.abs(np.corrcoef(z.T) - np.eye(3)).max() * np.sqrt(4000) < 4.5


def test_prior_refuses_another_structure():
    prior = GaussianPrior({"a": jnp.zeros([2])}, {"b": 1.0})
    with pytest.raises(ValueError, match=r"prior\.scale"):
        priors.log_density(prior, {"a": jnp.zeros([2])})


@pytest.mark.parametrize("count", [1, 3, 5])
def test_potential_takes_all_while_few(count):
    training_set = filled(count, 8)
    value = potential(toy_predict, PRIOR, SIGMAS, 5)(PARAMS, jax.random.key(0), training_set)
    expected = reference_potential(np.asarray(PARAMS), training_set, count)
    np.testing.assert_allclose(float(value), expected, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [2, 5, 9])
def test_expected_potential_and_gradient_do_not_depend_on_batch_size(batch_size):
    """Mean of 20 000 draws within 4.5 standard errors (false alarm 2e-5 a case); b = 9 is exact."""
    training_set = filled(9, 12)
    function = potential(toy_predict, PRIOR, SIGMAS, batch_size)
    keys = jax.random.split(jax.random.key(1), 20_000)
    both = jax.jit(jax.vmap(jax.value_and_grad(function), in_axes=(None, 0, None)))
    value, gradient = (np.asarray(x) for x in both(PARAMS, keys, training_set))
    params, step = np.asarray(PARAMS), 1e-5
    exact = [reference_potential(params, training_set, 9)]
    for shift in np.eye(2) * step:
        up, down = (reference_potential(params + s, training_set, 9) for s in (shift, -shift))
        exact.append((up - down) / (2 * step))
    draws = np.column_stack([value, gradient])
    error = 4.5 * draws.std(axis=0, ddof=1) / np.sqrt(len(draws)) + 1e-7 * np.abs(exact)
    assert (np.abs(draws.mean(axis=0) - exact) < error).all()


@pytest.mark.parametrize("at_once", [1, 2, 6, None])
@pytest.mark.parametrize("count", [1, 4, 6, 9])
def test_groups_of_structures_add_up(count, at_once):
    training_set, key = filled(count, 16), jax.random.key(5)
    expected = jax.value_and_grad(potential(toy_predict, PRIOR, SIGMAS, 6))(PARAMS, key, training_set)
    function = potential_and_gradient(toy_predict, PRIOR, 6, at_once=at_once)
    observations = Observations(training_set, SIGMAS)
    for found in (function(PARAMS, key, observations), jax.jit(function)(PARAMS, key, observations)):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)


def test_gradient_by_central_differences():
    training_set = filled(7, 8)
    function = potential(toy_predict, PRIOR, SIGMAS, 3)
    key = jax.random.key(5)
    gradient = np.asarray(jax.grad(function)(PARAMS, key, training_set))
    for axis, shift in enumerate(np.eye(2) * 1e-5):
        slope = (function(PARAMS + shift, key, training_set) - function(PARAMS - shift, key, training_set)) / 2e-5
        np.testing.assert_allclose(gradient[axis], float(slope), rtol=1e-7)


@pytest.mark.parametrize("count", [2, 6])
def test_unused_capacity_is_never_read(count):
    """Unused slots are NaN as allocated; finite rubbish or no free slot at all gives the same bits."""
    training_set = filled(count, 8)
    assert np.isnan(np.asarray(training_set.energy)[count:]).all()
    assert np.isnan(np.asarray(training_set.graphs.positions)[count:]).all()

    def rubbish(x):
        return x.at[count:].set(7) if x.ndim and x.dtype != bool else x

    tight = jax.tree.map(lambda x: x[:count] if x.ndim else x, training_set)
    function = jax.vmap(jax.value_and_grad(potential(toy_predict, PRIOR, SIGMAS, 5)), in_axes=(None, 0, None))
    keys = jax.random.split(jax.random.key(0), 500)
    results = [function(PARAMS, keys, s) for s in (training_set, jax.tree.map(rubbish, training_set), tight)]
    for value, gradient in results:
        assert np.isfinite(np.asarray(value)).all()
        np.testing.assert_array_equal(np.asarray(value), np.asarray(results[0][0]))
        np.testing.assert_array_equal(np.asarray(gradient), np.asarray(results[0][1]))


def test_potential_takes_a_pytree():
    training_set = filled(4, 8)
    tree_predict = lambda p, graphs: toy_predict(jnp.stack([p["a"], p["b"]]), graphs)  # noqa: E731
    mean = {"a": jnp.asarray(0.1), "b": jnp.asarray(0.0)}
    tree = potential(tree_predict, GaussianPrior(mean, 0.5), SIGMAS, 5)(
        {"a": PARAMS[0], "b": PARAMS[1]}, jax.random.key(0), training_set
    )
    vector = potential(toy_predict, PRIOR, SIGMAS, 5)(PARAMS, jax.random.key(0), training_set)
    np.testing.assert_allclose(float(tree), float(vector), rtol=1e-12)


def test_append_keeps_order_and_masks_and_the_old_set():
    empty = allocate(toy_graph(0), 2)
    forces = np.full((N, 3), 0.5)
    forces[3] = np.nan
    one = append(empty, toy_graph(1), 2.0, forces)
    two = append(one, toy_graph(2), None, forces, np.eye(3))
    assert (int(empty.count), int(one.count), int(two.count)) == (0, 1, 2)
    np.testing.assert_array_equal(np.asarray(two.has_energy), [True, False])
    np.testing.assert_array_equal(np.asarray(two.has_stress), [False, True])
    np.testing.assert_array_equal(np.asarray(two.forces)[:, 3], 0.0)
    np.testing.assert_array_equal(np.asarray(two.graphs.positions)[1], np.asarray(toy_graph(2).positions))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"energy": np.inf}, "energy: got a number"),
        ({"forces": np.full((N, 3), np.nan)}, "forces: got a number"),
        ({"forces": np.zeros((N + 1, 3))}, "forces: got shape"),
        ({"stress": np.zeros(6)}, "stress: got shape"),
        ({"graph": toy_graph(0)._replace(cell=jnp.zeros([2, 2]))}, "graph.cell"),
    ],
)
def test_append_refuses(change, match):
    entry = {"graph": toy_graph(0), "energy": 1.0, "forces": np.zeros((N, 3))} | change
    with pytest.raises(DataError, match=match):
        append(allocate(toy_graph(0), 2), **entry)


def test_full_set_is_an_error_until_grown():
    full = filled(2, 2)
    with pytest.raises(DataError, match="all 2 slots"):
        append(full, toy_graph(9), 0.0, np.zeros((N, 3)))
    wide = grow(full, 5, neighbors=K + 2)
    assert wide.graphs.neighbors.shape == (5, N, K + 2)
    assert not np.asarray(wide.graphs.edge_mask)[..., K:].any()
    key = jax.random.key(0)
    function = potential(toy_predict, PRIOR, SIGMAS, 5)
    np.testing.assert_array_equal(np.asarray(function(PARAMS, key, wide)), np.asarray(function(PARAMS, key, full)))
    assert np.isnan(np.asarray(wide.energy)[2:]).all()
    with pytest.raises(DataError, match="capacity"):
        grow(wide, 3)
    with pytest.raises(DataError, match="neighbors"):
        grow(wide, 5, neighbors=K)
    with pytest.raises(DataError, match="capacity"):
        allocate(toy_graph(0), 0)


def test_otf_updates_compile_once_while_the_set_grows():
    """The model is traced by the first update only; every update starts afresh and draws new numbers."""
    traces = []

    def counted(params, graphs):
        traces.append(1)
        return toy_predict(params, graphs)

    chains = small_chains(counted)
    params = jnp.tile(PARAMS[None, :], (8, 1))
    state = chains.init(params, jax.random.key(0))
    training_set = filled(1, 9)
    seen = []
    for i in range(7):
        params, state, info = chains.update(params, state, training_set, 100)
        seen.append(len(traces))
        training_set = append(training_set, toy_graph(i), 0.0, np.zeros((N, 3)), np.zeros((3, 3)))
    assert set(seen) == {seen[0]}
    assert params.shape == (8, 2)
    assert info.potential.shape == (8, 5)
    assert np.asarray(info.finite).all()
    assert np.unique(np.asarray(params)[:, 0]).size == 8
    np.testing.assert_array_equal(np.asarray(state.restarts), 7)
    np.testing.assert_array_equal(np.asarray(state.sampler.count), 100)


def test_otf_update_of_an_empty_set_is_flagged():
    chains = small_chains(toy_predict)
    params = jnp.tile(PARAMS[None, :], (2, 1))
    _, _, info = chains.update(params, chains.init(params, jax.random.key(0)), allocate(toy_graph(0), 3), 40)
    assert not np.asarray(info.finite).any()


def test_otf_update_must_reach_full_temperature():
    chains = small_chains(toy_predict)
    params = jnp.tile(PARAMS[None, :], (2, 1))
    state = chains.init(params, jax.random.key(0))
    with pytest.raises(ValueError, match="n_steps: got"):
        chains.update(params, state, filled(1, 2), 30)


def test_float32_stays_float32():
    chains = small_chains(toy_predict)
    params = jnp.tile(PARAMS.astype(jnp.float32)[None, :], (2, 1))
    training_set = filled(7, 8, jnp.float32)
    params, _, info = chains.update(params, chains.init(params, jax.random.key(0)), training_set, 40)
    assert params.dtype == info.potential.dtype == jnp.float32
    assert np.asarray(info.finite).all()


def test_otf_chains_reach_the_posterior():
    """A mean that is linear in a with a known σ has a normal posterior.

    The mass adapts throughout, which biases the law: only 25 % in spread and 4.5 standard errors in the mean
    are asked of 512 chains.
    """
    likelihood = Likelihood(0.3)

    def predict(params, graphs):
        sigma = jnp.ones_like(graphs.node_mask, params.dtype)
        return toy_predict(jnp.stack([params[0], params[0] * 0.0]), graphs)._replace(force_sigma=sigma)

    training_set = filled(7, 8, with_stress=False)
    prior = GaussianPrior(jnp.asarray([0.1]), 0.5)
    chains = otf_chains(predict, prior, likelihood, step_size=0.05, cold_steps=100, ramp_steps=100, eps=1e-2)
    params = jnp.zeros([512, 1])
    params, _, _ = chains.update(params, chains.init(params, jax.random.key(0)), training_set, 1000)
    r = np.asarray(training_set.graphs.positions)[:7, :3]
    feature = np.concatenate([(r**2).sum(axis=(1, 2)) / 0.3, (-2 * r).ravel()])
    target = np.concatenate(
        [np.asarray(training_set.energy)[:7] / 0.3, np.asarray(training_set.forces)[:7, :3].ravel()]
    )
    precision = feature @ feature + 1 / 0.25
    mean = (feature @ target + 0.1 / 0.25) / precision
    draws = np.asarray(params)[:, 0]
    assert abs(draws.mean() - mean) < 4.5 * draws.std(ddof=1) / np.sqrt(512)
    assert 0.75 < draws.std(ddof=1) * np.sqrt(precision) < 1.25

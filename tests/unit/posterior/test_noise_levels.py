"""Noise levels of cold chains: they are the errors of the labels, and end with the cold steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.posterior import noise_levels as noise_levels_module
from bayes_mlff.posterior.chains import otf_chains
from bayes_mlff.posterior.likelihood import Likelihood, PerAtom
from bayes_mlff.posterior.noise_levels import noise_levels, while_cold, window
from bayes_mlff.posterior.potential import Observations
from bayes_mlff.posterior.training_set import allocate, append
from tests.support.toy_posterior import PARAMS, PRIOR, SIGMAS, N, filled, toy_graph, toy_predict


def uneven_predict(params, graphs):
    """As `toy_predict` with a σ that differs from atom to atom and never is the same in two structures."""
    found = toy_predict(params, graphs)
    return found._replace(force_sigma=found.force_sigma * (1.0 + graphs.positions[..., 0] ** 2))


def standardised(params, training_set, rows):
    """Mean of (ΔF/σ)² and geometric mean of σ over the three real atoms of some labels, by numpy."""
    r = np.asarray(training_set.graphs.positions)[rows, :3]
    sigma = np.exp(params[1]) * (1 + r[..., 0] ** 2)
    error = -2 * params[0] * r - np.asarray(training_set.forces)[rows, :3]
    return np.mean((error / sigma[..., None]) ** 2), np.exp(np.mean(np.log(sigma)))


LEVELLED = np.array([1])


def levelled(params, training_set, likelihood=SIGMAS, **options):
    level = noise_levels(uneven_predict, LEVELLED, 5, **({"floor_ev_a": 1e-3} | options))
    params, found = jax.jit(level)(jnp.asarray(params), Observations(training_set, likelihood))
    return np.asarray(params), found


@pytest.mark.parametrize("at_once", [1, 3, 9, None])
def test_levels_are_the_errors(at_once):
    """The mean of (ΔF/σ)² becomes 1 from either side; σ of energy and stress become the root mean square errors."""
    for count, bias in ((1, 4.0), (7, -6.0)):
        training_set = filled(count, 9)
        params, likelihood = levelled([0.4, bias], training_set, Likelihood(1e-3, 1e-4), at_once=at_once)
        assert params[0] == 0.4
        assert standardised(params, training_set, range(count))[0] == pytest.approx(1.0, rel=1e-9)
        r = np.asarray(training_set.graphs.positions)[:count, :3]
        energy = 0.4 * (r**2).sum(axis=(1, 2)) - np.asarray(training_set.energy)[:count]
        assert float(likelihood.energy_sigma) == pytest.approx(np.sqrt(np.mean(energy**2)), rel=1e-9)
        stress = 0.4 * np.eye(3) - np.asarray(training_set.stress)[:count]
        assert float(likelihood.stress_sigma) == pytest.approx(np.sqrt(np.mean(stress**2)), rel=1e-9)


def test_the_level_of_a_sigma_per_atom_is_the_error_per_atom():
    training_set, single = filled(2, 3), toy_graph(5)._replace(node_mask=jnp.asarray([True, False, False, False]))
    training_set = append(training_set, single, 0.7, np.zeros((N, 3)))
    _, likelihood = levelled([0.4, 0.0], training_set, Likelihood(PerAtom(1e-3)))
    r2 = np.sum(np.where(training_set.graphs.node_mask[..., None], training_set.graphs.positions, 0.0) ** 2, (1, 2))
    error = (0.4 * r2 - np.asarray(training_set.energy)) / np.array([3, 3, 1])
    assert float(likelihood.energy_sigma.sigma) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-9)
    _, likelihood = levelled([0.4, 0.0], training_set, Likelihood(PerAtom(50.0)))
    assert float(likelihood.energy_sigma.sigma) == 50.0


def test_levels_never_fall_below_the_likelihood():
    _, likelihood = levelled([0.4, 0.0], filled(7, 9), Likelihood(50.0, 60.0))
    assert float(likelihood.energy_sigma) == 50.0 and float(likelihood.stress_sigma) == 60.0
    _, likelihood = levelled([0.4, 0.0], filled(7, 9), Likelihood(50.0))
    assert likelihood.stress_sigma is None


def test_levels_count_only_labels_that_exist():
    training_set = append(filled(3, 9), toy_graph(3), None, np.zeros((N, 3)))
    _, with_gap = levelled([0.4, 0.0], training_set, Likelihood(1e-3, 1e-4))
    _, without = levelled([0.4, 0.0], filled(3, 9), Likelihood(1e-3, 1e-4))
    np.testing.assert_allclose(np.asarray(with_gap), np.asarray(without), rtol=1e-12)
    nothing = append(allocate(toy_graph(0), 2), toy_graph(0), None, np.zeros((N, 3)))
    _, likelihood = levelled([0.4, 0.0], nothing, Likelihood(1e-3, 1e-4))
    assert float(likelihood.energy_sigma) == 1e-3 and float(likelihood.stress_sigma) == 1e-4


def test_levels_are_taken_from_labels_spread_over_the_set(monkeypatch):
    monkeypatch.setattr(noise_levels_module, "MOST", 4)
    training_set = filled(7, 9)
    params, _ = levelled(PARAMS, training_set)
    assert standardised(params, training_set, [0, 1, 3, 5])[0] == pytest.approx(1.0, rel=1e-9)


def test_force_level_has_a_floor():
    """A label that is fitted exactly, as a single one can be, leaves σ at the floor and finite."""
    training_set = append(filled(0, 2), toy_graph(0), 0.0, -0.8 * np.asarray(toy_graph(0).positions))
    params, _ = levelled([0.4, 3.0], training_set, floor_ev_a=0.02)
    assert standardised(params, training_set, [0])[1] == pytest.approx(0.02, rel=1e-9)


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float64, 1e-12), (jnp.float32, 1e-5)])
def test_levels_end_with_the_cold_steps(dtype, rtol):
    """Windows of 10 steps that begin at 0 to 30 are cold to their end at 40; one that begins at 31 is not."""
    level = noise_levels(uneven_predict, LEVELLED, 5, floor_ev_a=1e-3)
    start, observations = PARAMS.astype(dtype), Observations(filled(7, 9, dtype), Likelihood(1e-3, 1e-4))
    adjust, expected = while_cold(level, 40, 10), level(start, observations)
    assert expected[0].dtype == expected[1].energy_sigma.dtype == dtype
    assert float(expected[1].energy_sigma) > 0.1
    for step, part in ((0, 1.0), (20, 0.5), (30, 0.25)):
        params, used = adjust(start, jnp.int32(step), observations)
        np.testing.assert_allclose(np.asarray(params), np.asarray(expected[0]), rtol=rtol)
        np.testing.assert_allclose(used.likelihood, part * np.asarray(expected[1]), rtol=rtol)
    for end, step in ((40, 31), (0, 0)):
        params, used = while_cold(level, end, 10)(start, jnp.int32(step), observations)
        np.testing.assert_array_equal(np.asarray(params), start)
        np.testing.assert_allclose(used.likelihood, [1e-3, 1e-4], rtol=1e-6)


def test_levels_are_taken_at_least_twice_while_cold():
    assert [window(1000, 400), window(200, 70), window(30, 5), window(500, 0), window(10, 1)] == [50, 25, 2, 50, 10]


@pytest.mark.parametrize("chain_axis", ["vmap", "map"])
def test_otf_update_levels_a_sigma_that_its_steps_would_not_reach(chain_axis):
    """Steps of 1e-9 move nothing: what differs after an update is the level, which every chain has its own of.

    The level stays a branch, which warm windows do not take, also where the chains have an axis.
    """
    level = noise_levels(uneven_predict, LEVELLED, 5, floor_ev_a=1e-3)
    params = jnp.asarray([[0.4, -6.0], [0.9, 2.0]])
    training_set, made, branches = filled(7, 9), {}, {}
    for name, chosen in (("levelled", level), ("left", None)):
        chains = otf_chains(
            uneven_predict, PRIOR, SIGMAS, step_size=1e-9, cold_steps=20, ramp_steps=10, thin=20,
            level=chosen, chain_axis=chain_axis,
        )  # fmt: skip
        state = chains.init(params, jax.random.key(0))
        made[name], _, _ = chains.update(params, state, training_set, 40)
        program = str(jax.make_jaxpr(lambda p, s, t, c=chains: c.update(p, s, t, 40))(params, state, training_set))
        branches[name] = program.count("cond[")
    assert branches["levelled"] > branches["left"]
    np.testing.assert_allclose(np.asarray(made["left"]), params, atol=1e-3)
    for chain in np.asarray(made["levelled"]):
        assert standardised(chain, training_set, range(7))[0] == pytest.approx(1.0, rel=1e-2)

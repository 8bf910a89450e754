"""Samples evaluated to first order around an optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.data import neighbors
from bayes_mlff.ensemble.linear import linearised, unspread
from bayes_mlff.ensemble.predictive import combine
from bayes_mlff.ensemble.saved import contracted, flat_predictor
from bayes_mlff.models import registry
from bayes_mlff.posterior import energy_zero
from bayes_mlff.testing.structures import triclinic
from tests.support.tiny_runs import TINY

SAMPLES = 3


@pytest.fixture(scope="module")
def case():
    """The tiny network, its weights and a zero of the energies with samples around them, and two crystals."""
    predict = energy_zero.with_zero(flat_predictor(TINY, with_stress=True))
    centre = energy_zero.joined(registry.initialize(TINY, 0).flat()[0].astype(jnp.float64), 0.3)
    shifts = jax.random.normal(jax.random.key(1), (SAMPLES, len(centre)), jnp.float64)
    crystals = [triclinic((6, 8, 1)), triclinic((1, 8, 6))]
    each = [neighbors.allocate(s, TINY.elements, TINY.r_max, skin=0.0, dtype=jnp.float64)[1].graph for s in crystals]
    graphs = jax.tree.map(lambda *x: jnp.stack(x), *each)
    return predict, jnp.concatenate([centre[None], centre[None] + shifts]), graphs


@pytest.fixture(scope="module")
def full(case):
    predict, params, graphs = case
    return jax.jit(linearised(predict, with_forces=True))(params, graphs)


def test_it_is_the_derivative_of_the_prediction(case, full):
    """Central differences along each sample; a step of 1e-4 leaves a relative error of about 1e-7."""
    predict, params, graphs = case
    centre, h = params[0], 1e-4
    found = jax.jit(lambda: predict(centre, graphs))()
    moved = jax.jit(jax.vmap(predict, in_axes=(0, None)))
    ahead, behind = (moved(centre[None] + sign * h * (params[1:] - centre[None]), graphs) for sign in (1.0, -1.0))
    for name in ("energy", "forces", "stress"):
        slope = (getattr(ahead, name) - getattr(behind, name)) / (2.0 * h)
        expected = np.asarray(getattr(found, name)[None] + slope)
        size = np.abs(np.asarray(slope)).max()
        np.testing.assert_allclose(getattr(full, name), expected, atol=1e-5 * size)
    np.testing.assert_allclose(full.force_sigma, np.tile(found.force_sigma, (SAMPLES, 1, 1)), rtol=1e-14)


@pytest.mark.parametrize("fewer", [False, True])
def test_one_reverse_pass_gives_the_same_energies_and_the_centres_forces(case, full, fewer):
    """Also with weights on the element embedding combined into fewer weights for each element."""
    predict, params, graphs = case
    few, contract = contracted(TINY) if fewer else (TINY, None)
    sloped = energy_zero.with_zero(flat_predictor(few, with_stress=True, with_slopes=True))
    cheap = jax.jit(linearised(sloped, with_forces=False, contract=contract and energy_zero.beside(contract)))
    both, centre = cheap(params, graphs), jax.jit(predict)(params[0], graphs)
    np.testing.assert_allclose(both.energy, full.energy, rtol=1e-10)
    for name in ("forces", "stress", "force_sigma"):
        expected = getattr(centre, name)[None]
        np.testing.assert_allclose(getattr(both, name), np.repeat(expected, SAMPLES, axis=0), rtol=1e-9, atol=1e-12)
    one = cheap(params, jax.tree.map(lambda x: x[1:], graphs))
    np.testing.assert_allclose(one.energy[:, 0], full.energy[:, 1], rtol=1e-10)
    np.testing.assert_allclose(one.forces[:, 0], both.forces[:, 1], rtol=1e-9, atol=1e-12)


def test_weights_on_the_embedding_are_combined_into_fewer():
    wide = TINY.model_copy(update={"embedding_features": 5})
    few, contract = contracted(wide)
    potential = registry.initialize(wide, 0)
    assert contract is not None and few.self_connection == "element" and contracted(few) == (few, None)
    expected = registry.per_element(potential).flat()[0]
    np.testing.assert_array_equal(contract(potential.flat()[0]), expected)
    assert len(expected) < len(potential.flat()[0])


def test_without_forces_there_are_slopes_of_energies_alone(case, full):
    """Also where the forces are not learnt, so that the prediction has none."""
    _, params, graphs = case
    alone = flat_predictor(TINY, with_stress=False, with_forces=False, with_slopes=True)
    found = jax.jit(linearised(energy_zero.with_zero(alone), with_forces=False))(params, graphs)
    np.testing.assert_allclose(found.energy, full.energy, rtol=1e-10)
    assert found.stress is None and np.isnan(found.forces).all()


def test_what_is_not_known_is_nan_and_the_rest_stays(full):
    known = combine(full, energy_sigma=0.1, stress_sigma=0.1)
    without = unspread(known)
    for name in known._fields:
        if name in ("forces_sigma", "forces_dof", "stress_sigma"):
            assert np.isnan(getattr(without, name)).all() and np.isfinite(getattr(known, name)).all()
        else:
            np.testing.assert_array_equal(getattr(without, name), getattr(known, name))

"""Samples evaluated to first order around an optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.data import neighbors
from bayes_mlff.ensemble.linear import linearised, unspread
from bayes_mlff.ensemble.predictive import combine
from bayes_mlff.ensemble.saved import flat_predictor
from bayes_mlff.models import registry
from bayes_mlff.testing.structures import triclinic
from tests.support.tiny_runs import TINY

SAMPLES = 3


@pytest.fixture(scope="module")
def case():
    """The tiny network, its weights with samples around them, and two crystals."""
    predict = flat_predictor(TINY, with_stress=True)
    centre = registry.initialize(TINY, 0).flat()[0].astype(jnp.float64)
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


def test_without_forces_energies_are_the_same(case, full):
    predict, params, graphs = case
    cheap = jax.jit(linearised(predict, with_forces=False))
    both = cheap(params, graphs)
    np.testing.assert_allclose(both.energy, full.energy, rtol=1e-10)
    one = cheap(params, jax.tree.map(lambda x: x[1:], graphs))
    np.testing.assert_allclose(one.energy[:, 0], full.energy[:, 1], rtol=1e-10)
    np.testing.assert_allclose(np.ptp(both.forces, axis=0), 0.0)


def test_what_is_not_known_is_nan_and_the_rest_stays(full):
    known = combine(full, energy_sigma=0.1, stress_sigma=0.1)
    without = unspread(known)
    for name in known._fields:
        if name in ("forces_sigma", "forces_dof", "stress_sigma"):
            assert np.isnan(getattr(without, name)).all() and np.isfinite(getattr(known, name)).all()
        else:
            np.testing.assert_array_equal(getattr(without, name), getattr(known, name))

"""Distance transforms are those of their formulas, with finite derivatives at short distances and on padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.data import covalent_radii

from bayes_mlff.models.distance_transforms import Agnesi, Soft
from bayes_mlff.models.element_pairs import ElementPairs
from bayes_mlff.models.slots import Slots

ELEMENTS = (1, 8)
R = np.array([0.01, 0.3, 0.7, 0.97, 1.5, 5.9])
SUM = covalent_radii[1] + covalent_radii[8]


def agnesi(r):
    s = r / (0.5 * SUM)
    return 1.0 / (1.0 + 1.3 * s**0.9 / (1.0 + s ** (0.9 - 4.2)))


def soft(r):
    low, high = 0.75 * SUM, 4.0 / 3.0 * SUM
    return low + (r - low) * 0.5 * (1.0 + np.tanh(3.0 / (high - low) * (r - 0.5 * (low + high))))


CASES = [(Agnesi(q=0.9, p=4.2, a=1.3), agnesi), (Soft(steepness=3.0), soft)]


def transformed(transform, r):
    """The transform of distances between O and H."""
    rows = r[None, :]
    pairs = ElementPairs(jnp.array([1, 0]), Slots(jnp.ones(rows.shape, int), jnp.array([0])))
    return transform.of(rows, ELEMENTS, pairs)[0]


@pytest.mark.parametrize(("transform", "formula"), CASES)
@pytest.mark.parametrize(("dtype", "digits"), [(jnp.float64, 1e-13), (jnp.float32, 1e-6)])
def test_values_are_those_of_the_formula(transform, formula, dtype, digits):
    got = transformed(transform, jnp.asarray(R, dtype))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, formula(R), rtol=digits)


@pytest.mark.parametrize(("transform", "formula"), CASES)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_derivatives_are_those_of_the_formula_and_finite(transform, formula, dtype):
    short = jnp.asarray(np.concatenate([[1e-12, 1e-6], R]), dtype)
    slope = jax.vmap(jax.grad(lambda r: transformed(transform, r[None])[0]))
    assert np.isfinite(slope(short)).all()
    assert np.isfinite(jax.vmap(jax.grad(lambda r: slope(r[None])[0]))(short)).all()
    central = (formula(R + 1e-6) - formula(R - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope(short)[2:], central, rtol=1e-4, atol=1e-5)


def test_the_radii_of_both_elements_count():
    def between(own, other):
        pairs = ElementPairs(jnp.array([own, other]), Slots(jnp.array([[1]]), jnp.array([0])))
        return float(Agnesi().of(jnp.array([[1.0]]), ELEMENTS, pairs)[0, 0])

    assert between(0, 1) == between(1, 0)
    assert len({between(0, 0), between(0, 1), between(1, 1)}) == 3

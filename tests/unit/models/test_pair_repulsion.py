"""The repulsion of nuclei is that of its formula, ends smoothly, and has finite derivatives everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.data import covalent_radii

from bayes_mlff.models.architectures import ARCHITECTURES
from bayes_mlff.models.element_pairs import ElementPairs
from bayes_mlff.models.pair_repulsion import mace_zbl, nequip_zbl
from bayes_mlff.models.registry import initialize
from bayes_mlff.models.slots import Slots
from bayes_mlff.testing.tiny import tiny_mace, tiny_nequip

R_MAX = 4.0
ELEMENTS = (1, 8)
FORMS = {"mace": mace_zbl(6), "nequip": nequip_zbl(6)}
# O-H in the modules ZBLBasis of mace-torch 0.3.16 and ZBL of NequIP 0.19.1, float64, eV.
PUBLISHED = {
    "mace": {0.3: 36.950418685053464, 0.6: 2.840862719974275},
    "nequip": {0.3: 103.33265818597914, 0.6: 20.899067298824583},
}


def pair(form, distances, *, dtype=jnp.float64, padding=1):
    """Energy of pairs O-H, one after the other, each atom with `padding` empty slots behind its neighbour."""
    n = 2 * len(distances)
    r = jnp.repeat(jnp.asarray(distances, dtype), 2)[:, None]
    rows = jnp.concatenate([r, jnp.ones((n, padding), dtype)], axis=1)
    mask = jnp.concatenate([jnp.ones((n, 1), bool), jnp.zeros((n, padding), bool)], axis=1)
    other = jnp.arange(n).reshape(-1, 2)[:, ::-1].reshape(-1, 1)
    neighbors = jnp.concatenate([other, jnp.zeros((n, padding), int)], axis=1)
    pairs = ElementPairs(jnp.tile(jnp.array([1, 0]), len(distances)), Slots(neighbors, None))
    return form.energies(ELEMENTS, R_MAX, rows, mask, pairs).reshape(-1, 2).sum(axis=1)


def expected(name, r):
    """The formula for O-H with the constants of the two programs, eV."""
    mace = name == "mace"
    c = (0.1818, 0.5099, 0.2802, 0.02817) if mace else (0.18175, 0.50986, 0.28022, 0.02817)
    d = (3.2, 0.9423, 0.4028, 0.2016) if mace else (3.1998, 0.94229, 0.4029, 0.20162)
    a = 0.4543 * 0.529 / (1.0 + 8.0**0.3) if mace else 0.4685 / (1.0 + 8.0**0.23)
    end = covalent_radii[1] + covalent_radii[8] if mace else R_MAX
    screened = sum(ck * np.exp(-dk * r / a) for ck, dk in zip(c, d, strict=True))
    x = min(r / end, 1.0)
    envelope = 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8
    return (14.3996 if mace else 14.399645) * 8.0 / r * screened * envelope


@pytest.mark.parametrize(("dtype", "digits"), [(jnp.float64, 1e-12), (jnp.float32, 3e-6)])
@pytest.mark.parametrize("name", FORMS)
def test_energy_and_force_are_those_of_the_formula(name, dtype, digits):
    distances, step = np.array([0.05, 0.3, 0.4, 0.6, 0.9]), 1e-5
    got = pair(FORMS[name], distances, dtype=dtype)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, [expected(name, r) for r in distances], rtol=digits, atol=digits)
    slope = jax.grad(lambda r: pair(FORMS[name], r, dtype=dtype).sum())(jnp.asarray(distances, dtype))
    central = [(expected(name, r + step) - expected(name, r - step)) / (2.0 * step) for r in distances]
    np.testing.assert_allclose(slope, central, rtol=max(10.0 * digits, 1e-6), atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_energy_is_that_of_the_original_program(name):
    distances = list(PUBLISHED[name])
    np.testing.assert_allclose(pair(FORMS[name], distances), list(PUBLISHED[name].values()), rtol=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_it_is_repulsive_up_to_its_end_and_smooth_there(name):
    end = covalent_radii[1] + covalent_radii[8] if name == "mace" else R_MAX
    scan = np.asarray(pair(FORMS[name], np.linspace(0.02, end - 0.01, 200)))
    assert (np.diff(scan) < 0.0).all() and scan[-1] > 0.0
    total = lambda r: pair(FORMS[name], r[None])[0]  # noqa: E731
    for f in (total, jax.grad(total), jax.grad(jax.grad(total))):
        assert f(jnp.asarray(end + 1e-9)) == 0.0
        assert abs(f(jnp.asarray(end - 1e-6))) < 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", FORMS)
def test_padding_and_short_distances_have_finite_derivatives_of_second_order(name, dtype):
    def energy(positions):
        vectors = jnp.stack([positions[::-1] - positions, jnp.zeros((2, 3), dtype).at[:, 0].set(1.0)], axis=1)
        mask = jnp.array([[True, False]] * 2)
        pairs = ElementPairs(jnp.array([1, 0]), Slots(jnp.array([[1, 0], [0, 0]]), None))
        return FORMS[name].energies(ELEMENTS, R_MAX, jnp.linalg.norm(vectors, axis=-1), mask, pairs).sum()

    for distance in (0.001, 0.3):
        positions = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.6 * distance, 0.8 * distance]], dtype)
        forces, curvature = -jax.grad(energy)(positions), jax.hessian(energy)(positions)
        assert np.isfinite(forces).all() and np.isfinite(curvature).all()
        assert forces[1, 2] > 0.0 > forces[0, 2]
        np.testing.assert_allclose(forces[0], -forces[1], rtol=1e-6)


def test_rows_of_the_same_atom_add_up():
    rng = np.random.default_rng(0)
    r, mask = jnp.asarray(rng.uniform(0.3, 3.0, (4, 6))), jnp.asarray(rng.uniform(size=(4, 6)) < 0.7)
    species, neighbors = jnp.array([0, 1, 1, 0]), jnp.asarray(rng.integers(0, 4, (4, 6)))
    split = [x.reshape(12, 2) for x in (r, mask, neighbors)]
    for form in FORMS.values():
        whole = form.energies(ELEMENTS, R_MAX, r, mask, ElementPairs(species, Slots(neighbors, None)))
        rows = ElementPairs(species, Slots(split[2], jnp.repeat(jnp.arange(4), 3)))
        np.testing.assert_allclose(form.energies(ELEMENTS, R_MAX, *split[:2], rows), whole, rtol=1e-13)


WITH_REPULSION = {"mace": tiny_mace(ELEMENTS, num_interactions=2), "nequip": tiny_nequip(ELEMENTS)}


@pytest.mark.parametrize("name", WITH_REPULSION)
def test_energies_of_a_dimer_rise_at_short_range_whatever_was_learnt(name):
    config = WITH_REPULSION[name].model_copy(update={"pair_repulsion": FORMS[name]})
    distances = np.linspace(0.55, 0.05, 26)
    n = 2 * len(distances)
    vectors = np.tile([1.0, -1.0], len(distances))[:, None, None] * np.repeat(distances, 2)[:, None, None]
    vectors = vectors * np.array([0.0, 0.6, 0.8])
    neighbors = np.arange(n).reshape(-1, 2)[:, ::-1].reshape(-1, 1)
    species, mask = np.tile([1, 0], len(distances)), np.ones((n, 1), bool)
    for seed in range(3):
        potential = initialize(config, seed, jnp.float64)
        energy = jax.jit(potential.node_fn)(potential.params, vectors, species, neighbors, mask).energy
        scan = np.asarray(energy).reshape(-1, 2).sum(axis=1)
        assert (np.diff(scan) > 0.0).all() and scan[-1] - scan[0] > 500.0


def test_every_architecture_that_has_it_is_scanned():
    able = {name for name, row in ARCHITECTURES.items() if "pair_repulsion" in row.config.model_fields}
    assert able == set(WITH_REPULSION)

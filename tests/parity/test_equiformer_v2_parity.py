"""EquiformerV2 gives the numbers of fairchem-core 1.10.0: against frozen ones, and live where it is installed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.models.energetics import predictor
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.models.importers.equiformer_v2_files import plain, read_model
from bayes_mlff.models.importers.equiformer_v2_weights import Scales, describe, from_fairchem
from bayes_mlff.models.registry import Potential, restrict
from bayes_mlff.testing import tolerances
from bayes_mlff.testing.model_battery import padded_graph
from tests.parity import make_equiformer_v2_reference as reference
from tests.support import frozen_numbers

LABELS = list(reference.STRUCTURES)
SLOTS = {"published": 1500}
"""Neighbour slots for each atom, where 60 are too few."""

frozen = functools.partial(frozen_numbers.frozen, reference.PATH)
frozen_structure = functools.partial(frozen_numbers.frozen_structure, reference.PATH)


def frozen_potential(name):
    """The network in units of its outputs, for the elements of the structures."""
    case = frozen()[0]["cases"][name]
    state = {plain(k): v for k, v in reference.known_state(case["shapes"]).items()}
    config = describe(case["settings"], state, Scales(1.0, 1.0))
    return restrict(Potential(config, from_fairchem(state, config)), reference.ELEMENTS)


def evaluate(potential, structures, slots=60):
    """Energy and direct forces of each structure; one compilation for all."""
    config = potential.config
    graphs = [padded_graph(s, config.elements, config.r_max, 9, slots) for s in structures]
    stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *graphs)
    out = jax.jit(predictor(potential.node_fn, with_stress=False))(potential.params, stacked)
    np.testing.assert_allclose(out.force_sigma[stacked.node_mask], SIGMA_UNIT, rtol=1e-12)
    return [(out.energy[i], out.forces[i, : len(s.numbers)]) for i, s in enumerate(structures)]


def assert_same(got, expected, tolerance=tolerances.PARITY):
    for name, a, b in zip(("energy", "forces"), got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerance * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize("name", list(reference.cases()))
def test_frozen_reference(name):
    """With 31 million weights, too: the published network."""
    potential = frozen_potential(name)
    structures = [frozen_structure(label) for label in LABELS]
    for label, got in zip(LABELS, evaluate(potential, structures, SLOTS.get(name, 60)), strict=True):
        assert_same(got, [frozen()[1][f"{name}/{label}/{k}"] for k in ("energy", "forces")])


@pytest.mark.optimized
def test_what_is_compiled_as_for_users_gives_the_same_numbers():
    test_frozen_reference("small")


@pytest.mark.parametrize("name", list(reference.cases()))
def test_frozen_numbers_are_those_of_fairchem(name):
    """The networks need not be compiled again: what the frozen numbers say is compared with them above."""
    pytest.importorskip("fairchem")
    case = frozen()[0]["cases"][name]
    model = reference.build(case["settings"])
    assert reference.shapes_of(model) == [(k, v) for k, v in case["shapes"]]
    reference.load(model, reference.known_state(case["shapes"]))
    for label in LABELS:
        expected = [frozen()[1][f"{name}/{label}/{k}"] for k in ("energy", "forces")]
        assert_same(reference.evaluate(model, frozen_structure(label)), expected)


@pytest.mark.parametrize("generation", list(reference.CHECKPOINTS))
def test_checkpoints_that_fairchem_wrote(generation):
    """They are in single precision; where there is a moving average of the weights, that counts."""
    potential = Potential(*read_model(reference.CHECKPOINTS[generation]))
    assert potential.config.elements == reference.ELEMENTS, "those with trained embeddings"
    structures = [frozen_structure(label) for label in LABELS]
    for label, got in zip(LABELS, evaluate(potential, structures), strict=True):
        assert_same(got, [frozen()[1][f"{generation}/{label}/{k}"] for k in ("energy", "forces")])


def test_frozen_file_is_small_and_says_where_it_comes_from():
    assert reference.PATH.stat().st_size < 100_000
    assert all(p.stat().st_size < 250_000 for p in reference.CHECKPOINTS.values())
    assert "fairchem-core 1.10.0" in frozen()[0]["provenance"]

"""NequIP fulfils what every potential must, and its σ head and configuration behave as documented."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.energetics import predictor
from bayes_mlff.models.equivariant import bessel_basis, polynomial_cutoff, xplor_cutoff
from bayes_mlff.models.pair_repulsion import nequip_zbl
from bayes_mlff.models.registry import initialize
from bayes_mlff.testing import structures
from bayes_mlff.testing.model_battery import (
    PROPERTY,
    SEEDS,
    Evaluator,
    Model,
    ModelBattery,
    assert_same,
    examples,
    padded_graph,
    rotated,
    sample,
)
from bayes_mlff.testing.tiny import tiny_nequip

SETTINGS = {
    "elements": (1, 6, 8),
    "r_max": 3.5,
    "num_layers": 3,
    "edge_l_max": 2,
    "embedding_features": 6,
    "radial_width": 8,
    "num_bessels": 4,
    "average_neighbors": 9.0,
    "sigma_widths": (5, 4),
    "energy_scales": (0.8, 1.3, 1.7),
    "energy_shifts": (1.0, 2.0, 3.0),
}
BOTH = NequIPConfig(hidden_irreps="4x0e+2x0o+3x1o+2x1e", **(SETTINGS | {"num_layers": 4, "edge_l_max": 1}))
# With four blocks or more, features of unnatural parity (1e) reach the energy.
NATURAL = NequIPConfig(hidden_irreps="5x0e+4x1o+3x2e", **(SETTINGS | {"num_layers": 2, "readout_depth": 1}))
SEVENNET = NequIPConfig(
    hidden_irreps="5x0e+3x1e+2x2e",
    **(
        SETTINGS
        | {
            "average_neighbors": (9.0, 7.0, 8.0),
            "first_self_connection": True,
            "one_hot_embedding": True,
            "parity": False,
            "scalar_biases": True,
            "solid_harmonics": True,
            "radial_gain": 1.7,
            "readout_activation": False,
            "readout_depth": 1,
            "self_connection": "element",
            "switch_on": 2.8,
        }
    ),
)


NEQUIX = NequIPConfig(
    hidden_irreps="5x0e+4x1o+3x2e",
    **(
        SETTINGS
        | {
            "activation_norm": "e3nn-jax",
            "declared_elements": 5,
            "first_self_connection": True,
            "layer_norm": True,
            "one_hot_embedding": True,
            "one_hot_input": True,
            "self_connection": "indexed",
            "trainable_bessels": False,
        }
    ),
)


def model_of(config, radial=2.0):
    """Random weights, the radial ones enlarged: otherwise the later blocks add too little to be seen."""
    potential = initialize(config, 1, jnp.float64)
    flat = flatten_dict(potential.params, sep="/")
    params = unflatten_dict({k: v * (radial if "/radial/" in k else 1.0) for k, v in flat.items()}, sep="/")
    return Model(potential.node_fn, params, config.elements, config.r_max)


class TestBothParities(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(BOTH)


class TestNaturalParity(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(NATURAL)

    def test_sigma_is_positive_and_differs_between_atoms(self, evaluate: Evaluator):
        for observables in evaluate(list(examples(NATURAL.elements).values())):
            assert (observables.sigma > 0.0).all() and np.ptp(observables.sigma) > 1e-6

    def test_dtype_follows_input(self, model):
        graph = padded_graph(examples(NATURAL.elements)["crystal"], NATURAL.elements, NATURAL.r_max, 5, 40)
        single = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float32)[None] if x.dtype == np.float64 else jnp.asarray(x)[None],
            graph,
        )
        params = jax.tree.map(lambda x: x.astype(jnp.float32), model.params)
        out = jax.jit(predictor(model.node_fn, with_stress=True))(params, single)
        chex.assert_type(jax.tree.leaves(out), jnp.float32)
        chex.assert_shape([out.forces, out.stress, out.force_sigma], [(1, 5, 3), (1, 3, 3), (1, 5)])
        chex.assert_tree_all_finite(out)


class TestSevenNet(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(SEVENNET, radial=0.8)

    @PROPERTY
    @hypothesis.given(seed=SEEDS, rotation=structures.rotations())
    def test_rotation_and_inversion(self, evaluate: Evaluator, seed: int, rotation: np.ndarray):
        """Without parity, proper rotations only."""
        structure, proper = sample(seed, evaluate.model.elements), rotation * np.linalg.det(rotation)
        before, after = evaluate.pair(structure, rotated(structure, proper))
        turned = before._replace(forces=before.forces @ proper.T, virial=proper @ before.virial @ proper.T)
        assert_same(after, turned)

    def test_mirror_images_differ(self, evaluate: Evaluator):
        """What the irreps 1e made of edge vectors can do, and what parity forbids."""
        structure = examples(SEVENNET.elements)["crystal"]
        before, after = evaluate.pair(structure, rotated(structure, -np.eye(3)))
        assert abs(after.energy - before.energy) > 1e-10 * abs(before.energy)  # rounding: 1e-14


class TestNequix(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(NEQUIX)


class TestRepulsion(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(tiny_nequip((1, 6, 8), pair_repulsion=nequip_zbl()))


def test_xplor_envelope_is_one_then_falls_to_zero_smoothly():
    envelope = lambda x: xplor_cutoff(x, 0.8)  # noqa: E731
    slope = jax.grad(envelope)
    assert envelope(0.0) == envelope(0.8) == 1.0 and envelope(1.0) == envelope(1.3) == 0.0
    r, on, off = 4.5, 4.0, 5.0
    expected = (off**2 - r**2) ** 2 * (off**2 + 2 * r**2 - 3 * on**2) / (off**2 - on**2) ** 3
    np.testing.assert_allclose(envelope(r / off), expected, rtol=1e-13)
    for x in (0.8 + 1e-7, 1.0 - 1e-7):
        assert abs(slope(x)) < 1e-4


def test_cutoff_envelope_has_two_continuous_derivatives():
    envelope = lambda x: polynomial_cutoff(x, 6)  # noqa: E731
    slope, curvature = jax.grad(envelope), jax.grad(jax.grad(envelope))
    assert envelope(0.0) == 1.0
    for f in (envelope, slope, curvature):
        assert abs(f(1.0 - 1e-7)) < 1e-4 and f(1.0) == 0.0 and f(1.5) == 0.0


def test_bessel_functions_vanish_at_the_cutoff():
    frequencies = jnp.arange(1.0, 5.0)[None, :]
    np.testing.assert_allclose(bessel_basis(jnp.ones(1), frequencies), 0.0, atol=1e-15)
    x = jnp.array([0.3])
    expected = np.sin(np.pi * 0.3 * np.arange(1, 5)) / (np.pi * 0.3)
    np.testing.assert_allclose(bessel_basis(x, frequencies)[0], expected, rtol=1e-14)


@pytest.mark.parametrize(
    "change",
    [
        {"elements": (6, 1, 8)},
        {"elements": (1, 6)},
        {"hidden_irreps": "4x1o"},
        {"r_max": 0.0},
        {"num_layers": 0},
        {"colour": "blue"},
        {"average_neighbors": (9.0, 9.0)},
        {"declared_elements": 2},
        {"parity": False, "hidden_irreps": "4x0e+2x1o"},
        {"switch_on": 3.5},
        {"one_hot_input": True},
        {"one_hot_input": True, "one_hot_embedding": True},
    ],
)
def test_unusable_configurations_are_refused(change):
    with pytest.raises(pydantic.ValidationError):
        NequIPConfig(**({"hidden_irreps": "4x0e"} | SETTINGS | change))

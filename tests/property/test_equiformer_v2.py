"""EquiformerV2 fulfils what every potential must, rotations within the error of the grid on the sphere."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bayes_mlff.models.energetics import predictor
from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config
from bayes_mlff.models.registry import Potential, initialize
from bayes_mlff.testing import structures, tolerances
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

GRID = 1e-3
"""Relative error of rotations at a resolution of 10: 100 times the largest of 16 structures, 1.2e-5."""

SETTINGS = {
    "elements": (1, 6, 8),
    "r_max": 3.5,
    "forces": "gradient",
    "num_layers": 1,
    "l_max": 2,
    "m_max": 1,
    "channels": 6,
    "hidden_channels": 5,
    "heads": 2,
    "alpha_channels": 4,
    "value_channels": 3,
    "ffn_channels": 6,
    "edge_channels": 6,
    "num_gaussians": 12,
    "grid_resolution": 12,
    "average_degree": 9.0,
    "sigma_widths": (5, 4),
    "energy_shifts": (1.0, 2.0, 3.0),
}


def model_of(**changes):
    """Random weights, of which those of norms and biases are not zero; made by numpy, to save a compilation."""
    config, rng = EquiformerV2Config(**(SETTINGS | changes)), np.random.default_rng(1)
    shapes = flatten_dict(jax.eval_shape(lambda: initialize(config, 0, jnp.float64).params))
    sizes = {path: 0.3 if path[-1] in ("scale", "bias", "bias_0") else 1.0 for path in shapes}
    params = unflatten_dict({path: sizes[path] * rng.normal(size=leaf.shape) for path, leaf in shapes.items()})
    return Model(Potential(config, params).node_fn, params, config.elements, config.r_max)


def rotation_error(evaluate: Evaluator, seed: int, rotation: np.ndarray) -> dict[str, float]:
    """Largest change of energy, σ, turned forces and virial by a proper rotation, relative to the largest component."""
    structure, proper = sample(seed, evaluate.model.elements), rotation * np.linalg.det(rotation)
    before, after = evaluate.pair(structure, rotated(structure, proper))
    turned = before._replace(forces=before.forces @ proper.T, virial=proper @ before.virial @ proper.T)
    floor = max(np.abs(before.forces).max(), 1e-6)
    return {
        name: np.abs(getattr(after, name) - wanted).max() / max(np.abs(wanted).max(), floor)
        for name, wanted in turned._asdict().items()
    }


@pytest.mark.parametrize("change", [{}, {"forces": "direct", "max_neighbors": 6}, {"attention_activation": "gate"}])
def test_dtype_follows_input(change):
    """Traced, not compiled."""
    model = model_of(**change)
    graph = padded_graph(examples(model.elements)["crystal"], model.elements, model.r_max, 5, 60)
    params, graphs = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32) if x.dtype == np.float64 else jnp.asarray(x),
        (model.params, jax.tree.map(lambda x: x[None], graph)),
    )
    out = jax.eval_shape(predictor(model.node_fn, with_stress=True), params, graphs)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(jnp.float32)} and out.forces.shape == (1, 5, 3)


def turn(seed: int) -> np.ndarray:
    """A proper rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


class TestGrid(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(grid_resolution=10)

    @PROPERTY
    @hypothesis.given(seed=SEEDS, rotation=structures.rotations())
    def test_rotation_and_inversion(self, evaluate: Evaluator, seed: int, rotation: np.ndarray):
        """Within the error of the grid, and proper rotations only, since the network has no parity."""
        assert max(rotation_error(evaluate, seed, rotation).values()) < GRID


def test_the_error_of_rotations_falls_with_the_resolution_of_the_grid():
    """Of the forces of four structures, one rotation each."""
    turns = [turn(seed) for seed in range(4)]
    before = [sample(seed, SETTINGS["elements"]) for seed in range(4)]
    both = before + [rotated(structure, each) for structure, each in zip(before, turns, strict=True)]
    graphs = [padded_graph(s, SETTINGS["elements"], SETTINGS["r_max"], 6, 60) for s in both]
    stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *graphs)
    errors = []
    for resolution in (6, 10, 14):
        model = model_of(grid_resolution=resolution)
        forces = np.asarray(jax.jit(predictor(model.node_fn, with_stress=False))(model.params, stacked).forces)
        wanted = np.stack([f @ each.T for f, each in zip(forces[:4], turns, strict=True)])
        errors.append(np.abs(forces[4:] - wanted).max() / np.abs(wanted).max())
    assert errors[0] > 1e-6 and errors[1] < 0.1 * errors[0] and errors[2] < 0.1 * errors[1], errors


class TestDirect:
    """Forces of the head, without a grid, with which rotations are exact."""

    @pytest.fixture(scope="class")
    @classmethod
    def evaluate(cls):
        gates = {"attention_activation": "gate", "feed_forward": "gate"}
        return Evaluator(model_of(forces="direct", max_neighbors=6, **gates))

    def test_rotation(self, evaluate: Evaluator):
        for seed in range(6):
            assert max(rotation_error(evaluate, seed, turn(seed)).values()) < tolerances.SYMMETRY

    def test_permutation_and_padding(self, evaluate: Evaluator):
        structure = examples(evaluate.model.elements)["crystal"]
        order = np.array([3, 1, 4, 0, 2])
        other = structure._replace(numbers=structure.numbers[order], positions=structure.positions[order])
        a, b = evaluate.pair(structure, other)
        assert_same(b, a._replace(forces=a.forces[order], sigma=a.sigma[order]))

    def test_forces_are_no_gradient(self, evaluate: Evaluator):
        """They do not add up to zero, as any gradient would."""
        found, _ = evaluate.pair(*[examples(evaluate.model.elements)["molecule"]] * 2)
        assert np.abs(found.forces.sum(axis=0)).max() > 1e-3 * np.abs(found.forces).max()

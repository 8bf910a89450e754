"""EquiformerV2 fulfils what every potential must, rotations within the error of the grid on the sphere."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config
from bayes_mlff.models.registry import initialize
from bayes_mlff.testing import structures, tolerances
from bayes_mlff.testing.model_battery import (
    PROPERTY,
    SEEDS,
    Evaluator,
    Model,
    ModelBattery,
    examples,
    rotated,
    sample,
)

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
    config = EquiformerV2Config(**(SETTINGS | changes))
    potential = initialize(config, 1, jnp.float64)
    return Model(potential.node_fn, potential.params, config.elements, config.r_max)


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


class TestGates(ModelBattery):
    """Without a grid rotations are exact."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(attention_activation="gate", feed_forward="gate")

    @PROPERTY
    @hypothesis.given(seed=SEEDS, rotation=structures.rotations())
    def test_rotation_and_inversion(self, evaluate: Evaluator, seed: int, rotation: np.ndarray):
        """Proper rotations only: the network has no parity."""
        assert max(rotation_error(evaluate, seed, rotation).values()) < tolerances.SYMMETRY

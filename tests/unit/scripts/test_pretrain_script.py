"""Pretraining that goes on from a model keeps its architecture and moves its energies to the level of the data."""

import argparse

import numpy as np
import pretrain
import pytest

from bayes_mlff.data.molecule_sets import MoleculeSet
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip


def test_warm_start_keeps_weights_and_takes_the_level_of_the_labels(tmp_path):
    start = registry.initialize(tiny_nequip((1, 6, 8), energy_shifts=(-1.0, -2.0, -3.0)), 0)
    registry.save(start, tmp_path / "start.safetensors", {})
    random = np.random.default_rng(0)
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    positions = water + 0.05 * random.normal(size=(4, 3, 3))
    frames = MoleculeSet(np.array([8, 1, 1]), positions, -1e4 + np.arange(4.0), random.normal(size=(4, 3, 3)))
    args = argparse.Namespace(start=str(tmp_path / "start.safetensors"), capacity=20)
    model, collection = pretrain.continued([frames], args)
    assert model.config.elements == (1, 8)
    np.testing.assert_array_equal(model.params["embedding"], start.params["embedding"][np.array([0, 2])])
    isolated = model.isolated_energy(frames.numbers)
    np.testing.assert_allclose(collection.members[0].energy, frames.energies - isolated, rtol=1e-5)
    assert pretrain.mean_errors(start, [frames], 20)[0] == pytest.approx(-1e4, abs=100.0)
    assert pretrain.mean_errors(model, [frames], 20) == [pytest.approx(0.0, abs=1e-2)]
    assert collection.species[0].tolist() == [1, 0, 0]
    with pytest.raises(Exception, match="--start"):
        pretrain.continued([frames], argparse.Namespace(start="nothing", capacity=20))

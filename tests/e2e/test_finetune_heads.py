"""From one head of a model of mace-torch through a fine-tuning and back, by the command line."""

import jax
import numpy as np
import pytest
from ase.build import molecule
from typer.testing import CliRunner

from bayes_mlff import EnsembleCalculator
from bayes_mlff.cli.app import app
from bayes_mlff.core import jax_start
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.ensemble import saved
from bayes_mlff.models import registry
from tests.support.places import ROOT

TWO = ROOT / "tests" / "parity" / "mace_heads.model"
"""Random weights with the heads pbe and r2scan, for H, C and O."""

WATER = molecule("H2O")

pytestmark = pytest.mark.usefixtures("undrawn_here")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Frames of water with labels that no model gives."""
    random, path = np.random.default_rng(3), tmp_path_factory.mktemp("labels") / "train.npz"
    positions = WATER.positions + 0.05 * random.normal(size=(4, 3, 3))
    np.savez(path, z=WATER.numbers, R=positions, E=-20.0 + 0.1 * random.normal(size=4), F=random.normal(size=(4, 3, 3)))
    return path


@pytest.fixture(scope="module")
def tuned(labels, tmp_path_factory):
    """The directory of a fine-tuning of the second head."""
    path = tmp_path_factory.mktemp("fit") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax_start, "start_jax", lambda chains: None)  # impossible once JAX has started
        assert finetune(labels, path, "r2scan").exit_code == 0
    return path


def finetune(labels, path, head):
    options = ["--method", "adam", "--set", "optimizer.steps=3", "--set", "data.doubtful_units=allow"]
    return CliRunner().invoke(
        app, ["finetune", "--train", str(labels), "--model", str(TWO), "--head", head, "-o", str(path), *options]
    )


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def predicted(path):
    """Weights, and energy and forces of the only sample for one geometry."""
    atoms = WATER.copy()
    atoms.rattle(0.1, seed=1)
    atoms.calc = EnsembleCalculator(path)
    return saved.load(path), atoms, atoms.get_potential_energy(), atoms.get_forces()


def weights(learnt):
    return saved.unraveller(learnt.architecture)[1](learnt.samples[0])


def difference(left, right):
    """Largest difference of weights that files of other programs have, which are all but those of the σ head."""
    pairs = [jax.tree.map(lambda a, b: float(np.abs(a - b).max()), left[k], right[k]) for k in left if k != "sigma"]
    return max(jax.tree.leaves(pairs))


def test_the_head_that_is_named_is_tuned_and_becomes_a_model_to_start_from(tuned, tmp_path):
    learnt, atoms, energy, _ = predicted(tuned)
    before = registry.restrict(registry.load(str(TWO), head="r2scan"), (1, 8))
    assert learnt.architecture == before.config and learnt.architecture.head == "r2scan"
    moved = difference(weights(learnt), before.params)
    assert 0.0 < moved < 0.01
    assert export(tuned, tmp_path / "chains").exit_code == 0
    chain = registry.load(str(tmp_path / "chains" / "chain_0.safetensors"))
    np.testing.assert_array_equal(chain.flat()[0], learnt.samples[0])
    wanted = learnt.atomic_reference_energy(atoms.numbers)[0]
    assert chain.isolated_energy(atoms.numbers) == pytest.approx(wanted, rel=1e-12) and abs(energy) > 1.0
    assert export(tuned, tmp_path / "whole", "--what", "ensemble").exit_code == 0
    assert saved.same(saved.load(tmp_path / "whole"), learnt)


def test_a_head_that_does_not_exist_is_refused_with_those_that_do(labels, tmp_path, monkeypatch):
    monkeypatch.setattr(jax_start, "start_jax", lambda chains: None)
    refused = finetune(labels, tmp_path / "out", "scan")
    assert isinstance(refused.exception, ConfigError)
    assert str(refused.exception).startswith("head: got 'scan'") and "pbe, r2scan" in str(refused.exception)
    assert not (tmp_path / "out").exists()


def test_a_fine_tuned_head_goes_back_into_its_file(tuned, tmp_path):
    pytest.importorskip("mace")
    learnt, atoms, energy, forces = predicted(tuned)
    assert "--trust" in str(export(tuned, tmp_path / "no", "--template", TWO).exception)
    assert export(tuned, tmp_path / "models", "--template", TWO, "--trust").exit_code == 0
    (path,) = (tmp_path / "models").iterdir()
    kept, again = (registry.restrict(registry.load(str(path), head=head), (1, 8)) for head in ("pbe", "r2scan"))
    assert again.config == learnt.architecture and difference(weights(learnt), again.params) < 1e-6
    atoms.calc = EnsembleCalculator(learnt._replace(samples=again.flat()[0][None]))
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-5)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)
    other = registry.restrict(registry.load(str(TWO), head="pbe"), (1, 8))
    assert difference({"readout_0": kept.params["readout_0"]}, other.params) == 0.0

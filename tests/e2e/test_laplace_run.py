"""Runs whose posterior is one optimum with samples around it: from the first label to a production."""

import shutil

import ase.io
import jax
import numpy as np
import pytest

import bayes_mlff
from bayes_mlff.api import door, producer, runner
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import dataset
from bayes_mlff.data.structure import to_ase
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.models import registry
from bayes_mlff.otf import config, systems
from bayes_mlff.otf.problem import prepare
from bayes_mlff.runs import checkpoint
from tests.support import run_comparison, small_run

SETTINGS = {
    "posterior": "laplace",
    "laplace": {"samples": 4, "force_directions": 2},
    "sampler": {"cold_steps": None},  # as users leave it, of whom most have fewer steps than chains need
}

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module", autouse=True)
def _as_it_is():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "start_jax", lambda chains, running: None)
        for module in (runner, producer):
            patch.setattr(module.selfcheck, "ensure", lambda say: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("laplace")


@pytest.fixture(scope="module")
def settings(folder):
    return config.load(small_run.write(folder, SETTINGS))


@pytest.fixture(scope="module")
def run(folder, settings):
    """Directory of a run."""
    bayes_mlff.run(settings, folder / "run")
    return folder / "run"


def test_a_run_asks_learns_and_knows_the_sigma_of_forces_at_its_labels(run):
    records = dataset.read(run / "dataset.extxyz")
    assert len(records) >= 4
    for record in records[1:]:
        noise = np.min(record.predicted_forces_sigma)
        assert np.isfinite(record.predicted_forces_sigma).all() and np.ptp(record.predicted_forces_sigma) > 0.01 * noise
    thermo = np.genfromtxt(run / "thermo.csv", delimiter=",", names=True)
    assert np.isfinite(thermo["sigma_ev"]).all() and np.isnan(thermo["sigma_force_max_ev_a"]).all()
    arrays, *_ = checkpoint.newest(run / "checkpoints")
    params = arrays[".params"]
    assert len(params) == 1 + 4 and len(arrays[".chains.restarts"]) == 1
    np.testing.assert_allclose(params[1:].mean(axis=0), params[0], atol=1e-5 * np.abs(params).max())
    assert (np.ptp(params[1:], axis=0)[:-1] > 0.0).mean() > 0.9


def test_an_interrupted_run_goes_on_with_the_same_bits(run, folder):
    again = folder / "again"
    shutil.copytree(run, again)
    kept = sorted((again / "checkpoints").glob("*.ckpt"))
    for newer in kept[len(kept) // 2 :]:
        newer.unlink()
    for name in ("validation.extxyz", "validation.npz", "ensemble.safetensors"):
        (again / name).unlink()
    before = len(dataset.read(run / "dataset.extxyz"))
    bayes_mlff.run(again)
    assert run_comparison.differences(run, again) == []
    assert len(dataset.read(again / "dataset.extxyz")) == before


def test_its_ensemble_predicts_what_the_run_predicted(run):
    ensemble = saved.load(run)
    assert ensemble.linear and len(ensemble.samples) == 5 and len(ensemble.models) == 1
    records = dataset.read(run / "validation.extxyz")
    known = np.load(run / "validation.npz")
    calculator = EnsembleCalculator(ensemble)
    for i, record in enumerate(records):
        atoms = to_ase(record.structure)
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        assert "forces_sigma" not in calculator.results
        expected = known["predicted_ev"][i] - record.energy_offset
        assert energy == pytest.approx(expected, abs=1e-5 * abs(expected))
        assert calculator.results["energy_sigma_uncalibrated"] == pytest.approx(known["sigma_ev"][i], rel=1e-3)
        sigma = calculator.get_property("forces_sigma", atoms)
        assert np.isfinite(sigma).all() and calculator.results["chain_forces"].shape == (4, len(atoms), 3)
        np.testing.assert_allclose(calculator.results["chain_forces"].mean(axis=0), atoms.get_forces(), atol=1e-4)


def test_a_production_moves_with_the_optimum(run, folder):
    dynamics = {"duration_ps": 0.005, "timestep_fs": 0.25, "chunk_steps": 10}
    moved = bayes_mlff.produce(run, folder / "moved", replicas=2, equilibration=None, dynamics=dynamics)
    for replica in moved.replicas:
        thermo = np.genfromtxt(replica / "thermo.csv", delimiter=",", names=True)
        assert np.isfinite(thermo["sigma_ev"]).all()
        last = ase.io.read(replica / "trajectory.extxyz", -1)
        last.calc = EnsembleCalculator(run)
        assert last.get_potential_energy() == pytest.approx(thermo["potential_ev"][-1], rel=1e-6)


def test_one_model_is_exported(run, folder):
    written = runner.export(run, folder / "models", what="chains", template=None, trust=False)
    assert [path.name for path in written] == ["chain_0.safetensors"]


def test_a_run_with_chains_goes_on_from_its_optimum(run, folder):
    raw = {"start": {"ensemble": str(run)}, "dynamics": {"duration_ps": 0.002}, "validation_frames": 0}
    (folder / "next").mkdir()
    following = config.load(small_run.write(folder / "next", raw))
    bayes_mlff.run(following, folder / "next" / "run")
    assert len(saved.load(folder / "next" / "run").samples) == 2


def test_a_run_goes_on_from_chains(run, folder):
    start = {"start": {"ensemble": str(folder / "next" / "run")}, "dynamics": {"duration_ps": 0.002}}
    (folder / "back").mkdir()
    following = config.load(small_run.write(folder / "back", {**SETTINGS, **start, "validation_frames": 0}))
    bayes_mlff.run(following, folder / "back" / "run")
    assert saved.load(folder / "back" / "run").linear


def test_a_trigger_on_forces_knows_their_spread_in_every_step(folder):
    trigger = {"kind": "force", "name": "oxygen", "threshold": "5 eV/Å", "elements": ["O"]}
    changes = {**SETTINGS, "triggers": [trigger], "dynamics": {"duration_ps": 0.005}, "validation_frames": 0}
    (folder / "forces").mkdir()
    bayes_mlff.run(config.load(small_run.write(folder / "forces", changes)), folder / "forces" / "run")
    thermo = np.genfromtxt(folder / "forces" / "run" / "thermo.csv", delimiter=",", names=True)
    assert np.isfinite(thermo["sigma_force_max_ev_a"]).all() and np.ptp(thermo["trigger_sigma_oxygen_ev_a"]) > 0.0


def test_several_processes_are_refused(settings, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    structure = systems.structure("ethanol")
    with pytest.raises(ConfigError, match=r"posterior.*laplace.*chains"):
        prepare(settings, structure, registry.for_atoms(registry.load(settings.model), structure.numbers))

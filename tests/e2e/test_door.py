"""The Python door: a run, a fine-tuning and what they leave, without a console."""

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.lj import LennardJones

import bayes_mlff
from bayes_mlff.api import door
from bayes_mlff.core.errors import ConfigError, RunDirectoryError
from bayes_mlff.ensemble import files
from bayes_mlff.otf import systems
from tests.support import small_run

LJ = {"sigma": 1.0, "epsilon": 0.02, "rc": 4.0, "smooth": True}
CHANGES = {
    "engine": {"name": "ase", "calculator": "ase.calculators.lj:LennardJones", "arguments": LJ},
    "dynamics": {"duration_ps": 0.002},
    "validation_frames": 0,
}


@pytest.fixture(autouse=True)
def _as_it_is(monkeypatch):
    monkeypatch.setattr(door, "start_jax", lambda chains, running: None)
    monkeypatch.setattr(door.runner.selfcheck, "ensure", lambda say: None)


@pytest.fixture(scope="module")
def ethanol():
    structure = systems.structure("ethanol")
    return Atoms(structure.numbers, structure.positions)


def test_a_run_from_a_mapping_is_silent_and_goes_on(tmp_path, capfd, monkeypatch):
    path = small_run.write(tmp_path)
    raw = yaml.safe_load(path.read_text()) | CHANGES
    raw["dynamics"] = small_run.CONFIG["dynamics"] | CHANGES["dynamics"]
    monkeypatch.chdir(tmp_path)
    made = bayes_mlff.run(raw)
    assert capfd.readouterr() == ("", "")
    assert made.path.resolve() == tmp_path / "runs" / "ethanol" and made.report.is_file()
    assert made.finished and made.labels >= 1 and not made.trained and "audit" in made.verdict
    assert made.status()["progress"]["step"] == 4
    again = bayes_mlff.run(made.path, progress=True)  # the directory of a run
    assert again == made and "finished in" in capfd.readouterr().out
    path.write_text(yaml.safe_dump(raw | {"seed": 7}))
    with pytest.raises(RunDirectoryError, match="seed is 7"):
        bayes_mlff.run(path, made.path)


def test_a_fine_tuning_leaves_a_calculator_and_so_does_load(tmp_path, ethanol, capfd):
    random, frames = np.random.default_rng(0), []
    for _ in range(4):
        frame = ethanol.copy()
        frame.positions += 0.05 * random.normal(size=(9, 3))
        frame.calc = LennardJones(**LJ)
        frame.get_forces()
        frames.append(frame)
    ase.io.write(tmp_path / "train.xyz", frames, format="extxyz")
    small_run.write(tmp_path)
    sampler = {"chains": 2, "steps": 20, "cold_steps": 5, "ramp_steps": 5}
    raw = {
        "data": {"train": "train.xyz", "doubtful_units": "allow"},
        "model": "model.safetensors",
        "output": "out",
        "sampler": sampler,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    made = bayes_mlff.fine_tune(tmp_path / "config.yaml")
    assert capfd.readouterr().out == ""
    assert made.path == tmp_path / "out" and made.metrics["samples"] == 2
    energies = []
    for calculator in (made.calculator(), bayes_mlff.load(made.path), bayes_mlff.load(made.path / files.NAME)):
        assert isinstance(calculator, bayes_mlff.EnsembleCalculator)
        atoms = frames[0].copy()
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    assert len(set(energies)) == 1 and np.isfinite(energies[0])
    model = bayes_mlff.load(tmp_path / "model.safetensors")
    assert isinstance(model, bayes_mlff.Potential) and model.config.elements == small_run.MODEL.elements


def test_load_knows_names_and_says_what_is_allowed(tmp_path):
    assert isinstance(bayes_mlff.load("nequip-md17-small"), bayes_mlff.Potential)
    with pytest.raises(ConfigError, match="path: got 'nothing'"):
        bayes_mlff.load("nothing")

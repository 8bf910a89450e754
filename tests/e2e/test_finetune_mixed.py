"""Fine-tuning on frames of different molecules: another atomic reference energy for every element, and forces alone."""

import json

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.morse import MorsePotential

from bayes_mlff.finetune import EnsembleCalculator, config, fit, load_ensemble, run
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip
from tests.conftest import _counting as counting

TINY = tiny_nequip(
    (1, 6, 8), r_max=2.5, hidden_irreps="4x0e+4x1o", radial_width=8, average_neighbors=2.0, sigma_widths=(),
    energy_scales=(1.0,) * 3, energy_shifts=(-1.0, -2.0, -3.0),
)  # fmt: skip
REFERENCE = MorsePotential(epsilon=0.3, r0=1.1, rho0=2.5, rcut1=2.0, rcut2=2.4)
LEVEL = {1: 50.0, 6: 100.0, 8: 200.0}
"""Of the labels above the reference, eV per atom."""
SHORT = {"chains": 2, "steps": 600, "cold_steps": 540, "ramp_steps": 5, "step_size": 1e-2, "initial_spread": 0.0}


def labelled(names, seed, *, energy=True):
    random, made = np.random.default_rng(seed), []
    for name in names:
        atoms = molecule(name)
        atoms.positions += 0.06 * random.normal(size=atoms.positions.shape)
        atoms.calc = REFERENCE
        atoms.arrays["REF_forces"] = atoms.get_forces()
        if energy:
            atoms.info["REF_energy"] = atoms.get_potential_energy() + sum(LEVEL[z] for z in atoms.numbers)
        atoms.calc = None
        made.append(atoms)
    return made


def settings(folder, **change):
    registry.save(registry.initialize(TINY, 0), folder / "tiny.safetensors", {})
    names = {"train": ["CH4", "H2O", "H2"] * 12, "validation": ["H2O", "CH4"] * 3, "test": ["CH4", "H2O"] * 3}
    data = {"doubtful_units": "allow"}  # forces of a random network may point anywhere
    for seed, (name, molecules) in enumerate(names.items()):
        made = labelled(molecules, seed, energy=change.get("targets") != "forces")
        data[name] = str(folder / f"{name}.xyz")
        ase.io.write(data[name], made, format="extxyz")
    raw = {
        "data": data,
        "model": str(folder / "tiny.safetensors"),
        "output": str(folder / "out"),
        "sampler": SHORT | {"batch_size": 10},
        "checkpoint_steps": 200,
        "evaluation_batch": 4,
        "likelihood": {"energy_sigma": "10 meV/atom"},
    }
    return config.parse(raw | change), ase.io.read(data["test"], ":")


class Watcher(run.Silent):
    def __init__(self, count):
        self.count, self.said, self.seen = count, [], []

    def say(self, text):
        self.said.append(text)

    def stretch(self, *, step, steps, potential, seconds):
        self.seen.append(self.count.value)


@pytest.mark.usefixtures("undrawn_here")
def test_molecules_of_two_sizes_are_learnt_on_the_level_of_their_elements(tmp_path):
    parsed, test = settings(tmp_path)
    with counting() as count:
        watcher = Watcher(count)
        result = fit(parsed, observer=watcher)
    assert watcher.said[0] == "sghmc on train 36, validation 6, test 6 frames of 2 to 5 atoms"
    assert len(watcher.seen) == 3 and 0 < watcher.seen[0] == watcher.seen[1], "a stretch compiled anew"
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    tuned, before = metrics["test"]["fine_tuned"], metrics["test"]["zero_shot"]
    assert tuned["forces_kcal_mol_a"]["count"] == 3 * 3 * (5 + 3) and tuned["energy_kcal_mol"]["count"] == 6
    for quantity in tuned:
        assert tuned[quantity]["rmse"] < 0.5 * before[quantity]["rmse"], quantity
    forces = metrics["validation"]["fine_tuned"]["forces_kcal_mol_a"]
    assert forces["mean_sigma"] == pytest.approx(forces["rmse"], rel=1e-5), "padding counts in the scaling of σ"

    prediction = run._predict(run.prepare(parsed), result.samples, "test")
    outcome = run.evaluate.outcome(prediction, run.prepare(parsed).sets.test, result)
    calculator = EnsembleCalculator(tmp_path / "out" / "ensemble.safetensors")
    for index, atoms in enumerate(test):
        atoms.calc = calculator
        wanted = outcome.energy.reference[index] + outcome.energy.error[index]
        assert atoms.get_potential_energy() == pytest.approx(wanted, abs=1e-3)
        assert abs(atoms.get_potential_energy() - atoms.info["REF_energy"]) < 0.5, atoms.symbols
        np.testing.assert_allclose(atoms.get_forces(), prediction.forces.mean(axis=0)[index, : len(atoms)], atol=1e-4)
        np.testing.assert_allclose(
            calculator.results["forces_sigma"].ravel(), outcome.forces.sigma[outcome.forces.frame == index], rtol=1e-3
        )
        assert calculator.results["energy_sigma"] == pytest.approx(outcome.energy.sigma[index], rel=1e-3)
    [unseen] = labelled(["CH3OH"], 9)
    # Bonds between carbon and oxygen are in no frame; of the atomic reference energies there are 500 eV.
    assert calculator.get_potential_energy(unseen) == pytest.approx(unseen.info["REF_energy"], abs=10.0)


@pytest.mark.parametrize("method", ["adam", "scratch"])
def test_forces_are_learnt_without_energies(tmp_path, method):
    optimizer = {"steps": 600, "learning_rate": 1e-2}
    parsed, test = settings(tmp_path, targets="forces", method=method, optimizer=optimizer)
    with counting() as count:
        watcher = Watcher(count)
        fit(parsed, observer=watcher)
    assert any("no energies in the data" in text for text in watcher.said)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name in ("train", "validation", "test"):
        for when in ("zero_shot", "fine_tuned"):
            assert list(metrics[name][when]) == ["forces_kcal_mol_a"]
    assert metrics["sigma_factors"]["energy"] == 1.0
    rmse = {when: metrics["test"][when]["forces_kcal_mol_a"]["rmse"] for when in ("zero_shot", "fine_tuned")}
    assert rmse["fine_tuned"] < 0.6 * rmse["zero_shot"]
    for picture in ("forces_parity.png", "sigma_error.png", "calibration.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
    loaded = load_ensemble(tmp_path / "out" / "ensemble.safetensors")
    pretrained = registry.for_atoms(registry.load(str(tmp_path / "tiny.safetensors")), np.array([1, 6, 8]))
    before = EnsembleCalculator(loaded._replace(samples=pretrained.flat()[0][None], offset_ev=np.zeros((1, 3))))
    after, apart, counts = EnsembleCalculator(loaded), [], []
    for atoms in ase.io.read(parsed.data.train, ":"):
        (old,), new = (calculator.get_property("chain_energy", atoms) for calculator in (before, after))
        apart.append(new - old)
        counts.append([np.count_nonzero(atoms.numbers == z) for z in (1, 6, 8)])
    np.testing.assert_allclose(np.transpose(counts) @ np.array(apart), 0.0, atol=2e-3)
    assert np.abs(apart).max() > 0.01, "not the pretrained model"
    errors = []
    for atoms in test:
        atoms.calc = EnsembleCalculator(loaded)
        errors.append((atoms.get_forces() - atoms.arrays["REF_forces"]).ravel())
        assert np.isfinite(atoms.get_potential_energy())
    found = np.sqrt(np.mean(np.concatenate(errors) ** 2)) * run.evaluate.KCAL_MOL_PER_EV
    assert found == pytest.approx(rmse["fine_tuned"], rel=1e-3)


def test_deep_ensemble_gives_each_composition_a_mean_of_zero(tmp_path, monkeypatch):
    """What random networks are to learn: labels around zero for every composition that has a level of its own."""
    parsed, _ = settings(tmp_path, method="deep-ensemble", optimizer={"steps": 10, "members": 2})
    filled = []
    monkeypatch.setattr(run, "_sample", lambda task, levels, likelihood, labels, *_: filled.append(labels) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(parsed)
    energy, atoms = np.asarray(filled[0].energy), np.asarray(filled[0].graphs.node_mask).sum(axis=1)
    for n in (2, 3, 5):
        assert np.mean(energy[atoms == n]) == pytest.approx(0.0, abs=1e-4) and np.std(energy[atoms == n]) > 0.01

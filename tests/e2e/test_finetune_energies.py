"""Fine-tuning on energies alone, end to end: every method, the metrics, and what is made of the result."""

import json

import ase
import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.calculator import PropertyNotImplementedError

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.finetune import EnsembleCalculator, compare, config, run
from bayes_mlff.models import registry
from bayes_mlff.report import export
from bayes_mlff.testing.tiny import tiny_nequip

TINY = tiny_nequip((1, 8), energy_scales=(0.5, 0.5))
METHODS = ["sghmc", "scratch", "adam", "laplace", "deep-ensemble"]

pytestmark = pytest.mark.usefixtures("undrawn_here")


class Listener(run.Silent):
    """Remembers what was said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Water clusters whose energies per oxygen are those of another network and 2 eV; all methods on ten of them."""
    folder, random = tmp_path_factory.mktemp("energies"), np.random.default_rng(0)
    potential = registry.initialize(TINY, 0)
    registry.save(potential, folder / "model.safetensors", {})
    flat, _ = potential.flat()
    taught = flat + np.asarray(0.1 * random.normal(size=flat.shape), flat.dtype)
    parts = (TINY, taught[None], np.zeros((1, 2)))
    teacher = EnsembleCalculator(
        Ensemble(*parts, SigmaFactors(), 1.0, 1.0, "", np.eye(2, dtype=int), learnt_forces=False)
    )
    rows = []
    for index in range(26):
        atoms = ase.Atoms("OHH", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        if index % 2:
            more = atoms.copy()
            more.translate([0.0, 0.0, 2.0])
            atoms += more
        atoms.positions += 0.08 * random.normal(size=atoms.positions.shape)
        atoms.calc = teacher
        energy, oxygens = atoms.get_potential_energy(), atoms.symbols.count("O")
        rows.append(ase.Atoms(atoms.symbols, atoms.positions, info={"binding": energy / oxygens + 2.0}))
    ase.io.write(folder / "all.xyz", rows, format="extxyz")
    raw = {
        "data": {"train": "all.xyz", "frames": 10, "validation_frames": 6, "test_frames": 10}
        | {"xyz_energy_key": "binding", "energy_per": ["O"]},
        "model": "model.safetensors",
        "targets": "energy",
        "sampler": {"chains": 2, "steps": 300, "cold_steps": 280, "ramp_steps": 5, "step_size": 3e-2, "batch_size": 5},
        "optimizer": {"steps": 300, "learning_rate": 3e-2, "members": 2},
        "laplace": {"samples": 4},
        "likelihood": {"energy_sigma": "20 meV"},
        "evaluation_batch": 4,
        "output": "out",
    }
    listener = Listener()
    return compare(config.parse(raw), methods=METHODS, base=folder, observer=listener), folder, listener.said


def test_every_method_learns_energies(compared):
    made, folder, said = compared
    assert not made.stopped and [fit["method"] for fit in made.fits] == METHODS
    before = made.pretrained["rmse_kcal_mol"]
    for fit in made.fits:
        assert fit["rmse_kcal_mol"] < (0.9 if fit["method"] in ("scratch", "deep-ensemble") else 0.5) * before, fit
        metrics = json.loads((folder / "out" / fit["directory"] / "metrics.json").read_text())
        assert set(metrics["test"]["fine_tuned"]) == {"energy_kcal_mol"}, "forces have metrics"
        energies = metrics["validation"]["fine_tuned"]["energy_kcal_mol"]
        assert energies["mean_sigma"] == pytest.approx(energies["rmse"], rel=1e-5), "σ is not scaled"
        if fit["method"] in ("adam", "laplace", "deep-ensemble"):
            seen = [entry["validation_rmse"] for entry in metrics["trace"]]
            assert (all(np.isfinite(seen)) and min(seen) < seen[0]) or len(seen) == 1
        assert (folder / "out" / fit["directory"] / "energy_parity.png").is_file()
    assert "Energies of the 10 test frames, kcal/mol" in (folder / "out" / "comparison.md").read_text()
    stored = json.loads((folder / "out" / "comparison.json").read_text())
    assert stored["large_error_kcal_mol"] == 1.0 and "rmse_kcal_mol" in stored["pretrained"]
    for phrase in ("energies are taken as they are", "per atom of O", "the result predicts energies alone"):
        assert any(phrase in line for line in said), phrase


def test_the_result_predicts_energies_per_structure_and_no_forces(compared):
    _, folder, _ = compared
    path = folder / "out" / "sghmc-m10-s0"
    calculator = EnsembleCalculator(path)
    rows = ase.io.read(folder / "all.xyz", ":")
    errors = []
    for atoms in rows:
        label = atoms.info["binding"] * atoms.symbols.count("O")
        atoms.calc = calculator
        errors.append(atoms.get_potential_energy() - label)
    assert np.sqrt(np.mean(np.square(errors))) < 1.5, "energies are not total ones (labels differ by 2 eV per oxygen)"
    with pytest.raises(PropertyNotImplementedError, match="energies alone"):
        rows[0].get_forces()


def test_chains_are_models_to_start_from(compared, tmp_path):
    _, folder, _ = compared
    source = export.of_fine_tuning(folder / "out" / "sghmc-m10-s0")
    first, _ = export.export(source, tmp_path / "chains")
    config_of_first = registry.load(str(first)).config
    assert config_of_first.energy_shifts == TINY.energy_shifts, "an absolute zero moves no atomic energies"


def test_updates_that_do_not_fit_into_the_memory_are_cut_down_or_refused(compared, tmp_path):
    _, folder, _ = compared
    raw = yaml.safe_load((folder / "out" / "sghmc-m10-s0" / "config.yaml").read_text())
    raw["data"]["train"], raw["model"] = str(folder / "all.xyz"), str(folder / "model.safetensors")
    raw["sampler"] |= {"memory_gib": 1e-9, "steps": 40, "cold_steps": 20, "ramp_steps": 10}
    raw["output"] = str(tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"sampler\.memory_gib: got 1e-09; allowed: at least .* one chain and one label"
    ):
        run.fit(config.parse(raw))

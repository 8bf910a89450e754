"""Fine-tuning end to end: a tiny network, labels from another one, every method, resumption and the calculator."""

import json
import shutil

import ase
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from typer.testing import CliRunner

from bayes_mlff.cli.app import app
from bayes_mlff.core import jax_start
from bayes_mlff.core import settings as core_settings
from bayes_mlff.core.errors import ConfigError, DataError, RunDirectoryError, RunStoppedError, WeightsError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble import saved as ensemble
from bayes_mlff.finetune import EnsembleCalculator, config, fit, identity, load_ensemble, run, sampling
from bayes_mlff.models import registry
from bayes_mlff.runs import checkpoint
from bayes_mlff.sghmc.run import Info
from bayes_mlff.testing.tiny import tiny_nequip
from tests.conftest import _counting as counting

SMALL = tiny_nequip((1, 6, 8), r_max=2.5, energy_scales=(0.5, 0.5, 0.5), energy_shifts=(-1.0, -2.0, -3.0))
ETHANOL = molecule("CH3CH2OH")
PICTURES = ("forces_parity.png", "sigma_error.png", "likelihood_by_error.png", "calibration.png")
SHORT = {"chains": 2, "steps": 300, "cold_steps": 280, "ramp_steps": 5, "step_size": 1e-2, "batch_size": 3}
SHORT["initial_spread"] = 0.0


pytestmark = pytest.mark.usefixtures("undrawn_here")  # `fitted`, which is of the module, is drawn


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    registry.save(registry.initialize(SMALL, 0), path, {})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_model):
    """Frames labelled by a network near the pretrained one, on a level that is 100 eV apart."""
    folder = tmp_path_factory.mktemp("labels")
    potential = registry.load(str(tiny_model))
    flat, _ = potential.flat()
    shift = jnp.asarray(0.1 * np.random.default_rng(99).normal(size=flat.shape), flat.dtype)
    teacher = (flat + shift)[None]
    parts = (potential.config, teacher, np.zeros(1), ensemble.SigmaFactors(), 1.0, 1.0, "")
    calculator = EnsembleCalculator(ensemble.Ensemble(*parts))
    paths = {}
    for seed, (name, count) in enumerate({"train": 12, "validation": 4, "test": 6}.items()):
        random, rows = np.random.default_rng(seed), []
        for _ in range(count):
            atoms = ETHANOL.copy()
            atoms.positions += 0.08 * random.normal(size=atoms.positions.shape)
            atoms.calc = calculator
            rows.append((atoms.positions.copy(), atoms.get_potential_energy() + 100.0, atoms.get_forces()))
        arrays = dict(zip("REF", map(np.array, zip(*rows, strict=True)), strict=True))
        paths[name] = str(folder / f"{name}.npz")
        np.savez(paths[name], z=ETHANOL.numbers, **arrays)
    return paths


def settings(data, tiny_model, output, **change):
    raw = {
        "data": data,
        "model": str(tiny_model),
        "output": str(output),
        "sampler": SHORT,
        "checkpoint_steps": 100,
        "evaluation_batch": 4,
        "likelihood": {"energy_sigma": "2 meV"},
    }
    return config.parse(raw | change)


class Watcher(run.Silent):
    """Remembers how many compilations there had been after each stretch."""

    def __init__(self, count):
        self.count, self.seen = count, []

    def stretch(self, *, step, steps, potential, seconds):
        assert steps == 300 and step == 100 * (len(self.seen) + 1) and np.isfinite(potential) and seconds > 0
        self.seen.append(self.count.value)


@pytest.fixture(scope="module")
def fitted(data, tiny_model, tmp_path_factory):
    """A finished fine-tuning: ensemble, directory, configuration, compilations after each stretch."""
    path = tmp_path_factory.mktemp("fit") / "out"
    parsed = settings(data, tiny_model, path)
    with counting() as count:
        watcher = Watcher(count)
        result = fit(parsed, observer=watcher)
    return result, path, parsed, watcher.seen


def test_metrics_are_sane_and_better_than_before(fitted):
    result, path, *_ = fitted
    metrics = json.loads((path / "metrics.json").read_text())
    assert result.samples.shape == (2, metrics["weights"]) and metrics["training_frames"] == 12
    for name, frames in (("validation", 4), ("test", 6)):
        tuned, before = metrics[name]["fine_tuned"], metrics[name]["zero_shot"]
        assert metrics[name]["frames"] == frames
        assert tuned["forces_kcal_mol_a"]["count"] == 27 * frames and tuned["energy_kcal_mol"]["count"] == frames
        for quantity in tuned:
            assert 0 < tuned[quantity]["mae"] <= tuned[quantity]["rmse"] < 0.5 * before[quantity]["rmse"]
        assert set(tuned["forces_kcal_mol_a"]["coverage"]) == {"0.5", "0.8", "0.9", "0.95"}
        assert "mll" not in before["forces_kcal_mol_a"]
        forces = tuned["forces_kcal_mol_a"]
        split = [(part["mll"], part["count"]) for part in forces["mll_by_error"]]
        assert sum(mll * count for mll, count in split if count) == pytest.approx(forces["count"] * forces["mll"])
        assert forces["mll_by_error"][0]["from"] == 0.0 and forces["mll_by_error"][-1]["to"] is None
        for level, share in forces["coverage"].items():
            intervals = forces["coverage_intervals"][level]
            assert ("factor" in intervals) == (name == "test")
            for low, high in intervals.values():
                assert low <= share <= high
    forces = metrics["validation"]["fine_tuned"]["forces_kcal_mol_a"]
    assert forces["mean_sigma"] == pytest.approx(forces["rmse"], rel=1e-5), "σ is not scaled on the validation set"
    assert [entry["step"] for entry in metrics["trace"]] == [100, 200, 300]
    for picture in PICTURES:
        assert (path / picture).read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_fit_ends_with_the_same_bits(fitted, tmp_path, monkeypatch):
    whole, path, parsed, _ = fitted
    copy = tmp_path / "out"
    shutil.copytree(path, copy)
    (copy / "ensemble.safetensors").unlink()
    newest, *older = sorted((copy / "checkpoints").glob("*.ckpt"), reverse=True)
    newest.unlink()
    (older[0].with_name("000000300.ckpt")).write_bytes(b"damaged" * 9)
    original, steps = checkpoint.write, []
    monkeypatch.setattr(sampling.checkpoint, "write", lambda *a: (steps.append(a[1]), original(*a)))
    result = fit(parsed.model_copy(update={"output": str(copy)}))
    assert steps == [300], "the work before the interruption is done again"
    np.testing.assert_array_equal(result.samples, whole.samples)
    np.testing.assert_array_equal(result.offset_ev, whole.offset_ev)
    assert result.factors == whole.factors
    before, after = (json.loads((p / "metrics.json").read_text()) for p in (path, copy))
    assert before["test"] == after["test"] and before["trace"] == after["trace"]


def test_other_steps_between_checkpoints_sample_the_same(fitted, tmp_path, monkeypatch):
    whole, path, parsed, _ = fitted
    copy = tmp_path / "out"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("000000300.ckpt"))
    original, steps = checkpoint.write, []
    monkeypatch.setattr(sampling.checkpoint, "write", lambda *a: (steps.append(a[1]), original(*a)))
    result = fit(parsed.model_copy(update={"output": str(copy), "checkpoint_steps": 150}))
    assert steps == [300], "the last stretch is not a shorter one"
    np.testing.assert_allclose(result.samples, whole.samples, rtol=1e-5, atol=1e-6)


def test_a_finished_fit_is_not_repeated_and_another_is_refused(fitted, monkeypatch):
    whole, path, parsed, _ = fitted
    monkeypatch.setattr(sampling.checkpoint, "write", None)
    other_test = parsed.model_copy(update={"large_error_kcal_mol_a": 0.5})
    np.testing.assert_array_equal(fit(other_test).samples, whole.samples)
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["test"]["fine_tuned"]["forces_kcal_mol_a"]["large_error"] == 0.5
    faster = parsed.sampler.model_copy(update={"step_size": 0.05, "batch_size": 2})
    named = r"with sampler\.batch_size 3, got 2; sampler\.step_size 0\.01, got 0\.05; allowed"
    with pytest.raises(RunDirectoryError, match=named):
        fit(parsed.model_copy(update={"sampler": faster}))


def test_metrics_are_there_only_once_all_else_is(fitted, tmp_path, monkeypatch):
    _, path, parsed, _ = fitted
    shutil.copytree(path, tmp_path / "out", ignore=shutil.ignore_patterns("*.png", "metrics.json"))
    names, original = [], run.write_whole
    monkeypatch.setattr(run, "write_whole", lambda path, content: (names.append(path.name), original(path, content)))
    fit(parsed.model_copy(update={"output": str(tmp_path / "out")}))
    assert names == [*PICTURES, "metrics.json"] and all((tmp_path / "out" / name).is_file() for name in names)


def test_other_labels_under_the_same_name_are_refused(fitted, data, tmp_path, tiny_model, monkeypatch):
    *_, parsed, _ = fitted
    fewer = parsed.data.model_copy(update={"train": data["validation"], "validation": None, "test": None})
    changed = parsed.model_copy(update={"data": fewer})
    monkeypatch.setattr(identity, "_lasting", lambda c: c.model_copy(update={"data": parsed.data}))
    with pytest.raises(RunDirectoryError, match="other labels"):
        fit(changed)


@pytest.mark.parametrize(
    ("key", "unit", "said"),
    [
        ("forces_unit", "kcal/mol/A", "times the work of the forces.* or forces in eV/A would be"),
        ("energy_unit", "hartree", "times the work of the forces.* as energies in eV or"),
    ],
)
def test_a_unit_that_contradicts_the_model_is_refused_or_allowed(data, tiny_model, tmp_path, key, unit, said):
    stated = data | {key: unit}
    with pytest.raises(DataError, match=said):
        run.prepare(settings(stated, tiny_model, tmp_path / "out"))
    allowed = settings(stated | {"doubtful_units": "allow"}, tiny_model, tmp_path / "out")
    assert run.prepare(allowed).sets.train.size == 12
    # Random weights contradict no unit, but energies and forces contradict each other.
    with pytest.raises(DataError, match="times the work of the forces"):
        run.prepare(settings(stated, tiny_model, tmp_path / "out", method="scratch"))
    assert not (tmp_path / "out").exists()


def test_another_model_under_the_same_name_is_refused(fitted, data, tmp_path, tiny_model):
    _, path, parsed, _ = fitted
    shutil.copytree(path, tmp_path / "out")
    other = registry.initialize(SMALL, 1)
    replaced = tmp_path / tiny_model.name
    shutil.copy(tiny_model, replaced)
    # Forces of another random network may well point the other way.
    used = parsed.data.model_copy(update={"doubtful_units": "allow"})
    moved = parsed.model_copy(update={"output": str(tmp_path / "out"), "model": tiny_model.name, "data": used})
    (tmp_path / "out" / "config.yaml").write_text(core_settings.dump(run.prepare(moved, base=tmp_path).config))
    fit(moved, base=tmp_path)
    registry.save(other, replaced, {})
    with pytest.raises(RunDirectoryError, match="pretrained model than"):
        fit(moved, base=tmp_path)


def test_saved_ensemble_reads_back_and_foreign_files_are_refused(fitted, tiny_model, tmp_path):
    result, path, parsed, _ = fitted
    loaded = load_ensemble(path / "ensemble.safetensors")
    np.testing.assert_array_equal(loaded.samples, result.samples)
    np.testing.assert_array_equal(loaded.offset_ev, result.offset_ev)
    assert (loaded.architecture, loaded.factors) == (result.architecture, result.factors)
    assert (loaded.energy_sigma_ev, loaded.stress_sigma_ev_a3) == (result.energy_sigma_ev, result.stress_sigma_ev_a3)
    assert config.parse(yaml.safe_load(loaded.config_text)).sampler == parsed.sampler
    with pytest.raises(WeightsError, match="fine-tuned ensemble"):
        load_ensemble(tiny_model)
    with pytest.raises(ConfigError, match="ensemble"):
        load_ensemble(tmp_path / "none")
    cut = tmp_path / "cut.safetensors"
    ensemble.save(loaded._replace(samples=loaded.samples[:, :-1]), cut)
    with pytest.raises(WeightsError, match="samples have shape"):
        load_ensemble(cut)


def test_calculator_equals_the_predictions_of_the_fit(fitted, data):
    result, path, parsed, _ = fitted
    task = run.prepare(parsed)
    prediction = run._predict(task, result.samples, "test")
    calculator = EnsembleCalculator(path / "ensemble.safetensors")
    arrays = np.load(data["test"])
    outcome = run.evaluate.outcome(prediction, task.sets.test, result)
    energies, sigmas = [], []
    for index, positions in enumerate(arrays["R"]):
        atoms = ase.Atoms(arrays["z"], positions, calculator=calculator)
        energies.append(atoms.get_potential_energy())
        sigmas.append(atoms.calc.results["forces_sigma"])
        each = atoms.calc.results["chain_forces"]
        np.testing.assert_allclose(each, prediction.forces[:, index], atol=2e-5)
        np.testing.assert_allclose(atoms.get_forces(), each.mean(axis=0), atol=2e-5)
        assert atoms.calc.results["chain_energy"].mean() == pytest.approx(energies[-1], abs=1e-4)
        assert "stress" not in atoms.calc.results
        assert atoms.get_potential_energy(force_consistent=True) == energies[-1]
    np.testing.assert_allclose(energies, outcome.energy.reference + outcome.energy.error, atol=1e-4)
    np.testing.assert_allclose(np.ravel(sigmas), outcome.forces.sigma, rtol=1e-3)
    energy_sigma = atoms.calc.get_property("energy_sigma", atoms)
    assert energy_sigma == pytest.approx(outcome.energy.sigma[-1], rel=1e-3)


def test_forces_are_slopes_also_after_the_list_became_stale(fitted):
    calculator = EnsembleCalculator(fitted[0], dtype=jnp.float64, skin_angstrom=0.05)
    random = np.random.default_rng(0)
    atoms = ETHANOL.copy()
    atoms.calc = calculator
    atoms.get_potential_energy()
    for scale in (1.0, 0.82):  # in the second geometry atoms have come within reach of each other
        atoms.positions = scale * (atoms.positions + 0.02 * random.uniform(-1, 1, size=(9, 3)))
        direction, here, h = random.normal(size=(9, 3)), atoms.positions.copy(), 1e-4
        slope = np.sum(atoms.get_forces() * direction)
        energies = []
        for sign in (1, -1):
            atoms.positions = here + sign * h * direction
            energies.append(atoms.get_potential_energy())
        atoms.positions = here
        assert slope == pytest.approx((energies[1] - energies[0]) / (2 * h), rel=1e-5, abs=1e-7)
        fresh = EnsembleCalculator(fitted[0], dtype=jnp.float64)
        assert fresh.get_potential_energy(atoms) == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_a_crystal_learns_stress(tmp_path):
    elements = tiny_nequip((13,), r_max=3.2, average_neighbors=12.0)
    registry.save(registry.initialize(elements, 1), tmp_path / "al.safetensors", {})
    random, frames = np.random.default_rng(0), []
    for _ in range(6):
        atoms = bulk("Al", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * random.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.05 * random.normal(size=(4, 3))
        atoms.calc = EMT()
        frames.append(atoms)
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.info["REF_stress"] = atoms.get_stress(voigt=False)
        atoms.calc = None
    ase.io.write(tmp_path / "train.xyz", frames[:4], format="extxyz")
    ase.io.write(tmp_path / "test.xyz", frames[4:], format="extxyz")
    data = {"train": str(tmp_path / "train.xyz"), "test": str(tmp_path / "test.xyz")}
    parsed = settings(data, tmp_path / "al.safetensors", tmp_path / "out", targets="energy+forces+stress")
    result = fit(parsed)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["test"]["fine_tuned"]["stress_gpa"]["count"] == 12
    assert not metrics["sigma_scaled_on_validation"] and result.factors == ensemble.SigmaFactors()
    before, after = (metrics["train"][k]["stress_gpa"]["rmse"] for k in ("zero_shot", "fine_tuned"))
    assert after < before
    atoms = frames[4]
    atoms.calc = EnsembleCalculator(result, dtype=jnp.float64)
    stress, h = atoms.get_stress(), 1e-5
    assert atoms.calc.results["stress_sigma"].shape == (6,) and atoms.calc.results["chain_stress"].shape == (2, 6)
    strain, cell = np.diag([h, 0, 0]) + np.array([[0, h, 0], [h, 0, 0], [0, 0, 0]]), atoms.cell.array.copy()
    energies = []
    for sign in (1, -1):
        atoms.set_cell(cell @ (np.eye(3) + sign * strain), scale_atoms=True)
        energies.append(atoms.get_potential_energy())
    slope = abs(np.linalg.det(cell)) * (stress[0] + 2 * stress[5])
    assert slope == pytest.approx((energies[0] - energies[1]) / (2 * h), rel=1e-4)


def test_deep_ensemble_keeps_the_best_and_finds_its_constants(data, tiny_model, tmp_path):
    change = {"optimizer": {"steps": 200, "members": 2, "learning_rate": 1e-2}, "targets": "forces"}
    change["method"] = "deep-ensemble"
    result = fit(settings(data, tiny_model, tmp_path / "out", **change))
    assert result.samples.shape[0] == 2 and not np.isclose(*np.asarray(result.samples)).all()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # Without energies among the targets each sample's mean error on the training frames is taken out.
    train = run.prepare(settings(data, tiny_model, tmp_path / "out", **change))
    energy = (
        run._predict(train, result.samples, "train").energy + result.atomic_reference_energy(ETHANOL.numbers)[:, None]
    )
    np.testing.assert_allclose(np.mean(energy - train.sets.train.energy, axis=1), 0.0, atol=1e-6)
    errors = run._predict(train, result.samples, "validation").forces - train.sets.validation.forces
    kept = np.mean(np.sqrt(np.mean(errors**2, axis=(1, 2, 3)))) * KCAL_MOL_PER_EV
    seen = [entry["validation_rmse"] for entry in metrics["trace"]]
    assert kept <= min(seen) * (1 + 1e-5), "the best parameters on the validation set are not kept"


def test_laplace_spreads_the_last_layer_of_an_optimised_model(data, tiny_model, tmp_path):
    change = {"optimizer": {"steps": 100, "learning_rate": 1e-2}, "laplace": {"samples": 5}}
    drawn = fit(settings(data, tiny_model, tmp_path / "out", **change, method="laplace"))
    optimised = checkpoint.newest(tmp_path / "out" / "checkpoints")[0][".samples"][0, 0]
    moved = np.abs(np.mean(drawn.samples, axis=0) - optimised) > 1e-5
    assert np.count_nonzero(moved) == 1, "more than the level of the force σ differs from the optimum"
    assert np.count_nonzero(np.std(drawn.samples, axis=0) > 1e-6) == 2, "more than the last layer is spread"
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert drawn.energy_sigma_ev == pytest.approx(2e-3 / np.sqrt(metrics["laplace"]["noise_factors"][0]))
    assert 0 < metrics["laplace"]["effective_weights"] < metrics["laplace"]["weights"] == 2
    forces = metrics["validation"]["fine_tuned"]["forces_kcal_mol_a"]
    assert forces["mean_sigma"] == pytest.approx(forces["rmse"], rel=1e-5)


def test_a_chain_that_blows_up_says_so(fitted, tmp_path, monkeypatch):
    *_, parsed, _ = fitted
    broken = Info(jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.array([[True], [False]]))
    monkeypatch.setattr(sampling, "chain_runner", lambda *_, **__: lambda p, c, *_: (p, c, broken))
    with pytest.raises(RunStoppedError, match="step 100: a chain became non-finite"):
        fit(parsed.model_copy(update={"output": str(tmp_path / "out")}))


def test_one_compilation_for_all_stretches(fitted):
    seen = fitted[-1]
    assert len(seen) == 3 and 0 < seen[0] == seen[1], "a stretch compiled anew"


def test_command_line(data, tiny_model, tmp_path, monkeypatch):
    written = tmp_path / "config.yaml"
    arguments = ["--train", data["train"], "--test", data["test"], "--frames", "3", "--model", str(tiny_model)]
    arguments += ["--sampler", "long", "--targets", "forces", "--set", "sampler.samples=3", "--seed", "2"]
    arguments += ["--set", "sampler.decay_steps=20", "--set", "sampler.cycle_steps=10", "-o", str(tmp_path / "out")]
    made = CliRunner().invoke(app, ["finetune", *arguments, "--write-config", str(written)], catch_exceptions=False)
    assert made.exit_code == 0 and config.load(written).data.frames == 3 and not (tmp_path / "out").exists()
    again = CliRunner().invoke(app, ["finetune", *arguments, "--write-config", str(written)])
    assert isinstance(again.exception, ConfigError)
    monkeypatch.setattr(jax_start, "start_jax", lambda chains: None)  # impossible once JAX has started
    done = CliRunner().invoke(app, ["finetune", str(written), "--set", "seed=1"])
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "out" / "ensemble.safetensors").is_file() and "zero" not in done.output
    assert "RMSE" in done.output and "step 40 of 40" in done.output
    samples = np.asarray(load_ensemble(tmp_path / "out" / "ensemble.safetensors").samples)
    assert len({bytes(row) for row in samples}) == 3 and np.isfinite(samples).all()
    assert isinstance(CliRunner().invoke(app, ["finetune", str(written), "--set", "a.b"]).exception, ConfigError)

"""One artefact of runs and fine-tunings: where it is found, what it says of errors, and which settings matter."""

import numpy as np
import pytest
from ase.build import molecule
from scipy import stats

from bayes_mlff.core.errors import ConfigError, DataError, WeightsError
from bayes_mlff.ensemble import error_law, files, saved
from bayes_mlff.ensemble.calculator import PROBABILITY, EnsembleCalculator, OutsideTrainingWarning
from bayes_mlff.ensemble.saved import Ensemble, OnlineCalibration, SigmaFactors
from bayes_mlff.models import registry
from bayes_mlff.posterior.likelihood import PerAtom
from bayes_mlff.testing.tiny import tiny_nequip

SMALL = tiny_nequip((1, 6, 8), r_max=2.5, energy_scales=(0.5,) * 3, energy_shifts=(-1.0, -2.0, -4.0))
LAW = error_law.update(error_law.init(floor=0.01), error=0.03, sigma=0.02)
ONLINE = OnlineCalibration(LAW, "20 meV", 0.9)
WATER = np.array([[2, 0, 1]])


def samples(**change) -> Ensemble:
    flat = registry.initialize(SMALL, 0).flat()[0]
    parts = (SMALL, np.stack([flat, 1.01 * flat]), np.zeros((2, 3)), SigmaFactors(), 0.01, 1.0, "seed: 1\n")
    return Ensemble(*parts, compositions=WATER, state={"charge": 0.0})._replace(**change)


def of_run(**change) -> Ensemble:
    return samples(online=ONLINE, **change)


def test_the_newest_ensemble_of_a_directory_is_that_of_its_newest_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(ConfigError, match="--what ensemble"):
        files.find(tmp_path)
    (tmp_path / files.NAME).touch()
    (folder / "000000008.ckpt").touch()  # a fine-tuning has checkpoints without ensembles
    assert files.find(tmp_path) == tmp_path / files.NAME == files.find(tmp_path / files.NAME)
    for step in (8, 16, 24):
        (folder / f"{step:09d}.ensemble.safetensors").touch()
    for step in (16, 24):
        (folder / f"{step:09d}.ckpt").touch()
    assert files.find(tmp_path).name == "000000024.ensemble.safetensors"
    (folder / "000000024.ckpt").unlink()  # killed before the checkpoint had its name
    assert files.find(tmp_path).name == "000000016.ensemble.safetensors"
    with pytest.raises(ConfigError, match="nowhere"):
        files.find(tmp_path / "nowhere")


def test_what_a_run_writes_reads_back(tmp_path):
    written = of_run(provenance={"run": "ethanol", "step": "40", "labels": "7"})
    saved.save(written, tmp_path / files.NAME)
    read = saved.load(tmp_path)
    assert saved.same(read, written) and read.provenance == written.provenance
    assert not list(tmp_path.glob("*.tmp"))


def test_files_of_before_scale_the_floor_like_the_spread(tmp_path):
    """There the calibration was that of one Student's t, as four numbers."""
    import json

    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / files.NAME
    saved.save(of_run(), path)
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    old = {"state": [3.0, 10.0, 2.0, 9.0], "threshold": "20 meV", "confidence": 0.9}
    save_file(arrays, path, {**metadata, "online": json.dumps(old)})
    law, scale = saved.load(path).online.law, np.sqrt((10.0 + 9.0 / 2) / 4.0)
    assert error_law.interval(law, 0.3, confidence=0.9) == pytest.approx(0.3 * scale * stats.t.ppf(0.95, 8.0))


@pytest.mark.parametrize(
    "change",
    [
        {"samples": np.zeros((2, 3))},
        {"offset_ev": np.ones((2, 3))},
        {"online": ONLINE._replace(threshold="30 meV")},
        {"online": ONLINE._replace(law=LAW._replace(floor=0.02))},
        {"online": None},
        {"config_text": "seed: 2\n"},
        {"energy_sigma_ev": PerAtom(0.01)},
        {"compositions": None},
        {"state": None},
    ],
)
def test_whatever_changes_predictions_or_settings_makes_another_ensemble(change):
    assert saved.same(of_run(), of_run(provenance={"step": "3"}))
    assert not saved.same(of_run(), of_run()._replace(**change))


def test_a_run_calibrates_its_energy_by_the_distribution_of_its_trigger():
    atoms = molecule("H2O")
    calculator = EnsembleCalculator(of_run())
    calculator.calculate(atoms)
    sigma = calculator.results["energy_sigma_uncalibrated"]
    assert calculator.results[PROBABILITY] == error_law.exceedance_probability(LAW, sigma, 0.02)
    assert calculator.results["energy_sigma"] == error_law.deviation(LAW, sigma)
    assert calculator.calibrated == ("energy",)
    # A threshold for which the σ of this structure is just critical.
    critical = error_law.interval(LAW, sigma, confidence=ONLINE.confidence)
    at_limit = EnsembleCalculator(of_run(), threshold=f"{critical!r} eV")
    assert at_limit.get_property(PROBABILITY, atoms) == pytest.approx(1.0 - ONLINE.confidence, rel=1e-10)
    per_atom = EnsembleCalculator(of_run(), threshold=f"{critical / 3!r} eV/atom")
    assert per_atom.get_property(PROBABILITY, atoms) == pytest.approx(1.0 - ONLINE.confidence, rel=1e-10)


def test_a_fine_tuning_needs_a_threshold_and_takes_the_normal_distribution():
    atoms = molecule("H2O")
    calculator = EnsembleCalculator(samples(factors=SigmaFactors(energy=3.0, forces=2.0)))
    with pytest.raises(ConfigError, match="threshold: got None"):
        calculator.get_property(PROBABILITY, atoms)
    calculator.calculate(atoms)
    assert PROBABILITY not in calculator.results and calculator.calibrated == ("energy", "forces")
    assert calculator.results["energy_sigma"] == 3.0 * calculator.results["energy_sigma_uncalibrated"]
    sigma = calculator.results["energy_sigma"]
    asked = EnsembleCalculator(calculator.ensemble, threshold=f"{1.959964 * sigma!r} eV")
    assert asked.get_property(PROBABILITY, atoms) == pytest.approx(0.05, rel=1e-5)
    with pytest.raises(ConfigError, match="threshold: got '20 metres'"):
        EnsembleCalculator(calculator.ensemble, threshold="20 metres")


def test_an_error_of_an_energy_whose_origin_nobody_knows_is_above_any_threshold():
    calculator = EnsembleCalculator(of_run())
    with pytest.warns(OutsideTrainingWarning, match="CH4"):
        calculator.calculate(molecule("CH4"))
    assert calculator.results["energy_sigma"] == np.inf and calculator.results[PROBABILITY] == 1.0


def test_with_too_few_errors_sigma_is_infinite_but_the_probability_is_not_one():
    few = OnlineCalibration(error_law.init(0.5, 1.0, floor=0.01), "20 meV", 0.95)
    calculator = EnsembleCalculator(samples(online=few))
    with pytest.warns(OutsideTrainingWarning, match="too few errors for a finite energy_sigma"):
        calculator.calculate(molecule("H2O"))
    assert calculator.results["energy_sigma"] == np.inf and 0.0 < calculator.results[PROBABILITY] < 1.0


def test_where_sigma_overflows_any_error_is_possible():
    for one in (of_run(), samples(factors=SigmaFactors(energy=2.0))):
        assert [one.exceedance_probability(sigma, 0.02) for sigma in (np.inf, np.nan)] == [1.0, 1.0]


def test_a_file_that_a_run_removes_meanwhile_is_looked_for_again(tmp_path, monkeypatch):
    saved.save(of_run(), tmp_path / "new.safetensors")
    answers = [tmp_path / "gone.safetensors", tmp_path / "new.safetensors"]
    monkeypatch.setattr(files, "find", lambda path: answers.pop(0))
    assert saved.same(saved.load(tmp_path), of_run())


def test_atoms_in_another_order_get_their_own_neighbours_after_a_failure():
    atoms = molecule("H2O")
    calculator = EnsembleCalculator(of_run())
    calculator.get_property("energy", atoms)
    other = atoms[[1, 0, 2]]
    broken = other.copy()
    broken.positions[0] = np.nan
    with pytest.raises(DataError):
        calculator.get_property("energy", broken)
    expected = EnsembleCalculator(of_run()).get_property("forces", other)
    np.testing.assert_allclose(calculator.get_property("forces", other), expected, atol=1e-5)


@pytest.mark.parametrize("change", [{"samples": np.nan}, {"offset_ev": np.inf}])
def test_numbers_that_are_none_are_refused(tmp_path, change):
    (name, value), *_ = change.items()
    saved.save(of_run(**{name: np.full_like(getattr(of_run(), name), value)}), tmp_path / files.NAME)
    with pytest.raises(WeightsError, match=f"{name} hold"):
        saved.load(tmp_path)

"""The transfer-learning driver: which fits a scenario asks for, the sets it cuts, and what is summarised."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError, DataError, RunDirectoryError
from benchmarks.transfer import collect, run, scenario

FOLDER = Path(scenario.__file__).parent
RAW = {
    "scenario": "water",
    "settings": {"targets": "forces", "schedule": {"kind": "long", "samples": 3}},
    "targets": [
        {
            "name": "h2o",
            "model": "nequip-md17-small",
            "pool": {"file": "a.npz", "first": 2, "count": 5},
            "validation": {"file": "a.npz", "split": "chosen", "count": 2},
            "test": {"file": "a.npz", "split": "chosen", "first": 2},
        }
    ],
    "series": [
        {"method": "sghmc", "sizes": [2, 4], "seeds": [0, 1], "settings": {"schedule": {"samples": 4}}},
        {"method": "adam", "sizes": [4]},
    ],
}


@pytest.fixture
def made(tmp_path):
    """Scenario and its path; twelve frames whose energies are their indices."""
    random = np.random.default_rng(0)
    frames = {"R": np.arange(3.0)[:, None] + 0.05 * random.normal(size=(12, 3, 3)), "F": random.normal(size=(12, 3, 3))}
    np.savez(tmp_path / "a.npz", z=[8, 1, 1], E=np.arange(12.0), chosen=[11, 7, 9, 1], **frames)
    path = tmp_path / "water.yaml"
    path.write_text(yaml.safe_dump(RAW))
    return scenario.load(path), path


def test_scenario_files_ask_for_valid_fits():
    paths = sorted(FOLDER.glob("*.yaml"))
    assert paths
    for path in paths:
        loaded = scenario.load(path)
        fits = scenario.fits(loaded)
        names = [fit.name for fit in fits]
        assert fits and len(set(names)) == len(names), f"{path}: a fit is asked for twice"
        for fit in fits:
            config = scenario.configuration(fit, Path("data"), Path("out"), folders=(path.parent,))
            assert config.method == fit.method and config.data.frames == fit.frames


def test_settings_are_merged_and_fits_come_in_order(made):
    fits = scenario.fits(made[0])
    assert [fit.name for fit in fits] == [
        "h2o-sghmc-m2-s0", "h2o-sghmc-m4-s0", "h2o-sghmc-m2-s1", "h2o-sghmc-m4-s1", "h2o-adam-m4-s0",
    ]  # fmt: skip
    configs = [scenario.configuration(fit, Path("d"), Path("o"), folders=()) for fit in (fits[2], fits[-1])]
    assert [c.schedule.samples for c in configs] == [4, 3]
    assert [(c.seed, c.data.train, c.targets) for c in configs] == [
        (1, "d/pool-s1.npz", "forces"), (0, "d/pool-s0.npz", "forces"),
    ]  # fmt: skip


def test_a_model_is_a_name_or_the_first_file_that_is_there(made, tmp_path):
    fit = scenario.fits(made[0])[0]
    fit = fit._replace(target=fit.target.model_copy(update={"model": "m.safetensors"}))
    folders = tmp_path / "a", tmp_path / "b"
    assert scenario.configuration(fit, Path("d"), Path("o"), folders=folders).model == "m.safetensors"
    for folder in reversed(folders):
        folder.mkdir()
        (folder / "m.safetensors").touch()
        found = scenario.configuration(fit, Path("d"), Path("o"), folders=folders).model
        assert found == str(folder / "m.safetensors")


def test_unknown_targets_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(RAW | {"series": [RAW["series"][0] | {"targets": ["d2o"]}]}))
    with pytest.raises(ConfigError, match="h2o"):
        scenario.load(tmp_path / "a.yaml")


def test_sets_are_cut_and_the_pool_is_in_the_order_of_the_seed(made, tmp_path):
    fits = scenario.fits(made[0])
    for fit in (fits[0], fits[2]):
        run.prepare(fit, tmp_path, tmp_path / "sets")
    energies = {path.stem: list(np.load(path)["E"]) for path in (tmp_path / "sets").glob("*.npz")}
    assert (energies["validation"], energies["test"]) == ([11, 7], [9, 1])
    assert set(energies["pool-s0"]) == set(energies["pool-s1"]) == {2, 3, 4, 5, 6}
    assert energies["pool-s0"] != energies["pool-s1"]
    other = fits[0].target.model_copy(update={"test": scenario.Slice(file="a.npz", split="chosen", first=1, count=2)})
    with pytest.raises(RunDirectoryError, match=r"test\.npz: other frames"):
        run.prepare(fits[0]._replace(target=other), tmp_path, tmp_path / "sets")
    short = fits[0].target.model_copy(update={"pool": scenario.Slice(file="a.npz", first=9, count=5)})
    with pytest.raises(DataError, match="12 frames to choose from"):
        run.cut(short, short.pool, tmp_path)


def test_fits_that_start_at_the_same_time_share_their_sets(made, tmp_path):
    fit = scenario.fits(made[0])[0]
    with ThreadPoolExecutor(8) as pool:
        for repeat in range(5):
            sets = tmp_path / f"sets{repeat}"
            list(pool.map(lambda _, sets=sets: run.prepare(fit, tmp_path, sets), range(8)))
            assert list(np.load(sets / "test.npz")["E"]) == [9, 1]


def test_the_command_line_chooses_fits(made, tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(run, "run", lambda fit, *_: ran.append(fit.name))
    chosen = ["--method", "sghmc", "--sizes", "4", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", ["run", str(made[1]), str(tmp_path), str(tmp_path / "runs"), *chosen])
    run.main()
    assert ran == ["h2o-sghmc-m4-s0"]
    assert "h2o-sghmc-m4-s0: was done" in capsys.readouterr().out


def test_finished_fits_are_skipped_unless_their_settings_differ(made, tmp_path, monkeypatch):
    loaded, path = made
    fit, ran = scenario.fits(loaded)[0], []

    def finetune(config):
        ran.append(config)
        Path(config.output).mkdir(parents=True)
        (Path(config.output) / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))
        (Path(config.output) / "metrics.json").write_text("{}")

    monkeypatch.setattr(run, "finetune", finetune)
    assert [run.run(fit, path, tmp_path, tmp_path / "runs") for _ in range(2)] == [True, False] and len(ran) == 1
    with pytest.raises(RunDirectoryError, match="other settings"):
        run.run(fit._replace(settings={"targets": "forces"}), path, tmp_path, tmp_path / "runs")


def metrics(rmse):
    """Of a fit; its coverage of 94 % has an interval that holds 95 % where the RMSE is below 0.6, none below 0.1."""
    interval = {"binomial": [0.9, 0.95]} | ({} if rmse < 0.1 else {"factor": [0.9, 0.96 if rmse < 0.6 else 0.949]})
    forces = {"rmse": rmse, "mae": 0.8 * rmse, "mll": -rmse, "auc_roc": None if rmse < 0.1 else 0.9, "crps": 1.0}
    forces |= {
        "coverage": {"0.95": 0.94},
        "coverage_intervals": {"0.95": interval},
        "mean_sigma": 1.0,
        "share_large": 0.1,
    }
    forces |= {"mll_by_error": []}
    tuned = {"forces_kcal_mol_a": forces, "energy_kcal_mol": {"rmse": 0.1}}
    test = {"frames": 2, "fine_tuned": tuned, "zero_shot": {"forces_kcal_mol_a": {"rmse": 6.0, "mae": 5.0}}}
    return {"test": test, "sigma_factors": {"forces": 1.5}, "samples": 4, "sampling_seconds": 9.0}


def finished(loaded, runs, name, rmse, before=6.0):
    """A directory as a fine-tuning leaves it."""
    fit = next(fit for fit in scenario.fits(loaded) if fit.name == name)
    folder = runs / loaded.scenario / name
    folder.mkdir(parents=True)
    config = scenario.configuration(fit, Path("elsewhere"), folder, folders=())
    scaled = config.prior.model_copy(update={"scale": 0.2})  # as is stored where the scenario leaves it open
    (folder / "config.yaml").write_text(settings.dump(config.model_copy(update={"prior": scaled})))
    found = metrics(rmse)
    found["test"]["zero_shot"]["forces_kcal_mol_a"]["rmse"] = before
    (folder / "metrics.json").write_text(json.dumps(found))
    return folder


def test_results_of_other_settings_or_another_model_are_not_compared(made, tmp_path):
    loaded, _ = made
    finished(loaded, tmp_path / "one", "h2o-sghmc-m2-s0", 0.5)
    collect.write(*collect.gather(loaded, tmp_path / "one"), tmp_path / "out", machine="none", commit="abc")
    finished(loaded, tmp_path / "two", "h2o-sghmc-m2-s1", 0.5, before=3.0)
    with pytest.raises(RunDirectoryError, match=r"water: RMSE before fine-tuning from 3\.000 to 6\.000"):
        collect.write(*collect.gather(loaded, tmp_path / "two"), tmp_path / "out", machine="none", commit="def")
    series = [*loaded.series[:-1], loaded.series[-1].model_copy(update={"settings": {"targets": "energy+forces"}})]
    finished(loaded.model_copy(update={"series": series}), tmp_path / "three", "h2o-adam-m4-s0", 0.5)
    with pytest.raises(RunDirectoryError, match="other settings than water; remove"):
        collect.gather(loaded, tmp_path / "three")


def test_summary_tables_and_figures_of_what_is_finished(made, tmp_path):
    loaded, _ = made
    for name, rmse in (("h2o-sghmc-m2-s0", 0.5), ("h2o-sghmc-m2-s1", 0.7), ("h2o-adam-m4-s0", 0.05)):
        finished(loaded, tmp_path, name, rmse)
    results, missing = collect.gather(loaded, tmp_path)
    assert list(missing.values()) == ["water/h2o-sghmc-m4-s0", "water/h2o-sghmc-m4-s1"]
    collect.write(results, missing, tmp_path / "out", machine="none", commit="abc")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary[0] == {
        "scenario": "water", "method": "sghmc", "m": 2, "seed": 0, "rmse_kcal_mol_a": 0.5, "mae_kcal_mol_a": 0.4,
        "mll": -0.5, "auc_roc": 0.9, "coverage_95": 0.94, "test_frames": 2,
    }  # fmt: skip
    assert [(e["method"], e["m"], e["seed"]) for e in summary] == [("sghmc", 2, 0), ("sghmc", 2, 1), ("adam", 4, 0)]
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "| sghmc | 2 | 2 | 0.600 ± 0.141 |" in text and "| 0.940 ± 0.000 | 1 of 2 |\n" in text
    assert "| adam | 4 | 1 | 0.050 | 0.040 | -0.050 | - | 0.940 | - |\n" in text
    assert (tmp_path / "out" / "water.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "details.json").read_text())["not_run"] == list(missing.values())


def test_a_later_collection_keeps_what_has_no_directory_any_more_and_replaces_what_was_run_again(made, tmp_path):
    loaded, _ = made

    def collected(name, rmse, runs, commit):
        finished(loaded, runs, name, rmse)
        collect.write(*collect.gather(loaded, runs), tmp_path / "out", machine="none", commit=commit)

    collected("h2o-sghmc-m2-s0", 0.5, tmp_path / "one", "abc")
    collected("h2o-sghmc-m4-s0", 0.3, tmp_path / "one", "abc")
    collected("h2o-sghmc-m4-s0", 0.2, tmp_path / "two", "def")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    details = json.loads((tmp_path / "out" / "details.json").read_text())
    assert [(e["m"], e["rmse_kcal_mol_a"]) for e in summary] == [(2, 0.5), (4, 0.2)]
    assert [(e["m"], e["commit"]) for e in details["fits"]] == [(2, "abc"), (4, "def")]
    assert details["not_run"] == ["water/h2o-sghmc-m2-s1", "water/h2o-sghmc-m4-s1", "water/h2o-adam-m4-s0"]
    assert "| sghmc | 2 | 1 | 0.500 |" in (tmp_path / "out" / "tables.md").read_text()

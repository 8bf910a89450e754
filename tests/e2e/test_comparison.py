"""Fine-tunings side by side: a tiny network on springs, what is skipped and continued, refusals, table and files."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from bayes_mlff.cli import app as cli
from bayes_mlff.core import jax_start
from bayes_mlff.core import settings as core_settings
from bayes_mlff.core.errors import ConfigError, DataError, RunDirectoryError, RunStoppedError
from bayes_mlff.finetune import compare, comparison, config, figures, frames, sampling
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
FILES = ("comparison.png", "likelihood_by_error.png", "comparison.md", "comparison.json")
ASKED = {"methods": ["sghmc", "adam"], "sizes": [2, 4], "seeds": [0, 1]}
NAMES = [f"{method}-m{m}-s{seed}" for method in ASKED["methods"] for m in (2, 4) for seed in (0, 1)]


def springs(path, seed, count):
    moved = 0.05 * np.random.default_rng(seed).normal(size=(count, 3, 3))
    energy, forces = 5.0 * np.sum(moved**2, axis=(1, 2)), -10.0 * moved
    np.savez(path, z=[8, 1, 1], R=WATER + moved, E=energy, F=forces)
    return str(path)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Settings of short fits without an output directory."""
    folder = tmp_path_factory.mktemp("data")
    model = tiny_nequip((1, 8), average_neighbors=2.0, energy_shifts=(-1.0, -3.0))
    registry.save(registry.initialize(model, 0), folder / "tiny.safetensors", {})
    sets = {"train": (0, 6), "validation": (1, 3), "test": (2, 5)}
    return {
        "data": {name: springs(folder / f"{name}.npz", *parts) for name, parts in sets.items()},
        "model": str(folder / "tiny.safetensors"),
        "sampler": {"chains": 2, "steps": 20, "cold_steps": 10, "ramp_steps": 5},
        "optimizer": {"steps": 20},
        "checkpoint_steps": 10,
    }


@pytest.fixture(scope="module")
def compared(raw, tmp_path_factory, undrawn):
    """A comparison, its directory and its configuration."""
    path = tmp_path_factory.mktemp("compared") / "out"
    parsed = config.parse(raw | {"output": str(path)})
    return compare(parsed, **ASKED), path, parsed


@pytest.fixture
def copied(compared, tmp_path):
    """The same in a place where it may be changed; its directories still name the first place."""
    made, path, parsed = compared
    shutil.copytree(path, tmp_path / "out")
    for name in NAMES:
        file = tmp_path / "out" / name / "metrics.json"
        file.write_text(file.read_text().replace(str(path), str(tmp_path / "out")))
    return made, tmp_path / "out", parsed.model_copy(update={"output": str(tmp_path / "out")})


@pytest.fixture
def fitted(monkeypatch):
    """Names of the fits that are done from here on."""
    names, original = [], comparison.fit

    def fit(one, **options):
        names.append(one.output.rpartition("/")[2])
        return original(one, **options)

    monkeypatch.setattr(comparison, "fit", fit)
    return names


def read(path):
    return json.loads(path.read_text())


def forces(path, name, part="fine_tuned"):
    return read(path / name / "metrics.json")["test"][part]["forces_kcal_mol_a"]


def test_the_table_is_what_the_metrics_of_every_fit_say(compared):
    made, path, _ = compared
    assert [fit["directory"] for fit in made.fits] == NAMES and not made.stopped
    assert all((path / name).read_bytes() for name in FILES)
    assert (made.compared_on, made.frames, made.large_error) == ("test", 5, 1.0)
    lines = [line.strip("|").split("|") for line in (path / "comparison.md").read_text().splitlines() if "|" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[0] == ["method", "m", "seeds", *comparison.columns(made.observable)] and len(cells) == 7
    before = forces(path, NAMES[0], "zero_shot")
    assert cells[2] == ["pretrained", "-", "-", f"{before['rmse']:.3f}", f"{before['mae']:.3f}", *"----"]
    for row, (method, m) in zip(cells[3:], [("sghmc", 2), ("sghmc", 4), ("adam", 2), ("adam", 4)], strict=True):
        found = [forces(path, f"{method}-m{m}-s{seed}") for seed in (0, 1)]
        wanted = [[f[key] for f in found] for key in ("rmse", "mae", "mll", "auc_roc")]
        wanted.append([f["coverage"]["0.95"] for f in found])
        texts = [f"{np.mean(pair):.3f} ± {np.std(pair, ddof=1):.3f}" for pair in wanted]
        assert row[:-1] == [method, str(m), "2", *texts]
    for entry in read(path / "comparison.json")["fits"]:
        found, whole = forces(path, entry["directory"]), read(path / entry["directory"] / "metrics.json")
        assert entry["rmse_kcal_mol_a"] == found["rmse"] and entry["mll_by_error"] == found["mll_by_error"]
        low, high = found["coverage_intervals"]["0.95"]["factor"]
        assert entry["coverage_95_consistent"] is (low <= 0.95 <= high)
        assert entry["sampling_seconds"] == whole["sampling_seconds"]
        assert f"{entry['method']}-m{entry['m']}-s{entry['seed']}" == entry["directory"]


def test_seeds_learn_from_other_frames_and_are_tested_on_the_same(compared):
    _, path, _ = compared
    stored = {name: config.load(path / name / "config.yaml") for name in NAMES}
    energies = {name: set(frames.read(one).train.energy) for name, one in stored.items()}
    assert energies["sghmc-m2-s0"] == energies["adam-m2-s0"] != energies["adam-m2-s1"]
    assert all(energies[f"adam-m2-s{seed}"] < energies[f"adam-m4-s{seed}"] for seed in (0, 1))
    assert len({forces(path, name, "zero_shot")["rmse"] for name in NAMES}) == 1


def test_what_is_complete_is_skipped_and_what_was_interrupted_goes_on(copied, fitted):
    made, path, parsed = copied
    assert compare(parsed, **ASKED) == made and not fitted
    kept = forces(path, "sghmc-m4-s1")
    (path / "sghmc-m4-s1" / "metrics.json").unlink()
    (path / "sghmc-m4-s1" / "checkpoints" / "000000020.ckpt").unlink()
    again = compare(parsed, **ASKED)
    assert fitted == ["sghmc-m4-s1"] and forces(path, "sghmc-m4-s1") == kept
    seconds = {name: value["sampling_seconds"] for name, value in zip(NAMES, again.fits, strict=True)}
    assert again.fits[3] | {"sampling_seconds": made.fits[3]["sampling_seconds"]} == made.fits[3], seconds


def test_other_test_frames_are_predicted_anew_without_sampling(copied, fitted, monkeypatch, tmp_path):
    _, path, parsed = copied
    monkeypatch.setattr(sampling.checkpoint, "write", None)
    asked = {"methods": ["adam"], "sizes": [2], "seeds": [0]}
    parsed = parsed.model_copy(update={"data": parsed.data.model_copy(update={"test": str(tmp_path / "new.npz")})})
    for seed in (7, 8):  # the second time under the same name
        springs(tmp_path / "new.npz", seed, 4)
        for _ in range(2):
            made = compare(parsed, **asked)
        assert made.frames == 4 and made.fits[0]["rmse_kcal_mol_a"] == forces(path, "adam-m2-s0")["rmse"]
    assert fitted == ["adam-m2-s0"] * 2


@pytest.mark.parametrize(
    ("asked", "change", "error", "said"),
    [
        ({"methods": ["adam", "adamw"]}, {}, ConfigError, r"method: got 'adamw'; .*'laplace'"),
        ({"methods": ["adam", "sghmc", "adam"]}, {}, ConfigError, r"methods: got \['adam', 'sghmc', 'adam'\]; .*once"),
        ({"methods": []}, {}, ConfigError, r"methods: got \[\]; allowed: one or more"),
        ({"sizes": [2, 2]}, {}, ConfigError, r"sizes: got \[2, 2\]; .*once"),
        ({"sizes": [2, 7]}, {}, ConfigError, r"data\.frames: got 7; allowed: at most the 6 frames"),
        ({"sizes": [0]}, {}, ConfigError, r"data\.frames: got 0; .*greater"),
        ({"seeds": [1, -1]}, {}, ConfigError, r"seed.*: got -1; .*greater"),
        ({"seeds": [1, 1]}, {}, ConfigError, r"seeds: got \[1, 1\]"),
        ({}, {"test": None, "validation": None}, ConfigError, r"data\.test: got None; allowed: a set to compare on"),
        ({}, {"energies_key": "energy"}, DataError, "no array energy"),
    ],
)
def test_mistakes_are_named_before_anything_is_done(raw, tmp_path, fitted, asked, change, error, said):
    parsed = config.parse(raw | {"data": raw["data"] | change, "output": str(tmp_path / "out")})
    with pytest.raises(error, match=said):
        compare(parsed, **asked)
    assert not fitted and not (tmp_path / "out").exists()


def test_another_fit_under_the_same_name_is_refused_before_the_first(copied, fitted):
    _, path, parsed = copied
    shutil.rmtree(path / NAMES[0])
    other = parsed.model_copy(update={"sampler": parsed.sampler.model_copy(update={"batch_size": 2})})
    with pytest.raises(RunDirectoryError, match=r"sghmc-m2-s1: holds a fine-tuning with sampler\.batch_size 5, got 2"):
        compare(other, **ASKED)
    assert not fitted


def test_other_labels_under_the_same_name_are_refused_before_the_first(copied, fitted, tmp_path):
    _, path, parsed = copied
    data = parsed.data.model_copy(update={"train": str(tmp_path / "train.npz")})
    springs(tmp_path / "train.npz", 9, 6)
    for name in NAMES:
        stored = config.load(path / name / "config.yaml")
        moved = stored.model_copy(update={"data": stored.data.model_copy(update={"train": data.train})})
        (path / name / "config.yaml").write_text(core_settings.dump(moved))
    shutil.rmtree(path / NAMES[0])
    with pytest.raises(RunDirectoryError, match=rf"{NAMES[1]}/checkpoints: .*other labels"):
        compare(parsed.model_copy(update={"data": data}), **ASKED)
    assert not fitted


def test_settings_of_another_method_do_not_matter(copied, fitted, monkeypatch):
    made, _, parsed = copied
    monkeypatch.setattr(sampling.checkpoint, "write", None)
    longer = parsed.model_copy(update={"optimizer": parsed.optimizer.model_copy(update={"steps": 40})})
    again = compare(longer, methods=["sghmc"], sizes=[2], seeds=[0])
    seconds = {"sampling_seconds": again.fits[0]["sampling_seconds"]}
    assert again.fits == [made.fits[0] | seconds] and fitted == NAMES[:1]
    with pytest.raises(RunDirectoryError, match=r"adam-m2-s0: holds a fine-tuning with optimizer\.steps 20, got 40"):
        compare(longer, methods=["adam"], sizes=[2], seeds=[0])


def test_a_fit_that_stops_leaves_the_others(copied, monkeypatch):
    made, path, parsed = copied

    def fit(*_, **__):
        raise RunStoppedError("step 10: a chain became non-finite")

    monkeypatch.setattr(comparison, "fit", fit)
    (path / NAMES[0] / "metrics.json").unlink()
    again = compare(parsed, **ASKED)
    assert again.fits == made.fits[1:] and list(again.stopped) == NAMES[:1]
    assert f"{NAMES[0]} stopped: step 10" in (path / "comparison.md").read_text()
    for name in NAMES[1:]:
        (path / name / "metrics.json").unlink()
    with pytest.raises(RunStoppedError, match=r"sghmc-m2-s0: step 10.*; adam-m4-s1: step 10"):
        compare(parsed, **ASKED)


def test_without_lists_the_configuration_decides(raw, tmp_path, fitted):
    validation = raw["data"] | {"test": None, "frames": 3, "draw_seed": 4}
    parsed = config.parse(raw | {"data": validation, "method": "adam", "seed": 5, "output": "out"})
    made = compare(parsed, base=tmp_path)
    assert fitted == ["adam-m3-s5"] and (made.compared_on, made.frames) == ("validation", 3)
    assert made.fits[0]["coverage_95_consistent"] is None
    stored = config.load(tmp_path / "out" / "adam-m3-s5" / "config.yaml")
    assert (stored.data.draw_seed, stored.data.frames_seed, stored.seed) == (4, None, 5)


def test_command_line(copied, raw, fitted, monkeypatch, tmp_path):
    _, _, parsed = copied
    monkeypatch.setattr(jax_start, "start_jax", lambda chains: None)  # impossible once JAX has started
    file = tmp_path / "config.yaml"
    file.write_text(config.template(parsed))
    lists = ["--compare", "sghmc, adam", "--sizes", "2,4", "--seeds", "0,1"]
    done = CliRunner().invoke(cli.app, ["finetune", str(file), *lists], catch_exceptions=False)
    assert done.exit_code == 0 and not fitted and "8 of 8: adam-m4-s1 is already complete" in done.output
    rows = [line.split() for line in done.output.splitlines()]
    assert ["pretrained", "-", "-"] in [row[:3] for row in rows] and ["adam", "4", "2"] in [row[:3] for row in rows]
    for options, said in (
        (["--compare", "adam", "--method", "adam"], "--method: got 'adam'"),
        (["--sizes", "2,4", "--frames", "2"], "--frames: got 2"),
        (["--seeds", "0", "--seed", "1"], "--seed: got 1"),
        (["--sizes", "2,4", "--set", "data.frames=2"], "--set: got 'data.frames=2'; allowed: this or --sizes"),
        (["--sizes", "2,b"], r"--sizes: got '2,b'; allowed: whole numbers"),
        (["--seeds", "0", "--write-config", str(tmp_path / "new")], "--write-config: got"),
    ):
        refused = CliRunner().invoke(cli.app, ["finetune", str(file), *options]).exception
        assert isinstance(refused, ConfigError) and said in str(refused)
    assert not (tmp_path / "new").exists()


def test_pooled_intervals_are_those_of_all_components():
    def part(mll, count):
        return {"from": 0.0, "to": 1.0, "mll": mll, "count": count}

    first, second = [part(-1.0, 3), part(None, 0), part(None, 0)], [part(-2.0, 1), part(-4.0, 2), part(None, 0)]
    assert comparison.pooled([first, second]) == [part(-1.25, 4), part(-4.0, 2), part(None, 0)]


def test_figures_of_few_and_of_odd_numbers():
    intervals = [{"from": 0.0, "to": 1.0, "mll": 0.5, "count": 9}, {"from": 1.0, "to": None, "mll": -40.0, "count": 1}]
    empty = [intervals[0], intervals[1] | {"mll": None, "count": 0}]
    entry = {"method": "adam", "m": 1, "rmse_kcal_mol_a": 0.1, "mll": 0.3, "auc_roc": None}
    for png in (
        figures.likelihood_by_error({"sghmc": intervals, "deep-ensemble": empty}, "10 training frames"),
        figures.likelihood_by_error({"adam": empty}),
        figures.comparison([entry]),
        figures.comparison([entry, entry | {"m": 2, "rmse_kcal_mol_a": 0.05}], before=5.0),
    ):
        assert png.startswith(b"\x89PNG")

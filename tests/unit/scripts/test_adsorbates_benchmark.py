"""The benchmark on adsorption energies: its sets, its configurations, its results in numbers, and that it goes on."""

import json
from pathlib import Path

import ase
import jax
import numpy as np
import pytest

from bayes_mlff.core.errors import DataError, RunDirectoryError
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip
from benchmarks.adsorbates import collect, networks, pretrain, scenario, slabs
from benchmarks.scenarios import fits

SCENARIO = Path(slabs.__file__).with_name("transfer.yaml")


@pytest.fixture
def standard_promotion():
    """Promotion of types as users have it: optax' Adam mixes them."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def rows(per_metal=75):
    """Small slabs of every metal, told apart by their energies."""
    random, made = np.random.default_rng(0), []
    for metal in slabs.METALS:
        for index in range(per_metal):
            atoms = ase.Atoms(f"{metal}2{slabs.ADSORBATES[index % 2]}", 1.5 * np.eye(3), cell=6.0 * np.eye(3), pbc=True)
            atoms.positions += 0.05 * random.normal(size=(3, 3))
            atoms.info = {"metal": metal, "adsorption_energy": -2.0 - 0.1 * (index % 7) - (metal == "Ag")}
            made.append(atoms)
    return made


def test_no_slab_is_in_two_sets_and_pretraining_sees_no_target():
    every = rows()
    learn, judge = slabs.others(every)
    assert {atoms.info["metal"] for atoms in learn} == set(slabs.METALS) - set(slabs.TARGETS)
    assert len(judge) == slabs.HELD_OUT and not {*map(id, learn)} & {*map(id, judge)}
    for metal in slabs.TARGETS:
        splits = [slabs.of_metal(every, metal, seed) for seed in (0, 1)]
        for pool, validation, test in splits:
            together = [*map(id, (*pool, *validation, *test))]
            assert len(set(together)) == 75 and {a.info["metal"] for a in (*pool, *validation, *test)} == {metal}
        first, second = splits
        assert [*map(id, first.test)] == [*map(id, second.test)], "seeds have other test sets"
        assert [*map(id, first.pool)] != [*map(id, second.pool)]
        assert {*map(id, first.pool)} == {*map(id, second.pool)}


def test_other_slabs_under_the_same_name_are_refused(tmp_path):
    every = rows(3)
    slabs.write(every[:4], tmp_path / "a.extxyz")
    slabs.write(every[:4], tmp_path / "a.extxyz")
    with pytest.raises(RunDirectoryError, match="other slabs"):
        slabs.write(every[2:6], tmp_path / "a.extxyz")
    every[0].info["metal"] = "Fe"
    slabs.write(every[:1], tmp_path / "b.extxyz")
    with pytest.raises(DataError, match="slabs of Fe"):
        slabs.read(tmp_path / "b.extxyz")


def test_the_scenario_compares_three_methods_of_three_networks_on_two_metals():
    wanted = fits(scenario.load(SCENARIO))
    kinds = {(fit.target.model, fit.target.metal, fit.method, fit.frames, fit.seed) for fit in wanted}
    assert len(kinds) == len(wanted) == 3 * 2 * 3 * 4 * 3
    made = [scenario.configuration(fit, Path("/r")) for fit in wanted]
    assert {one.targets for one in made} == {"energy"} and {one.data.xyz_energy_key for one in made} == {
        "adsorption_energy"
    }
    assert made[0].model == "/r/data/nequip.safetensors" and made[0].data.test == "/r/data/Ag/test.extxyz"


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_networks_are_small(name):
    assert 5_000 < registry.initialize(networks.NETWORKS[name]((1, 6, 47)), 0).flat()[0].size < 200_000


def test_weights_of_unseen_elements_are_means_of_those_of_seen_ones():
    model = registry.initialize(tiny_nequip((1, 29, 46, 47)), 0)
    made = networks.for_unseen(model, (47,), (29, 46))
    before, after = (np.asarray(x.params["embedding"]) for x in (model, made))
    np.testing.assert_allclose(after[3], before[1:3].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(after[:3], before[:3])


@pytest.mark.usefixtures("standard_promotion")
def test_pretraining_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "NETWORKS", {"tiny": tiny_nequip})
    monkeypatch.setattr(pretrain, "EVERY", 2)
    every, settings = rows(12), {"steps": 6, "batch": 2, "peak": 1e-2, "seed": 0}
    pretrain.train("tiny", every, tmp_path / "whole", **settings)
    log = [json.loads(line) for line in (tmp_path / "whole/tiny/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 6] and all(np.isfinite(line["held_out"]) for line in log)
    original = pretrain.write_npz

    def interrupted(path, arrays):
        original(path, arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "write_npz", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.train("tiny", every, tmp_path / "parts", **settings)
    monkeypatch.setattr(pretrain, "write_npz", original)
    pretrain.train("tiny", every, tmp_path / "parts", **settings)
    whole, parts = (registry.load(str(tmp_path / name / "tiny.safetensors")).flat()[0] for name in ("whole", "parts"))
    np.testing.assert_array_equal(whole, parts)


def test_results_are_made_into_numbers_a_table_and_a_figure(tmp_path):
    fit = fits(scenario.load(SCENARIO))[0]
    error, sigma = [0.5, -0.5, 2.0, -4.0], [0.4, 0.6, 1.0, 3.0]
    (tmp_path / "test.json").write_text(json.dumps({"error": error, "sigma": sigma}))
    before = {"test": {"zero_shot": {"energy_kcal_mol": {"rmse": 9.0}}}, "sampling_seconds": 3.0}
    (tmp_path / "metrics.json").write_text(json.dumps(before))
    found = collect.entry(fit, tmp_path)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(error))), abs=1e-4)
    assert (found["auc_1"], found["auc_3"], found["coverage_95"]) == (1.0, 1.0, 0.75)
    assert collect.detected(np.ones(3), np.ones(3), 3.0) is None
    entries = [found, found | {"m": 10, "rmse": 1.0}, found | {"method": "adam", "auc_1": None, "auc_3": None}]
    assert "## nequip-Ag" in collect.table(entries) and "| sghmc | 10 | 1 | 1.00 | 1.00 |" in collect.table(entries)
    assert collect.figure(entries).startswith(b"\x89PNG")

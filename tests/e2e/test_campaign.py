"""Campaigns from their settings to the report: one walker is a run, interruptions change nothing, faults stay local."""

import dataclasses
import json
import shutil

import ase
import ase.io
import jax
import numpy as np
import pytest
from ase.build import molecule

import bayes_mlff
from bayes_mlff.api import campaigner, door, runner
from bayes_mlff.campaign.folders import Folders
from bayes_mlff.campaign.loop import Session
from bayes_mlff.core.errors import (
    ConfigError,
    EngineSetupError,
    RunDirectoryError,
    RunInterruptedError,
    RunStoppedError,
)
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data import dataset
from bayes_mlff.engines.labelling.spool import Spool
from bayes_mlff.ensemble import atomic_energies, saved
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.models import registry
from bayes_mlff.otf import config as of_runs
from bayes_mlff.report import campaign as summary
from bayes_mlff.runs import checkpoint
from bayes_mlff.runs.observing import Silent
from bayes_mlff.testing import faulty_engines
from tests.support import campaigns, small_run

pytestmark = pytest.mark.usefixtures("undrawn")

ALL_ALONG = {"audits": {"interval_ps": 0.004}}


@pytest.fixture(scope="module", autouse=True)
def _as_it_is():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "start_jax", lambda chains, running: None)
        for module in (runner, campaigner):
            patch.setattr(module.selfcheck, "ensure", lambda say: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("campaign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(faulty_engines.START, str(path))
        yield path


def run(folder, name, **keys):
    """Directory of a finished campaign."""
    campaigner.run(campaigns.parse(campaigns.raw(folder, **keys)), folder / name, base=folder, observer=Silent())
    return folder / name


def last_label(path, name):
    """The newest labelled geometry of a walker, for ASE."""
    atoms = ase.io.read(path / "walkers" / name / "dataset.extxyz", -1)
    assert isinstance(atoms, ase.Atoms)
    return atoms


@pytest.fixture(scope="module")
def whole(folder):
    """Two walkers and one place for labels, without interruption."""
    return run(folder, "whole", run=ALL_ALONG, labels={"in_flight": 1})


def test_a_campaign_of_one_walker_takes_the_steps_of_a_run(folder):
    one = run(folder, "one", run=ALL_ALONG, walkers=[{"structure": "ethanol", "seed": 1}])
    raw = campaigns.raw(folder, run=ALL_ALONG)["run"] | {"structure": "ethanol", "seed": 1}
    bayes_mlff.run(of_runs.parse(raw), folder / "run")
    ours, theirs = campaigns.labels(one, "ethanol"), dataset.read(folder / "run" / "dataset.extxyz")
    assert [r.step for r in ours] == [r.step for r in theirs] and len(ours) > 4
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.structure.positions, b.structure.positions, atol=1e-4)
        if b.predicted_energy_sigma is not None:
            assert a.predicted_energy_sigma == pytest.approx(b.predicted_energy_sigma, rel=1e-2)
            assert a.predicted_energy_mean == pytest.approx(b.predicted_energy_mean, abs=1e-3)
    thermo = [
        np.loadtxt(p / "thermo.csv", delimiter=",", skiprows=1) for p in (one / "walkers" / "ethanol", folder / "run")
    ]
    np.testing.assert_array_equal(thermo[0][:, 0], thermo[1][:, 0])
    np.testing.assert_allclose(thermo[0][:, 2:6], thermo[1][:, 2:6], rtol=1e-3)


def test_walkers_share_what_is_learnt_and_pay_for_their_common_start_once(whole, folder):
    found = summary.read(whole)
    first, second = (campaigns.labels(whole, f"ethanol-{n}") for n in (1, 2))
    assert [r.reason for r in (first[0], second[0])] == ["initial", "given"]
    assert first[0].label.energy == second[0].label.energy
    assert found.labels == len(first) + len(second) - 1 and found.audits > 4
    events = [json.loads(line) for line in (whole / "events.jsonl").read_text().splitlines()]
    updates = [event for event in events if event["event"] == "update"]
    assert updates[-1]["labels"] == found.labels
    assert {row.state for row in found.walkers} == {"done"} and found.state == "finished"
    assert not list(Spool(whole / "spool").pending()), "labels are kept twice"
    assert all((whole / "walkers" / f"ethanol-{n}" / "report.html").is_file() for n in (1, 2))
    atoms = last_label(whole, "ethanol-2")
    energy, reference = atoms.info["REF_energy"], EnsembleCalculator(whole).get_potential_energy(atoms)
    assert KCAL_MOL_PER_EV * abs(energy - reference) < 2.0


def test_an_interrupted_campaign_goes_on_with_the_same_bits(whole, folder):
    again = folder / "again"
    shutil.copytree(whole, again)
    kept = sorted((again / "checkpoints").glob("*.ckpt"))
    kept[-1].unlink()
    (again / "ensemble.safetensors").unlink()
    before = len(faulty_engines.calls(folder))
    campaigner.resume(again, observer=Silent())
    assert campaigns.differences(whole, again) == []
    assert len(faulty_engines.calls(folder)) == before, "a label was paid twice"


def test_labels_of_a_queue_whose_worker_is_killed_are_those_of_this_process(whole, folder, tmp_path, monkeypatch):
    pytest.importorskip("parsl")
    monkeypatch.setenv(faulty_engines.START, str(tmp_path))
    faulty_engines.plan(tmp_path, {4: "crash"})
    parsl = {"kind": "parsl", "provider": "local", "min_blocks": 1, "linger_s": 60}
    path = run(folder, "parsl", run=ALL_ALONG, labels={"in_flight": 1}, executor=parsl)
    assert campaigns.differences(whole, path) == []
    calls = faulty_engines.calls(tmp_path)
    done = [call["geometry"] for call in calls if call["done"]]
    assert len(calls) == 2 * len(done) + 1, "the worker was not killed once"
    assert len(done) == len(set(done)) == summary.read(path).labels, "a label was lost or paid twice"


@pytest.mark.parametrize("order", ["rounds", "arrival"])
def test_a_campaign_that_ends_in_the_middle_of_a_round_loses_nothing(folder, tmp_path, monkeypatch, order):
    keys = {"run": ALL_ALONG, "order": order, "walkers": [{"structure": "ethanol", "copies": 3}]}
    planned = run(folder, f"planned-{order}", **keys)
    learnt, commit = Session._learnt, Folders.commit

    def ending(original, ends):
        count = iter(range(1000))

        def wrapped(self, state, *arguments):
            if next(count) in ends:
                raise RunInterruptedError("a planned end", "in the middle", "go on")
            return original(self, state, *arguments)

        return wrapped

    monkeypatch.setattr(Session, "_learnt", ending(learnt, {2}))
    monkeypatch.setattr(Folders, "commit", ending(commit, {4, 7, 10}))
    monkeypatch.setenv(faulty_engines.START, str(tmp_path))
    config, path = campaigns.parse(campaigns.raw(folder, **keys)), folder / f"broken-{order}"
    for attempt in range(5):
        try:
            campaigner.run(config, path, base=folder, observer=Silent())
            break
        except RunInterruptedError:
            assert attempt < 4
    assert attempt >= 3
    if order == "rounds":
        assert campaigns.differences(planned, path) == []
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    taken: dict[int, list] = {}
    for event in events:
        if event["event"] == "taken":
            assert taken.setdefault(event["round"], event["labels"]) == event["labels"], "learnt in another order"
    assert len(taken) < sum(event["event"] == "taken" for event in events), "no round was repeated"
    done = [call["geometry"] for call in faulty_engines.calls(tmp_path) if call["done"]]
    assert len(done) == len(set(done)) == summary.read(path).labels, "a label was lost or paid twice"


FAMILY = {"0-water": "H2O", "acetaldehyde": "CH3CHO", "ether": "CH3OCH3", "methanol": "CH3OH"}
"""Names of walkers; the first does not have all elements."""


@pytest.fixture(scope="module")
def family(folder):
    """Four molecules that share one posterior."""
    (folder / "molecules").mkdir()
    for name, formula in FAMILY.items():
        ase.io.write(folder / "molecules" / f"{name}.xyz", molecule(formula))
    keys = {
        "run": {"threshold": "0.08 eV", "calibration": {}, "validation_frames": 2},
        "walkers": [{"structures": "molecules/*.xyz"}],
    }
    return run(folder, "family", labels={"in_flight": 1}, **keys)


def test_molecules_of_several_compositions_share_one_posterior(family):
    found = summary.read(family)
    assert sorted(row.name for row in found.walkers) == sorted(FAMILY)
    assert {row.state for row in found.walkers} == {"done"}
    assert found.spared > 0, "no request became unnecessary"
    after, before = found.frames_rmse_ev, found.frames_pretrained_rmse_ev
    assert 0 < found.frames <= 2 * len(FAMILY) and after is not None and before is not None and after < before
    calculator = EnsembleCalculator(family)
    for name in FAMILY:
        assert error_kcal_mol(calculator, family, name) < 5.0, name
    campaigner.resume(family, observer=Silent())  # also if the first walker does not have all elements


def error_kcal_mol(calculator, path, name):
    """Error of the energy of the newest label of a walker."""
    last = last_label(path, name)
    return KCAL_MOL_PER_EV * abs(calculator.get_potential_energy(last) - last.info["REF_energy"])


def test_a_campaign_starts_from_the_labels_and_samples_of_another(family, folder):
    calls = sum(call["done"] for call in faulty_engines.calls(folder))
    walkers = [{"structure": "ethanol", "seed": 3}, {"structure": "molecules/methanol.xyz", "seed": 4}]
    keys = {"run": {"threshold": "0.08 eV", "calibration": {}}, "walkers": walkers, "start": "family"}
    path = run(folder, "later", levels="structure", labels={"in_flight": 1}, **keys)
    found, before = summary.read(path), summary.read(family)
    assert {row.state for row in found.walkers} == {"done"}
    assert campaigns.labels(path, "methanol")[0].reason == "given", "the first structure was paid for again"
    assert sum(call["done"] for call in faulty_engines.calls(folder)) - calls == found.labels
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    updates = [event["labels"] for event in events if event["event"] == "update"]
    assert updates[0] == before.labels + 1 and updates[-1] == before.labels + found.labels
    calculator = EnsembleCalculator(path)
    for name in FAMILY:
        assert error_kcal_mol(calculator, family, name) < 5.0, f"{name} is forgotten"
    assert error_kcal_mol(calculator, path, "ethanol") < 5.0
    kept = sorted((path / "checkpoints").glob("*.ckpt"))
    again = folder / "later-again"
    shutil.copytree(path, again)
    for newest in sorted((again / "checkpoints").iterdir()):
        if newest.stem == kept[-1].stem:
            newest.unlink()
    campaigner.resume(again, observer=Silent())
    assert campaigns.differences(path, again) == []
    labels = again / "start" / "labels.extxyz"
    labels.write_text(labels.read_text().replace("0", "1", 1))
    with pytest.raises(RunDirectoryError, match="SHA-256"):
        campaigner.resume(again, observer=Silent())


def test_levels_of_elements_add_up_and_those_of_structures_fit_each_first_label(family, folder):
    assert saved.load(family).own is None
    keys = {"run": {"dynamics": {"duration_ps": 0.002}}, "walkers": [{"structures": "molecules/*.xyz"}]}
    path = run(folder, "structures", levels="structure", **keys)
    own = saved.load(path).own
    assert own is not None and len(own.compositions) == len(FAMILY)
    numbers = [molecule(formula).numbers for formula in FAMILY.values()]
    counts = np.array([atomic_energies.composition(each, saved.load(path).architecture.elements) for each in numbers])
    first = [campaigns.labels(path, name)[0] for name in FAMILY]
    above = np.array([float(record.pretrained_energy or 0.0) - record.label.energy for record in first])
    fitted = counts @ atomic_energies.per_atom(counts, above)
    for directory, expected in ((family, fitted), (path, above)):
        _, state, _ = checkpoint.newest(directory / "checkpoints")
        offsets = [walker["host"]["offset_ev"] for walker in state["walkers"]]
        np.testing.assert_allclose(offsets, expected, rtol=1e-12)
    assert np.abs(fitted - above).max() > 1e-4, "the compositions add up by themselves"
    with pytest.raises(ConfigError, match="--what: got 'chains'; allowed: ensemble"):
        runner.export(path / "walkers" / "methanol", folder / "chains", what="chains", template=None, trust=False)
    assert not (folder / "chains").exists()
    one = runner.export(
        family / "walkers" / "methanol", folder / "of-elements", what="chains", template=None, trust=False
    )
    assert len(one) == len(saved.load(family).models)


def test_what_cannot_be_started_from_is_refused_by_name(family, folder):
    ase.io.write(folder / "ammonia.xyz", molecule("NH3"))
    with pytest.raises(ConfigError, match=r"walker ammonia: structure: got 'N'; .*: H, C, O"):
        run(folder, "no-1", start="family", walkers=[{"structure": "ammonia.xyz"}])
    with pytest.raises(ConfigError, match=r"start: got .*; allowed: the directory of a campaign or of a run"):
        run(folder, "no-2", start="molecules")
    engine = campaigns.raw(folder)["run"]["engine"]
    changed = {**engine["arguments"]["arguments"], "epsilon": 0.0123}
    other = {**engine, "arguments": {**engine["arguments"], "arguments": changed}}
    with pytest.raises(ConfigError, match=r"start: got .*labels of the reference of this campaign; those of 0-water"):
        run(folder, "no-3", start="family", run={"engine": other})
    weights = small_run.initial_model()
    params = jax.tree.map(lambda x: 1.01 * x, weights.params)
    registry.save(dataclasses.replace(weights, params=params), folder / "other.safetensors", {})
    with pytest.raises(ConfigError, match=r"run\.model: got .*the model from which start began: "):
        run(folder, "no-4", start="family", run={"model": str(folder / "other.safetensors")})


def test_with_one_optimum_samples_spread_around_it_and_labels_know_the_sigma_of_forces(folder):
    laplace = {"posterior": "laplace", "laplace": {"samples": 4, "force_directions": 2}}
    path = run(folder, "optimum", run=ALL_ALONG | laplace, labels={"in_flight": 1})
    assert {row.state for row in summary.read(path).walkers} == {"done"}
    arrays, *_ = checkpoint.newest(path / "checkpoints")
    params = arrays[".shared.params"]
    assert len(params) == 1 + 4 and np.ptp(params[1:], axis=0).max() > 1e-3, "all samples are at the optimum"
    for record in campaigns.labels(path, "ethanol-1")[1:]:
        assert np.isfinite(record.predicted_forces_sigma).all()
        assert np.ptp(record.predicted_forces_sigma) > 0.01 * np.min(record.predicted_forces_sigma)
    thermo = np.genfromtxt(path / "walkers" / "ethanol-2" / "thermo.csv", delimiter=",", names=True)
    assert np.isfinite(thermo["sigma_ev"]).all() and np.ptp(thermo["sigma_ev"]) > 0.0


def test_a_budget_of_labels_stops_a_campaign_that_can_go_on(whole, folder):
    keys = {"run": ALL_ALONG, "labels": {"in_flight": 1, "most": 5}}
    with pytest.raises(RunStoppedError, match=r"labels\.most = 5"):
        run(folder, "poor", **keys)
    path = folder / "poor"
    assert summary.read(path).labels == 5
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("most: 5\n", "most: 500\n"))
    campaigner.resume(path, observer=Silent())
    assert campaigns.differences(whole, path) == []


def test_a_walker_that_gets_no_labels_is_set_aside_and_the_others_go_on(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(faulty_engines.START, str(tmp_path))
    # The first structures are labelled; of what the walkers ask then every second calculation fails.
    (tmp_path / "faults.json").write_text(json.dumps({str(n): "failed" for n in (2, 3, 4)}))
    walkers = [{"structure": "ethanol", "copies": 2}]
    guards = {"guards": {"max_failures": 1}}
    path = run(folder, "aside", run=ALL_ALONG | guards, walkers=walkers)
    states = {row.name: row.state for row in summary.read(path).walkers}
    assert sorted(states.values()) == ["aside", "aside"] or sorted(states.values()) == ["aside", "done"]


@pytest.mark.parametrize(
    ("changes", "key", "allowed"),
    [
        ({"walkers": [{"structure": "ethanol"}, {"structure": "ethanol"}]}, "walkers", "no two walkers share"),
        ({"walkers": [{"structures": "nothing/*.xyz"}]}, "walkers.0.structures", "a pattern that files"),
        ({"walkers": [{"name": "a/b", "structure": "ethanol"}]}, "walkers.0.name", "letters, digits"),
        (
            {"walkers": [{"structure": "ethanol", "dynamics": {"temprature_k": 3}}]},
            "walkers.0 with run",
            "temperature_k",
        ),
        ({"run": {"max_labels": 3}}, "run.max_labels", "labels.most"),
        ({"executor": {"kind": "imported", "executor": "nowhere:Executor"}}, "executor", "nowhere"),
    ],
)
def test_bad_settings_are_refused_by_name(folder, changes, key, allowed):
    with pytest.raises((ConfigError, EngineSetupError)) as refused:
        run(folder, f"bad-{key}-{allowed[:3]}", **changes)
    assert key in str(refused.value) and allowed in str(refused.value)


def test_another_campaign_in_the_directory_and_forbidden_changes_are_refused(whole, folder):
    with pytest.raises(RunDirectoryError, match="another configuration"):
        run(folder, "whole", run=ALL_ALONG, labels={"in_flight": 2})
    changed = folder / "changed"
    shutil.copytree(whole, changed)
    text = (changed / "config.yaml").read_text()
    (changed / "config.yaml").write_text(text.replace("calibration: structure", "calibration: common"))
    with pytest.raises(ConfigError, match="calibration"):
        campaigner.resume(changed, observer=Silent())

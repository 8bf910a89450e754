"""Productions with tiny ensembles: what is written, counted and watched, and that nothing depends on interruptions."""

import copy
import json
import shutil
import sys
from pathlib import Path

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayes_mlff
from bayes_mlff.api import door, producer
from bayes_mlff.core.errors import ConfigError, DataError, RunDirectoryError, WeightsError
from bayes_mlff.data import neighbors
from bayes_mlff.data.structure import Structure, repeated
from bayes_mlff.ensemble import files, saved
from bayes_mlff.md import replicas
from bayes_mlff.md.integrators import kinetic_energy
from bayes_mlff.models import registry
from bayes_mlff.otf import systems
from bayes_mlff.production import setup
from bayes_mlff.production.first_state import first_state
from bayes_mlff.production.loop import Session
from bayes_mlff.runs import checkpoint, replica_folders
from bayes_mlff.runs.observing import Silent
from tests.support import alloy, child_runs, small_run, tiny_runs, trained_runs

SETTINGS = {
    "replicas": 2,
    "temperatures_k": [150.0, 450.0],
    "seed": 5,
    "equilibration": {"duration_ps": 0.005, "timestep_fs": 0.25, "chunk_steps": 12},
    "dynamics": {"ensemble": "nve", "duration_ps": 0.02, "chunk_steps": 8, "trajectory_every": 2},
}
"""20 steps of 0.25 fs, then 40 of 0.5 fs."""

NAMES = ("trajectory.extxyz", "thermo.csv", "equilibration/trajectory.extxyz", "equilibration/thermo.csv")

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module", autouse=True)
def _as_it_is():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "start_jax", lambda chains, running: None)
        patch.setattr(producer.selfcheck, "ensure", lambda say: None)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Directory of a run of ethanol with two random samples."""
    folder = tmp_path_factory.mktemp("trained")
    raw = {key: value for key, value in small_run.CONFIG.items() if key != "model"}
    return trained_runs.write(folder, raw, systems.structure("ethanol"), small_run.initial_model())


@pytest.fixture(scope="module")
def limit(source) -> str:
    """A threshold that about half of the steps are above."""
    return "0.38 eV"


@pytest.fixture(scope="module")
def whole(source, limit, tmp_path_factory) -> Path:
    """A production that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    bayes_mlff.produce(source, path, threshold=limit, **copy.deepcopy(SETTINGS))
    return path


def thermo(path: Path) -> np.ndarray:
    return np.genfromtxt(path / "thermo.csv", delimiter=",", names=True)


def contents(path: Path) -> dict[str, bytes]:
    """What the dynamics has left: files of all replicas, the summary, and the arrays of the last checkpoint."""
    found = {f"{i}/{name}": (each / name).read_bytes() for i, each in enumerate(replica_folders.of(path) or ())
             for name in NAMES}  # fmt: skip
    arrays, _, _ = checkpoint.newest(path / files.CHECKPOINTS)
    found |= {name: array.tobytes() for name, array in arrays.items()}
    return found | {"summary": (path / "summary.json").read_bytes()}


def test_what_is_written_and_counted(whole):
    found = json.loads((whole / "summary.json").read_text())
    about = json.loads((whole / "production.json").read_text())
    assert found["finished"] and about["settings"]["seed"] == 5 and about["versions"]["jax"] == jax.__version__
    assert about["ensemble_sha256"] == about["source_sha256"]
    text = (whole / "summary.txt").read_text()
    assert "production (nve" in text and "of the time above a limit" in text
    steps = {"equilibration": (20, 0.25), "dynamics": (40, 0.5)}
    shares = {}
    for i, folder in enumerate(replica_folders.of(whole)):
        for name, (count, step_fs) in steps.items():
            here = folder if name == "dynamics" else folder / name
            rows, said = thermo(here), found["parts"][name]["replicas"][i]
            np.testing.assert_array_equal(rows["step"], 1 + np.arange(count))
            np.testing.assert_allclose(rows["time_fs"], step_fs * rows["step"])
            above = rows["sigma_ev"] > rows["sigma_crit_ev"]
            assert said["steps_above"] == above.sum()
            shares.setdefault(name, []).append(above.mean())
            slope = np.polyfit(rows["time_fs"] / 1e3, rows["conserved_ev"], 1)[0] * 1e3 / 9
            assert said["conserved_drift_mev_atom_ps"] == pytest.approx(slope, rel=1e-2, abs=0.05)
            assert said["temperature_k"] == pytest.approx(rows["temperature_k"].mean(), rel=1e-6)
            frames = ase.io.read(here / "trajectory.extxyz", index=":")
            every = 2
            assert [frame.info["step"] for frame in frames] == list(range(every, count + 1, every))
            last = frames[-1]
            assert last.get_kinetic_energy() == pytest.approx(rows["kinetic_ev"][-1], rel=1e-5)
            if name == "dynamics":
                np.testing.assert_allclose(last.get_momenta().sum(axis=0), 0.0, atol=1e-4)
    for name, each in shares.items():
        assert found["parts"][name]["share_above"] == pytest.approx(np.mean(each))
    assert 0.0 < np.mean(shares["dynamics"]) < 1.0, "the threshold of this test shows nothing"


def test_the_conserved_energy_holds_from_the_begin_of_each_part(whole):
    """It does not if the first kick has no forces."""
    asked = producer.kept(whole)
    made = setup.prepare(*asked)
    first = first_state(made)
    found = made.evaluate()(made.params, first.device.neighbors.graph)
    kinetic = np.asarray(jax.vmap(kinetic_energy)(first.device.md))
    begin = np.asarray(found.energy_mean, np.float64) + kinetic + made.atomic_ev
    np.testing.assert_allclose(first.host.confirmed_ev, kinetic)
    for folder, energy in zip(replica_folders.of(whole), begin, strict=True):
        assert thermo(folder / "equilibration")["conserved_ev"][0] == pytest.approx(energy, abs=2e-5)
        conserved = thermo(folder)["conserved_ev"]
        assert np.ptp(conserved) < 2e-3, conserved
        before = thermo(folder / "equilibration")["conserved_ev"]
        assert np.ptp(before) < 2e-3, before


def test_a_replica_is_what_it_is_alone_with_its_seed(source, whole, limit, tmp_path):
    raw = copy.deepcopy(SETTINGS) | {"replicas": 1, "temperatures_k": [450.0], "seed": 6, "threshold": limit}
    bayes_mlff.produce(source, tmp_path / "one", **raw)
    one, second = replica_folders.of(tmp_path / "one")[0], replica_folders.of(whole)[1]
    for name in ("", "equilibration"):
        for column in ("potential_ev", "kinetic_ev", "sigma_ev"):
            np.testing.assert_allclose(thermo(one / name)[column], thermo(second / name)[column], rtol=2e-4, atol=1e-5)


class _EndedError(Exception):
    """The process is no more."""


def test_a_production_goes_on_with_the_same_bits(source, whole, limit, tmp_path, monkeypatch):
    """Everything but the checkpoint is written when it ends, in each of both parts."""
    asked = producer.ask(source, copy.deepcopy(SETTINGS) | {"threshold": limit}, base=Path())
    monkeypatch.setattr(Session, "_commit", _failing(Session._commit, {2, 5}))
    path = tmp_path / "run"
    ends = 0
    while True:
        try:
            producer.produce(asked, path, observer=Silent()) if not ends else producer.resume(path, observer=Silent())
            break
        except _EndedError:
            ends += 1
    assert ends == 2
    assert contents(path) == contents(whole)
    (path / "replicas" / "1" / "thermo.csv").write_text("")
    with pytest.raises(RunDirectoryError, match="the checkpoint knows"):
        producer.resume(path, observer=Silent())


def _failing(commit, at):
    calls = iter(range(1000))

    def one(self, state):
        if next(calls) in at:
            raise _EndedError
        commit(self, state)

    return one


def in_child(folder: Path, lab, *arguments: str, fault: str | None = None) -> child_runs.Outcome:
    folder.mkdir(exist_ok=True)
    return child_runs.run(folder, arguments, child_runs.Surroundings(cache=lab.cache, fault=fault))


@pytest.fixture(scope="module")
def command(source, limit, tmp_path_factory) -> tuple[str, ...]:
    """The command line of a production."""
    settings = tmp_path_factory.mktemp("settings") / "production.yaml"
    settings.write_text(json.dumps(SETTINGS | {"threshold": limit}))
    return ("produce", str(source), "--config", str(settings), "-o", "run")


@pytest.fixture(scope="module")
def whole_child(command, lab, tmp_path_factory) -> Path:
    """A production in a process of its own that nobody disturbed."""
    folder = tmp_path_factory.mktemp("child")
    outcome = in_child(folder, lab, *command)
    assert outcome.code == 0 and "ns/day" in outcome.output and "results in run" in outcome.output, outcome.output
    shown = in_child(folder, lab, "status", "run")
    assert shown.output.rstrip() == (folder / "run" / "summary.txt").read_text().rstrip()
    refused = in_child(folder, lab, "report", "run")
    assert refused.code == 2 and "for report, the directory of a run" in refused.output
    return folder / "run"


@pytest.mark.parametrize(
    "fault", ["kill@checkpoint_half_written:3", "kill@trajectory_half_written:5", "SIGINT@thermo_half_written:6"]
)
def test_a_killed_process_goes_on_with_the_same_bits(whole_child, command, lab, tmp_path, fault):
    outcome = in_child(tmp_path, lab, *command, fault=fault)
    assert outcome.code == (75 if fault.startswith("SIGINT") else -9), outcome.output
    if fault.startswith("SIGINT"):
        assert "interrupted by SIGINT at step" in outcome.output and "bayes-mlff resume run" in outcome.output
    assert "'resume run' continues it" in in_child(tmp_path, lab, "status", "run").output
    again = in_child(tmp_path, lab, "resume", "run")
    assert again.code == 0, again.output
    same, expected = contents(tmp_path / "run"), contents(whole_child)
    assert {name for name in expected if same[name] != expected[name]} == set()


@pytest.mark.usefixtures("compiled_afresh")
def test_each_part_is_compiled_once(source, limit, tmp_path, count_compilations):
    seen = []

    class Counting(Silent):
        def progress(self, now):
            seen.append((now.part, count.value))

    asked = producer.ask(source, copy.deepcopy(SETTINGS) | {"threshold": limit}, base=Path())
    made = []
    with pytest.MonkeyPatch.context() as patch:
        real = setup.replicas.make_replicas
        patch.setattr(setup.replicas, "make_replicas", lambda *a, **k: made.append(1) or real(*a, **k))
        with count_compilations() as count:
            producer.produce(asked, tmp_path / "run", observer=Counting())
    assert len(made) == 2
    for part in ("equilibration", "dynamics"):
        counts = [value for name, value in seen if name == part]
        assert len(counts) >= 2 and len(set(counts)) == 1, seen


def test_a_replica_that_breaks_stops_with_its_reason_and_the_others_go_on(source, whole, limit, tmp_path):
    raw = copy.deepcopy(SETTINGS) | {"threshold": limit, "temperatures_k": [150.0, 60000.0]}
    raw["guards"] = {"min_distance_angstrom": 0.7}
    made = bayes_mlff.produce(source, tmp_path / "run", **raw)
    first, second = made.summary["parts"]["equilibration"]["replicas"]
    assert not made.summary["finished"] and first["stopped"] is None and second["stopped"]["kind"] == "guard"
    assert "guards.min_distance_angstrom" in second["stopped"]["reason"]
    assert (made.replicas[0] / "thermo.csv").read_bytes() == (whole / "replicas" / "1" / "thermo.csv").read_bytes()
    folder = made.replicas[1] / "equilibration"
    assert len(thermo(folder)) == second["stopped"]["step"] == second["steps"]
    broken = ase.io.read(folder / "stopped.extxyz")
    assert broken.info["step"] == second["stopped"]["step"] + 1, "the step that broke it is not stored"
    distances = broken.get_all_distances()
    assert distances[distances > 0].min() < 0.7 and not (made.replicas[1] / "thermo.csv").exists()


def test_an_uncertain_replica_can_stop(source, limit, tmp_path):
    raw = copy.deepcopy(SETTINGS) | {"threshold": limit, "on_uncertain": "stop"}
    made = bayes_mlff.produce(source, tmp_path / "run", **raw)
    for part in made.summary["parts"].values():
        for each in part["replicas"]:
            if each["stopped"] is not None:
                assert each["stopped"]["kind"] == "uncertain" and each["steps_above"] == 1
                assert each["stopped"]["step"] == each["steps"] and "its limit" in each["stopped"]["reason"]
    assert any(each["stopped"] for part in made.summary["parts"].values() for each in part["replicas"])


def test_the_model_before_the_run_has_no_sigma(source, tmp_path):
    raw = copy.deepcopy(SETTINGS) | {"model": "pretrained", "equilibration": None}
    made = bayes_mlff.produce(source, tmp_path / "run", **raw)
    assert made.summary["parts"]["dynamics"]["share_above"] is None
    assert np.isnan(thermo(made.replicas[0])["sigma_ev"]).all()
    assert "nothing was watched" in (tmp_path / "run" / "summary.txt").read_text()


def test_energies_of_copies_are_so_many_times_that_of_one(tmp_path):
    """A crystal and its supercell, by the ensemble and on the scale of the reference."""
    cell = np.array([[4.0, 0.1, 0.0], [0.0, 4.3, 0.2], [0.0, 0.0, 4.5]])
    unit = Structure(np.array([8, 1, 1]), np.array([[0.1, 0, 0], [1.0, 0, 0], [0, 1.1, 0.2]]), cell, np.ones(3, bool))
    folder = tmp_path / "crystal"
    folder.mkdir()
    raw = {key: value for key, value in small_run.CONFIG.items() if key not in ("model", "validation_frames")}
    source = trained_runs.write(folder, raw | {"structure": "x"}, unit, small_run.initial_model())
    energies, forces, sigmas = [], [], []
    for times in ([1, 1, 1], [2, 1, 2]):
        asked = producer.ask(source, {"supercell": times, "replicas": 1, "equilibration": None}, base=Path())
        made = setup.prepare(asked.config, asked.material)
        spec, near = neighbors.allocate(made.structure, made.elements, made.r_max)
        found = made.evaluate()(made.params, replicas.stack([neighbors.update(near, spec)]).graph)
        energies.append(float(found.energy_mean[0]) + made.atomic_ev)
        forces.append(np.asarray(found.forces_mean[0]))
        sigmas.append(float(jnp.std(found.chain_energy[:, 0], ddof=1)))
    assert energies[1] == pytest.approx(4.0 * energies[0], rel=1e-6)
    assert sigmas[1] == pytest.approx(4.0 * sigmas[0], rel=1e-3)
    np.testing.assert_allclose(forces[1], np.tile(forces[0], (4, 1)), atol=1e-4)
    assert repeated(unit, (2, 1, 2)).positions.shape == (12, 3)


def test_analyse_reads_all_replicas_together(whole, tmp_path):
    done = bayes_mlff.analyse([whole], what=["vdos", "bonds"], output=tmp_path)
    source = json.loads((tmp_path / "vdos.json").read_text())["trajectories"]
    assert len(source) == 2 and all(each["velocities"] for each in source) and all(each.finding for each in done)


def test_other_elements_formats_and_directories_are_refused_by_name(source, whole, limit, tmp_path):
    atoms = ase.Atoms("AlCO", positions=np.eye(3) * 3.0)
    ase.io.write(tmp_path / "other.xyz", atoms, format="extxyz")
    with pytest.raises(DataError, match=r"elements \['Al'\].*\['H', 'C', 'O'\]"):
        bayes_mlff.produce(source, tmp_path / "x", structure=tmp_path / "other.xyz")
    with pytest.raises(ConfigError, match=r"supercell: .*1 along a, in which the structure is not periodic"):
        bayes_mlff.produce(source, tmp_path / "x", supercell=[2, 1, 1])
    with pytest.raises(ConfigError, match=r"dynamics.ensemble: got 'npt'.*periodic in three"):
        bayes_mlff.produce(source, tmp_path / "x", dynamics={"ensemble": "npt"})
    with pytest.raises(ConfigError, match=r"structure: got None.*path of a structure"):
        bayes_mlff.produce(source / files.NAME, tmp_path / "x")
    with pytest.raises(ConfigError, match=r"model: got 'pretrained'.*only the directory of a run"):
        bayes_mlff.produce(source / files.NAME, tmp_path / "x", structure="ethanol", model="pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "netCDF4", None)
        with pytest.raises(ConfigError, match=r"format: got 'netcdf'.*bayes-mlff\[netcdf\]"):
            bayes_mlff.produce(source, tmp_path / "x", format="netcdf")
    with pytest.raises(ConfigError, match="ensemble: got"):
        bayes_mlff.produce(tmp_path, tmp_path / "x")
    newer = tmp_path / "newer.safetensors"
    shutil.copy(source / files.NAME, newer)
    present = f'"format":"{saved.FORMAT}"'.encode()
    newer.write_bytes(newer.read_bytes().replace(present, b'"format":"9"'))
    with pytest.raises(WeightsError, match=f"format 9; this version reads up to {saved.FORMAT}"):
        bayes_mlff.produce(newer, tmp_path / "x", structure="ethanol")
    assert not (tmp_path / "x").exists()
    raw = copy.deepcopy(SETTINGS) | {"threshold": limit}
    with pytest.raises(ConfigError, match=r"seed: got 9; allowed: 5, as in the production that"):
        bayes_mlff.produce(source, whole, **(raw | {"seed": 9}))
    with pytest.raises(ConfigError, match=r"output: .*new or empty"):
        bayes_mlff.produce(source, source, **raw)
    again = bayes_mlff.produce(source, whole, **raw)
    assert again.summary["finished"]


def test_a_file_of_an_ensemble_is_enough_with_a_structure(source, whole):
    found = producer.ask(source / files.NAME, {"structure": "ethanol"}, base=Path())
    kept = producer.kept(whole)
    assert found.material.calibrations == kept.material.calibrations and found.material.run is not None
    assert saved.same(found.material.ensemble, kept.material.ensemble)


@pytest.fixture(scope="module")
def alloy_source(tmp_path_factory) -> Path:
    """Directory of a run of an alloy whose cell moves, with two random samples."""
    folder = tmp_path_factory.mktemp("alloy")
    raw = {key: value for key, value in tiny_runs.NPT.items() if key != "structure"}
    return trained_runs.write(folder, raw | {"structure": "x"}, alloy.structure(), registry.initialize(alloy.MODEL, 0))


def test_cells_of_copies_move_each_with_its_temperature(alloy_source, tmp_path):
    """Constant pressure, of which the conditions are those at the end of the run's schedule."""
    raw = {
        "supercell": [1, 1, 2],
        "temperatures_k": [500.0, 900.0],
        "equilibration": None,
        "dynamics": {"duration_ps": 0.012, "chunk_steps": 6, "barostat": {"time_fs": 20.0}},
    }
    made = bayes_mlff.produce(alloy_source, tmp_path / "run", **raw)
    kept = producer.kept(tmp_path / "run").config
    assert kept.dynamics.ensemble == "npt" and kept.dynamics.pressure_gpa == -2.0
    assert made.summary["atoms"] == 16 and made.summary["finished"]
    assert made.summary["threshold_ev"] == pytest.approx(0.004 * np.sqrt(2.0))
    for each, folder in zip(made.summary["parts"]["dynamics"]["replicas"], made.replicas, strict=True):
        rows = thermo(folder)
        assert np.ptp(rows["volume_a3"]) > 0.0 and np.isfinite(rows["pressure_gpa"]).all()
        assert each["pressure_gpa"] == pytest.approx(rows["pressure_gpa"].mean(), rel=1e-5)
        assert each["volume_a3"] == pytest.approx(rows["volume_a3"].mean(), rel=1e-6)
        last = ase.io.read(folder / "trajectory.extxyz", index=-1)
        assert last.get_volume() == pytest.approx(rows["volume_a3"][last.info["step"] - 1], rel=1e-6)
    cold, hot = (thermo(folder)["temperature_k"][0] for folder in made.replicas)
    assert cold < hot

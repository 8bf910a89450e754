"""The run report, on run directories that these tests write."""

import base64
import csv
import json
import re

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from matplotlib.figure import Figure

from bayes_mlff.analysis import torsions
from bayes_mlff.core.errors import DataError, RunDirectoryError
from bayes_mlff.core.units import KCAL_MOL
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.readings import Reading
from bayes_mlff.data.structure import from_ase
from bayes_mlff.ensemble import error_law
from bayes_mlff.report import figures
from bayes_mlff.report import page as report

THRESHOLD = 0.5 * KCAL_MOL
OFFSET = 17.0
COLUMNS = ("step", "time_fs", "temperature_k", "potential_ev", "kinetic_ev", "total_ev", "sigma_ev",
           "sigma_crit_ev", "sigma_force_max_ev_a")  # fmt: skip
CONFIG = "structure: <b>ethanol</b>.xyz\ndynamics: {duration_ps: 0.9995}\n"  # 1999 steps
SENTENCES = ("No label has been predicted", "Fewer than two errors are known", "Fewer than two steps")


def _ethanol(dihedral: float):
    """Ethanol with a given C-C-O-H dihedral; atom 3 is the hydroxyl hydrogen."""
    atoms = molecule("CH3CH2OH")
    far, near, oxygen, hydrogen = torsions.hydroxyl(from_ase(atoms))
    atoms.set_dihedral(far, near, oxygen, hydrogen, dihedral, indices=[hydrogen])
    return atoms


def write_run(path, *, labels: int, steps: int = 2_000, frames: int = 150, atoms=None):
    """A run whose errors follow its calibration; returns errors and sigmas of the predicted labels."""
    rng = np.random.default_rng(3)
    path.mkdir(exist_ok=True)
    (path / "config.yaml").write_text(CONFIG)
    state = error_law.init(floor=0.1 * THRESHOLD)
    times = np.concatenate([[0], np.sort(rng.choice(np.arange(1, steps), max(labels - 1, 0), replace=False))])
    events = [{"event": "run_started", "time": 1000.0}]
    kept = []
    crit = np.full(steps, error_law.critical_sigma(state, THRESHOLD))
    for i, step in enumerate(times[:labels]):
        structure = from_ase(_ethanol(180 * np.cos(step / 300)) if atoms is None else atoms)
        forces = rng.normal(size=(len(structure.numbers), 3))
        energy = -100.0 + rng.normal()
        record = LabelRecord(
            structure,
            Label(energy, forces),
            int(step),
            0.5 * step,
            "initial",
            OFFSET,
            energy + OFFSET,
            "abc",
            2.0,
        )
        record = record._replace(predicted_energy_mean=energy + OFFSET, predicted_energy_sigma=1.0)
        if i:
            sigma = error_law.critical_sigma(state, THRESHOLD) * rng.uniform(1.0, 1.4)
            error = 1.8 * sigma * rng.normal()
            record = record._replace(
                reason="audit" if i % 7 == 0 else "uncertain",
                pretrained_energy=energy + OFFSET + rng.normal() * KCAL_MOL,
                predicted_energy_mean=energy + OFFSET + error,
                predicted_energy_sigma=sigma,
                predicted_forces_mean=forces + 0.05,
                predicted_forces_sigma=np.full_like(forces, 0.05),
                readings=(Reading("energy", sigma, error_law.critical_sigma(state, THRESHOLD), "eV"),),
                confidence=0.9,
            )
            state = error_law.update(state, error, sigma)
            kept.append((error, sigma))
        crit[step:] = error_law.critical_sigma(state, THRESHOLD)
        dataset.append(path / "dataset.extxyz", record)
        now = 1000.0 + 10.0 * i
        events.append({"event": "label", "time": now, "step": int(step), "engine_s": 2.0})
        events.append({"event": "update", "time": now, "step": int(step), "seconds": 3.0})
    events.append({"event": "finished", "time": 2000.0})
    (path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    _write_thermo(path / "thermo.csv", steps, crit, rng)
    stamped = [_ethanol(180 * np.cos(s / 300)) if atoms is None else atoms.copy() for s in range(0, steps, 10)]
    for index, frame in enumerate(stamped):
        frame.info = {"step": 10 * index, "time_fs": 5.0 * index}
    if stamped:
        ase.io.write(path / "trajectory.extxyz", stamped)
    if frames:
        reference, sigma = rng.normal(size=frames) * 0.1, 0.1 * THRESHOLD * rng.lognormal(0, 0.7, frames)
        predicted = reference + 1.8 * sigma * rng.normal(size=frames)
        pretrained = reference + KCAL_MOL * rng.normal(size=frames)
        np.savez(path / "validation.npz", step=np.arange(frames), reference_ev=reference, predicted_ev=predicted,
                 sigma_ev=sigma, pretrained_ev=pretrained)  # fmt: skip
    return np.array(kept).reshape(-1, 2).T


def _write_thermo(path, steps, crit, rng):
    time = 0.5 * np.arange(steps)
    potential = -100.0 + 0.1 * np.sin(time / 50) + 0.02 * rng.normal(size=steps)
    temperature = 300 + 60 * np.sin(time / 170) + 25 * rng.normal(size=steps)
    kinetic = 0.3 * temperature / 300
    sigma = np.minimum(crit, 0.5 * crit * rng.lognormal(0, 0.3, steps))
    columns = (
        np.arange(steps),
        time,
        temperature,
        potential,
        kinetic,
        potential + kinetic,
        sigma,
        crit,
        2 * sigma,
    )
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(zip(*columns, strict=True))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    return path, *write_run(path, labels=40)


def test_page_is_self_contained_and_has_every_figure(full):
    path = report.write_report(full[0], threshold_ev=THRESHOLD, title="Run <script>alert(1)</script> & more")
    page = path.read_text(encoding="utf-8")
    assert path == full[0] / "report.html"
    assert "<script" not in page
    assert "Run &lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "&lt;b&gt;ethanol&lt;/b&gt;" in page
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == 7
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    assert set(re.findall(r'src="([^,"]+)', page)) == {"data:image/png;base64"}
    assert not re.search(r"https?://", page)
    assert not any(sentence in page for sentence in SENTENCES)


def test_summary_counts_and_errors(full):
    path, error, _ = full
    got = report.summary(path, threshold_ev=THRESHOLD)
    above = int(np.sum(np.abs(error) > THRESHOLD))
    assert (got.formula, got.n_atoms, got.steps, got.time_fs) == ("C2H6O", 9, 1999, 999.5)
    assert (got.labels, got.initial, got.audit, got.above_threshold) == (40, 1, 5, above)
    assert got.share_above.observed == pytest.approx(above / 39, rel=1e-12)
    assert got.share_above.lower < above / 39 < got.share_above.upper
    assert got.rmse_ev == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-9)
    assert 0.6 * KCAL_MOL < got.rmse_pretrained_ev < 1.4 * KCAL_MOL
    assert got.force_rmse_ev_a == pytest.approx(0.05, rel=1e-9)
    with np.load(path / "validation.npz") as frames:
        above = int(np.sum(np.abs(frames["predicted_ev"] - frames["reference_ev"]) > THRESHOLD))
    assert (got.validation_frames, got.validation_above) == (150, above)
    assert got.validation_rmse_ev < 0.5 * got.validation_pretrained_rmse_ev
    assert got.wall == report.WallTime(total_s=1000.0, md_s=800.0, dft_s=80.0, update_s=120.0)
    assert got.steps_per_s == pytest.approx(1999 / 800, rel=1e-12)
    assert got.finished


def test_table_shows_both_units(full):
    page = report.write_report(full[0], threshold_ev=THRESHOLD, title="t").read_text(encoding="utf-8")
    assert "0.5 kcal/mol = 2.41 meV/atom" in page
    assert "<th>Random frames above the threshold</th>" in page
    assert "0:16:40 h: dynamics and rest 0:13:20 h, reference calculations 0:01:20 h, sampling 0:02:00 h" in page


@pytest.mark.parametrize("labels", [0, 1, 2, 3])
def test_few_data_give_sentences_and_no_failure(tmp_path, labels):
    write_run(tmp_path, labels=labels, steps=labels, frames=labels // 2)
    page = report.write_report(tmp_path, threshold_ev=THRESHOLD, title="short").read_text(encoding="utf-8")
    got = report.summary(tmp_path, threshold_ev=THRESHOLD)
    assert got.labels == labels
    assert (got.rmse_ev is None) == (labels < 2)
    assert ("No label has been predicted" in page) == (labels < 2)
    assert "nan" not in page.split("<style>")[0] + page.split("</style>")[1].split("<section>")[1]


def test_empty_run_directory_that_has_only_begun(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    page = report.write_report(tmp_path, threshold_ev=THRESHOLD, title="begun").read_text(encoding="utf-8")
    assert "data:image" not in page
    assert all(sentence in page for sentence in (SENTENCES[0], SENTENCES[2]))
    assert not report.summary(tmp_path, threshold_ev=THRESHOLD).finished


def test_calibration_that_cannot_be_replayed_is_said(tmp_path):
    write_run(tmp_path, labels=6, steps=50, frames=0)
    page = report.write_report(tmp_path, threshold_ev=THRESHOLD, title="t").read_text(encoding="utf-8")
    assert "could not be replayed" not in page
    # Another threshold or prior than the run's own contradicts the critical sigmas stored with the labels.
    page = report.write_report(tmp_path, threshold_ev=1.001 * THRESHOLD, title="t").read_text(encoding="utf-8")
    assert page.count("could not be replayed") == 2
    (tmp_path / "config.yaml").write_text(CONFIG + "calibration: {a: 1.5}\n")
    page = report.write_report(tmp_path, threshold_ev=THRESHOLD, title="t").read_text(encoding="utf-8")
    assert page.count("could not be replayed") == 2


def test_unfinished_last_lines_are_left_out(tmp_path):
    write_run(tmp_path, labels=3, steps=20, frames=0)
    for name, torn in (("thermo.csv", "20,10.0,30"), ("events.jsonl", '{"event": "lab')):
        with (tmp_path / name).open("a") as file:
            file.write(torn)
    assert report.summary(tmp_path, threshold_ev=THRESHOLD).steps == 19


def test_all_of_a_session_counts_and_nothing_between_sessions(tmp_path):
    write_run(tmp_path, labels=2, steps=5, frames=0)
    events = (
        {"event": "session_started", "time": 60.0},
        {"event": "engine_remark", "time": 100.0, "remark": ""},
        {"event": "label", "time": 100.0, "engine_s": 39.0},
        {"event": "update", "time": 110.0, "seconds": 10.0},
        {"event": "run_started", "time": 110.0},
        {"event": "chunk", "time": 115.0, "steps": 5, "seconds": 5.0},
        {"event": "session_started", "time": 86400.0},
        {"event": "resumed", "time": 86405.0},
        {"event": "run_started", "time": 86405.0},
        {"event": "finished", "time": 86410.0},
        {"event": "random_frame", "time": 86440.0, "engine_s": 30.0},
    )
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    wall = report.summary(tmp_path, threshold_ev=THRESHOLD).wall
    assert wall == report.WallTime(total_s=95.0, md_s=16.0, dft_s=69.0, update_s=10.0)


def test_sessions_of_an_older_run_add_up(tmp_path):
    write_run(tmp_path, labels=2, steps=5, frames=0)
    times = (
        ("run_started", 0.0),
        ("chunk", 60.0),
        ("run_started", 86400.0),
        ("chunk", 86520.0),
    )
    lines = [json.dumps({"event": event, "time": time}) + "\n" for event, time in times]
    (tmp_path / "events.jsonl").write_text("".join(lines))
    assert report.summary(tmp_path, threshold_ev=THRESHOLD).wall.total_s == 180.0


def test_other_systems_have_no_conformation_panel(tmp_path):
    write_run(tmp_path, labels=4, steps=30, frames=0, atoms=molecule("CH3OCH3"))
    page = report.write_report(tmp_path, threshold_ev=THRESHOLD, title="ether").read_text(encoding="utf-8")
    assert "Conformation" not in page


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", None, "no config.yaml"),
        ("thermo.csv", "step,time_fs\n1,2\n", "temperature_k"),
        ("events.jsonl", "{]\n", "line 1 is not JSON"),
        ("events.jsonl", '{"time": 1}\n', "'event' is a name"),
        ("events.jsonl", '{"event": "label", "time": 1}\n', "'engine_s' of event 'label' is None"),
        ("events.jsonl", '{"event": "label", "time": "noon"}\n', "'time' of event 'label' is 'noon'"),
    ],
)
def test_unusable_files_are_named(tmp_path, name, content, message):
    write_run(tmp_path, labels=0, steps=0, frames=0)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(RunDirectoryError, match=message):
        report.summary(tmp_path, threshold_ev=THRESHOLD)


def test_validation_file_without_an_array_is_refused(tmp_path):
    write_run(tmp_path, labels=0, steps=0, frames=0)
    np.savez(tmp_path / "validation.npz", step=np.arange(2), reference_ev=np.zeros(2))
    with pytest.raises(DataError, match="no array predicted_ev"):
        report.summary(tmp_path, threshold_ev=THRESHOLD)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.04, 3.0, ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        (0.95, 1.62, ["1", "1.2", "1.4", "1.6"]),
        (1.1, 1.9, ["1.2", "1.4", "1.6", "1.8"]),
    ],
)
def test_logarithmic_axes_have_several_plain_numbers_however_short(low, high, labels):
    axes = Figure().subplots()
    axes.set(xscale="log", xlim=(low, high))
    figures.plain_log(axes.xaxis)
    axes.figure.canvas.draw()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [label.get_text() for at, label in ticks if low <= at <= high] == labels

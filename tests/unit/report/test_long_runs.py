"""Long runs are read in little memory: a part of the logged steps and frames, the same part of any of them."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.readings import Reading
from bayes_mlff.otf import systems, validate
from bayes_mlff.report import page as report
from bayes_mlff.report import run_data, standing, status
from bayes_mlff.runs import frame_index, thermo_log, trajectory
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import THERMO_COLUMNS, Frame
from bayes_mlff.runs.validation import Validation

ROWS = 200_000
ETHANOL = systems.structure("ethanol", base=Path())


def write_thermo(path: Path, steps, *, odd: str | None = None) -> None:
    rest = ",300,-100,0.3,-99.7,0.003,0.01,0.05,-99.7,nan,nan\n"
    lines = [f"{step},{0.5 * step:.8g}{rest}" for step in steps]
    if odd is not None:
        lines = [odd if i % 2 else line for i, line in enumerate(lines)]
    path.write_text(",".join(THERMO_COLUMNS) + "\n" + "".join(lines))


def write_frames(folder: Path, count: int) -> None:
    run = RunDirectory(folder)
    frames = (Frame(i, 0.5 * i, ETHANOL.positions + 0.001 * i, ETHANOL.cell, None) for i in range(count))
    run.append_frames(ETHANOL.numbers, ETHANOL.pbc, frames)


def settings(folder: Path, steps: int, more: str = "") -> None:
    (folder / "start").mkdir(parents=True, exist_ok=True)
    text = f"structure: ethanol\nthreshold: 20 meV\ndynamics: {{duration_ps: {steps * 0.0005:g}}}\n{more}"
    (folder / "config.yaml").write_text(text)


def label(folder: Path, step: int, **more) -> None:
    record = LabelRecord(ETHANOL, Label(-100.0, np.zeros((9, 3))), step, 0.5 * step, "initial", 0.0, None, "abc", 10.0)
    dataset.append(folder / "dataset.extxyz", record._replace(**more))


def log(folder: Path, *events: dict) -> None:
    lines = (json.dumps({"time": 10.0 * i, **event}) + "\n" for i, event in enumerate(events))
    (folder / "events.jsonl").write_text("".join(lines))


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    settings(folder, 2 * ROWS)
    write_thermo(folder / "thermo.csv", range(1, ROWS + 1))
    write_frames(folder, 10_000)
    label(folder, 0)
    label(folder, 4321, reason="uncertain", predicted_energy_mean=-100.0, predicted_energy_sigma=0.7,
          readings=(Reading("energy", 0.7, 0.6, "eV"),))  # fmt: skip
    return folder


def test_a_small_file_is_read_whole(tmp_path):
    write_thermo(tmp_path / "thermo.csv", range(1, 500))
    found = thermo_log.read(tmp_path / "thermo.csv")
    np.testing.assert_array_equal(found.steps, np.arange(1, 500))
    assert found.rows == 499 and found.thermo.sigma_crit_ev[-1] == 0.01


def test_of_a_large_file_an_even_part_is_read_in_little_memory(long):
    assert (long / "thermo.csv").stat().st_size > thermo_log.WHOLE_BYTES
    tracemalloc.start()
    found = thermo_log.read(long / "thermo.csv")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6
    assert found.steps[0] == 1 and found.steps[-1] == ROWS
    assert abs(found.rows - ROWS) < 0.01 * ROWS
    assert len(found.steps) < ROWS
    np.testing.assert_array_equal(found.thermo.time_fs, 0.5 * found.steps)  # no row is torn
    assert (np.diff(found.steps) > 0).all() and np.diff(found.steps).max() < 3.0 * ROWS / thermo_log.BLOCKS


@pytest.mark.parametrize(("odd", "said"), [("x,1\n", "needs numbers"), ("7,nan,300,-1,1,1,1,1,1,1,1,1\n", "step 7")])
def test_what_is_wrong_in_a_large_file_is_named(tmp_path, monkeypatch, odd, said):
    monkeypatch.setattr(thermo_log, "WHOLE_BYTES", 1 << 12)
    monkeypatch.setattr(thermo_log, "BLOCKS", 20)
    write_thermo(tmp_path / "thermo.csv", range(1, 2000), odd=odd)
    with pytest.raises(RunDirectoryError, match=said):
        thermo_log.read(tmp_path / "thermo.csv")


def test_a_line_that_is_being_written_is_left_out_of_a_large_file(long, tmp_path):
    text = (long / "thermo.csv").read_text()
    (tmp_path / "thermo.csv").write_text(text + "200001,100000.5,30")
    assert thermo_log.read(tmp_path / "thermo.csv").steps[-1] == ROWS


def test_the_report_says_what_it_is_drawn_from_and_keeps_the_labels(long):
    run = run_data.read(long)
    page = report.write_report(long, threshold_ev=run.threshold_ev, title="t").read_text()
    assert "logged steps, in evenly spaced groups" in page and "4000 of 10000 frames, evenly spaced" in page
    assert report._with_labels(run).sigma_ev.max() == 0.7
    assert f"step {ROWS} of {2 * ROWS} (50.0%)" in page


def test_frames_are_found_without_being_read(long, monkeypatch):
    monkeypatch.setattr(frame_index, "_BLOCK", 1000)  # frames and lines cross the blocks
    found = trajectory.frames(long / "trajectory.extxyz")
    assert found.count == 10_000
    every = trajectory.read(long / "trajectory.extxyz", most=11)
    np.testing.assert_array_equal(every.step, np.linspace(0, 9999, 11).round())
    np.testing.assert_allclose(every.positions[-1], ETHANOL.positions + 9.999, rtol=0, atol=1e-7)
    assert every.stored == 10_000


def test_random_frames_of_a_long_run_are_read_alone(long):
    tracemalloc.start()
    drawn = validate.random_frames(RunDirectory(long), 5, seed=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6
    assert len({step for step, _ in drawn}) == 5 and [step for step, _ in drawn] == sorted(step for step, _ in drawn)
    for step, structure in drawn:
        np.testing.assert_allclose(structure.positions, ETHANOL.positions + 0.001 * step, rtol=0, atol=1e-7)
    assert drawn[1][0] not in {step for step, _ in validate.random_frames(RunDirectory(long), 5, 3, [drawn[1][0]])}


def test_random_frames_are_never_labelled_ones(long):
    labelled = range(0, 9_990)
    steps = [step for step, _ in validate.random_frames(RunDirectory(long), 10, 4, labelled)]
    assert steps == list(range(9_990, 10_000))
    assert len(validate.random_frames(RunDirectory(long), 11, 4, labelled)) == 10


def test_further_columns_of_a_trajectory_are_left_alone(tmp_path):
    path = tmp_path / "trajectory.extxyz"
    head = "step=0 time_fs=0 Properties=species:S:1:pos:R:3:momenta:R:3:held:L:1"
    path.write_text(f"1\n{head}\nHe 0 1 2 7 8 9 T\n")
    np.testing.assert_array_equal(trajectory.read(path).positions, [[[0.0, 1.0, 2.0]]])
    for wrong in (f"1\n{head}\nHe 0 1 2\n", f"1\n{head.replace('species:S:1:pos', 'pos')}\nHe 0 1 2 7 8 9 T\n"):
        path.write_text(wrong)
        with pytest.raises(RunDirectoryError, match=r"columns|Properties"):
            trajectory.read(path)


def test_many_chunks_become_few_events_that_add_up(tmp_path):
    settings(tmp_path, 1000)
    chunks = [{"event": "chunk", "step": 8 * i, "steps": 8, "seconds": 0.5} for i in range(1, 4001)]
    log(tmp_path, {"event": "session_started"}, *chunks, {"event": "label", "step": 32000, "engine_s": 1.0}, chunks[0])
    events = run_data.read(tmp_path).events
    assert [e["event"] for e in events] == ["session_started", *["chunk"] * 4, "label", "chunk"]
    assert sum(e["steps"] for e in events if e["event"] == "chunk") == 8 * 4001
    assert events[4]["step"] == 32000
    assert run_data.summary(tmp_path, threshold_ev=0.02).wall.total_s == 10.0 * 4002


@pytest.mark.parametrize(
    ("steps", "events", "name", "said"),
    [
        (0, [], "not begun", "not begun"),
        (520, [{"event": "session_started"}, {"event": "finished"}], "finished", "more are wanted"),
        (520, [{"event": "session_started"}, {"event": "chunk", "step": 520, "steps": 1, "seconds": 1.0}],
         "broken off", "killed, or ended by an error"),
        (520, [{"event": "session_started"}, {"event": "interrupted", "step": 520, "reason": "SIGTERM"}],
         "interrupted", "interrupted by SIGTERM"),
        (520, [{"event": "session_started"}, {"event": "stopped", "step": 520, "reason": "max_labels = 3 reached"}],
         "stopped", "max_labels = 3 reached"),
        (520, [{"event": "interrupted", "reason": "SIGTERM"}, {"event": "session_started"}], "broken off", "killed"),
        (1000, [{"event": "session_started"}], "finished", "finished"),
    ],
)  # fmt: skip
def test_the_state_of_a_run_is_decided_by_its_steps_and_last_events(tmp_path, steps, events, name, said):
    settings(tmp_path, 1000)
    write_thermo(tmp_path / "thermo.csv", range(1, steps + 1))
    log(tmp_path, *events)
    run = run_data.read(tmp_path)
    found = standing.state(tmp_path, run.log)
    assert found.name == name and said in found.sentence
    assert ("resume" in found.sentence) == (steps < 1000)
    assert run_data.summary(tmp_path, threshold_ev=0.02).finished == (steps == 1000)


def test_a_run_whose_random_frames_are_missing_is_not_finished(tmp_path):
    settings(tmp_path, 10, "validation_frames: 3\n")
    write_thermo(tmp_path / "thermo.csv", range(1, 11))
    log(tmp_path, {"event": "finished"})
    assert "not 3 random frames labelled" in standing.state(tmp_path, run_data.read(tmp_path).log).sentence


@pytest.mark.parametrize(("asked", "name"), [(3, "finished"), (2, "interrupted")])
def test_a_run_without_enough_frames_that_are_no_labels_is_finished_with_fewer(tmp_path, asked, name):
    settings(tmp_path, 10, "validation_frames: 3\n")
    write_thermo(tmp_path / "thermo.csv", range(1, 11))
    RunDirectory(tmp_path).store_validation(**dict.fromkeys(Validation._fields, np.zeros(2)))
    log(tmp_path, {"event": "random_frames_missing", "asked": asked, "found": 2}, {"event": "interrupted", "step": 10})
    assert standing.state(tmp_path, run_data.read(tmp_path).log).name == name


def test_a_run_that_another_process_works_on_is_running(tmp_path):
    run = RunDirectory(tmp_path)
    run.create("structure: ethanol\n")
    assert standing.state(tmp_path, run_data.read(tmp_path).log).name == "not begun"
    run.open()
    assert standing.state(tmp_path, run_data.read(tmp_path).log).name == "running"
    run.close()


def test_the_target_is_that_of_the_settings_in_force_and_the_step_that_of_the_checkpoint(tmp_path):
    settings(tmp_path, 1000)
    (tmp_path / "config.in_force.yaml").write_text((tmp_path / "config.yaml").read_text())
    settings(tmp_path, 5000)
    write_thermo(tmp_path / "thermo.csv", range(1, 601))  # rows that no checkpoint knows will be taken again
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "000000520.ckpt").write_bytes(b"")
    assert standing.progress(run_data.read(tmp_path).log) == "0.260 of 0.5 ps, step 520 of 1000 (52.0%)"


def test_the_rest_is_estimated_from_the_last_steps_with_their_labels(tmp_path):
    settings(tmp_path, 1000)
    write_thermo(tmp_path / "thermo.csv", range(1, 501))
    log(
        tmp_path,
        {"event": "chunk", "step": 300, "steps": 300, "seconds": 1e6},  # long ago, with compilation
        {"event": "label", "step": 300, "engine_s": 1e6},
        {"event": "update", "step": 300, "seconds": 1e6},
        {"event": "chunk", "step": 500, "steps": 100, "seconds": 20.0},
        {"event": "label", "step": 500, "engine_s": 60.0},
        {"event": "update", "step": 500, "seconds": 20.0},
    )
    assert standing.remaining_s(run_data.read(tmp_path).log) == 500.0


@pytest.mark.parametrize(
    ("threshold", "said"),
    [("20 meV", "20 meV with 95%"), ("0.5 kcal/mol", "0.5 kcal/mol"), ("1.5e-3 eV/atom", "0.0015 eV/atom"),
     ("2E1 kJ/mol", "20 kJ/mol"), (".5eV", "0.5 eV")],
)  # fmt: skip
def test_energies_are_said_in_the_unit_of_the_threshold(tmp_path, threshold, said):
    (tmp_path / "config.yaml").write_text(f"structure: ethanol\nthreshold: {threshold}\n")
    label(tmp_path, 0)
    label(tmp_path, 4, reason="audit", predicted_energy_mean=-100.01, predicted_energy_sigma=0.7,
          readings=(Reading("energy", 0.7, 0.6, "eV"),))  # fmt: skip
    rows = dict(status.rows(tmp_path, run_data.read(tmp_path).log))
    assert rows["threshold"].startswith(said)
    text = " ".join(rows.values())
    assert "None" not in text and "(observed" not in text and "Share" not in text
    assert rows["labels"] == "2 of at most 500 (1 initial, 1 audits), the last at 0.002 ps"

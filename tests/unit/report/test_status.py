"""A run on one screen: in the units of its user, complete, and read from the files that a run keeps."""

import json

import numpy as np
import pytest

from bayes_mlff.core.errors import DataError, RunDirectoryError
from bayes_mlff.data import dataset, label_notes
from bayes_mlff.otf import config
from bayes_mlff.report import run_data, run_log, run_summary, status
from tests.support import kept_runs


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return kept_runs.write(tmp_path_factory.mktemp("kept") / "run")


@pytest.mark.parametrize(("threshold", "sigma", "limit"), [
    ("0.5 kcal/mol", "σ of the energy 0.1 kcal/mol", "above 0.2 kcal/mol"),
    ("1 kJ/mol", "0.418 kJ/mol", "0.837 kJ/mol"),
    ("3 meV/atom", "0.482 meV/atom", "0.964 meV/atom"),
])  # fmt: skip
def test_the_screen_speaks_the_units_of_the_threshold(tmp_path, threshold, sigma, limit):
    run = kept_runs.write(tmp_path / "run", threshold=threshold)
    rows = dict(status.rows(run, run_log.read(run)))
    assert sigma in rows["now"] and limit in rows["a label is asked for"]
    text = "\n".join(rows.values())
    assert not any(phrase in text for phrase in ("None", "(observed", "np.", "nan", " eV"))


def test_the_screen_says_where_the_run_is_what_happened_and_how_to_go_on(kept):
    rows = dict(status.rows(kept, run_log.read(kept)))
    assert rows["state"].startswith("stopped because of this: max_labels = 3 reached; go on with: bayes-mlff resume")
    assert rows["simulated"] == "0.250 of 0.5 ps, step 500 of 1000 (50.0%)"
    assert rows["still to go"].startswith("about 2 min 30 s")
    assert rows["now"].startswith("312 K, 1.25 GPa")
    assert rows["labels"] == "3 of at most 500 (1 initial, 1 audits), the last at 0.150 ps"
    assert rows["last roll-back"] == "step 200: two atoms at 0.3 Å"
    assert "only 1 audit, 10 are needed" in rows["verdict"]
    assert all(len(name) <= status.WIDTH for name in rows)


def test_a_configuration_alone_is_no_run_to_resume(tmp_path):
    (tmp_path / "config.yaml").write_text(config.template())
    rows = dict(status.rows(tmp_path, run_log.read(tmp_path)))
    assert "bayes-mlff run" in rows["state"] and "resume" not in rows["state"]
    assert rows["system"] == "ethanol, no labels yet"


def test_labels_alone_are_shown_but_not_called_a_run(kept, tmp_path):
    (tmp_path / "dataset.extxyz").write_bytes((kept / "dataset.extxyz").read_bytes())
    text = (kept / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text("structure: ethanol\n" + text[text.index("model:") :])
    rows = dict(status.rows(tmp_path, run_log.read(tmp_path)))
    assert "cannot be resumed" in rows["state"] and "simulated" not in rows
    assert rows["labels"].startswith("3 of at most 500")


def test_a_fine_tuning_is_called_by_its_name(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {train: a.xyz}\n")
    with pytest.raises(RunDirectoryError, match="holds a fine-tuning"):
        run_log.read(tmp_path)


def test_programs_get_the_same_in_json(kept):
    found = json.loads(json.dumps(status.facts(kept, run_log.read(kept)), allow_nan=False))
    assert found["state"]["name"] == "stopped" and found["progress"]["remaining_s"] == 150.0
    assert found["now"] == {
        "temperature_k": 312.3, "pressure_gpa": 1.25, "sigma_ev": 0.0043364104, "limit_ev": 0.0086728208
    }  # fmt: skip
    assert found["labels"]["all"] == 3 and found["labels"]["rmse_ev"] == pytest.approx(0.01)
    assert found["labels"]["share_above"].keys() == {"observed", "lower", "upper"}
    assert not found["verdict"]["trained"] and found["rollbacks"] == 1


def test_notes_are_what_the_whole_records_say(kept, tmp_path):
    path = tmp_path / "dataset.extxyz"
    odd = kept_runs.record(7, 'a "quoted" = \\ reason')
    for made in (kept_runs.record(0, "initial"), odd, kept_runs.record(9, pretrained_energy=None)):
        dataset.append(path, made)
    notes, records = label_notes.read(path), dataset.read(path)
    for note, made in zip(notes, records, strict=True):
        assert (note.step, note.time_fs, note.reason) == (made.step, made.time_fs, made.reason)
        assert (note.reference_ev, note.offset_ev) == (made.label.energy, made.energy_offset)
        assert (note.predicted_ev, note.pretrained_ev) == (made.predicted_energy_mean, made.pretrained_energy)
        assert note.engine_seconds == made.engine_seconds and len(note.symbols) == 9
        if made.predicted_forces_mean is None:
            assert note.force_errors is None
        else:
            np.testing.assert_array_equal(note.force_errors, made.label.forces - made.predicted_forces_mean)
    assert run_summary.hill_formula(notes[0].symbols) == "C2H6O"
    assert run_summary.hill_formula(["O", "La", "H", "O"]) == "HLaO2"


def test_a_label_that_is_being_written_is_left_out_and_a_damaged_one_named(tmp_path):
    run = kept_runs.write(tmp_path / "run")
    path = run / "dataset.extxyz"
    whole = path.read_text()
    path.write_text(whole + whole[:300])
    assert len(run_log.read(run).labels) == len(run_data.read(run).records) == 3
    path.write_text(whole.replace("time_fs=50.0", "time_fs=soon"))
    with pytest.raises(DataError, match="frame 1: time_fs is 'soon'"):
        run_log.read(run)


def test_settings_are_those_of_the_whole_configuration(kept):
    whole = config.load(kept / "config.yaml")
    found = run_log.read_settings(kept / "config.yaml")
    assert found == run_log.settings_of(whole)
    assert (found.n_steps, found.threshold) == (whole.n_steps, "0.5 kcal/mol")


def test_a_configuration_without_a_key_is_refused_by_name(tmp_path):
    run = kept_runs.write(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("max_labels: 500\n", ""))
    with pytest.raises(RunDirectoryError, match=r"config.yaml: max_labels: got None.*every key"):
        run_log.read(run)

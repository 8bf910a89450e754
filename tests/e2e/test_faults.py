"""What a run promises when it is killed, when the disk is full or the engine dies: nothing that was paid for is lost.

Every run is a child process over a Lennard-Jones reference that counts its calls. After the accident the same command
is given again, and the run must be the one that nobody disturbed: trajectory, thermo, labels, and in the last
checkpoint chains, random numbers, dynamics and calibration, all to the last bit.
"""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from bayes_mlff.api import runner
from bayes_mlff.data import dataset
from bayes_mlff.ensemble import saved
from bayes_mlff.report import run_log, status
from bayes_mlff.runs import checkpoint
from bayes_mlff.testing import faulty_engines
from tests.support import child_runs, small_run
from tests.support.child_runs import Surroundings
from tests.support.run_comparison import differences, labels_paid_twice


@pytest.fixture(scope="session")
def cut(lab, whole) -> Path:
    """Folder of a run that was killed in the middle, with two checkpoints; to be copied."""
    folder = lab.root / "cut"
    assert lab.run(folder, fault="kill@checkpoint_named:6").code == -signal.SIGKILL
    assert len(list((folder / "run" / "checkpoints").glob("*.ckpt"))) == 3  # the third was about to be dropped
    return folder


@pytest.fixture
def half(cut, tmp_path) -> Path:
    """A copy of the interrupted run."""
    return shutil.copytree(cut, tmp_path / "half")


def continued(lab, folder: Path, whole: Path, *, twice: int = 0) -> str:
    """Give the same command again; the run must be the undisturbed one. Returns the output."""
    outcome = lab.run(folder)
    assert outcome.code == 0, outcome.output
    assert differences(folder / "run", whole / "run") == []
    assert labels_paid_twice(folder, folder / "run") == twice
    assert (folder / "run" / "report.html").read_text().endswith("</html>\n")
    return outcome.output


def refused(outcome: child_runs.Outcome, *phrases: str) -> None:
    """A child must have ended with one clear line."""
    assert outcome.code == 2, outcome.output
    assert "Traceback" not in outcome.output
    for phrase in phrases:
        assert phrase in outcome.output


def events(folder: Path, name: str) -> list[dict]:
    lines = (json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def state_of(folder: Path) -> dict[str, bytes]:
    """Contents of what a run must not change before it has a right to."""
    names = ("thermo.csv", "trajectory.extxyz", "dataset.extxyz", "config.in_force.yaml")
    found = {name: (folder / "run" / name).read_bytes() for name in names}
    return found | {p.name: p.read_bytes() for p in (folder / "run" / "checkpoints").glob("*.ckpt")}


# A calculation whose result has not reached the disk has to be repeated: that is what twice counts.
@pytest.mark.parametrize(
    ("point", "twice"),
    [
        ("model_half_kept:1", 0),
        ("identity_half_written:1", 0),
        ("configuration_half_written:1", 0),
        ("reference_started:3", 0),
        ("reference_answered:3", 1),
        ("label_half_written:3", 1),
        ("label_written:3", 0),
        ("label_synced:1", 0),
        ("label_synced:3", 0),
        ("chains_continued:3", 0),
        ("thermo_half_written:3", 0),
        ("trajectory_half_written:1", 0),
        ("event_half_written:9", 0),
        ("ensemble_half_written:2", 0),
        ("ensemble_named:2", 0),
        ("ensemble_linked:1", 0),
        ("ensemble_dropped:1", 0),
        ("artefact_half_written:1", 0),
        ("checkpoint_not_begun:1", 0),
        ("checkpoint_half_written:3", 0),
        ("checkpoint_named:4", 0),
        ("checkpoint_dropped:2", 0),
        ("validation_half_written:1", 0),
        ("report_half_written:1", 0),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(lab, whole, tmp_path, point, twice):
    folder = tmp_path / "work"
    assert lab.run(folder, fault=f"kill@{point}").code == -signal.SIGKILL
    if list((folder / "run").glob("checkpoints/*.ckpt")):
        arrays, metadata, _ = checkpoint.newest(folder / "run" / "checkpoints")
        usable = saved.load(folder / "run")
        np.testing.assert_array_equal(usable.samples, arrays[".params"][:, :-1])
        assert usable.online.law.to_json() == metadata["calibrations"]["energy"]
    if (folder / "run" / "config.yaml").exists() and point != "label_half_written:3":
        status.rows(folder / "run", run_log.read(folder / "run"))
        runner.report(folder / "run")
    continued(lab, folder, whole, twice=twice)
    assert not list((folder / "run").rglob("*.tmp")) or point.startswith("report")


def test_every_way_of_writing_to_a_run_has_been_thought_of(whole):
    """A new file of a run needs a point of its own above."""
    seen = child_runs.operations(whole)
    stepwise = (".ckpt.tmp", ".ensemble.safetensors.tmp")
    written = {next((f"*{end}" for end in stepwise if o.file.endswith(end)), o.file) for o in seen if o.name == "write"}
    assert written - {"report.html", "report.html.tmp"} == {
        "structure.npz.tmp",
        "structure.extxyz.tmp",
        "model.safetensors.tmp",
        "identity.json.tmp",
        "config.yaml.tmp",
        "config.in_force.yaml.tmp",
        "label.reserve.tmp",
        "events.jsonl",
        "dataset.extxyz",
        "thermo.csv",
        "trajectory.extxyz",
        "*.ckpt.tmp",
        "*.ensemble.safetensors.tmp",
        "ensemble.safetensors.tmp",
        "validation.extxyz",
        "validation.npz.tmp",
    }
    synced = {o.file.removesuffix(".tmp") for o in seen if o.name == "fsync"}
    assert {"config.yaml", "config.in_force.yaml", "dataset.extxyz", "thermo.csv", "trajectory.extxyz"} < synced


def test_a_disk_that_is_full_again_and_again_costs_nothing_but_patience(lab, whole, tmp_path):
    folder = tmp_path / "work"
    for point in (
        "configuration_half_written",
        "any_write:4",
        "checkpoint_half_written:1",
        "thermo_half_written:2",
        "trajectory_half_written:1",
        "event_half_written:4",
        "checkpoint_written:3",
        "checkpoint_half_written:2",
        "validation_half_written",
    ):
        before = set((folder / "run" / "checkpoints").glob("*.ckpt"))
        refused(lab.run(folder, fault=f"ENOSPC@{point}"), "No space left on device", "resume")
        if (folder / "run" / "config.yaml").exists():
            status.rows(folder / "run", run_log.read(folder / "run"))
        after = set((folder / "run" / "checkpoints").glob("*.ckpt"))
        assert len(after) >= min(len(before), 2), "a full disk has cost a checkpoint"
    continued(lab, folder, whole)


def test_the_label_under_way_when_the_disk_fills_up_finds_its_reserved_space(lab, whole, tmp_path):
    """The reserve is all the space there is: the label is written, the checkpoint after it perhaps not."""
    folder = tmp_path / "work"
    outcome = lab.run(folder, fault="ENOSPC@label_half_written:3")
    assert outcome.code in (0, 2) and "Traceback" not in outcome.output
    assert len(dataset.read(folder / "run" / "dataset.extxyz")) >= 3
    continued(lab, folder, whole)


def test_the_operating_system_itself_refuses_to_write(lab, whole, tmp_path):
    """A limit on the size of files, which the first checkpoint exceeds."""
    folder = tmp_path / "work"
    size = (whole / "run" / "checkpoints" / "000000040.ckpt").stat().st_size
    reserve = 1 << 20
    limit = max(size, reserve) - 4096
    refused(lab.run(folder, file_limit=limit), "File too large")
    continued(lab, folder, whole)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a file system")
def test_a_small_file_system_really_fills_up(lab, whole, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1180k", "tmpfs", folder], check=False).returncode:
        pytest.skip("no right to mount")
    try:
        refused(lab.run(folder), "No space left on device", "resume")
        shutil.copytree(folder, tmp_path / "work")
    finally:
        subprocess.run(["umount", folder], check=True)
    continued(lab, tmp_path / "work", whole)


def test_a_read_only_directory_is_refused_without_a_change(lab, whole, half):
    before = state_of(half)
    refused(lab.run(half, fault="EROFS@any_open"), "run: cannot be written (Read-only file system)")
    assert state_of(half) == before
    refused(lab.run(half, "resume", "run", fault="EIO@checkpoint_written:1"), "Input/output error", "are intact")
    continued(lab, half, whole)


def test_a_directory_without_the_right_to_write_is_refused(lab, half, monkeypatch):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (half / "run").chmod(0o555)
    try:
        refused(lab.run(half), "cannot be written (Permission denied)")
    finally:
        (half / "run").chmod(0o755)


def test_a_damaged_checkpoint_is_passed_over_and_said_so(lab, whole, half):
    newest = sorted((half / "run" / "checkpoints").glob("*.ckpt"))[-1]
    os.truncate(newest, newest.stat().st_size // 2)
    continued(lab, half, whole)
    [skipped] = events(half, "checkpoint_skipped")
    assert newest.name in skipped["remark"] and "damaged" in skipped["remark"]


def test_without_any_intact_checkpoint_the_labels_are_still_paid_for(lab, whole, half):
    for path in (half / "run" / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-1])
    before = state_of(half)
    paid = len(faulty_engines.calls(half))
    refused(lab.run(half), "no intact checkpoint", "remove the folder", "already paid for")
    assert state_of(half) == before
    shutil.rmtree(half / "run" / "checkpoints")
    continued(lab, half, whole)
    assert (half / "run" / "thermo.csv.old").read_bytes() == before["thermo.csv"]
    assert len(faulty_engines.calls(half)) >= paid


def test_a_file_that_is_shorter_than_the_checkpoint_knows_is_refused(lab, half):
    os.truncate(half / "run" / "thermo.csv", 100)
    before = state_of(half)
    refused(lab.run(half), "thermo.csv: 100 bytes, but the checkpoint knows", "restore the file")
    assert state_of(half) == before


def test_a_checkpoint_of_a_newer_version_is_refused_even_if_an_older_one_is_there(lab, half):
    path = sorted((half / "run" / "checkpoints").glob("*.ckpt"))[-1]
    body = path.read_bytes()[32:]
    size = struct.unpack("<Q", body[:8])[0]
    old = b'{\\"format\\": %d,' % checkpoint.FORMAT
    assert body[8 : 8 + size].count(old) == 1
    body = body.replace(old, b'{\\"format\\": %d,' % (checkpoint.FORMAT + 1))
    path.write_bytes(hashlib.sha256(body).digest() + body)
    before = state_of(half)
    refused(lab.run(half), path.name, f"format {checkpoint.FORMAT + 1}")
    assert state_of(half) == before


def test_torn_ends_of_dataset_and_events_are_cut_off_and_said_so(lab, whole, half):
    records = dataset.read(half / "run" / "dataset.extxyz")
    frame = (half / "run" / "dataset.extxyz").read_bytes()[:300]
    with (half / "run" / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "chunk", "ti')
    runner.report(half / "run")
    with (half / "run" / "dataset.extxyz").open("ab") as file:
        file.write(frame)
    continued(lab, half, whole)
    assert [e["bytes_removed"] for e in events(half, "dataset_recovered")] == [300]
    assert [e["bytes_removed"] for e in events(half, "events_recovered")] == [22]
    assert len(dataset.read(half / "run" / "dataset.extxyz")) >= len(records)


def test_a_second_process_is_refused_and_the_lock_ends_with_the_first(lab, whole, half):
    number = 1 + sum(not call["done"] for call in faulty_engines.calls(half))
    faulty_engines.plan(half, {number: "hang"})
    arguments = ("run", str(lab.config), "-o", "run")
    first = child_runs.start(half, arguments, Surroundings(cache=lab.cache))
    try:
        limit = time.monotonic() + 300.0
        while sum(not call["done"] for call in faulty_engines.calls(half)) < number:
            assert time.monotonic() < limit and first.is_alive()
            time.sleep(0.05)
        (half / "other").mkdir()
        refused(lab.run(half / "other", "resume", "../run"), "another process is running here")
    finally:
        first.kill()
    assert child_runs.finish(first, half).code == -signal.SIGKILL
    assert (half / "run" / "run.lock").exists()
    faulty_engines.plan(half, {})
    continued(lab, half, whole)


def test_changed_settings_are_refused_by_name_and_the_old_ones_go_on(lab, whole, half):
    original = (half / "run" / "config.yaml").read_text()
    (half / "run" / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(original) | {"seed": 2}))
    before = state_of(half)
    refused(lab.run(half, "resume", "run"), "seed: got 2")
    refused(lab.run(half), "another configuration")
    assert state_of(half) == before
    (half / "run" / "config.yaml").write_text(original)
    continued(lab, half, whole)


def test_a_clock_that_is_set_back_again_and_again_changes_nothing(lab, whole, half):
    outcome = lab.run(half, clock_step_s=-3600.0)
    assert outcome.code == 0, outcome.output
    assert differences(half / "run", whole / "run") == []
    logged = [json.loads(line) for line in (half / "run" / "events.jsonl").read_text().splitlines()]
    since = [e["time"] for e in logged[[e["event"] for e in logged].index("resumed") :]]
    assert since == sorted(since) and since[-1] - since[0] < 600.0
    status.rows(half / "run", run_log.read(half / "run"))


def test_another_number_of_devices_continues_to_rounding(lab, whole, half):
    outcome = lab.run(half, devices=2)
    assert outcome.code == 0, outcome.output
    assert differences(half / "run", whole / "run", rtol=2e-3) == []


@pytest.mark.parametrize("moved", [1e-5, 1e-2])
def test_a_paid_label_is_found_again_where_numbers_are_rounded_otherwise(lab, whole, tmp_path, moved):
    """Killed between label and checkpoint, it goes on where its geometry comes out a little different, or too much."""
    folder = tmp_path / "work"
    assert lab.run(folder, fault="kill@label_synced:3").code == -signal.SIGKILL
    path = folder / "run" / "dataset.extxyz"
    *records, last = dataset.read(path)
    path.unlink()
    there = last.structure._replace(positions=last.structure.positions + moved)
    for record in (*records, last._replace(structure=there)):
        dataset.append(path, record)
    outcome = lab.run(folder)
    if moved > 1e-3:
        refused(outcome, "dataset.extxyz", f"the label of step {last.step} belongs to another geometry")
        return
    assert outcome.code == 0, outcome.output
    assert len(faulty_engines.calls(folder)) == len(faulty_engines.calls(whole))
    assert differences(folder / "run", whole / "run", rtol=2e-3) == []


def test_an_engine_process_that_is_killed_is_replaced_and_leaves_nobody_behind(lab, whole, tmp_path):
    """The calculator dies of SIGSEGV at one call and hangs at another; both are tried again."""
    folder = tmp_path / "work"
    config = small_run.write(tmp_path, {"engine": {"name": "worker", "timeout_s": 6.0}})
    (folder / "run" / "engine").mkdir(parents=True)
    faulty_engines.plan(folder, {2: "crash", 4: "hang"})
    outcome = lab.run(folder, "run", str(config), "-o", "run")
    assert outcome.code == 0, outcome.output
    assert differences(folder / "run", whole / "run") == []
    remarks = " ".join(e["remark"] for e in events(folder, "engine_remark"))
    assert "SIGSEGV" in remarks and "no answer within 6 s" in remarks
    assert _processes_in(folder) == []


def _processes_in(folder: Path) -> list[int]:
    """Processes that work in a folder, where the system tells."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            working = os.readlink(entry / "cwd")
        except OSError:
            continue
        if working.startswith(str(folder)):
            found.append(int(entry.name))
    return found

"""What a run directory does with torn files, missing space and clocks."""

import errno
import json
import time

import numpy as np
import pytest

from bayes_mlff.core import durable
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.runs.directory import LABEL_RESERVE, RunDirectory
from bayes_mlff.runs.growing_files import THERMO_COLUMNS, Frame
from tests.support.faults import Fault, accident


@pytest.fixture
def run(tmp_path):
    made = RunDirectory(tmp_path / "run")
    made.create("seed: 0\n")
    yield made
    made.close()


def rows(first: int, count: int) -> np.ndarray:
    table = np.ones((count, len(THERMO_COLUMNS)))
    table[:, 0] = np.arange(first, first + count)
    return table


def write_frames(run: RunDirectory, steps) -> None:
    frames = (Frame(s, 0.5 * s, np.full((2, 3), 1 / 3), np.zeros((3, 3)), None) for s in steps)
    run.append_frames(np.array([1, 8]), np.zeros(3, bool), frames)


def logged(run: RunDirectory) -> list[dict]:
    return [json.loads(line) for line in run.events.read_text().splitlines()]


def test_a_torn_event_is_cut_off_when_the_run_goes_on(run):
    run.log("first")
    with run.events.open("a") as file:
        file.write('{"event": "tor')
    run.open()
    run.log("second")
    assert [e["event"] for e in logged(run)] == ["first", "events_recovered", "second"]
    assert logged(run)[1]["bytes_removed"] == 14


def test_times_of_events_do_not_go_back_with_the_clock(run, monkeypatch):
    run.log("first")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400.0)
    run.log("second")
    first, second = (e["time"] for e in logged(run))
    assert first <= second < first + 60.0


@pytest.mark.parametrize("which", ["thermo", "trajectory", "events"])
def test_a_full_disk_leaves_whole_lines_behind(run, which):
    def add(number: int) -> None:
        if which == "thermo":
            run.append_thermo(rows(number, 3))
        elif which == "trajectory":
            write_frames(run, [number, number + 1])
        else:
            run.log("something", number=number)

    path = getattr(run, which)
    add(1)
    before = path.read_bytes()
    said = rf"{path.name}: cannot be written \(No space left.*resume"
    with accident(Fault("any_write", 1, errno.ENOSPC), run.path), pytest.raises(RunDirectoryError, match=said):
        add(4)
    assert path.read_bytes() == before
    add(4)
    assert path.read_bytes().startswith(before) and len(path.read_bytes()) > len(before)


@pytest.mark.parametrize(
    ("point", "error", "said"),
    [
        ("any_write", errno.EIO, "Input/output error"),
        ("any_fsync", errno.ENOSPC, "No space left"),
        ("any_open", errno.EROFS, "Read-only"),
    ],
)
def test_settings_in_force_are_replaced_whole_or_not_at_all(run, point, error, said):
    with accident(Fault(point, 1, error), run.path), pytest.raises(RunDirectoryError, match=said):
        run.put_in_force("seed: 1\n")
    assert run.in_force.read_text() == "seed: 0\n"
    assert not list(run.path.glob("*.tmp"))
    run.put_in_force("seed: 1\n")
    assert run.in_force.read_text() == "seed: 1\n"


def test_a_new_directory_on_a_full_disk_is_no_run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    fault = Fault("configuration_half_written", 1, errno.ENOSPC)
    with accident(fault, run.path), pytest.raises(RunDirectoryError, match="No space left"):
        run.create("seed: 0\n")
    assert not run.config.exists()
    run.create("seed: 0\n")
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        run.create("seed: 0\n")


def test_steps_that_no_checkpoint_knows_are_set_aside(run):
    run.append_thermo(rows(1, 2))
    write_frames(run, [1])
    (run.checkpoints / "000000002.ckpt").write_bytes(b"")
    run.open()
    run.close()
    assert run.thermo.exists() and run.trajectory.exists()
    (run.checkpoints / "000000002.ckpt").unlink()
    run.checkpoints.rmdir()
    run.open()
    assert not run.thermo.exists() and not run.trajectory.exists()
    assert (run.path / "thermo.csv.old").read_text().startswith("step,")
    assert run.checkpoints.is_dir()


def test_growing_files_are_cut_back_and_a_short_one_is_refused(run):
    assert run.sizes() == {"thermo.csv": 0, "trajectory.extxyz": 0}
    run.append_thermo(rows(1, 2))
    write_frames(run, [1])
    sizes, before = run.sizes(), run.thermo.read_bytes()
    run.append_thermo(rows(3, 2))
    run.truncate(sizes)
    assert run.thermo.read_bytes() == before
    run.append_thermo(rows(3, 2))
    longer = run.thermo.read_bytes()
    run.trajectory.unlink()
    with pytest.raises(RunDirectoryError, match=r"trajectory\.extxyz: 0 bytes, but the checkpoint knows"):
        run.truncate(sizes)
    assert run.thermo.read_bytes() == longer, "nothing is cut when something is missing"


def test_growing_files_are_on_the_disk_before_a_checkpoint_knows_their_sizes(run):
    run.append_thermo(rows(1, 2))
    write_frames(run, [1])
    with accident(None, run.path) as seen:
        run.sizes()
    assert [tuple(o) for o in seen.seen] == [("fsync", "thermo.csv"), ("fsync", "trajectory.extxyz")]


def test_space_for_a_label_is_kept_while_a_run_is_open(run):
    run.open()
    assert (run.path / dataset.RESERVE).stat().st_size == LABEL_RESERVE
    run.close()
    assert not (run.path / dataset.RESERVE).exists()
    fault = Fault("any_write", 1, errno.ENOSPC)
    with accident(fault, run.path), pytest.raises(RunDirectoryError, match="No space left"):
        run.open()
    run.open()  # the lock was given back


def test_a_file_system_without_locks_is_named(run, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunDirectoryError, match=r"cannot lock \(No locks available"):
        run.open()


def test_a_refused_second_process_leaves_the_first_its_reserve_and_lock(run):
    run.open()
    other = RunDirectory(run.path)
    with pytest.raises(RunDirectoryError, match="another process"):
        other.open()
    other.close()
    assert (run.path / dataset.RESERVE).exists()
    with pytest.raises(RunDirectoryError, match="another process"):
        other.open()


@pytest.mark.parametrize("point", ["any_open", "any_write", "any_fsync"])
def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, point):
    path = tmp_path / "file"
    durable.write_whole(path, b"old")
    error = errno.EROFS if point == "any_open" else errno.ENOSPC
    with accident(Fault(point, 1, error), tmp_path), pytest.raises(OSError, match=r"No space|Read-only"):
        durable.write_whole(path, b"a new content")
    assert path.read_bytes() == b"old" and sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    durable.write_whole(path, b"a new content")
    assert path.read_bytes() == b"a new content"


def test_a_file_is_named_only_after_it_reached_the_disk(tmp_path):
    with accident(None, tmp_path.parent) as seen:
        durable.write_whole(tmp_path / "file", b"content")
    assert [o.name for o in seen.seen] == ["open", "write", "fsync", "replace", "fsync"]

"""Requests to end a run: from signals, from the clock, and where they take effect."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bayes_mlff.core import durations
from bayes_mlff.core.errors import ConfigError, EngineFailedError, RunInterruptedError
from bayes_mlff.runs import interruption
from bayes_mlff.runs.descendants import descendants
from bayes_mlff.runs.interruption import Interruption, TimeLimit, time_limit


def until(condition, seconds=10.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """On a busy machine a pause may be longer than any patience, whose end would be that of these tests."""
    monkeypatch.setattr(interruption, "PATIENCE_S", 120.0)
    monkeypatch.setattr(interruption, "SAVING_S", 120.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200.0),
        ("30min", 1800.0),
        ("30m", 1800.0),
        ("90s", 90.0),
        ("90", 90.0),
        ("1.5 h", 5400.0),
        ("1h30min", 5400.0),
        ("1d 2h", 93600.0),
        ("1:30:00", 5400.0),
        ("1-12:00:00", 129600.0),
        ("0:00:01", 1.0),
    ],
)
def test_lengths_of_time_are_read(text, seconds):
    assert durations.parse(text, key="--wall-time") == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1:30", "1:70:00", "2 weeks", "h", "nan", "inf", "1e400", "2h30"])
def test_other_lengths_of_time_are_refused(text):
    with pytest.raises(ConfigError, match="--wall-time"):
        durations.parse(text, key="--wall-time")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.0, "59 s"), (61.0, "1 min 1 s"), (3599.0, "59 min 59 s"), (7265.0, "2 h 1 min"),
     (86400.0 * 2 + 7200, "2 d 2 h")],
)  # fmt: skip
def test_lengths_of_time_are_said_in_two_units(seconds, text):
    assert durations.shown(seconds) == text


def test_the_earlier_of_wall_time_and_job_counts():
    now = time.time()
    assert time_limit(None, {}) is None
    assert time_limit(60.0, {}).reason == "the end of --wall-time"
    assert time_limit(60.0, {}, spent_s=12.0).length_s == 48.0
    slurm = time_limit(3600.0, {"SLURM_JOB_END_TIME": str(int(now) + 100)})
    assert slurm.reason == "the end of the SLURM job's time" and 90.0 < slurm.length_s <= 100.0
    assert time_limit(60.0, {"SLURM_JOB_END_TIME": str(int(now) + 100)}).length_s == 60.0
    for stale in ("1000", "unknown", "", "-5"):
        assert time_limit(None, {"SLURM_JOB_END_TIME": stale}) is None


def test_the_age_of_a_process_counts_from_its_start():
    code = (
        "import time; time.sleep(0.5); from bayes_mlff.runs.interruption import process_age_s; print(process_age_s())"
    )
    before = time.monotonic()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.45 < float(found.stdout) <= time.monotonic() - before + 0.05


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_answered_where_everything_is_on_the_disk(number):
    before = {n: signal.getsignal(n) for n in interruption.SIGNALS}
    with Interruption(farewell="go on with: resume") as asked:
        asked.check(3, 7)
        os.kill(os.getpid(), number)
        until(lambda: asked._requested is not None)
        with pytest.raises(RunInterruptedError) as caught:
            asked.check(4, 7)
    said = f"interrupted by {number.name} at step 4 of 7; everything is saved; go on with: resume"
    assert str(caught.value) == said and asked.step == 4
    assert before == {n: signal.getsignal(n) for n in interruption.SIGNALS}


def test_after_a_request_nothing_hopeless_is_begun_and_saving_is(monkeypatch):
    with Interruption() as asked:
        asked.check(1, 7)
        with asked.patience(0.0):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: asked._requested is not None)
        with asked.patience(interruption.SAVING_S):
            time.sleep(0.2)  # a checkpoint
        monkeypatch.setattr(Interruption, "_press", lambda *_: None)  # would end these tests if it came in between
        with pytest.raises(RunInterruptedError, match="SIGTERM at step 1 of 7"), asked.patience(0.0):
            pytest.fail("a label was begun")


def test_a_label_that_failed_from_the_signal_itself_is_no_failure(monkeypatch):
    with Interruption() as asked:
        asked.check(1, 7)
        with pytest.raises(EngineFailedError), asked.patience(0.0):
            raise EngineFailedError("by itself")
        monkeypatch.setattr(interruption, "ECHO_S", 60.0)  # on a busy machine the timer is late
        threading.Timer(0.05, lambda: asked.__setattr__("_requested", "SIGINT")).start()
        with pytest.raises(RunInterruptedError, match="SIGINT"), asked.patience(0.0):
            raise EngineFailedError("its program got the signal first")


def test_a_label_that_does_not_fit_into_the_time_is_not_begun():
    asked = Interruption(TimeLimit(time.monotonic() + 100.0, 100.0, "the end of --wall-time"))  # ten in reserve
    asked.before_label(0.0)
    asked.before_label(85.0)
    with pytest.raises(RunInterruptedError, match=r"--wall-time \(a reference calculation of 95 s would not fit"):
        asked.before_label(95.0)
    Interruption().before_label(1e9)


def test_the_clock_asks_before_the_time_is_over():
    limit = TimeLimit(time.monotonic() + 3.0, 10.0, "the end of --wall-time")  # asked for a second before
    with Interruption(limit) as asked:
        asked.check(0, 7)
        until(lambda: asked._requested is not None)
        with pytest.raises(RunInterruptedError, match="the end of --wall-time at step 1 of 7"):
            asked.check(1, 7)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


BUSY = """
import sqlite3, subprocess, sys, time
from bayes_mlff.runs import interruption
from bayes_mlff.runs.interruption import Interruption
interruption.PATIENCE_S = 1.0
def library():
    # Like XLA or BLAS: does not return to where Python looks for signals.
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    sqlite3.connect(":memory:").execute(endless).fetchall()
with Interruption(farewell="go on with: resume") as asked:
    asked.last_words = lambda reason: open(sys.argv[2], "w").write(reason)
    asked.check(3, 7)
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, lambda *a: None); "
                              "print('up', flush=True); [time.sleep(1) for _ in range(600)]"], stdout=subprocess.PIPE)
    child.stdout.readline()
    if sys.argv[1] == "label":
        with asked.patience(0.0):
            print("ready", child.pid, flush=True)
            library()
    print("ready", child.pid, flush=True)
    time.sleep(600.0) if sys.argv[1] == "sleep" else library()
"""


@pytest.mark.parametrize(
    ("what", "number", "least"),
    [("label", signal.SIGTERM, 0.0), ("chunk", signal.SIGUSR1, 0.9), ("sleep", signal.SIGINT, 0.9)],
)
def test_what_does_not_end_is_given_up_with_everything_it_has_started(tmp_path, what, number, least):
    words = tmp_path / "words"
    child = subprocess.Popen(
        [sys.executable, "-c", BUSY, what, str(words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        pid = int(child.stdout.readline().split()[1])
        begin = time.monotonic()
        child.send_signal(number)
        _, said = child.communicate(timeout=60.0)
    finally:
        child.kill()
    assert child.returncode == 75
    assert least <= time.monotonic() - begin <= 20.0  # it would go on for minutes
    assert f"interrupted by {number.name} at step 3 of 7; everything is saved; go on with: resume" in said
    assert words.read_text() == number.name
    until(lambda: not _is_alive(pid))


def _busy_after_an_echo(folder: Path) -> subprocess.Popen | None:
    """A child that has got a signal and its echo, and goes on; None if these have ended it."""
    child = subprocess.Popen(
        [sys.executable, "-c", BUSY.replace("PATIENCE_S = 1.0", "PATIENCE_S = 60.0"), "chunk", str(folder / "no")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    if child.poll() is None:
        return child
    child.communicate()
    return None


def test_a_second_signal_ends_at_once_and_an_echo_does_not(tmp_path):
    # On a busy machine a child may notice the echo so late that it takes it for a second signal: another one is tried.
    child = next(filter(None, (_busy_after_an_echo(tmp_path) for _ in range(4))), None)
    assert child is not None, "an echo has ended the process"
    try:
        limit = time.monotonic() + 60.0
        while child.poll() is None and time.monotonic() < limit:
            child.send_signal(signal.SIGTERM)  # an echo as well, where the child has noticed the first one late
            time.sleep(0.2)
        _, said = child.communicate(timeout=1.0)
    finally:
        child.kill()
    assert child.returncode == 128 + signal.SIGTERM and "ended at once" in said


def test_programs_below_a_process_are_found_with_their_own():
    script = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as child:
        until(lambda: len(descendants(child.pid)) == 1)
        assert {child.pid, *descendants(child.pid)} <= set(descendants())
        os.killpg(child.pid, signal.SIGKILL)

"""A run that is asked to end does so within seconds, says how to go on, and goes on as if nothing had happened."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from bayes_mlff.api import runner
from bayes_mlff.otf import systems
from bayes_mlff.report import run_log
from bayes_mlff.report import status as screen
from bayes_mlff.testing import faulty_engines
from tests.support import child_runs, small_run
from tests.support.child_runs import Surroundings
from tests.support.run_comparison import differences, labels_paid_twice

SOON_S = 10.0


def last_event(folder: Path) -> dict:
    return json.loads((folder / "run" / "events.jsonl").read_text().splitlines()[-1])


def status(run: Path) -> str:
    return "\n".join(f"{name} {value}" for name, value in screen.rows(run, run_log.read(run)))


def continued(lab, folder: Path, whole: Path) -> None:
    outcome = lab.run(folder, "resume", "run")
    assert outcome.code == 0, outcome.output
    assert differences(folder / "run", whole / "run") == []
    assert "finished" in status(folder / "run").splitlines()[0]


@pytest.mark.parametrize(
    ("fault", "twice"),
    [
        ("SIGTERM@reference_started:3", 1),
        ("SIGUSR1@chains_continued:3", 0),
        ("SIGTERM@thermo_half_written:3", 0),
        ("SIGINT@checkpoint_half_written:4", 0),
    ],
)
def test_a_run_that_got_a_signal_goes_on_as_if_nothing_had_happened(lab, whole, tmp_path, fault, twice):
    folder = tmp_path / "work"
    outcome = lab.run(folder, fault=fault)
    name = fault.partition("@")[0]
    assert outcome.code == 75, outcome.output
    assert "Traceback" not in outcome.output
    [said] = [line for line in outcome.output.splitlines() if line.startswith("interrupted by")]
    assert f"interrupted by {name} at step " in said and "of 40; everything is saved" in said
    assert said.endswith("go on with: bayes-mlff resume run")
    event = last_event(folder)
    assert (event["event"], event["reason"]) == ("interrupted", name)
    assert f"interrupted by {name}; go on with: bayes-mlff resume" in status(folder / "run")
    assert f"step {event['step']} of 40" in status(folder / "run")
    continued(lab, folder, whole)
    assert labels_paid_twice(folder, folder / "run") <= twice


@pytest.mark.parametrize("call", [3, "random frame"])
def test_a_signal_during_a_long_calculation_ends_it(lab, whole, tmp_path, call):
    folder = tmp_path / "work"
    folder.mkdir()
    number = sum(not c["done"] for c in faulty_engines.calls(whole)) if call == "random frame" else call
    faulty_engines.plan(folder, {number: "hang"})
    child = child_runs.start(folder, ("run", str(lab.config), "-o", "run"), Surroundings(cache=lab.cache))
    limit = time.monotonic() + 300.0
    while sum(not c["done"] for c in faulty_engines.calls(folder)) < number:
        assert time.monotonic() < limit and child.is_alive()
        time.sleep(0.05)
    assert "running" in status(folder / "run").splitlines()[0]
    begin = time.monotonic()
    os.kill(child.pid, signal.SIGTERM)
    outcome = child_runs.finish(child, folder)
    assert time.monotonic() - begin < SOON_S
    assert outcome.code == 75, outcome.output
    assert last_event(folder)["event"] == "interrupted"
    faulty_engines.plan(folder, {})
    continued(lab, folder, whole)


def test_the_end_of_the_wall_time_comes_before_that_of_a_long_calculation(lab, whole, tmp_path):
    for seconds in (8, 40, 160):  # on a busy machine a run may not come to its third calculation within a short time
        folder = tmp_path / f"work for {seconds} s"
        folder.mkdir()
        faulty_engines.plan(folder, {3: "hang"})
        begin = time.monotonic()
        outcome = lab.run(folder, "run", str(lab.config), "-o", "run", "--wall-time", f"{seconds}s")
        assert time.monotonic() - begin < seconds + 20.0
        assert outcome.code == 75, outcome.output
        assert "interrupted by the end of --wall-time" in outcome.output
        if sum(not call["done"] for call in faulty_engines.calls(folder)) == 3:
            break
    else:
        pytest.fail("the long calculation has never begun")
    faulty_engines.plan(folder, {})
    continued(lab, folder, whole)


def test_a_run_goes_on_elsewhere_without_the_files_it_was_started_from(lab, whole, tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    shutil.copy(systems._folder() / "ethanol.xyz", origin / "mine.xyz")
    config = small_run.write(origin, {"structure": str(origin / "mine.xyz")})
    folder = tmp_path / "work"
    command = ("run", str(config), "-o", "run")
    assert lab.run(folder, *command, fault="kill@checkpoint_named:4").code == -signal.SIGKILL
    lines = (origin / "mine.xyz").read_text().splitlines(keepends=True)
    (origin / "mine.xyz").write_text("".join([*lines[:2], *lines[:1:-1]]))
    before = {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    outcome = lab.run(folder, *command)
    assert outcome.code == 2 and "rows moved" in outcome.output, outcome.output
    assert before == {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    shutil.rmtree(origin)
    (tmp_path / "new place").mkdir()
    folder = folder.rename(tmp_path / "new place" / "work")
    assert "broken off" in status(folder / "run")
    continued(lab, folder, whole)
    runner.report(folder / "run")

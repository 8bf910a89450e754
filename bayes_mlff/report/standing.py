"""Where a run stands, in plain words: its state, how far it is, and how long it may still take."""

import fcntl
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core import units
from bayes_mlff.report.run_log import RunLog
from bayes_mlff.runs.thermo_log import LARGEST

_RECENT: Final = 0.2
"""Part of the steps so far from which the rest is estimated: labels become rarer."""


class State(NamedTuple):
    """What a run does, or why it does nothing."""

    name: str  # 'finished', 'running', 'interrupted', 'stopped', 'broken off', 'incomplete' or 'not begun'
    sentence: str


def state(path: Path, run: RunLog) -> State:
    """The state of a run from its steps, its lock and its last events.

    Args:
      path: directory of the run.
      run: the same, read.
    """
    frames = run.settings.validation_frames
    fewer = any(e["event"] == "random_frames_missing" and e.get("asked") == frames for e in run.events)
    labelled = run.validation is not None and (run.validation.reference_ev.size >= frames or fewer)
    if run.all_steps and (frames == 0 or labelled):
        return State("finished", "finished")
    doing = ", all steps are done, random frames are being labelled" if run.all_steps else ""
    if _is_locked(path):
        return State("running", f"running{doing}")
    if run.labels and not run.events and not run.steps.size and run.committed is None:
        return State("incomplete", "there are labels here, but no log, model or checkpoint: it cannot be resumed")
    name, why = _last_word(run)
    if run.all_steps:
        why += f"; all steps are done, but not {frames} random frames labelled"
    return State(name, f"{why}; {_how_to_go_on(path, run)}")


def _how_to_go_on(path: Path, run: RunLog) -> str:
    """The command that continues a run, or why there is none."""
    if is_whole(path):
        return f"go on with: bayes-mlff resume {shlex.quote(str(path))}"
    if run.events or run.labels:
        return "it cannot be resumed, since the structure and model that it started from are not kept here"
    return f"no run has left anything here; start one with: bayes-mlff run {shlex.quote(str(path / 'config.yaml'))}"


def is_whole(path: Path) -> bool:
    """True if a run keeps what it started from, without which it cannot go on."""
    return (path / "start").is_dir()


def _is_locked(path: Path) -> bool:
    """True while a process works on a run, as far as the file system tells."""
    try:
        with (path / "run.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _last_word(run: RunLog) -> tuple[str, str]:
    """How the last session ended, by its own account."""
    for event in reversed(run.events):
        reason = str(event.get("reason", "an unknown reason"))
        match event["event"]:
            case "interrupted":
                return "interrupted", f"interrupted by {reason}"
            case "stopped":
                return "stopped", f"stopped because of this: {reason}"
            case "finished":
                return "finished", "the steps of before are done, and more are wanted"
            case "session_started" | "run_started":
                break
    if not run.events and not run.labels:
        return "not begun", "not begun"
    return "broken off", "broken off: killed, or ended by an error"


def progress(run: RunLog) -> str:
    """Steps and time of the dynamics, of how many."""
    config = run.settings
    step_ps = config.timestep_fs / 1000.0
    share = min(1.0, run.reached / config.n_steps)
    return (
        f"{run.reached * step_ps:.3f} of {config.n_steps * step_ps:g} ps, "
        f"step {run.reached} of {config.n_steps} ({share:.1%})"
    )


def remaining_s(run: RunLog) -> float | None:
    """Estimate from the last steps, with their labels and updates; None if there are too few, or none left."""
    config, begin = run.settings, (1.0 - _RECENT) * run.reached
    spent, steps = 0.0, 0
    for event in run.events:
        if not isinstance(event.get("step"), int) or event["step"] <= begin:
            continue
        match event["event"]:
            case "chunk":
                spent, steps = spent + _number(event, "seconds"), steps + int(_number(event, "steps"))
            case "label" | "label_refused":
                spent += _number(event, "engine_s")
            case "update":
                spent += _number(event, "seconds")
    if steps < 1:
        return None
    left = max(0, config.n_steps - run.reached)
    labels = [r.engine_seconds for r in run.labels]
    frames = 0 if run.validation is not None else config.validation_frames
    done = sum(e["event"] == "random_frame" for e in run.events)
    return left * spent / steps + max(0, frames - done) * float(np.mean(labels or [0.0]))


def _number(event: object, key: str) -> float:
    value = event.get(key) if isinstance(event, dict) else None
    return float(value) if isinstance(value, int | float) and abs(value) < LARGEST else 0.0


def energies(run: RunLog) -> Callable[[float | None], str]:
    """How energies, eV, are shown: in the unit of the threshold."""
    unit = run.settings.threshold.strip().lstrip("+-0123456789.").strip()
    if (unit[:1] in "eE" and unit[1:2].isdigit()) or unit[:2] in ("e-", "e+", "E-", "E+"):
        unit = unit[1:].lstrip("+-0123456789").strip()  # the exponent of the number
    size = units.parse_energy(f"1 {unit}", n_atoms=run.n_atoms, key="threshold")
    return lambda value: "no data" if value is None else f"{value / size:.3g} {unit}"

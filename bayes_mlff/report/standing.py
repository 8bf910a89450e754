"""Where a run stands, in plain words: its state, how far it is, how long it may still take, how well it did."""

import fcntl
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core import durations, units
from bayes_mlff.report import run_data, verdict
from bayes_mlff.report.run_data import RunData, RunSummary

WIDTH: Final = 24
"""Of the names in `rows`, as far as they are not longer."""

_RECENT: Final = 0.2
"""Part of the steps so far from which the rest is estimated: labels become rarer."""


class State(NamedTuple):
    """What a run does, or why it does nothing."""

    name: str  # 'finished', 'running', 'interrupted', 'stopped', 'broken off' or 'not begun'
    sentence: str


def state(path: Path, run: RunData) -> State:
    """The state of a run from its steps, its lock and its last events.

    Args:
      path: directory of the run.
      run: the same, read.
    """
    frames = run.config.validation_frames
    labelled = run.validation is not None and run.validation.reference_ev.size >= frames
    all_steps = run.reached >= run.config.n_steps
    if all_steps and (frames == 0 or labelled):
        return State("finished", "finished")
    doing = ", all steps are done, random frames are being labelled" if all_steps else ""
    if _is_locked(path):
        return State("running", f"running{doing}")
    name, why = _last_word(run)
    if all_steps:
        why += f"; all steps are done, but not {frames} random frames labelled"
    return State(name, f"{why}; go on with: bayes-mlff resume {shlex.quote(str(path))}")


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


def _last_word(run: RunData) -> tuple[str, str]:
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
    if not run.events and not run.records:
        return "not begun", "not begun"
    return "broken off", "broken off: killed, or ended by an error"


def rows(path: Path, run: RunData) -> list[tuple[str, str]]:
    """Names and values for one screen."""
    s = run_data.summarise(run, run.threshold_ev)
    now = state(path, run)
    told = [
        ("state", now.sentence),
        ("system", f"{s.formula}, {s.n_atoms} atoms" if s.formula else "nothing is labelled yet"),
        ("simulated", progress(run)),
    ]
    rest = remaining_s(run)
    if now.name != "finished" and rest is not None:
        told.append(("still to go", f"about {durations.shown(rest)} if it goes on as lately"))
    known = [(name[:1].lower() + name[1:], value) for name, value in judgement(run) if value != "no data"]
    return [*told, *_quality(run, s), *_time(s), *known]


def progress(run: RunData) -> str:
    """Steps and time of the dynamics, of how many."""
    config = run.config
    step_ps = config.dynamics.timestep_fs / 1000.0
    share = min(1.0, run.reached / config.n_steps)
    return (
        f"{run.reached * step_ps:.3f} of {config.n_steps * step_ps:g} ps, "
        f"step {run.reached} of {config.n_steps} ({share:.1%})"
    )


def remaining_s(run: RunData) -> float | None:
    """Estimate from the last steps, with their labels and updates; None if there are too few, or none left."""
    config, begin = run.config, (1.0 - _RECENT) * run.reached
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
    labels = [r.engine_seconds for r in run.records]
    frames = 0 if run.validation is not None else config.validation_frames
    done = sum(e["event"] == "random_frame" for e in run.events)
    return left * spent / steps + max(0, frames - done) * float(np.mean(labels or [0.0]))


def _number(event: object, key: str) -> float:
    value = event.get(key) if isinstance(event, dict) else None
    return float(value) if isinstance(value, int | float) and abs(value) < run_data.LARGEST else 0.0


def energies(run: RunData) -> Callable[[float | None], str]:
    """How energies, eV, are shown: in the unit of the threshold."""
    unit = run.config.threshold.strip().lstrip("+-0123456789.").strip()
    if (unit[:1] in "eE" and unit[1:2].isdigit()) or unit[:2] in ("e-", "e+", "E-", "E+"):
        unit = unit[1:].lstrip("+-0123456789").strip()  # the exponent of the number
    size = units.parse_energy(f"1 {unit}", n_atoms=run.n_atoms, key="threshold")
    return lambda value: "no data" if value is None else f"{value / size:.3g} {unit}"


def _quality(run: RunData, s: RunSummary) -> list[tuple[str, str]]:
    energy = energies(run)
    threshold = f"{energy(run.threshold_ev)} with {run.config.confidence:.0%} confidence"
    last = "" if s.last_label_fs is None else f", the last at {s.last_label_fs / 1e3:.3f} ps"
    told = [
        ("threshold", threshold),
        ("labels", f"{s.labels} of at most {run.config.max_labels} ({s.initial} initial, {s.audit} audits){last}"),
    ]
    if s.share_above is not None:
        share = s.share_above
        of = s.labels - s.initial
        told.append(
            (
                "above the threshold",
                f"{s.above_threshold} of {of} labels, {share.observed:.1%} "
                f"(95 % interval {share.lower:.1%} to {share.upper:.1%})",
            )
        )
        told.append(("error at labels", f"RMSE {energy(s.rmse_ev)} before each is learnt{_untuned(s, energy)}"))
    if s.force_rmse_ev_a is not None:
        told.append(("force error at labels", f"RMSE {s.force_rmse_ev_a * units.KCAL_MOL_PER_EV:.3g} kcal/mol/Å"))
    if s.validation_frames:
        told.append(
            (
                "random frames",
                f"{s.validation_above} of {s.validation_frames} above the threshold, RMSE "
                f"{energy(s.validation_rmse_ev)}, not fine-tuned {energy(s.validation_pretrained_rmse_ev)}",
            )
        )
    if s.sigma_crit_ev is not None:
        told.append(("a label is asked for", f"above σ = {energy(s.sigma_crit_ev)}, not calibrated"))
    return told


def _untuned(s: RunSummary, energy: Callable[[float | None], str]) -> str:
    return "" if s.rmse_pretrained_ev is None else f", not fine-tuned {energy(s.rmse_pretrained_ev)}"


def _time(s: RunSummary) -> list[tuple[str, str]]:
    w = s.wall
    if w.total_s <= 0.0:
        return []
    parts = ((w.md_s, "dynamics and set-up"), (w.dft_s, "reference"), (w.update_s, "learning"))
    spent = ", ".join(f"{name} {durations.shown(seconds)}" for seconds, name in parts)
    speed = "" if s.steps_per_s is None else f"; {s.steps_per_s:.3g} steps/s without labels"
    return [("time so far", f"{durations.shown(w.total_s)}: {spent}{speed}")]


def judgement(run: RunData) -> list[tuple[str, str]]:
    """The verdict, and labels that were not believed."""
    refused = [(f"not believed, step {r.step}", r.reason) for r in run.refused]
    return [*verdict.rows(verdict.judge(run)), *refused]

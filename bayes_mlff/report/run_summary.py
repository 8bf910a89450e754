"""A run in numbers: counts, errors, shares, and where the time went."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.data.label_notes import INITIAL, LabelNote
from bayes_mlff.ensemble import metrics
from bayes_mlff.ensemble.energy_scale import EnergyScale
from bayes_mlff.report.run_events import NUMBERS
from bayes_mlff.report.run_log import RunLog
from bayes_mlff.runs.validation import Validation


class WallTime(NamedTuple):
    """Where the time of a run went, over all its sessions."""

    total_s: float
    md_s: float  # the rest: dynamics, compilation and set-up
    dft_s: float
    update_s: float


class RunSummary(NamedTuple):
    """A run in numbers; None where there are no data."""

    formula: str
    n_atoms: int
    steps: int
    time_fs: float
    labels: int  # all that the reference made for the run
    given: int  # further ones that it was started from
    initial: int  # of them defining the energy offset; not predicted beforehand
    audit: int  # of them asked for at random
    above_threshold: int  # of the labels predicted beforehand
    share_above: metrics.Share | None  # of the same, with its 95 % interval
    rmse_ev: float | None  # total energy at labels, before each is learnt
    rmse_pretrained_ev: float | None  # same labels, not fine-tuned
    force_rmse_ev_a: float | None
    validation_frames: int
    validation_above: int  # of them above the threshold
    validation_rmse_ev: float | None
    validation_pretrained_rmse_ev: float | None
    validation_force_rmse_ev_a: float | None
    validation_pretrained_force_rmse_ev_a: float | None
    sigma_crit_ev: float | None  # last
    last_label_fs: float | None
    wall: WallTime
    steps_per_s: float | None  # per second of dynamics
    n_steps: int  # to be taken
    finished: bool  # all steps have been taken


def summarise(run: RunLog, threshold_ev: float) -> RunSummary:
    """Count and average what a run directory holds; the threshold is of the total energy as it is stated, eV."""
    stated_k = run.settings.threshold_temperature_k
    known = [note for note in run.labels if note.reason != INITIAL and note.predicted_ev is not None]
    error = np.array([note.predicted_ev for note in known], np.float64) - _references(known)
    started = [note for note in known if note.pretrained_ev is not None]
    pretrained = np.array([note.pretrained_ev for note in started], np.float64) - _references(started)
    limit = threshold_ev * run.growth(np.array([note.step for note in known], np.float64), stated_k)
    above = int(np.sum(np.abs(error) > limit))
    force = [note.force_errors for note in known if note.force_errors is not None]
    wall, crit = _wall_time(run.events), run.thermo.sigma_crit_ev
    steps, symbols = run.reached, run.labels[0].symbols if run.labels else run.symbols
    return RunSummary(
        formula=hill_formula(symbols),
        n_atoms=len(symbols),
        steps=steps,
        time_fs=steps * run.settings.timestep_fs,
        labels=len(run.labels),
        given=run.given,
        initial=sum(r.reason == INITIAL for r in run.labels),
        audit=sum(r.reason == "audit" for r in run.labels),
        above_threshold=above,
        share_above=metrics.binomial_share(above, error.size) if error.size else None,
        rmse_ev=metrics.rmse(error) if error.size else None,
        rmse_pretrained_ev=metrics.rmse(pretrained) if pretrained.size else None,
        force_rmse_ev_a=metrics.rmse(np.concatenate(force)) if force else None,
        validation_frames=0 if run.validation is None else run.validation.reference_ev.size,
        validation_above=_above(run, threshold_ev),
        validation_rmse_ev=_rmse(run.validation, "predicted_ev"),
        validation_pretrained_rmse_ev=_rmse(run.validation, "pretrained_ev"),
        validation_force_rmse_ev_a=_force_rmse(run.validation, "force_error_ev_a"),
        validation_pretrained_force_rmse_ev_a=_force_rmse(run.validation, "pretrained_force_error_ev_a"),
        sigma_crit_ev=float(crit[-1]) if crit.size else None,
        last_label_fs=max((r.time_fs for r in run.labels), default=None),
        wall=wall,
        steps_per_s=steps / wall.md_s if wall.md_s > 0 and steps else None,
        n_steps=run.settings.n_steps,
        finished=steps >= run.settings.n_steps,
    )


def hill_formula(symbols: Sequence[str]) -> str:
    """Chemical formula in Hill's order: carbon, hydrogen, the others by the alphabet; without carbon all by it."""
    counts = Counter(symbols)
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    order = [*first, *sorted(symbol for symbol in counts if symbol not in first)]
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)


def _references(notes: Sequence[LabelNote]) -> np.ndarray:
    """Reference energies on the scale of predictions."""
    scaled = (EnergyScale(0.0, note.offset_ev).reference_to_total(note.reference_ev) for note in notes)
    return np.fromiter(scaled, np.float64)


def _above(run: RunLog, threshold_ev: float) -> int:
    if (found := run.validation) is None:
        return 0
    limit = threshold_ev * run.growth(found.step, run.settings.threshold_temperature_k)
    return int(np.sum(np.abs(found.predicted_ev - found.reference_ev) > limit))


def _rmse(validation: Validation | None, field: str) -> float | None:
    if validation is None or validation.reference_ev.size == 0:
        return None
    return metrics.rmse(getattr(validation, field) - validation.reference_ev)


def _force_rmse(validation: Validation | None, field: str) -> float | None:
    if validation is None or validation.reference_ev.size == 0 or np.isnan(getattr(validation, field)).any():
        return None
    return metrics.rmse(getattr(validation, field))


def _wall_time(events: list[Mapping[str, Any]]) -> WallTime:
    """Each session lasts from its `session_started` to the last event before the next one.

    Runs of before that was logged have `run_started` only, which comes after the initial label.
    """
    sessions: list[tuple[float, float]] = []
    spent = {"label": 0.0, "label_refused": 0.0, "random_frame": 0.0, "label_compared": 0.0, "update": 0.0}
    begun = False
    for event in events:
        name, now = event["event"], float(event["time"])
        if name == "session_started" or (name == "run_started" and not begun) or not sessions:
            sessions.append((now, now))
        begun = name == "session_started" or (begun and name != "run_started")
        sessions[-1] = (sessions[-1][0], now)
        if name in spent:
            spent[name] += float(event[NUMBERS[name][0]])
    total = sum(end - start for start, end in sessions)
    asked = sum(spent.values()) - spent["update"]
    return WallTime(total, max(total - asked - spent["update"], 0.0), asked, spent["update"])

"""A run on one screen, in the units of its user, and the same for programs.

Nothing here imports JAX or ASE, so that the answer comes at once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core import durations, units
from bayes_mlff.otf.trigger_settings import TriggerSettings, stated
from bayes_mlff.report import standing, verdict
from bayes_mlff.report.run_log import RunLog
from bayes_mlff.report.run_summary import RunSummary, summarise
from bayes_mlff.report.verdict import Tested, Verdict

WIDTH: Final = 23
"""Of the names in `rows`, as far as they are not longer."""

_NAMES: Final = {
    "Labels requested per ps": "labels per ps",
    "Audits": "audits",
    "Audit pass rate": "passed",
    "Coverage of predicted intervals, audits only": "coverage, audits",
    "Roll-backs, rejected labels": "rolled back, rejected",
    "Labels requested by": "labels requested by",
}
"""Shorter names of what the verdict rests on."""

Row = tuple[str, str]


class Now(NamedTuple):
    """The last logged step; None for what was not logged or is no number."""

    temperature_k: float | None
    pressure_gpa: float | None
    sigma_ev: float | None  # of the energy, not calibrated
    limit_ev: float | None  # above which a label is asked for, likewise


def now(run: RunLog) -> Now:
    """The newest values of a run."""
    thermo = run.thermo
    columns = (thermo.temperature_k, thermo.pressure_gpa, thermo.sigma_ev, thermo.sigma_crit_ev)
    return Now(*(_last(column) for column in columns))


def _last(column: np.ndarray | None) -> float | None:
    return float(column[-1]) if column is not None and column.size and np.isfinite(column[-1]) else None


def rows(path: Path, run: RunLog) -> list[Row]:
    """Names and values, some of several lines, for one screen; energies in the unit of the threshold.

    Raises:
      RunDirectoryError: if an event lacks a field.
    """
    s = summarise(run, run.threshold_ev)
    state = standing.state(path, run)
    told = [
        ("state", state.sentence),
        ("system", f"{s.formula}, {s.n_atoms} atoms" if s.formula else f"{run.settings.structure}, no labels yet"),
    ]
    if state.name != "incomplete":
        told.append(("simulated", standing.progress(run)))
    rest = standing.remaining_s(run)
    if state.name != "finished" and rest is not None and standing.is_whole(path):
        told.append(("still to go", f"about {durations.shown(rest)} at the pace of the last steps, labels included"))
    energy = standing.energies(run)
    told += _present(run, energy)
    return [*told, *_quality(run, s, energy), *_time(s), *_happened(run.events), *_judged(run)]


def _present(run: RunLog, energy: Callable[[float | None], str]) -> list[Row]:
    at, said = now(run), []
    if at.temperature_k is not None:
        said.append(f"{at.temperature_k:.0f} K")
    if at.pressure_gpa is not None:
        said.append(f"{at.pressure_gpa:.2f} GPa")
    if at.sigma_ev is not None:
        said.append(f"σ of the energy {energy(at.sigma_ev)}")
    told = [("now", ", ".join(said))] if said else []
    if at.limit_ev is not None:
        told.append(("a label is asked for", f"where σ is above {energy(at.limit_ev)} (not calibrated)"))
    return told


def _quality(run: RunLog, s: RunSummary, energy: Callable[[float | None], str]) -> list[Row]:
    last = "" if s.last_label_fs is None else f", the last at {s.last_label_fs / 1e3:.3f} ps"
    stated_k = run.settings.threshold_temperature_k
    told = [
        ("threshold", f"{stated(energy(run.threshold_ev), stated_k)} with {run.settings.confidence:.0%} confidence"),
        *_triggers(run),
        ("labels", f"{s.labels} of at most {run.settings.max_labels} ({s.initial} initial, {s.audit} audits){last}"),
    ]
    if s.given:
        told.append(("started from", f"{s.given} labels that existed before, not counted here"))
    if s.share_above is not None:
        share = s.share_above
        above = (
            f"{s.above_threshold} of {s.labels - s.initial} labels, {share.observed:.1%} "
            f"(95 % interval {share.lower:.1%} to {share.upper:.1%})"
        )
        before = "" if s.rmse_pretrained_ev is None else f", not fine-tuned {energy(s.rmse_pretrained_ev)}"
        told.append(("above the threshold", above))
        told.append(("error at labels", f"RMSE {energy(s.rmse_ev)} before each is learnt{before}"))
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
    if s.validation_force_rmse_ev_a is not None and s.validation_pretrained_force_rmse_ev_a is not None:
        now, before = (
            f"{x * units.KCAL_MOL_PER_EV:.3g}"
            for x in (s.validation_force_rmse_ev_a, s.validation_pretrained_force_rmse_ev_a)
        )
        told.append(("their forces", f"RMSE {now} kcal/mol/Å, not fine-tuned {before} kcal/mol/Å"))
    return told


def _triggers(run: RunLog) -> list[Row]:
    """Threshold, σ and limit of each trigger beside that on the total energy, in the unit of its threshold."""
    told = []
    for each in run.settings.triggers:
        threshold = stated(each.threshold, each.threshold_temperature_k)
        said = f"{threshold} with {each.confidence or run.settings.confidence:.0%} confidence"
        (unit, factor), series = each.shown_unit, run.triggers.get(each.name)
        sigma, limit = (None, None) if series is None else (_last(series.sigma), _last(series.limit))
        if sigma is not None and limit is not None:
            said += f"; σ {factor * sigma:.3g} of {factor * limit:.3g} {unit} allowed (not calibrated)"
        told.append((f"trigger {each.name}", said))
    return told


def _time(s: RunSummary) -> list[Row]:
    w = s.wall
    if w.total_s <= 0.0:
        return []
    parts = ((w.md_s, "dynamics and set-up"), (w.dft_s, "reference"), (w.update_s, "learning"))
    spent = ", ".join(f"{name} {durations.shown(seconds)}" for seconds, name in parts)
    speed = "" if s.steps_per_s is None else f"; {s.steps_per_s:.3g} steps/s without labels"
    return [("time so far", f"{durations.shown(w.total_s)}: {spent}{speed}")]


def _judged(run: RunLog) -> list[Row]:
    judged = verdict.judge(run)
    answer = "trained" if judged.trained else "\n".join(["not yet trained:", *(f"- {why}" for why in judged.missing)])
    shown = [(_NAMES.get(name, name).removeprefix("Trigger "), value) for name, value in _judgement(run, judged)]
    return [*(row for row in shown[1:] if row[1] != "no data"), ("verdict", answer)]


def judgement(run: RunLog) -> list[Row]:
    """The verdict, and rejected labels."""
    return _judgement(run, verdict.judge(run))


def _judgement(run: RunLog, judged: Verdict) -> list[Row]:
    refused = [(f"rejected, step {note.step}", note.reason) for note in run.refused]
    return [*verdict.rows(judged), *refused]


def _happened(events: list[Mapping[str, Any]]) -> list[Row]:
    """The last roll-back."""
    back = [event for event in events if event["event"] == "rolled_back"]
    return [("last roll-back", f"step {e['step']}: {e.get('reason', 'no reason was logged')}") for e in back[-1:]]


def facts(path: Path, run: RunLog) -> dict[str, Any]:
    """The same for programs: numbers in eV, fs, K, GPa and s, None where there are no data.

    Raises:
      RunDirectoryError: if an event lacks a field.
    """
    s, judged, state = summarise(run, run.threshold_ev), verdict.judge(run), standing.state(path, run)
    return {
        "run": str(path),
        "state": {"name": state.name, "sentence": state.sentence},
        "progress": {
            "step": s.steps,
            "steps": s.n_steps,
            "time_fs": s.time_fs,
            "share": min(1.0, s.steps / s.n_steps),
            "remaining_s": standing.remaining_s(run),
        },
        "system": {"formula": s.formula, "atoms": s.n_atoms},
        "now": now(run)._asdict(),
        "threshold": {
            "text": run.settings.threshold,
            "ev": run.threshold_ev,
            "confidence": run.settings.confidence,
            "temperature_k": run.settings.threshold_temperature_k,
        },
        "labels": {
            "all": s.labels,
            "initial": s.initial,
            "given": s.given,
            "audits": s.audit,
            "most": run.settings.max_labels,
            "not_believed": judged.refused,
            "above_threshold": s.above_threshold,
            "share_above": _plain(s.share_above),
            "rmse_ev": s.rmse_ev,
            "rmse_pretrained_ev": s.rmse_pretrained_ev,
            "force_rmse_ev_a": s.force_rmse_ev_a,
        },
        "random_frames": {
            "all": s.validation_frames,
            "above_threshold": s.validation_above,
            "rmse_ev": s.validation_rmse_ev,
            "rmse_pretrained_ev": s.validation_pretrained_rmse_ev,
            "force_rmse_ev_a": s.validation_force_rmse_ev_a,
            "force_rmse_pretrained_ev_a": s.validation_pretrained_force_rmse_ev_a,
        },
        "audits": {
            "all": judged.audits,
            "trusted": judged.statement.trusted,
            "above_threshold": judged.statement.above,
            "share_above": _plain(judged.statement.share_above),
            "calibration_raised": judged.raised,
        },
        "triggers": [
            _facts_of(run, each, tested) for each, tested in zip(run.settings.triggers, judged.tested[1:], strict=True)
        ],
        "verdict": {"trained": judged.trained, "missing": list(judged.missing)},
        "rollbacks": judged.rollbacks,
        "wall_s": s.wall._asdict(),
        "steps_per_s": s.steps_per_s,
    }


def _facts_of(run: RunLog, settings: TriggerSettings, tested: Tested) -> dict[str, Any]:
    """One trigger for programs, in eV, Å and atoms."""
    series = run.triggers.get(settings.name)
    return {
        "name": settings.name,
        "kind": settings.kind,
        "threshold": settings.threshold,
        "threshold_temperature_k": settings.threshold_temperature_k,
        "confidence": settings.confidence or run.settings.confidence,
        "unit": settings.unit,
        "sigma": None if series is None else _last(series.sigma),
        "limit": None if series is None else _last(series.limit),
        "labels_requested": tested.asked,
        "labels_requested_alone": tested.alone,
        "audits": tested.audits,
        "trusted": tested.statement.trusted,
        "above_threshold": tested.statement.above,
        "share_above": _plain(tested.statement.share_above),
        "calibration_raised": tested.raised,
    }


def _plain(value: Any) -> dict[str, float] | None:
    return None if value is None else {name: float(number) for name, number in value._asdict().items()}

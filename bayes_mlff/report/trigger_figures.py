"""Figures of the triggers beside that on the total energy: errors at the labels, and σ with its limit along the run."""

from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bayes_mlff.core.plots import BLUE, GREEN, GREY, ORANGE, RED, STYLE, plain_log, png
from bayes_mlff.data import readings
from bayes_mlff.ensemble import statistics
from bayes_mlff.otf.criteria import prior_of
from bayes_mlff.otf.trigger_settings import TriggerSettings, stated
from bayes_mlff.report.figures import Panel, band, label_ticks
from bayes_mlff.report.replay import Met, replay
from bayes_mlff.report.run_data import RunData


class TriggerLabels(NamedTuple):
    """Labels with a prediction and a reading of one trigger, in its unit."""

    time_fs: np.ndarray  # [l]
    error: np.ndarray  # [l] absolute value, or norm
    half_width: np.ndarray  # [l] largest error that was expected with the confidence of the trigger
    asked: np.ndarray  # [l] bool, this trigger requested the label
    audit: np.ndarray  # [l] bool, requested at random
    threshold: np.ndarray  # [l] largest acceptable error


def panels(run: RunData) -> list[Panel]:
    """One figure for each trigger beside that on the total energy."""
    return [_panel(run, settings) for settings in run.config.triggers]


def labels_of(run: RunData, settings: TriggerSettings, n_atoms: int) -> TriggerLabels:
    """Errors of the quantity that a trigger watches, at the labels that were predicted."""
    found = [(r, reading) for r in run.records if (reading := readings.find(r.readings, settings.name)) is not None]
    config = run.config
    prior, decay = prior_of(config, settings, n_atoms, config.energy_sigma_ev(n_atoms))
    steps = np.array([record.step for record, _ in found], np.float64)
    threshold = settings.threshold_of(n_atoms) * run.log.growth(steps, settings.threshold_temperature_k)
    audit = [record.reason == "audit" for record, _ in found]
    met = []
    for (record, reading), most, audited in zip(found, threshold, audit, strict=True):
        error = (statistics.per_atom_error if reading.atom is None else statistics.force_error)(record, reading)
        met.append(Met(error, reading.value, reading.limit, float(most), audited, reading.dof))
    again = replay(
        prior,
        met,
        confidence=settings.confidence or config.confidence,
        decay=decay,
        false_alarm=config.audits.false_alarm,
    )
    return TriggerLabels(
        np.array([record.time_fs for record, _ in found], np.float64),
        np.abs([each.error for each in met]),
        again.half_width,
        np.array([settings.name in record.asked for record, _ in found], bool),
        np.array(audit, bool),
        threshold,
    )


def _panel(run: RunData, settings: TriggerSettings) -> Panel:
    title = f"Trigger {settings.name}, threshold {stated(settings.threshold, settings.threshold_temperature_k)}"
    n_atoms = len(run.records[0].structure.numbers) if run.records else 1
    labels, series = labels_of(run, settings, n_atoms), run.log.triggers.get(settings.name)
    if labels.error.size == 0 or series is None or series.sigma.size < 2:
        return Panel(title, "Fewer than two steps have been logged, or no label has been predicted yet.")
    unit, factor = settings.shown_unit
    time, error = labels.time_fs / 1e3, factor * labels.error
    limit = factor * labels.threshold
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 5.2), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        expected = f"{settings.confidence or run.config.confidence:.0%} bound predicted before the call"
        top.vlines(time, 0.0, factor * labels.half_width, color="#C9D3DF", linewidth=2.0, label=expected)
        if settings.threshold_temperature_k is None:
            top.axhline(limit[0], color=GREY, linestyle="--", label=f"threshold {limit[0]:.3g} {unit}")
        else:
            top.plot(time, limit, color=GREY, linestyle="--", label="threshold, which grows with the temperature")
        for mask, color, marker, name in (
            (labels.asked & ~labels.audit, BLUE, "o", "requested by it"),
            (~labels.asked & ~labels.audit, ORANGE, "s", "by another trigger alone"),
            (labels.audit, GREEN, "D", "audit"),
        ):
            if mask.any():
                top.plot(time[mask], error[mask], marker, color=color, ms=4.5, mec="white", label=name)
        top.set(ylabel=f"error / {unit}", ylim=(0.0, max(1.15 * float(error.max()), 1.5 * float(limit.max()))))
        along = run.thermo.time_fs / 1e3
        band(bottom, along, factor * series.sigma, BLUE, "σ")
        bottom.step(along, factor * series.limit, color=RED, where="post", label="critical σ", zorder=4)
        label_ticks(bottom, labels.time_fs)
        bottom.set(yscale="log", xlabel="time / ps", ylabel=f"uncalibrated σ / {unit}")
        plain_log(bottom.yaxis)
        figure.legend(loc="outside upper center", ncols=4)
        what = "energy per atom" if settings.kind == "energy_per_atom" else "force on the atom that the trigger names"
        caption = f"Error of the {what}, before each label is learnt. Labels are requested above the red line."
        return Panel(title, caption, png(figure))

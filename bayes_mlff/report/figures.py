"""Figures of a run: each function turns arrays into one panel, or into a sentence that says why there is none.

Arrays are in eV, fs and degrees; the axes show kcal/mol, meV/atom and ps. No function here reads a file.
"""

from typing import Final, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bayes_mlff.core.plots import BLUE, GREEN, GREY, ORANGE, RED, STYLE, plain_log, png
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble import error_law, metrics
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.report.run_data import AngleSeries, LabelSeries
from bayes_mlff.runs.thermo_log import ThermoSeries
from bayes_mlff.runs.validation import Validation

_LEVELS: Final = (0.5, 0.8, 0.9, 0.95)


class Panel(NamedTuple):
    """A titled figure with its caption, or a sentence instead of the figure."""

    title: str
    text: str  # caption, or why there is no figure
    png: bytes | None = None


def labels_panel(
    labels: LabelSeries, *, threshold_ev: float, n_atoms: int, end_fs: float = 0.0, schedule: Schedule | None = None
) -> Panel:
    """Error of every label with the threshold and the interval predicted before the call; number of labels."""
    title = "Errors at the labels"
    if labels.error_ev.size == 0:
        return Panel(title, "No label has been predicted before its reference calculation yet.")
    time, error = labels.time_fs / 1e3, labels.error_ev * KCAL_MOL_PER_EV
    half, limit = labels.half_width_ev * KCAL_MOL_PER_EV, threshold_ev * KCAL_MOL_PER_EV
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.6), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        level = f"{labels.confidence:.0%} interval predicted before the call"
        top.vlines(time, -half, half, color="#C9D3DF", linewidth=_bar_width(time.size), label=level)
        each = limit if labels.threshold_ev is None else labels.threshold_ev * KCAL_MOL_PER_EV
        if labels.threshold_ev is None:
            top.axhline(limit, color=GREY, linestyle="--", label=f"threshold ±{limit:.3g} kcal/mol")
            top.axhline(-limit, color=GREY, linestyle="--")
        else:
            top.plot(time, each, color=GREY, linestyle="--", label="threshold, which grows with the temperature")
            top.plot(time, -each, color=GREY, linestyle="--")
        large = np.abs(error) > each
        for mask, color, marker, name in (
            (~large & ~labels.audit, BLUE, "o", "triggered, within"),
            (large & ~labels.audit, RED, "o", "triggered, above"),
            (~large & labels.audit, GREEN, "D", "audit, within"),
            (large & labels.audit, ORANGE, "D", "audit, above"),
        ):
            if mask.any():
                top.plot(time[mask], error[mask], marker, color=color, ms=4.5, mec="white", label=name)
        reach = max(1.15 * float(np.abs(error).max()), 2.2 * float(np.max(each)))
        top.set(ylim=(-reach, reach), ylabel="error / kcal/mol")
        per_atom = 1e3 / (KCAL_MOL_PER_EV * n_atoms)
        right = top.secondary_yaxis("right", functions=(lambda e: e * per_atom, lambda e: e / per_atom))
        right.set_ylabel("meV/atom")
        figure.legend(loc="outside upper center", ncols=3)
        end = max(end_fs / 1e3, float(time.max()))
        count = np.append(np.arange(time.size + 1), time.size)
        bottom.step(np.concatenate([[0.0], np.sort(time), [end]]), count, where="post", color=BLUE)
        bottom.set(xlabel="time / ps", ylabel="labels", ylim=(0, None))
        bottom.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axes in (top, bottom):
            mark_segments(axes, schedule, 1e3 * end)
        caption = "Bars beyond the frame are cut off. An error is predicted minus reference total energy."
        return Panel(title, caption, png(figure))


def sigma_error_panel(
    labels: LabelSeries, validation: Validation | None, law: ErrorLaw | None, *, threshold_ev: float
) -> Panel:
    """Absolute error against σ calibrated by the last law of errors, for labels and random frames."""
    title = "Error against calibrated uncertainty"
    known = None if law is None else error_law.parts(law)
    if law is None or known is None or not np.isfinite(known.factor):
        return Panel(title, "The calibration of this run could not be replayed, so there is no calibrated σ.")
    frames = 0 if validation is None else validation.reference_ev.size
    if labels.error_ev.size + frames < 2:
        return Panel(title, "Fewer than two errors are known.")
    unit = KCAL_MOL_PER_EV
    floor = 2e-3 * threshold_ev * unit
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axes = figure.subplots()
        spread = [np.atleast_1d(error_law.deviation(law, labels.sigma_ev)) * unit]
        if validation is not None and frames:
            spread.append(np.atleast_1d(error_law.deviation(law, validation.sigma_ev)) * unit)
            error = (validation.predicted_ev - validation.reference_ev) * unit
            size = float(np.clip(900 / frames, 2.0, 4.0))
            _scatter(axes, spread[1], np.maximum(np.abs(error), floor), ORANGE, size, "random frames")
            if frames >= 40:
                curve = metrics.sigma_error_curve(error, spread[1], width=min(200.0, frames / 10))
                axes.plot(curve.x, curve.y, color=RED, linewidth=2, label="random frames, local RMS")
        if labels.error_ev.size:
            error = np.maximum(np.abs(labels.error_ev) * unit, floor)
            _scatter(axes, spread[0], error, BLUE, 4.5, "labels")
        every = np.concatenate(spread)
        line = np.array([0.8 * every.min(), 1.25 * every.max()])
        axes.plot(line, line, color="black", label="RMS error = σ")
        axes.plot(line, 1.96 * line, color="black", linestyle=":", label="1.96 σ")
        axes.axhline(threshold_ev * unit, color=GREY, linestyle="--", label="threshold")
        axes.set(xscale="log", yscale="log", xlabel="calibrated σ / kcal/mol", ylabel="|error| / kcal/mol")
        plain_log(axes.xaxis)
        plain_log(axes.yaxis)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        caption = (
            f"After the last label σ² = ({known.factor:.3g} spread)² + ({known.floor * unit:.3g} kcal/mol)², where the "
            f"spread is that between the samples. Smaller errors are drawn at {floor:.1g} kcal/mol."
        )
        return Panel(title, caption, png(figure))


def coverage_panel(labels: LabelSeries, validation_pit: np.ndarray | None) -> Panel:
    """Share of errors inside the predicted intervals, with exact binomial intervals."""
    title = "Coverage of the predicted intervals"
    if labels.pit is None:
        return Panel(title, "The calibration of this run could not be replayed, so coverage is unknown.")
    series = [(labels.pit, BLUE, "labels, as predicted before each call")]
    series.append((labels.pit[labels.audit], GREEN, "audits alone, a fair sample"))
    if validation_pit is not None:
        series.append((validation_pit, ORANGE, "random frames, final calibration"))
    series = [item for item in series if item[0].size >= 2]
    if not series:
        return Panel(title, "Fewer than two errors are known.")
    place = np.arange(len(_LEVELS), dtype=float)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.8), layout="constrained")
        axes = figure.subplots()
        nominal = 100 * np.array(_LEVELS)
        axes.hlines(nominal, place - 0.32, place + 0.32, color="black", linewidth=1.6, label="nominal")
        for index, (pit, color, name) in enumerate(series):
            got = metrics.coverage(pit, _LEVELS)
            shift = place + 0.16 * (index - (len(series) - 1) / 2)
            bars = 100 * np.array([got.observed - got.lower, got.upper - got.observed])
            text = f"{name} (n = {got.count})"
            axes.errorbar(shift, 100 * got.observed, bars, fmt="o", color=color, capsize=3, label=text)
        axes.set_xticks(place, [f"{level:.0%}" for level in _LEVELS])
        axes.set(ylim=(0, 104), xlabel="predicted interval", ylabel="errors inside / %")
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper center")
        return Panel(title, "Whiskers: 95 % Clopper-Pearson intervals.", png(figure))


def sigma_panel(thermo: ThermoSeries, label_time_fs: np.ndarray, *, schedule: Schedule | None = None) -> Panel:
    """Uncertainty and critical uncertainty along the run."""
    title = "Uncertainty along the run"
    if thermo.time_fs.size < 2:
        return Panel(title, "Fewer than two steps have been logged.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        axes = figure.subplots()
        band(axes, thermo.time_fs / 1e3, thermo.sigma_ev * KCAL_MOL_PER_EV, BLUE, "σ of the energy")
        critical = thermo.sigma_crit_ev * KCAL_MOL_PER_EV
        axes.step(thermo.time_fs / 1e3, critical, color=RED, where="post", label="critical σ", zorder=4)
        label_ticks(axes, label_time_fs)
        mark_segments(axes, schedule, float(thermo.time_fs[-1]))
        axes.set(yscale="log", xlabel="time / ps", ylabel="uncalibrated σ / kcal/mol")
        plain_log(axes.yaxis)
        figure.legend(loc="outside upper center", ncols=3)
        caption = "Line and band: mean and range within stretches of the run. Labels are requested above the red line."
        return Panel(title, caption, png(figure))


def thermo_panel(thermo: ThermoSeries) -> Panel:
    """Energies and temperature along the run."""
    title = "Energy and temperature"
    if thermo.time_fs.size < 2:
        return Panel(title, "Fewer than two steps have been logged.")
    time, origin = thermo.time_fs / 1e3, thermo.potential_ev[0]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.6), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        band(top, time, (thermo.total_ev - origin) * KCAL_MOL_PER_EV, GREEN, "potential + kinetic")
        band(top, time, (thermo.potential_ev - origin) * KCAL_MOL_PER_EV, BLUE, "potential")
        top.set_ylabel("energy / kcal/mol")
        band(bottom, time, thermo.temperature_k, RED, f"mean {np.mean(thermo.temperature_k):.0f} K")
        bottom.set(xlabel="time / ps", ylabel="temperature / K")
        for axes in (top, bottom):
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.1)
        caption = "Energies relative to the first logged potential energy. Bands: range within stretches."
        return Panel(title, caption, png(figure))


def angle_panel(angles: AngleSeries) -> Panel:
    """Ethanol's hydroxyl conformation along the run, with the labels."""
    title = "Conformation of ethanol and labels"
    if angles.time_fs.size < 2:
        return Panel(title, "Fewer than two frames have been written.")
    time, between = angles.time_fs / 1e3, np.abs(angles.dihedral_deg) < 30
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(time, angles.angle_deg, color=GREY, linewidth=0.8, label="trajectory", zorder=1)
        if between.any():
            name = "between the gauche forms"
            axes.plot(time[between], angles.angle_deg[between], ".", color=ORANGE, markersize=4, label=name)
        where = angles.label_time_fs / 1e3
        axes.plot(where, angles.label_angle_deg, "o", color=BLUE, markersize=5, mec="white", label="labels")
        axes.set(xlabel="time / ps", ylabel="angle of OH to CC / °")
        figure.legend(loc="outside upper center", ncols=3)
        caption = (
            "Angle between O→H and methyl C→C: small in the anti form, large in the gauche forms. "
            f"Frames with a C-C-O-H dihedral within ±30°: {between.mean():.1%}."
        )
        return Panel(title, caption, png(figure))


def parity_panel(validation: Validation | None, *, threshold_ev: float) -> Panel:
    """Random frames: predicted against reference energies, and residuals, before and after fine-tuning."""
    title = "Random frames"
    if validation is None or validation.reference_ev.size < 2:
        return Panel(title, "No random frames of this run have been labelled.")
    unit, origin = KCAL_MOL_PER_EV, float(np.mean(validation.reference_ev))
    reference = (validation.reference_ev - origin) * unit
    limit = threshold_ev * unit
    size = float(np.clip(900 / reference.size, 2.0, 4.5))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for predicted, color, name in (
            (validation.pretrained_ev, ORANGE, "not fine-tuned"),
            (validation.predicted_ev, BLUE, "fine-tuned"),
        ):
            value = (predicted - origin) * unit
            residual = value - reference
            legend = f"{name}, RMSE {metrics.rmse(residual):.3g} kcal/mol"
            _scatter(left, reference, value, color, size, legend)
            _scatter(right, reference, residual, color, size, None)
        ends = np.array([reference.min(), reference.max()])
        left.plot(ends, ends, color="black", linewidth=0.9)
        for sign in (-1, 1):
            right.axhline(sign * limit, color=GREY, linestyle="--", label="threshold" if sign > 0 else None)
        left.set(xlabel="reference / kcal/mol", ylabel="predicted / kcal/mol")
        right.set(xlabel="reference / kcal/mol", ylabel="predicted - reference / kcal/mol")
        figure.legend(loc="outside upper center", ncols=3)
        caption = f"{reference.size} frames, energies relative to the mean reference energy."
        return Panel(title, caption, png(figure))


def label_ticks(axes: Axes, label_time_fs: np.ndarray) -> None:
    """Labels as ticks at the bottom."""
    axes.plot(label_time_fs / 1e3, np.full(label_time_fs.size, 0.02), "|", color="black", markersize=8,
              transform=axes.get_xaxis_transform(), label="labels")  # fmt: skip


def mark_segments(axes: Axes, schedule: Schedule | None, last_fs: float) -> None:
    """Lines at the ends of segments, with temperatures above axes in the first row; nothing for a single segment."""
    if schedule is None or schedule.begin_fs.size < 2:
        return
    place = axes.get_subplotspec()
    first = place is None or place.is_first_row()
    for begin, end, (cool, warm) in zip(schedule.begin_fs, schedule.end_fs, schedule.temperature_k, strict=True):
        if begin >= last_fs:
            break
        if end < last_fs:
            axes.axvline(end / 1e3, color=GREY, linestyle="--", linewidth=0.9)
        if not first:
            continue
        text, middle = f"{cool:g} K" if cool == warm else f"{cool:g} to {warm:g} K", 5e-4 * (begin + min(end, last_fs))
        across = axes.get_xaxis_transform()
        axes.text(middle, 1.01, text, transform=across, ha="center", va="bottom", color=GREY)


def _scatter(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, size: float, label: str | None) -> None:
    axes.plot(x, y, "o", color=color, markersize=size, alpha=0.75, mec="white", mew=0.3, label=label)


def band(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str, *, stretches: int = 400) -> None:
    """A line for few points, else mean and range within stretches, so that nothing is overplotted."""
    if x.size <= 2 * stretches:
        axes.plot(x, y, color=color, linewidth=0.9, label=label)
        return
    cuts = np.linspace(0, x.size, stretches + 1).astype(int)[:-1]
    count = np.diff(np.append(cuts, x.size))
    middle = np.add.reduceat(x, cuts) / count
    low, high = np.minimum.reduceat(y, cuts), np.maximum.reduceat(y, cuts)
    axes.fill_between(middle, low, high, color=color, alpha=0.22, linewidth=0)
    axes.plot(middle, np.add.reduceat(y, cuts) / count, color=color, linewidth=1.0, label=label)


def _bar_width(count: int) -> float:
    return float(np.clip(200 / count, 1.0, 5.0))

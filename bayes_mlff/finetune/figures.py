"""Figures of one fine-tuning, and of the comparison of several: each function turns numbers into PNG bytes."""

from collections.abc import Mapping
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

from bayes_mlff.core.plots import BLUE, GREEN, GREY, ORANGE, RED, STYLE, plain_log, png
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble import metrics
from bayes_mlff.finetune.evaluate import Quality
from bayes_mlff.finetune.tables import FORCES, Observable

COLORS: Final = {"sghmc": BLUE, "laplace": GREEN, "adam": GREY, "deep-ensemble": ORANGE, "scratch": RED}
NAMES: Final = {
    "sghmc": "SGHMC, transfer prior",
    "laplace": "last-layer Laplace",
    "adam": "Adam, fine-tuned",
    "deep-ensemble": "deep ensemble",
    "scratch": "SGHMC from scratch",
}
"""Names of the methods, in the order of legends."""
MOST_POINTS = 20_000
"""Largest number of points of a scatter plot; more are thinned evenly."""
SIGNED_LOG_BELOW: Final = -10.0
"""Mean log likelihood below which the axis is logarithmic: a linear one would hide differences of larger values."""


def parity(found: Quality, zero_shot: Quality | None, observable: Observable = FORCES) -> bytes:
    """Predicted against reference values, before and after fine-tuning."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 5.0), layout="constrained")
        axes = figure.subplots()
        for quality, color, name in ((zero_shot, ORANGE, "not fine-tuned"), (found, BLUE, "fine-tuned")):
            if quality is None:
                continue
            step = -(-quality.error.size // MOST_POINTS)
            reference, error = (x[::step] * KCAL_MOL_PER_EV for x in (quality.reference, quality.error))
            rmse = metrics.rmse(quality.error) * KCAL_MOL_PER_EV
            label = f"{name}, RMSE {rmse:.3g} {observable.unit}"
            axes.plot(reference, reference + error, "o", color=color, markersize=2.5, alpha=0.6, mew=0, label=label)
        ends = np.array([found.reference.min(), found.reference.max()]) * KCAL_MOL_PER_EV
        axes.plot(ends, ends, color="black", linewidth=0.9)
        axes.set(xlabel=f"reference {observable.scalar} / {observable.unit}", ylabel=f"predicted / {observable.unit}")
        axes.legend(loc="upper left")
        return png(figure)


def sigma_error(found: Quality, sigma: np.ndarray, observable: Observable = FORCES) -> bytes:
    """Absolute errors and their local root mean square against σ [m] eV/Å or eV."""
    error, spread = found.error * KCAL_MOL_PER_EV, sigma * KCAL_MOL_PER_EV
    width = min(200.0, error.size / 10)
    curve = metrics.sigma_error_curve(error, spread, width=width)
    step = -(-error.size // MOST_POINTS)
    floor = 1e-3 * float(np.sqrt(np.mean(error**2)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        points = np.maximum(np.abs(error[::step]), floor)
        axes.plot(spread[::step], points, "o", color=GREY, markersize=2, alpha=0.4, mew=0, label=observable.scalars)
        axes.plot(curve.x, curve.y, color=BLUE, linewidth=2, label=f"local RMS error (over {width:.0f} points)")
        ends = np.array([spread.min(), spread.max()])
        axes.plot(ends, ends, color="black", label="RMS error = σ")
        axes.set(xscale="log", yscale="log", xlabel=f"σ / {observable.unit}", ylabel=f"|error| / {observable.unit}")
        axes.legend(loc="lower right")
        return png(figure)


def calibration(found: Mapping[Observable, Quality | None]) -> bytes:
    """Observed share of errors below each quantile that σ predicts, of each observable that has one."""
    series = [
        (metrics.normal_pit(quality.error, quality.sigma), color, f"{observable.scalars} (n = {quality.error.size})")
        for (observable, quality), color in zip(found.items(), (BLUE, ORANGE), strict=False)
        if quality is not None and quality.sigma is not None
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.9, label="ideal")
        for pit, color, name in series:
            curve = metrics.calibration_curve(pit)
            axes.plot(curve.x, curve.y, "o-", color=color, markersize=3.5, label=name)
        axes.set(xlabel="predicted cumulative probability", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")
        return png(figure)


def likelihood_by_error(
    methods: dict[str, list[dict[str, Any]]], title: str | None = None, observable: Observable = FORCES
) -> bytes:
    """Mean log likelihood by interval of the absolute error, above the shares of the intervals.

    Args:
      methods: by name, `mll_by_error` of metrics.json; the same intervals for all.
      title: above the names of the methods.
      observable: of what the errors are.
    """
    shown = {name: methods[name] for name in COLORS if name in methods}
    intervals = next(iter(shown.values()))
    texts = [f"> {i['from']:g}" if i["to"] is None else f"{i['from']:g} to {i['to']:g}" for i in intervals]
    place, width = np.arange(len(intervals)), 0.8 / len(shown)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4 + 0.7 * len(shown), 5.0), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        if min(row["mll"] or 0.0 for rows in shown.values() for row in rows) < SIGNED_LOG_BELOW:
            top.set_yscale("symlog", linthresh=1.0)
            top.yaxis.set_major_locator(SymmetricalLogLocator(base=10.0, linthresh=1.0, subs=[1.0, 2.0, 5.0]))
            top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for index, (name, rows) in enumerate(shown.items()):
            mll = [np.nan if row["mll"] is None else row["mll"] for row in rows]
            top.plot(place, mll, "o-", color=COLORS[name], label=NAMES[name])
            counts = np.array([row["count"] for row in rows])
            share = 100.0 * counts / counts.sum()
            beside = place + (index - 0.5 * (len(shown) - 1)) * width
            bars = bottom.bar(beside, share, 0.9 * width, color=COLORS[name])
            bottom.bar_label(bars, [f"{x:.1f}" for x in share], padding=2, fontsize=7)
        bottom.margins(y=0.15)
        top.set(ylabel="mean log likelihood / nats")
        bottom.set(ylabel=f"{observable.scalars.split()[-1]} / %", xlabel=f"|error| / {observable.unit}")
        bottom.set(xticks=place, xticklabels=texts)
        figure.legend(loc="outside upper center", ncols=3, title=title)
        return png(figure)


def comparison(entries: list[dict[str, Any]], before: float | None = None, observable: Observable = FORCES) -> bytes:
    """Likelihood and AUC-ROC against error, and error against number of frames if there are several, as PNG.

    Markers are means over seeds, bars their range.

    Args:
      entries: of fits, with `method`, `m`, RMSE, `mll` and `auc_roc`, which may be None; see `tables.numbers`.
      before: RMSE before fine-tuning, in the unit of the observable.
      observable: of what the errors are.
    """
    rmse = f"rmse_{observable.suffix}"
    sizes = sorted({e["m"] for e in entries})
    several = len(sizes) > 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0 if several else 7.4, 3.8), layout="constrained")
        left, middle, *others = figure.subplots(1, 3 if several else 2)
        for method in COLORS:
            own = [e for e in entries if e["method"] == method]
            if not own:
                continue
            _against(left, own, rmse, "mll", method)
            _against(middle, own, rmse, "auc_roc", method)
            for right in others:
                _against(right, own, "m", rmse, method)
        error = f"RMSE / {observable.unit}"
        left.set(xlabel=error, ylabel="mean log likelihood / nats", xscale="log")
        middle.set(xlabel=error, ylabel="AUC-ROC of large errors", xscale="log")
        logarithmic = [left.xaxis, middle.xaxis]
        for right in others:
            if before is not None:
                right.axhline(before, color="black", linestyle="--", linewidth=0.9)
                right.annotate("not fine-tuned", (0.98, before), (0, -3), ("axes fraction", "data"), "offset points",
                               ha="right", va="top", fontsize=8)  # fmt: skip
            right.set(xlabel="training frames", ylabel=error, xscale="log", yscale="log")
            logarithmic += [right.xaxis, right.yaxis]
        for axis in logarithmic:
            plain_log(axis)
        for right in others:
            if sizes[-1] < 5 * sizes[0]:  # otherwise ticks would be at fractions of frames
                right.set_xticks(sizes)
        if all(e["auc_roc"] is None for e in entries):
            middle.text(0.5, 0.5, "no large errors, or only such", transform=middle.transAxes, ha="center")
        # With several sizes the likelihood decreases with the error: this corner is free.
        left.legend(fontsize=8, loc="lower left" if several else "best")
        return png(figure)


def _against(axes: Axes, entries: list[dict[str, Any]], horizontal: str, vertical: str, method: str) -> None:
    """Means over seeds of two quantities, with the range of the vertical one, for each number of frames."""
    sizes = sorted({e["m"] for e in entries if e[vertical] is not None})
    if not sizes:
        return
    rows = [[e for e in entries if e["m"] == size and e[vertical] is not None] for size in sizes]
    x = [np.mean([e[horizontal] for e in row]) for row in rows]
    y, low, high = ([f([e[vertical] for e in row]) for row in rows] for f in (np.mean, np.min, np.max))
    bars = [np.subtract(y, low), np.subtract(high, y)]
    axes.errorbar(x, y, bars, fmt="o-", color=COLORS[method], label=NAMES[method], capsize=2)

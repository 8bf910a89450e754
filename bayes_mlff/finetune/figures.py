"""Figures of a fine-tuning: force parity, σ against error, calibration curve. Arrays in, PNG bytes out."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble import metrics
from bayes_mlff.finetune.evaluate import Quality
from bayes_mlff.otf.figures import BLUE, GREY, ORANGE, STYLE, png

MOST_POINTS = 20_000
"""Of a scatter plot; more are thinned evenly."""


def parity(forces: Quality, zero_shot: Quality | None) -> bytes:
    """Predicted against reference force components, before and after fine-tuning."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 5.0), layout="constrained")
        axes = figure.subplots()
        for quality, color, name in ((zero_shot, ORANGE, "not fine-tuned"), (forces, BLUE, "fine-tuned")):
            if quality is None:
                continue
            step = -(-quality.error.size // MOST_POINTS)
            reference, error = (x[::step] * KCAL_MOL_PER_EV for x in (quality.reference, quality.error))
            rmse = metrics.rmse(quality.error) * KCAL_MOL_PER_EV
            label = f"{name}, RMSE {rmse:.3g} kcal/mol/Å"
            axes.plot(reference, reference + error, "o", color=color, markersize=2.5, alpha=0.6, mew=0, label=label)
        ends = np.array([forces.reference.min(), forces.reference.max()]) * KCAL_MOL_PER_EV
        axes.plot(ends, ends, color="black", linewidth=0.9)
        axes.set(xlabel="reference force component / kcal/mol/Å", ylabel="predicted / kcal/mol/Å")
        axes.legend(loc="upper left")
        return png(figure)


def sigma_error(forces: Quality, sigma: np.ndarray) -> bytes:
    """Absolute errors and their local root mean square against σ [m] eV/Å."""
    error, spread = forces.error * KCAL_MOL_PER_EV, sigma * KCAL_MOL_PER_EV
    width = min(200.0, error.size / 10)
    curve = metrics.sigma_error_curve(error, spread, width=width)
    step = -(-error.size // MOST_POINTS)
    floor = 1e-3 * float(np.sqrt(np.mean(error**2)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        points = np.maximum(np.abs(error[::step]), floor)
        axes.plot(spread[::step], points, "o", color=GREY, markersize=2, alpha=0.4, mew=0, label="force components")
        axes.plot(curve.x, curve.y, color=BLUE, linewidth=2, label=f"local RMS error (over {width:.0f} points)")
        ends = np.array([spread.min(), spread.max()])
        axes.plot(ends, ends, color="black", label="RMS error = σ")
        axes.set(xscale="log", yscale="log", xlabel="σ / kcal/mol/Å", ylabel="|error| / kcal/mol/Å")
        axes.legend(loc="lower right")
        return png(figure)


def calibration(forces: Quality, sigma: np.ndarray, energy: Quality | None = None) -> bytes:
    """Observed share of errors below each quantile that σ [m] eV/Å predicts."""
    series = [(metrics.normal_pit(forces.error, sigma), BLUE, f"force components (n = {forces.error.size})")]
    if energy is not None and energy.sigma is not None:
        name = f"energies (n = {energy.error.size})"
        series.append((metrics.normal_pit(energy.error, energy.sigma), ORANGE, name))
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

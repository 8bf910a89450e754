"""Stops a run that calls the reference too often (a storm of labels), and diagnoses the cause."""

from typing import NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.ensemble import energy_scale
from bayes_mlff.otf.config import GuardsConfig


class Trend(NamedTuple):
    """Statistics of the labels of a storm; energies in units of the threshold."""

    count: int
    rms: float  # root mean square error
    bias: float  # mean error
    first: float  # rms of the first half
    last: float  # rms of the second half
    over_sigma: float  # rms of error over uncalibrated σ


def refuse_storm(guards: GuardsConfig, calls: list[LabelRecord], step: int, threshold_ev: float) -> None:
    """Stop the run if there were too many reference calls recently.

    Args:
      guards: settings of the guards.
      calls: all reference calculations before this step.
      step: step of the geometry to label.
      threshold_ev: largest acceptable error of the total energy, eV.

    Raises:
      RunStoppedError: with the trend of the errors and its probable cause.
    """
    storm = [r for r in calls if r.step > step - guards.storm_steps]
    if len(storm) < guards.storm_labels:
        return
    known = [r for r in storm if r.predicted_energy_mean is not None and r.predicted_energy_sigma]
    error = np.array([energy_scale.error(r) for r in known])
    sigma = np.array([r.predicted_energy_sigma for r in known], np.float64)
    what = "no predicted label among them"
    if error.size >= 2:
        what = diagnosis(trend(error / threshold_ev, sigma / threshold_ev))
    raise RunStoppedError(
        f"step {step}: {len(storm)} reference calls within the last {guards.storm_steps} steps (guards.storm_labels = "
        f"{guards.storm_labels}); {what}"
    )


def trend(error: np.ndarray, sigma: np.ndarray) -> Trend:
    """Statistics of errors and σ [m], in units of the threshold, m > 1."""
    half = error.size // 2

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(x))))

    return Trend(
        error.size, rms(error), float(np.mean(error)), rms(error[:half]), rms(error[half:]), rms(error / sigma)
    )


def diagnosis(t: Trend) -> str:
    """Probable cause of a storm, from its errors, and what to do."""
    said = (
        f"errors of {t.rms:.2g} thresholds on average (first half {t.first:.2g}, second {t.last:.2g}), "
        f"mean {t.bias:+.2g}, {t.over_sigma:.2g} times σ: "
    )
    if abs(t.bias) > 0.8 * t.rms and t.rms > 0.5:
        return said + (
            "they have one sign, so the reference's energies have shifted against the offset of the first label "
            "(another electronic state, other settings, a drift): compare the first label with a new one of the same "
            "structure"
        )
    if t.rms < 0.5:
        return said + (
            "they are well within the threshold, so the calibration is too cautious, probably because of a few large "
            "early errors: set calibration.decay to about 0.9 so that it forgets them, or look for a bad early label"
        )
    if t.last < 0.5 * t.first:
        return said + "the model is learning: raise guards.storm_labels and resume"
    return said + (
        "the model does not learn this structure: raise sampler.steps or threshold, or choose a model trained for it"
    )

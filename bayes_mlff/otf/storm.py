"""Stops a run that calls the reference too often (a storm of labels), and diagnoses the cause."""

from typing import NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.data import readings
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.ensemble.triggers import Criterion
from bayes_mlff.otf.config import GuardsConfig


class Trend(NamedTuple):
    """Statistics of the labels of a storm, in units of the threshold."""

    count: int
    rms: float  # root mean square error
    bias: float  # mean error
    first: float  # rms of the first half
    last: float  # rms of the second half
    over_sigma: float  # rms of error over uncalibrated σ


def refuse_storm(guards: GuardsConfig, calls: list[LabelRecord], step: int, criteria: tuple[Criterion, ...]) -> None:
    """Stop the run if there were too many reference calls recently.

    Args:
      guards: settings of the guards.
      calls: all reference calculations before this step.
      step: step of the geometry to label.
      criteria: of the run; the errors of the one that requested most of these labels are looked at.

    Raises:
      RunStoppedError: with the trend of the errors and its probable cause.
    """
    storm = [r for r in calls if r.step > step - guards.storm_steps]
    if len(storm) < guards.storm_labels:
        return
    counts = [sum(c.statistic.name in r.asked for r in storm) for c in criteria]
    raise RunStoppedError(
        f"step {step}: {len(storm)} reference calls within the last {guards.storm_steps} steps (guards.storm_labels = "
        f"{guards.storm_labels}){_by_trigger(criteria, counts)}; {_cause(storm, criteria[int(np.argmax(counts))])}"
    )


def _by_trigger(criteria: tuple[Criterion, ...], counts: list[int]) -> str:
    """How many labels each trigger requested, if there are several."""
    if len(criteria) < 2:
        return ""
    return ", requested by " + ", ".join(f"{c.statistic.name}: {n}" for c, n in zip(criteria, counts, strict=True))


def _cause(storm: list[LabelRecord], criterion: Criterion) -> str:
    """The diagnosis of the errors of one statistic."""
    statistic = criterion.statistic
    found = [(r, readings.find(r.readings, statistic.name)) for r in storm]
    known = [(r, x) for r, x in found if x is not None and r.predicted_energy_mean is not None and x.value]
    if len(known) < 2:
        return "no predicted label among them"
    error = np.array([statistic.error(r, x) for r, x in known]) / criterion.threshold
    sigma = np.array([x.value for _, x in known], np.float64) / criterion.threshold
    of = "" if statistic.name == readings.ENERGY else f"of trigger {statistic.name}: "
    return of + diagnosis(trend(error, sigma), signed=not statistic.of_atoms)


def trend(error: np.ndarray, sigma: np.ndarray) -> Trend:
    """Statistics of errors and σ [m], in units of the threshold, m > 1."""
    half = error.size // 2

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(x))))

    return Trend(
        error.size, rms(error), float(np.mean(error)), rms(error[:half]), rms(error[half:]), rms(error / sigma)
    )


def diagnosis(t: Trend, *, signed: bool = True) -> str:
    """Probable cause of a storm, from its errors, and what to do; norms of vectors are not `signed`."""
    said = (
        f"errors of {t.rms:.2g} thresholds on average (first half {t.first:.2g}, second {t.last:.2g}), "
        f"mean {t.bias:+.2g}, {t.over_sigma:.2g} times σ: "
    )
    if signed and abs(t.bias) > 0.8 * t.rms and t.rms > 0.5:
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

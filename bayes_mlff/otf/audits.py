"""Labels at random times: when they are due, what they say about the stated confidence, and what follows from it.

A label that the trigger asked for is no fair sample: it was taken because σ was large. Audits are: each step has
the same chance to become one, whatever σ is there.

Each audit turns into a score w, the absolute error on the scale of a standard normal variable under the
calibration in force before it (`calibration.normal_score`). If the calibration is right, the scores are
independent and half-normal. The alternative is that from some audit j on the errors are τ times as large as stated,
τ > 1. With weights 1/(j (j + 1)) over j and equal ones over `WIDENINGS` the Bayes factor of the alternative
is a martingale of mean 1 while the calibration is right, so that the chance that it ever exceeds 1/α is at
most α (Ville 1939; Grünwald, de Heide and Koolen 2024, J. R. Stat. Soc. B 86, 1091). Beyond that the Gamma posterior
of the precision starts anew: its prior, updated with the audits from the most probable j on alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError, brief
from bayes_mlff.data.readings import ENERGY
from bayes_mlff.ensemble import calibration, metrics
from bayes_mlff.ensemble.calibration import Calibration

WIDENINGS: Final = (1.5, 2.0, 3.0, 5.0, 10.0)
"""Values of τ, equally probable beforehand."""

_STREAM: Final = 1
"""Keeps the waiting times apart from other uses of the seed."""


class Clock(NamedTuple):
    """When the next audit is due."""

    drawn: int  # waiting times so far
    due: int  # step; 0 = never
    mean_steps: float  # of the waiting time; 0 = no audits


class Score(NamedTuple):
    """One audit, as the test of the stated confidence needs it."""

    z: float  # error over uncalibrated σ
    normal: float  # absolute error on the scale of a standard normal variable, under the calibration before


class Evidence(NamedTuple):
    """For errors larger than stated."""

    log_bayes_factor: float  # nats
    start: int  # index of the audit from which on, most probably


class Outcome(NamedTuple):
    """What an audit leaves behind."""

    calibration: Calibration
    scores: tuple[Score, ...]  # empty after a raise
    evidence: Evidence
    raised: bool


class Audit(NamedTuple):
    """One audit as the run logged it; energies in eV."""

    step: int
    error: float  # predicted minus reference
    asked: bool  # uncertainty asked for a label, too
    threshold: float
    pit: float  # predictive distribution function at the error
    raised: bool  # the calibration was raised after it


class Statement(NamedTuple):
    """What audits say about the stated confidence."""

    count: int
    coverage: metrics.Coverage | None  # of the predictive intervals; None without audits
    trusted: int  # audits where the trigger would have asked for no label
    above: int  # of these, with an error above the threshold
    share_above: metrics.Share | None  # the same with its 95 % interval


def draw(seed: int, drawn: int, after: int, mean_steps: float) -> Clock:
    """Draw the next waiting time.

    Args:
      seed: of the run.
      drawn: waiting times so far; with the seed it fixes the result.
      after: step from which to wait.
      mean_steps: mean of the geometric law, which has no memory; 0 = no audits.
    """
    if mean_steps <= 0.0:
        return Clock(drawn, 0, 0.0)
    generator = np.random.default_rng([seed, _STREAM, drawn])
    return Clock(drawn + 1, after + int(generator.geometric(min(1.0, 1.0 / mean_steps))), mean_steps)


def kept_up(clock: Clock, seed: int, step: int, mean_steps: float) -> Clock:
    """The clock as of `step`: drawn anew if it has run out or the mean has changed, else as it was."""
    if clock.mean_steps == mean_steps and (clock.due > step or mean_steps == 0.0):
        return clock
    return draw(seed, clock.drawn, step, mean_steps)


def evidence(normal: Sequence[float]) -> Evidence:
    """Weigh scores [m], m > 0, in order of time, for the alternative against a right calibration."""
    w = np.asarray(normal, np.float64)
    tau = np.array(WIDENINGS)
    # Of N(0, τ²) against N(0, 1) at each score; then summed from each audit on.
    ratio = 0.5 * np.square(w)[:, None] * (1.0 - tau**-2)[None, :] - np.log(tau)[None, :]
    since = np.cumsum(ratio[::-1], axis=0)[::-1]
    number = np.arange(1, w.size + 1, dtype=np.float64)
    by_start = np.logaddexp.reduce(since, axis=1) - np.log(tau.size) - np.log(number * (number + 1.0))
    not_yet = -np.log(w.size + 1.0)  # weight of a beginning still to come, for which the two agree so far
    return Evidence(float(np.logaddexp.reduce([*by_start, not_yet])), int(np.argmax(by_start)))


def learn(
    state: Calibration,
    scores: tuple[Score, ...],
    error: float,
    sigma: float,
    *,
    audited: bool,
    decay: float = 1.0,
    false_alarm: float = 0.01,
) -> Outcome:
    """Update the calibration with one label, and raise it if this audit shows that it was too confident.

    Args:
      state: calibration before this label.
      scores: of the audits since the last raise.
      error: eV, predicted minus reference.
      sigma: eV, not calibrated.
      audited: the label was taken at random.
      decay: see `calibration.update`.
      false_alarm: probability of raising a right calibration, over a whole run.

    Returns:
      The calibration; raised, it never states smaller errors than the update alone.
    """
    updated = calibration.update(state, error, sigma, decay=decay)
    if not audited:
        return Outcome(updated, scores, Evidence(0.0, 0), raised=False)
    scores = (*scores, Score(error / sigma, float(calibration.normal_score(state, error, sigma))))
    found = evidence([score.normal for score in scores])
    if found.log_bayes_factor < -np.log(false_alarm):
        return Outcome(updated, scores, found, raised=False)
    anew = calibration.restart(updated, [score.z for score in scores[found.start :]])
    wider = float(calibration.interval(anew, 1.0)) > float(calibration.interval(updated, 1.0))
    return Outcome(anew if wider else updated, (), found, raised=True)


def read(events: Iterable[Mapping[str, Any]]) -> list[Audit]:
    """Audits of the energy in order of time, from the events of a run; one that was logged twice counts once.

    Raises:
      RunDirectoryError: if an event lacks a field.
    """
    found = {}
    for event in events:
        if event["event"] == "audit" and event.get("trigger", ENERGY) == ENERGY:
            try:
                audit = Audit(
                    step=int(event["step"]),
                    error=float(event["error_ev"]),
                    # Before this was logged, uncertainty asked whenever σ was above its limit.
                    asked=bool(event.get("asked", float(event["sigma_ev"]) > float(event["sigma_crit_ev"]))),
                    threshold=float(event["threshold_ev"]),
                    pit=float(event["pit"]),
                    raised=bool(event["raised"]),
                )
                if not (abs(audit.error) < math.inf and 0.0 <= audit.pit <= 1.0):
                    raise ValueError(f"error_ev {audit.error:g} or pit {audit.pit:g}")
                found[audit.step] = audit
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise RunDirectoryError(f"events.jsonl: an audit lacks or spoils {brief(str(error))}") from error
    return [found[step] for step in sorted(found)]


def since_raise(audits: Sequence[Audit]) -> list[Audit]:
    """Audits after the calibration was last raised."""
    last = max((i for i, audit in enumerate(audits) if audit.raised), default=-1)
    return list(audits[last + 1 :])


def statement(audits: Sequence[Audit]) -> Statement:
    """Coverage at 50, 80, 90 and 95 %, and how often a trusted prediction was wrong by more than the threshold."""
    trusted = [a for a in audits if not a.asked]
    above = sum(abs(a.error) > a.threshold for a in trusted)
    return Statement(
        len(audits),
        metrics.coverage([a.pit for a in audits]) if audits else None,
        len(trusted),
        above,
        metrics.binomial_share(above, len(trusted)) if trusted else None,
    )

"""Audits: labels at random times, which test the stated confidence and correct the calibration.

A label that the trigger requested is a biased sample: it was taken because σ was large. Audits are unbiased: each
step has the same probability to become one, independent of σ.

Each audit turns into a score w, the absolute error on the scale of a standard normal variable under the
calibration in force before it (`error_law.normal_score`). If the calibration is right, the scores are
independent and half-normal. The alternative hypothesis is that from some audit j on the errors are τ times as large as
stated, τ > 1. With weights 1/(j (j + 1)) over j and equal ones over `WIDENINGS` the Bayes factor of the alternative
is a martingale of mean 1 if the calibration is right, so that the probability that it ever exceeds 1/α is at
most α (Ville 1939; Grünwald, de Heide and Koolen 2024, J. R. Stat. Soc. B 86, 1091). If it does, the Gamma posterior
of the precision is restarted from its prior, updated only with the audits from the most probable j on.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError, brief
from bayes_mlff.data.readings import ENERGY, SUFFIX
from bayes_mlff.ensemble import error_law, metrics
from bayes_mlff.ensemble.error_law import ErrorLaw

WIDENINGS: Final = (1.5, 2.0, 3.0, 5.0, 10.0)
"""Values of τ, with equal prior probabilities."""

_STREAM: Final = 1
"""Makes the random numbers of the waiting times independent of other uses of the seed."""


class Clock(NamedTuple):
    """When the next audit is due."""

    drawn: int  # number of waiting times drawn so far
    due: int  # step of the next audit; 0 = never
    mean_steps: float  # mean waiting time, MD steps; 0 = no audits


class Score(NamedTuple):
    """Result of one audit, for the test of the stated confidence."""

    error: float  # predicted minus reference, or the norm of such a vector
    sigma: float  # uncalibrated, in the unit of the error
    normal: float  # absolute error on the scale of a standard normal variable, with the calibration before the audit
    dof: float = 1.0  # effective number of components of the error


class Evidence(NamedTuple):
    """Evidence for errors larger than stated."""

    log_bayes_factor: float  # natural logarithm
    start: int  # index of the audit from which on errors are larger, most probably


class Outcome(NamedTuple):
    """Calibration and test result after a label."""

    calibration: ErrorLaw
    scores: tuple[Score, ...]  # empty after a raise
    evidence: Evidence
    raised: bool


class Audit(NamedTuple):
    """One audit of one trigger from the log of a run, in the trigger's unit."""

    step: int
    error: float  # predicted minus reference, or the norm of such a vector
    asked: bool  # the trigger also requested a label
    threshold: float
    pit: float  # probability integral transform: cumulative predictive distribution at the error
    raised: bool  # the calibration was raised after this audit


class Statement(NamedTuple):
    """Summary of the audits about the stated confidence."""

    count: int
    coverage: metrics.Coverage | None  # coverage of the predictive intervals; None without audits
    trusted: int  # number of audits at which the trigger requested no label
    above: int  # number of these with an error above the threshold
    share_above: metrics.Share | None  # their fraction, with its 95 % interval


def draw(seed: int, drawn: int, after: int, mean_steps: float) -> Clock:
    """Draw the next waiting time.

    Args:
      seed: seed of the run.
      drawn: number of waiting times so far; it determines the result together with the seed.
      after: step at which the waiting time begins.
      mean_steps: mean of the geometric distribution, which has no memory; 0 = no audits.
    """
    if mean_steps <= 0.0:
        return Clock(drawn, 0, 0.0)
    generator = np.random.default_rng([seed, _STREAM, drawn])
    return Clock(drawn + 1, after + int(generator.geometric(min(1.0, 1.0 / mean_steps))), mean_steps)


def kept_up(clock: Clock, seed: int, step: int, mean_steps: float) -> Clock:
    """The clock at `step`: a new waiting time is drawn if the last has ended or the mean has changed."""
    if clock.mean_steps == mean_steps and (clock.due > step or mean_steps == 0.0):
        return clock
    return draw(seed, clock.drawn, step, mean_steps)


def evidence(normal: Sequence[float]) -> Evidence:
    """Evidence for the alternative, against a right calibration, from scores [m], m > 0, in order of time."""
    w = np.asarray(normal, np.float64)
    tau = np.array(WIDENINGS)
    # Log-likelihood ratio of N(0, τ²) to N(0, 1) for each score; then summed from each audit on.
    ratio = 0.5 * np.square(w)[:, None] * (1.0 - tau**-2)[None, :] - np.log(tau)[None, :]
    since = np.cumsum(ratio[::-1], axis=0)[::-1]
    number = np.arange(1, w.size + 1, dtype=np.float64)
    by_start = np.logaddexp.reduce(since, axis=1) - np.log(tau.size) - np.log(number * (number + 1.0))
    not_yet = -np.log(w.size + 1.0)  # weight of changes in the future, for which both hypotheses agree so far
    return Evidence(float(np.logaddexp.reduce([*by_start, not_yet])), int(np.argmax(by_start)))


def learn(
    law: ErrorLaw,
    scores: tuple[Score, ...],
    error: float,
    sigma: float,
    *,
    audited: bool,
    dof: float = 1.0,
    decay: float = 1.0,
    false_alarm: float = 0.01,
) -> Outcome:
    """Update the calibration with one label, and raise it if an audit shows that it was overconfident.

    Args:
      law: law of errors before this label.
      scores: scores of the audits since the last raise.
      error: predicted minus reference energy, eV, or the norm of a vector.
      sigma: uncalibrated σ, in the unit of the error.
      dof: effective number of components of the error.
      audited: the label was taken at random.
      decay: see `error_law.update`.
      false_alarm: probability, over a whole run, of raising a right calibration.

    Returns:
      The new law; a raised one states no smaller errors at this σ than the update without raise.
    """
    updated = error_law.update(law, error, sigma, dof=dof, decay=decay)
    if not audited:
        return Outcome(updated, scores, Evidence(0.0, 0), raised=False)
    scores = (*scores, Score(error, sigma, float(error_law.normal_score(law, error, sigma, dof=dof)), dof))
    found = evidence([score.normal for score in scores])
    if found.log_bayes_factor < -np.log(false_alarm):
        return Outcome(updated, scores, found, raised=False)
    kept = scores[found.start :]
    anew = error_law.restart(updated, [(score.error, score.sigma, score.dof) for score in kept])
    wider = float(error_law.interval(anew, sigma)) > float(error_law.interval(updated, sigma))
    return Outcome(anew if wider else updated, (), found, raised=True)


def read(events: Iterable[Mapping[str, Any]], trigger: str = ENERGY, unit: str = "eV") -> list[Audit]:
    """Audits of one trigger in order of time, from the events of a run; duplicates count once.

    Args:
      events: of a run.
      trigger: name of the trigger.
      unit: of its statistic, a key of `readings.SUFFIX`.

    Raises:
      RunDirectoryError: if an event lacks a field.
    """
    found, end = {}, SUFFIX[unit]
    for event in events:
        if event["event"] == "audit" and event.get("trigger", ENERGY) == trigger:
            try:
                audit = Audit(
                    step=int(event["step"]),
                    error=float(event[f"error_{end}"]),
                    # Older logs lack `asked`; there the trigger requested a label if σ was above its limit.
                    asked=bool(event.get("asked", float(event[f"sigma_{end}"]) > float(event[f"sigma_crit_{end}"]))),
                    threshold=float(event[f"threshold_{end}"]),
                    pit=float(event["pit"]),
                    raised=bool(event["raised"]),
                )
                if not (abs(audit.error) < math.inf and 0.0 <= audit.pit <= 1.0):
                    raise ValueError(f"error_{end} {audit.error:g} or pit {audit.pit:g}")
                found[audit.step] = audit
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise RunDirectoryError(f"events.jsonl: an audit lacks or spoils {brief(str(error))}") from error
    return [found[step] for step in sorted(found)]


def since_raise(audits: Sequence[Audit]) -> list[Audit]:
    """Audits after the calibration was last raised."""
    last = max((i for i, audit in enumerate(audits) if audit.raised), default=-1)
    return list(audits[last + 1 :])


def statement(audits: Sequence[Audit]) -> Statement:
    """Coverage at 50, 80, 90 and 95 %, and how often the error of a trusted prediction was above the threshold."""
    trusted = [a for a in audits if not a.asked]
    above = sum(abs(a.error) > a.threshold for a in trusted)
    return Statement(
        len(audits),
        metrics.coverage([a.pit for a in audits]) if audits else None,
        len(trusted),
        above,
        metrics.binomial_share(above, len(trusted)) if trusted else None,
    )

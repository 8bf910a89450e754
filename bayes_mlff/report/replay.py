"""The law of errors of a run as it was before each label, calculated again from the labels that are stored."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.otf import audits

TOLERANCE: Final = 1e-4
"""Relative difference of a stored limit from the replayed one above which the replay is not that of the run."""


class Met(NamedTuple):
    """An error that a run met at a label, in the unit of a trigger."""

    error: float  # predicted minus reference, or the norm of such a vector
    sigma: float  # uncalibrated
    limit: float  # of σ, with which the run compared it
    threshold: float  # largest acceptable error
    audited: bool  # the label was taken at random
    dof: float = 1.0  # effective number of components of the error


class Replay(NamedTuple):
    """What the law said before each of l labels."""

    law: ErrorLaw | None  # after the last label; None if the stored limits are not those of the replay
    pit: np.ndarray | None  # [l] predictive distribution function at the error; None if not replayable
    half_width: np.ndarray  # [l] of the interval with the trigger's confidence; nan if not replayable


def replay(prior: ErrorLaw, met: Sequence[Met], *, confidence: float, decay: float, false_alarm: float) -> Replay:
    """Go through the labels of one trigger.

    Args:
      prior: law before the first label.
      met: labels with a prediction, in order of time.
      confidence: of the trigger.
      decay: see `error_law.update`.
      false_alarm: see `audits.learn`.
    """
    law, scores = prior, ()
    pit, half_width = np.zeros(len(met)), np.full(len(met), np.nan)
    for i, each in enumerate(met):
        limit = error_law.critical_sigma(law, each.threshold, confidence=confidence, dof=each.dof)
        # Limits of vectors were interpolated between numbers of components.
        if not np.isclose(limit, each.limit, rtol=TOLERANCE if each.dof == 1.0 else 20.0 * TOLERANCE, atol=0.0):
            return Replay(None, None, np.full(len(met), np.nan))
        pit[i] = error_law.probability_integral(law, each.error, each.sigma, dof=each.dof)
        half_width[i] = error_law.interval(law, each.sigma, confidence=confidence, dof=each.dof)
        outcome = audits.learn(
            law,
            scores,
            each.error,
            each.sigma,
            audited=each.audited,
            dof=each.dof,
            decay=decay,
            false_alarm=false_alarm,
        )
        law, scores = outcome.calibration, outcome.scores
    return Replay(law, pit, half_width)

"""What the calibration learns from one label, and what is said of it."""

from typing import NamedTuple

from bayes_mlff.ensemble import calibration
from bayes_mlff.md.chunk import Stop
from bayes_mlff.otf import audits
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.state import HostState, Observer
from bayes_mlff.runs.directory import RunDirectory


class Told(NamedTuple):
    """What a label has told about the prediction before it."""

    step: int
    error_ev: float  # predicted minus reference
    sigma_ev: float  # not calibrated
    sigma_crit_ev: float
    stop: Stop


def calibrated(problem: Problem, run: RunDirectory, observer: Observer, host: HostState, told: Told) -> HostState:
    """Learn from one error, and say so if an audit has shown that the stated confidence does not hold."""
    config, before, audited = problem.config, host.calibration, Stop.AUDIT in told.stop
    outcome = audits.learn(
        before,
        host.scores,
        told.error_ev,
        told.sigma_ev,
        audited=audited,
        decay=config.calibration.decay,
        false_alarm=config.audits.false_alarm,
    )
    if audited:
        run.log(
            "audit",
            step=told.step,
            error_ev=told.error_ev,
            sigma_ev=told.sigma_ev,
            sigma_crit_ev=told.sigma_crit_ev,
            asked=Stop.UNCERTAIN in told.stop,
            threshold_ev=problem.threshold_ev,
            pit=calibration.probability_integral(before, told.error_ev, told.sigma_ev),
            log_bayes_factor=outcome.evidence.log_bayes_factor,
            raised=outcome.raised,
        )
    if outcome.raised:
        now, then = (float(calibration.interval(x, 1.0)) for x in (outcome.calibration, before))
        run.log(
            "calibration_raised",
            step=told.step,
            factor=now / then,
            log_bayes_factor=outcome.evidence.log_bayes_factor,
            calibration=[float(x) for x in outcome.calibration],
        )
        said = f"audits show errors larger than stated: intervals are {now / then:.2g} times as wide from here on"
        observer.notice(step=told.step, text=said)
    return host._replace(calibration=outcome.calibration, scores=outcome.scores)

"""Updates the calibrations with one label, and reports audits."""

from typing import NamedTuple

from bayes_mlff.data import readings
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.triggers import Criterion
from bayes_mlff.otf import audits
from bayes_mlff.otf.audits import Outcome
from bayes_mlff.otf.criteria import calibration_of, criteria
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.state import HostState, Observer
from bayes_mlff.runs.directory import RunDirectory


class Told(NamedTuple):
    """A label, and why it was requested."""

    record: LabelRecord
    audited: bool  # the label was taken at random
    asked: tuple[bool, ...]  # whether each trigger requested it, in the order of the criteria


def calibrated(problem: Problem, run: RunDirectory, observer: Observer, host: HostState, told: Told) -> HostState:
    """Update the calibration of each statistic with its error, and report if an audit has disproved its confidence."""
    for criterion, asked in zip(criteria(problem, told.record.step), told.asked, strict=True):
        host = _one(problem, run, observer, host, criterion, told, asked=asked)
    return host


def _one(
    problem: Problem,
    run: RunDirectory,
    observer: Observer,
    host: HostState,
    criterion: Criterion,
    told: Told,
    *,
    asked: bool,
) -> HostState:
    name, record = criterion.statistic.name, told.record
    reading = readings.find(record.readings, name)
    if reading is None:  # the label is older than the trigger on this statistic
        return host
    before, error = calibration_of(host, criterion), criterion.statistic.error(record, reading)
    outcome = audits.learn(
        before,
        host.scores.get(name, ()),
        error,
        reading.value,
        audited=told.audited,
        dof=reading.dof,
        decay=criterion.decay,
        false_alarm=problem.config.audits.false_alarm,
    )
    if told.audited:
        unit = readings.SUFFIX[reading.unit]
        numbers = {"error": error, "sigma": reading.value, "sigma_crit": reading.limit}
        run.log(
            "audit",
            step=record.step,
            trigger=name,
            **{f"{field}_{unit}": value for field, value in numbers.items()},
            asked=asked,
            **{f"threshold_{unit}": criterion.threshold},
            **({} if reading.atom is None else {"atom": reading.atom, "dof": reading.dof}),
            pit=error_law.probability_integral(before, error, reading.value, dof=reading.dof),
            log_bayes_factor=outcome.evidence.log_bayes_factor,
            raised=outcome.raised,
        )
    if outcome.raised:
        _raised(run, observer, record.step, criterion, (before, reading.value, outcome))
    return host._replace(
        calibrations={**host.calibrations, name: outcome.calibration}, scores={**host.scores, name: outcome.scores}
    )


def _raised(
    run: RunDirectory, observer: Observer, step: int, criterion: Criterion, change: tuple[ErrorLaw, float, Outcome]
) -> None:
    """Report that intervals are wider from here on; `change` has the earlier law, σ, and the outcome."""
    before, sigma, outcome = change
    factor = float(error_law.interval(outcome.calibration, sigma)) / float(error_law.interval(before, sigma))
    run.log(
        "calibration_raised",
        step=step,
        trigger=criterion.statistic.name,
        factor=factor,
        log_bayes_factor=outcome.evidence.log_bayes_factor,
        calibration=outcome.calibration.to_json(),
    )
    of = "" if criterion.statistic.name == readings.ENERGY else f" of {criterion.statistic.said}"
    said = f"audits show errors larger than stated: intervals{of} are {factor:.2g} times as wide from here on"
    observer.notice(step=step, text=said)

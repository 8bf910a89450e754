"""Criteria of a run, one for each statistic that can request a label, and the present triggers."""

from collections.abc import Iterable

from bayes_mlff.ensemble import calibration
from bayes_mlff.ensemble.calibration import Calibration
from bayes_mlff.ensemble.triggers import ENERGY_SIGMA, Criterion, Statistic, Trigger
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.state import HostState
from bayes_mlff.otf.trigger_settings import CalibrationConfig, TriggerSettings


def criteria(problem: Problem) -> tuple[Criterion, ...]:
    """All criteria of a run: first that on the error of the total energy, then those that the configuration lists."""
    config = problem.config
    prior, decay = _prior(config.calibration)
    energy = Criterion(ENERGY_SIGMA, problem.threshold_ev, config.confidence, prior, decay)
    n = len(problem.structure.numbers)
    return energy, *(listed(config, n, *each) for each in zip(problem.further, config.triggers, strict=True))


def listed(config: RunConfig, n_atoms: int, statistic: Statistic, settings: TriggerSettings) -> Criterion:
    """The criterion of a trigger that the configuration lists, for a structure of n atoms."""
    prior, decay = _prior(settings.calibration or config.calibration)
    threshold, confidence = settings.threshold_of(n_atoms), settings.confidence or config.confidence
    return Criterion(statistic, threshold, confidence, prior, decay)


def _prior(config: CalibrationConfig) -> tuple[Calibration, float]:
    return calibration.init(config.a, config.b), config.decay


def priors(problem: Problem) -> dict[str, Calibration]:
    """Calibrations before the first label, by name of the statistic."""
    return {criterion.statistic.name: criterion.prior for criterion in criteria(problem)}


def calibration_of(host: HostState, criterion: Criterion) -> Calibration:
    """Present calibration of a criterion; its prior if there is none yet."""
    return host.calibrations.get(criterion.statistic.name, criterion.prior)


def triggers(problem: Problem, host: HostState) -> tuple[Trigger, ...]:
    """Triggers with the present limits, in the order of `criteria`."""
    return tuple(criterion.trigger(calibration_of(host, criterion)) for criterion in criteria(problem))


def silent_steps(host: HostState, between: int, labels: Iterable[int], paid: Iterable[int]) -> int:
    """Number of steps from here on in which no trigger may request a label, after a label or a roll-back.

    Labels that a trigger requested before the run was killed are requested again, even if `between` is now larger.

    Args:
      host: state of the run at this step.
      between: smallest number of steps between labels that triggers request.
      labels: steps of all labels of the run.
      paid: steps of the labels that triggers requested.
    """
    last = max((step for step in (*labels, *(s.step for s in host.setbacks)) if step <= host.step), default=0)
    ahead = min((step for step in paid if step > host.step), default=last + between + 1)
    return max(0, min(last + between, ahead - 1) - host.step)

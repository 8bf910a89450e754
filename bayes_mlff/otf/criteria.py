"""Criteria of a run: one row for each statistic that may ask for a label, and what follows from them now."""

from collections.abc import Callable, Iterable
from typing import Final

from bayes_mlff.ensemble import calibration
from bayes_mlff.ensemble.calibration import Calibration
from bayes_mlff.ensemble.triggers import ENERGY_SIGMA, Criterion, Trigger
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.state import HostState


def _energy(problem: Problem) -> Criterion:
    config = problem.config
    prior = calibration.init(config.calibration.a, config.calibration.b)
    return Criterion(ENERGY_SIGMA, problem.threshold_ev, config.confidence, prior, config.calibration.decay)


ROWS: Final[list[Callable[[Problem], Criterion | None]]] = [_energy]
"""Criteria of which a configuration may ask; None where it does not."""


def criteria(problem: Problem) -> tuple[Criterion, ...]:
    """What the configuration of a run asks for, the error of the energy always among it."""
    return tuple(made for row in ROWS if (made := row(problem)) is not None)


def priors(problem: Problem) -> dict[str, Calibration]:
    """Calibrations before the first label, by name of the statistic."""
    return {criterion.statistic.name: criterion.prior for criterion in criteria(problem)}


def calibration_of(host: HostState, criterion: Criterion) -> Calibration:
    """Present calibration of a criterion; its prior if it is new."""
    return host.calibrations.get(criterion.statistic.name, criterion.prior)


def triggers(problem: Problem, host: HostState) -> tuple[Trigger, ...]:
    """Triggers with the limits that hold now, in the order of `criteria`."""
    return tuple(criterion.trigger(calibration_of(host, criterion)) for criterion in criteria(problem))


def silent_steps(host: HostState, between: int, labels: Iterable[int], paid: Iterable[int]) -> int:
    """Steps from here on in which no trigger asks for a label, since one was just learnt or gone back to.

    What a trigger had asked for before a kill, and a longer silence was configured, is asked for again.

    Args:
      host: of this step.
      between: least number of steps between labels that triggers ask for.
      labels: steps of all labels of the run.
      paid: those of them that triggers asked for.
    """
    last = max((step for step in (*labels, *(s.step for s in host.setbacks)) if step <= host.step), default=0)
    ahead = min((step for step in paid if step > host.step), default=last + between + 1)
    return max(0, min(last + between, ahead - 1) - host.step)

"""Criteria of a run, one for each statistic that can request a label, and the present triggers."""

from collections.abc import Iterable

import numpy as np

from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.triggers import ENERGY_SIGMA, Criterion, Statistic, Trigger
from bayes_mlff.md import schedule
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.state import HostState
from bayes_mlff.otf.trigger_settings import TriggerSettings


def criteria(problem: Problem, step: int | np.ndarray | None = None) -> tuple[Criterion, ...]:
    """All criteria of a run: first that on the error of the total energy, then those that the configuration lists.

    Args:
      problem: constants of the run.
      step: step of the run whose thresholds they have, or [length] steps; None: thresholds as they are stated.
    """
    config = problem.config
    n = len(problem.structure.numbers)
    prior, decay = prior_of(config, None, n, problem.energy_sigma_ev)
    energy = Criterion(ENERGY_SIGMA, threshold_ev(problem, step), config.confidence, prior, decay)
    found = [energy]
    for statistic, settings in zip(problem.further, config.triggers, strict=True):
        criterion = listed(config, n, problem.energy_sigma_ev, statistic, settings)
        grown = _grown(problem, criterion.threshold, settings.threshold_temperature_k, step)
        found.append(criterion._replace(threshold=grown))
    return tuple(found)


def threshold_ev(problem: Problem, step: int | np.ndarray | None) -> float | np.ndarray:
    """Threshold of the error of the total energy in a step, eV."""
    return _grown(problem, problem.threshold_ev, problem.config.threshold_temperature_k, step)


def _grown(
    problem: Problem, threshold: float | np.ndarray, stated_k: float | None, step: int | np.ndarray | None
) -> float | np.ndarray:
    if stated_k is None or step is None:
        return threshold
    dynamics = problem.config.dynamics
    factor = schedule.growth(dynamics.conditions(), stated_k, np.asarray(step) * dynamics.timestep_fs)
    return threshold * (float(factor) if factor.ndim == 0 else factor)


def listed(
    config: RunConfig, n_atoms: int, energy_sigma_ev: float, statistic: Statistic, settings: TriggerSettings
) -> Criterion:
    """The criterion of a trigger that the configuration lists, with its threshold as stated.

    Args:
      config: of the run.
      n_atoms: of the structure.
      energy_sigma_ev: constant σ of its total energy in the likelihood, eV.
      statistic: of the trigger.
      settings: of the trigger.
    """
    prior, decay = prior_of(config, settings, n_atoms, energy_sigma_ev)
    threshold, confidence = settings.threshold_of(n_atoms), settings.confidence or config.confidence
    return Criterion(statistic, threshold, confidence, prior, decay)


def prior_of(
    config: RunConfig, settings: TriggerSettings | None, n_atoms: int, energy_sigma_ev: float
) -> tuple[ErrorLaw, float]:
    """Law of errors before the first label, and its decay, of a listed trigger; None: of that on the total energy.

    Args:
      config: of the run.
      settings: of the trigger.
      n_atoms: of the structure.
      energy_sigma_ev: constant σ of its total energy in the likelihood, eV.
    """
    own = config.calibration if settings is None else settings.calibration or config.calibration
    floor = energy_sigma_ev
    if settings is not None:
        floor = energy_sigma_ev / n_atoms if settings.kind == "energy_per_atom" else 0.0
    narrower = error_law.OF_LAPLACE if config.posterior == "laplace" and floor > 0.0 else 1.0
    return error_law.init(own.a, own.b * narrower**2, floor=floor), own.decay


def priors(problem: Problem) -> dict[str, ErrorLaw]:
    """Laws of errors before the first label, by name of the statistic."""
    return {criterion.statistic.name: criterion.prior for criterion in criteria(problem)}


def calibration_of(host: HostState, criterion: Criterion) -> ErrorLaw:
    """Present law of errors of a criterion; its prior if there is none yet."""
    return host.calibrations.get(criterion.statistic.name, criterion.prior)


def triggers(problem: Problem, host: HostState) -> tuple[Trigger, ...]:
    """Triggers with the limits of the next chunk, in the order of `criteria`."""
    ahead = host.step + 1 + np.arange(problem.config.dynamics.chunk_steps)
    return tuple(criterion.trigger(calibration_of(host, criterion)) for criterion in criteria(problem, ahead))


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

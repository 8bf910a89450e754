"""Functions and constants of a campaign, made once: walkers, and groups of walkers that move as one batch."""

import json
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure_remarks import formula
from bayes_mlff.ensemble import atomic_energies
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.md.predictors import batch_predictor, linear_predictor
from bayes_mlff.md.replicas import Varied
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.integrator import make_integrator
from bayes_mlff.otf.problem import GROUPS, Problem, prepare
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.settings import EnergyZero
from bayes_mlff.runs.start import Start
from bayes_mlff.sghmc.run import preferred_axis

COMMON: Final = "all"
"""Key of the laws of errors that all walkers share."""

_VARIED: Final = ("temperature_k", "initial_temperature_k", "pressure_gpa", "schedule", "duration_ps", "velocities")
"""Keys of dynamics in which the walkers of a group may differ."""


class Walk(NamedTuple):
    """Constants of one walker."""

    name: str
    problem: Problem
    start: Start  # what its run directory keeps
    group: int
    law: str  # key of the laws of its errors


class Group(NamedTuple):
    """Walkers of the same atoms and the same kind of dynamics, which the device moves together."""

    walkers: tuple[int, ...]
    problem: Problem  # of the first of them
    integrator: Varied
    schedules: Schedule  # [r] of all of them, in this order
    ways: tuple[Callable[..., Predictive], ...]  # (samples, graphs [r, ...]) -> Predictive with decreasing memory


class Campaign(NamedTuple):
    """Functions and constants of a campaign."""

    config: CampaignConfig
    walks: tuple[Walk, ...]
    groups: tuple[Group, ...]

    @property
    def common(self) -> Problem:
        """The problem with which the posterior is learnt."""
        return self.walks[0].problem

    @property
    def largest(self) -> int:
        """Number of atoms of the largest structure."""
        return max(len(walk.problem.structure.numbers) for walk in self.walks)


class Begun(NamedTuple):
    """A walker before its functions are made."""

    name: str
    config: RunConfig
    start: Start

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers of its structure."""
        return np.asarray(self.start.initial.structure.numbers)


def make(config: CampaignConfig, begun: tuple[Begun, ...]) -> Campaign:
    """Build the functions of a campaign.

    Args:
      config: of the campaign.
      begun: walkers, with one model for the elements of all structures.

    Raises:
      ConfigError, DataError: naming the walker whose settings or structure do not fit.
    """
    potential = begun[0].start.potential
    counts = [atomic_energies.composition(each.numbers, potential.config.elements) for each in begun]
    distinct = np.unique(np.array(counts), axis=0)
    zero = _energy_zero(begun[0].config, distinct)
    sigma = min(each.config.energy_sigma_ev(len(each.numbers)) for each in begun)
    _refuse_mixed(begun)
    groups: dict[str, list[int]] = {}
    problems: list[Problem] = []
    for i, each in enumerate(begun):
        likelihood = each.config.likelihood.model_copy(update={"energy_zero": zero})
        own = each.config.model_copy(update={"likelihood": likelihood})
        initial = each.start.initial
        try:
            problem = prepare(own, initial.structure, potential, velocities=initial.velocities, energy_sigma_ev=sigma)
        except ConfigError as error:
            raise ConfigError(f"walker {each.name}: {error.key}", error.value, error.allowed) from error
        key = _key(problem)
        if key in groups:  # what was compiled for the first of a group serves all
            problem = problem._replace(further=problems[groups[key][0]].further)
        groups.setdefault(key, []).append(i)
        problems.append(problem)
    made = tuple(_group(members, problems) for members in groups.values())
    place = {i: g for g, group in enumerate(made) for i in group.walkers}
    common = config.calibration == "common"
    walks = (
        Walk(each.name, problems[i], each.start, place[i], COMMON if common else formula(each.numbers))
        for i, each in enumerate(begun)
    )
    return Campaign(config, tuple(walks), made)


def _refuse_mixed(begun: tuple[Begun, ...]) -> None:
    """Refuse structures with and without a stress in one training set."""
    periodic = [each.start.initial.structure.is_periodic for each in begun]
    if len(set(periodic)) > 1 and begun[0].config.engine_gives_stress:
        raise ConfigError(
            "walkers",
            begun[periodic.index(False)].name,
            "structures that are all periodic in three directions, or an engine that gives no stress",
        )


def _energy_zero(config: RunConfig, compositions: np.ndarray) -> EnergyZero | None:
    """How the zero of energies is found; not fitted where compositions determine it through the elements."""
    stated = config.likelihood.energy_zero
    if len(atomic_energies.independent(compositions)) == len(compositions):
        return stated
    if stated == "fitted":
        raise ConfigError(
            "run.likelihood.energy_zero",
            stated,
            f"learnt: {len(compositions)} compositions of fewer elements determine the atomic reference energies",
        )
    return "learnt"


def _key(problem: Problem) -> str:
    """What walkers of a group have in common."""
    config, structure = problem.config, problem.structure
    dynamics = {k: v for k, v in config.dynamics.model_dump(mode="json").items() if k not in _VARIED}
    moving = dynamics["ensemble"] == "npt"
    said = {
        "numbers": np.asarray(structure.numbers).tolist(),
        "pbc": np.asarray(structure.pbc).tolist(),
        "cell": np.asarray(structure.cell).tolist() if moving else None,
        "held": None if structure.fixed is None else np.asarray(structure.fixed).tolist(),
        "dynamics": dynamics,
        "segments": len(config.dynamics.conditions().begin_fs),
        "triggers": [t.model_dump(mode="json") for t in config.triggers],
        "structure": config.structure.model_dump(mode="json") if config.triggers else None,
    }
    return json.dumps(said, sort_keys=True)


def _group(members: list[int], problems: list[Problem]) -> Group:
    first = problems[members[0]]
    each = [problems[i].config.dynamics.conditions() for i in members]
    schedules = Schedule(*(np.stack(values) for values in zip(*each, strict=True)))
    integrator = Varied(partial(make_integrator, first.config.dynamics, first.structure))
    return Group(tuple(members), first, integrator, schedules, _ways(first))


def _ways(problem: Problem) -> tuple[Callable[..., Predictive], ...]:
    """Predictors of several structures of one kind."""
    config, sigma = problem.config, problem.energy_sigma_ev
    stress = problem.stress_sigma
    if config.posterior == "laplace":
        of_atoms = any(each.of_atoms for each in problem.further)
        architecture, likelihood = problem.potential.config, Likelihood(sigma, stress)
        with_stress = problem.with_stress
        return (linear_predictor(architecture, likelihood, with_stress=with_stress, with_forces=of_atoms),)
    each = (None, *GROUPS[preferred_axis()])
    return tuple(batch_predictor(problem.predict, sigma, stress, at_once=n) for n in each)

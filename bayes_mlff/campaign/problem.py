"""Functions and constants of a campaign, made once: walkers, and groups of walkers that move as one batch."""

import json
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.campaign.given import NOTHING, Given
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import Structure
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
    given: Given = NOTHING

    @property
    def common(self) -> Problem:
        """The problem with which the posterior is learnt."""
        return self.walks[0].problem

    @property
    def largest(self) -> int:
        """Number of atoms of the largest structure, of the labels that it began with also."""
        return max(self.given.largest, *(len(walk.problem.structure.numbers) for walk in self.walks))

    def problem_of(self, structure: Structure) -> Problem:
        """The problem with which a label of any composition is learnt."""
        numbers, common = np.asarray(structure.numbers), self.common
        alike = (w.problem for w in self.walks if np.array_equal(w.problem.structure.numbers, numbers))
        isolated = common.potential.isolated_energy(numbers)
        return next(alike, common._replace(structure=structure, isolated_ev=isolated))


class Begun(NamedTuple):
    """A walker before its functions are made."""

    name: str
    config: RunConfig
    start: Start

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers of its structure."""
        return np.asarray(self.start.initial.structure.numbers)


def make(config: CampaignConfig, begun: tuple[Begun, ...], given: Given = NOTHING) -> Campaign:
    """Build the functions of a campaign.

    Args:
      config: of the campaign.
      begun: walkers, with one model for the elements of all structures.
      given: labels and samples that it begins with.

    Raises:
      ConfigError, DataError: naming the walker whose settings or structure do not fit.
    """
    potential = begun[0].start.potential
    counts = [atomic_energies.composition(each.numbers, potential.config.elements) for each in begun]
    distinct = np.unique(np.array([*counts, *given.compositions(potential.config.elements)]), axis=0)
    zero = _energy_zero(begun[0].config, distinct)
    sigma = min(each.config.energy_sigma_ev(len(each.numbers)) for each in begun)
    _refuse_mixed(begun, given)
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
    return Campaign(config, tuple(walks), made, given)


def _refuse_mixed(begun: tuple[Begun, ...], given: Given) -> None:
    """Refuse structures with and without a stress in one training set."""
    periodic = [each.start.initial.structure.is_periodic for each in begun]
    before = [record.structure.is_periodic for record in given.labels]
    if len({*periodic, *before}) > 1 and begun[0].config.engine_gives_stress:
        name = begun[periodic.index(False)].name if False in periodic else "labels of start without a stress"
        raise ConfigError(
            "walkers", name, "structures that are all periodic in three directions, or an engine that gives no stress"
        )


def _energy_zero(config: RunConfig, compositions: np.ndarray) -> EnergyZero | None:
    """How the zero of energies is found; not fitted where compositions determine it through the elements.

    A common zero would hide from the network what isomers differ by, and shift those that have no error.
    """
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

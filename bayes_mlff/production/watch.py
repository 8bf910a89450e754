"""What is watched in a production, and what the accuracy that the run requires means for another number of atoms.

The calibration of a run holds for its own system. Errors of energies that are independent from atom to atom grow with
the square root of their number, and σ with them. A threshold of the total energy therefore grows by √(N/N₀) from
the N₀ atoms of the run to N atoms; the same threshold per atom would be √(N/N₀) times wider than that. One that the
run has per atom stays as it is. Forces on atoms and their thresholds do not depend on the number of atoms.
"""

from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.triggers import ENERGY_SIGMA, Criterion, Trigger
from bayes_mlff.otf import criteria, regions
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.trigger_settings import ForceSettings, TriggerSettings
from bayes_mlff.posterior.likelihood import PerAtom
from bayes_mlff.production.config import ProductionConfig
from bayes_mlff.production.material import Material

CONFIDENCE: Final = 0.95
"""Confidence where neither the settings nor a run state one."""


class Watch(NamedTuple):
    """Triggers for one structure; a limit that is nan is not known, so that nothing is above it."""

    triggers: tuple[Trigger, ...]
    highest: tuple[float, ...]  # of each statistic, beyond which the guard ends a replica; inf where it is not known
    threshold_ev: float | None  # of the total energy
    remarks: tuple[tuple[str, str], ...]  # (topic, sentence) for the user

    @property
    def known(self) -> bool:
        """Whether any limit is known."""
        return any(np.isfinite(float(each.limit)) for each in self.triggers)


class _Found(NamedTuple):
    trigger: Trigger
    first: float  # limit before the first label of the run, or the same


def watch(material: Material, config: ProductionConfig, structure: Structure) -> Watch:
    """Find what to watch.

    Args:
      material: ensemble and calibrations.
      config: settings.
      structure: structure of the dynamics, all copies.

    Raises:
      ConfigError: if a threshold is given that nothing can be compared with.
    """
    if len(material.ensemble.samples) == 1:
        if config.threshold is not None:
            raise ConfigError("threshold", config.threshold, "null: one sample of the weights has no σ to compare")
        said = "none: one sample of the weights has no σ, so that nothing is watched but the guards"
        return _of([_Found(Trigger(ENERGY_SIGMA, np.nan), np.nan)], config, None, [("watched", said)])
    threshold_ev, remarks = threshold(material, config, len(structure.numbers))
    run = material.run
    if run is not None and config.threshold is None and run.threshold_temperature_k is not None:
        remarks.append(("threshold", _as_stated(run.threshold_temperature_k)))
    found, more = _energy(material, config, structure, threshold_ev)
    further, others = _further(material, config, structure)
    return _of([found, *further], config, threshold_ev, [*remarks, *more, *others])


def _of(
    found: list[_Found], config: ProductionConfig, threshold_ev: float | None, remarks: list[tuple[str, str]]
) -> Watch:
    scales = (np.fmax(float(each.trigger.limit), each.first) for each in found)
    highest = (config.guards.sigma_ratio * scale for scale in scales)
    return Watch(
        tuple(each.trigger for each in found),
        tuple(np.inf if np.isnan(x) else float(x) for x in highest),
        threshold_ev,
        tuple(remarks),
    )


def threshold(material: Material, config: ProductionConfig, n_atoms: int) -> tuple[float | None, list[tuple[str, str]]]:
    """Threshold of the total energy, eV, and what it means; None if there is none."""
    if config.threshold is not None:
        total = units.parse_energy(config.threshold, n_atoms=n_atoms, key="threshold")
        return total, [("threshold", f"{config.threshold} as given: {_said(total, n_atoms)}")]
    online, own = material.ensemble.online, material.atoms
    if online is None:
        return None, [("threshold", "none: the ensemble states none; 'threshold' sets one")]
    if own is None or own == n_atoms:
        total = units.parse_energy(online.threshold, n_atoms=n_atoms, key="threshold")
        return total, [("threshold", f"that of the run: {_said(total, n_atoms)}")]
    of_run = units.parse_energy(online.threshold, n_atoms=own, key="threshold")
    factor = float(np.sqrt(n_atoms / own))
    if online.threshold.strip().lower().endswith("/atom"):
        total = units.parse_energy(online.threshold, n_atoms=n_atoms, key="threshold")
        said = (
            f"that of the run per atom: {_said(total, n_atoms)}; independent errors grow by √({n_atoms}/{own}) = "
            f"{factor:.4g} only, so that it is easier to keep here than in the run"
        )
        return total, [("threshold", said)]
    total = factor * of_run
    said = (
        f"{_said(of_run, own)} in the run; here times √({n_atoms}/{own}) = {factor:.4g}, by which independent errors "
        f"grow: {_said(total, n_atoms)} (the same per atom would be {KCAL_MOL_PER_EV * of_run * n_atoms / own:.4g} "
        "kcal/mol); 'threshold' sets another"
    )
    return total, [("threshold", said)]


def _as_stated(kelvin: float) -> str:
    return f"in the run it grew with the temperature; here it is the one at {kelvin:g} K throughout"


def sigma_floor_ev(material: Material, n_atoms: int) -> float:
    """Fixed standard deviation of total energies in the likelihood, eV, scaled as in `threshold`."""
    stated = material.ensemble.energy_sigma_ev
    if isinstance(stated, PerAtom):
        return float(stated.sigma) * n_atoms
    return stated if material.atoms is None else stated * float(np.sqrt(n_atoms / material.atoms))


def _said(total_ev: float, n_atoms: int) -> str:
    per_atom = f"{1e3 * total_ev / n_atoms:.3g} meV/atom"
    return f"{KCAL_MOL_PER_EV * total_ev:.4g} kcal/mol for {n_atoms} atoms ({per_atom})"


def _energy(
    material: Material, config: ProductionConfig, structure: Structure, threshold_ev: float | None
) -> tuple[_Found, list[tuple[str, str]]]:
    """The trigger on the total energy."""
    ensemble, unknown = material.ensemble, _Found(Trigger(ENERGY_SIGMA, np.nan), np.nan)
    if not bool(ensemble.knows_energy(structure.numbers)):
        why = "the labels do not determine the total energy of this composition: σ of the energy is not watched"
        return unknown, [("energy", f"{why}; differences of energies, and forces, can be used")]
    if threshold_ev is None:
        return unknown, []
    online = ensemble.online
    if online is not None:
        confidence, remarks = config.confidence or online.confidence, []
        if material.atoms not in (None, len(structure.numbers)):
            remarks.append(("calibration", f"that of the run with its {material.atoms} atoms, not checked for others"))
        law = online.law
        if law.floor > 0.0:
            law = law._replace(floor=sigma_floor_ev(material, len(structure.numbers)))
        prior = error_law.init(law.each.a, law.each.b, floor=law.floor)
        criterion = Criterion(ENERGY_SIGMA, threshold_ev, confidence, prior, 1.0)
        return _Found(criterion.trigger(law), float(criterion.limit(prior))), remarks
    factor, confidence = ensemble.factors.energy, config.confidence or CONFIDENCE
    if not np.isfinite(factor):
        return unknown, [("calibration", "too few frames tell how wrong energies are: σ of the energy is not watched")]
    limit = threshold_ev / (factor * float(stats.norm.isf(0.5 * (1.0 - confidence))))
    said = "none: σ is taken as it is" if factor == 1.0 else f"σ of the energy times {factor:.3g}, by a validation set"
    return _Found(Trigger(ENERGY_SIGMA, limit), limit), [("calibration", f"{said} (a normal distribution of errors)")]


def _further(
    material: Material, config: ProductionConfig, structure: Structure
) -> tuple[list[_Found], list[tuple[str, str]]]:
    """Triggers that the configuration of the run lists."""
    run, n_atoms, found, remarks = material.run, len(structure.numbers), [], []
    if run is None or material.ensemble.online is None:
        return [], []
    for i, settings in enumerate(run.triggers):
        topic = f"trigger {settings.name}"
        if settings.name not in material.calibrations:
            remarks.append((topic, "its calibration is only in the directory of the run: not watched"))
            continue
        try:
            here = _here(settings, material, structure)
            statistic = regions.statistic(here, structure, f"triggers.{i}")
        except ConfigError as error:
            remarks.append((topic, f"does not fit this structure ({error}): not watched"))
            continue
        criterion = criteria.listed(
            _with_confidence(run, config), n_atoms, sigma_floor_ev(material, n_atoms), statistic, here
        )
        law = material.calibrations[settings.name]
        if law.floor > 0.0:
            law = law._replace(floor=criterion.prior.floor)
        found.append(_Found(criterion.trigger(law), float(criterion.limit(criterion.prior))))
        if settings.threshold_temperature_k is not None:
            remarks.append((topic, f"its threshold: {_as_stated(settings.threshold_temperature_k)}"))
    return found, remarks


def _with_confidence(run: RunConfig, config: ProductionConfig) -> RunConfig:
    return run if config.confidence is None else run.model_copy(update={"confidence": config.confidence})


def _here(settings: TriggerSettings, material: Material, structure: Structure) -> TriggerSettings:
    """A trigger whose atoms, where it numbers them, are those of every copy of the run's structure.

    Raises:
      ConfigError: if the structure is not made of copies of it.
    """
    if not isinstance(settings, ForceSettings) or (settings.indices is None and settings.within is None):
        return settings
    own = np.array(material.numbers or (), np.int64)
    copies, rest = divmod(len(structure.numbers), max(len(own), 1))
    if not len(own) or rest or not np.array_equal(np.tile(own, copies), structure.numbers):
        raise ConfigError("structure", settings.name, "copies of the structure of the run, whose atoms it numbers")

    def everywhere(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(copy * len(own) + i for copy in range(copies) for i in indices)

    if settings.within is not None:
        within = settings.within.model_copy(update={"of": everywhere(settings.within.of)})
        return settings.model_copy(update={"within": within})
    return settings.model_copy(update={"indices": everywhere(settings.indices or ())})

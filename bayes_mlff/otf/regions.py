"""Statistics of the triggers that a configuration lists, for its structure."""

from collections.abc import Callable

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import neighbors
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import statistics
from bayes_mlff.ensemble.statistics import Region
from bayes_mlff.ensemble.triggers import Statistic
from bayes_mlff.otf.trigger_settings import EnergyPerAtomSettings, ForceSettings, TriggerSettings

_NAMED = 4
"""Largest number of atoms or labels that a message names one by one."""


def checked(
    triggers: tuple[TriggerSettings, ...],
    structure: Structure,
    energy_sigma_ev: float,
    lowest: Callable[[float | None], float] = lambda stated_k: 1.0,
) -> tuple[Statistic, ...]:
    """The statistics of triggers, of which those that cannot work for a structure are refused.

    Args:
      triggers: of a run.
      structure: initial structure of the run.
      energy_sigma_ev: fixed standard deviation of the total energy in the likelihood, eV.
      lowest: smallest factor of a threshold that is stated for a temperature, K, during the run.

    Raises:
      ConfigError: see `statistic`, or if σ of the energy can never be small enough for a threshold per atom.
    """
    smallest, found = energy_sigma_ev / len(structure.numbers), []
    for i, settings in enumerate(triggers):
        found.append(statistic(settings, structure, f"triggers.{i}"))
        reached = lowest(settings.threshold_temperature_k)
        if settings.kind == "energy_per_atom" and settings.threshold_of(len(structure.numbers)) * reached <= smallest:
            raise ConfigError(
                f"triggers.{i}.threshold",
                settings.threshold,
                f"more than {1e3 * smallest / reached:.3g} meV/atom: σ is never below likelihood.energy_sigma_fraction "
                "of the threshold of the total energy, so that labels would never become unnecessary",
            )
    return tuple(found)


def statistic(settings: TriggerSettings, structure: Structure, key: str) -> Statistic:
    """The statistic of one trigger.

    Args:
      settings: of the trigger.
      structure: initial structure of the run.
      key: dotted key of the settings, for messages.

    Raises:
      ConfigError: if its region has no atom that moves, or names atoms, elements or labels that do not exist.
    """
    if isinstance(settings, EnergyPerAtomSettings):
        return statistics.on_energy_per_atom(settings.name)
    found = region(settings, structure, key)
    return statistics.on_forces(settings.name, found, shown=settings.shown_unit)


def region(settings: ForceSettings, structure: Structure, key: str) -> Region:
    """The atoms that a trigger on forces watches; those of which every coordinate is held are left out.

    Raises:
      ConfigError: see `statistic`.
    """
    n = len(structure.numbers)
    moves = np.full(n, True) if structure.fixed is None else ~np.all(structure.fixed, axis=1)
    if settings.within is not None:
        centres, radius = settings.within.of, settings.within.radius_angstrom
        _refuse_missing(centres, structure, f"{key}.within.of")
        said = f"an atom within {radius:g} Å of {_named(centres, structure)}"
        found = statistics.around(said, structure, np.flatnonzero(moves), tuple(centres), radius)
        if not len(atoms_now(found, structure)):
            raise ConfigError(f"{key}.within", said, "a region with an atom that moves; all of these are held")
        return found
    chosen, said, where = np.full(n, True), "an atom", key
    if settings.elements is not None:
        chosen, where = _of_elements(settings.elements, structure, f"{key}.elements"), f"{key}.elements"
        said = f"{' or '.join(settings.elements)}"
    elif settings.indices is not None:
        where = f"{key}.indices"
        _refuse_missing(settings.indices, structure, where)
        chosen, said = np.isin(np.arange(n), settings.indices), _named(settings.indices, structure)
    elif settings.labels is not None:
        chosen, where = _of_labels(settings.labels, structure, f"{key}.labels"), f"{key}.labels"
        said = f"an atom named {' or '.join(settings.labels)}"
    if not np.any(chosen & moves):
        raise ConfigError(where, said, "a region with an atom that moves; every coordinate of all of these is held")
    return Region(said, tuple(np.flatnonzero(chosen & moves).tolist()))


def atoms_now(region: Region, structure: Structure) -> np.ndarray:
    """Indices of the atoms that belong to a region in a structure."""
    if not region.centres:
        return np.array(region.atoms)
    cell = neighbors.complete_cell(structure.cell, structure.pbc)
    first, second, _ = neighbors.pairs(structure, cell, region.radius)
    near = np.union1d(second[np.isin(first, region.centres)], region.centres)
    return np.intersect1d(near, region.atoms)


def _refuse_missing(indices: tuple[int, ...], structure: Structure, key: str) -> None:
    n = len(structure.numbers)
    missing = [i for i in indices if i >= n]
    if missing:
        raise ConfigError(key, list(indices), f"indices of atoms from 0 to {n - 1}; there is no atom {missing[0]}")


def _of_elements(elements: tuple[str, ...], structure: Structure, key: str) -> np.ndarray:
    """Which atoms [n] are of some elements."""
    there = sorted({chemical_symbols[z] for z in structure.numbers})
    for symbol in elements:
        if symbol not in there:
            raise ConfigError(key, symbol, f"elements of the structure: {', '.join(there)}")
    return np.isin(structure.numbers, [atomic_numbers[symbol] for symbol in elements])


def _of_labels(labels: tuple[str, ...], structure: Structure, key: str) -> np.ndarray:
    """Which atoms [n] have some names in the structure's file."""
    if structure.labels is None:
        raise ConfigError(key, list(labels), "indices or elements, since the structure's file gives atoms no names")
    there = sorted(set(structure.labels.tolist()))
    for label in labels:
        if label not in there:
            more = "" if len(there) <= 20 else f" and {len(there) - 20} more"
            raise ConfigError(key, label, f"names that the structure's file gives: {', '.join(there[:20])}{more}")
    return np.isin(structure.labels, labels)


def _named(indices: tuple[int, ...], structure: Structure) -> str:
    """Atoms in words, such as 'H 8 or O 2'."""
    if len(indices) > _NAMED:
        return f"one of {len(set(indices))} atoms"
    return " or ".join(f"{chemical_symbols[structure.numbers[i]]} {i}" for i in indices)

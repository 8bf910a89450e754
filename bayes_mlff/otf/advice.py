"""Warnings about settings that are allowed but probably not intended."""

from typing import Final

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from bayes_mlff.data.structure import Structure

HYDROGEN_FS: Final = 1.0
"""Longest usual time step for hydrogen; the period of its stretching vibrations is 9 to 12 fs."""

DOUBLE_BONDS_FS: Final = 2.0
"""Longest usual time step for B to F, since vibrations of double and triple bonds have periods of 14 to 20 fs."""

TOLERANCE: Final = 1.05
"""Time steps that are longer by up to this factor give no warning."""


def longest_timestep_fs(mass: float) -> float:
    """Longest usual time step, fs, for atoms of a mass in amu.

    Periods grow with the square root of the mass: 1 fs for H, 1.4 fs for D. Atoms heavier than Li are bound to atoms
    of similar mass, so that the reduced mass, about half of theirs, determines the period, and more strongly than H.
    """
    scaled = HYDROGEN_FS * float(np.sqrt(mass / atomic_masses[1]))
    return max(min(scaled, DOUBLE_BONDS_FS), 0.5 * scaled)


def timestep_warning(timestep_fs: float, masses: np.ndarray | None, numbers: np.ndarray) -> str | None:
    """Warning about a time step that is too long for the lightest of some atoms.

    Args:
      timestep_fs: time step, fs.
      masses: [n] amu; None: the standard ones.
      numbers: [n] atomic numbers of the atoms that move.

    Returns:
      One sentence, or None if the time step is not too long.
    """
    if not len(numbers):
        return None
    masses = atomic_masses[numbers] if masses is None else np.asarray(masses, np.float64)
    lightest = int(np.argmin(masses))
    longest = longest_timestep_fs(float(masses[lightest]))
    if timestep_fs <= TOLERANCE * longest:
        return None
    return (
        f"dynamics.timestep_fs = {timestep_fs:g} is long for {chemical_symbols[int(numbers[lightest])]} of "
        f"{masses[lightest]:.4g} amu, whose vibrations it may not resolve: use at most {longest:.2g} fs"
    )


def of_structure(timestep_fs: float, structure: Structure) -> str | None:
    """`timestep_warning` for the atoms of a structure that are not fixed in all directions."""
    moves = np.full(len(structure.numbers), True)
    if structure.fixed is not None:
        moves = ~np.all(structure.fixed, axis=1)
    masses = None if structure.masses is None else structure.masses[moves]
    return timestep_warning(timestep_fs, masses, structure.numbers[moves])

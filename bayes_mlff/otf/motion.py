"""Masses, initial velocities and fixed coordinates of a run, from the structure's file and the configuration."""

from typing import Final, NamedTuple

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.data.structure_remarks import formula
from bayes_mlff.md.integrators import Integrator, kept_axes
from bayes_mlff.md.settings import DynamicsConfig

LIGHTEST: Final = 0.1
"""Smallest mass of an atom, amu: that of a muon in place of a proton."""

HEAVIEST: Final = 1000.0
"""Largest mass of an atom, amu."""

SAME_MASS: Final = 1e-6
"""Masses with a smaller relative difference are equal; files state a limited number of digits."""

AT_REST: Final = 1e-9
"""Remaining fraction of the kinetic energy below which only rounding errors are left."""


class Motion(NamedTuple):
    """Masses and initial velocities of a run."""

    masses: np.ndarray  # [n] amu
    momenta: np.ndarray | None = None  # [n, 3] sqrt(amu·eV) from the structure's file; None: drawn at random
    carried_ev: float = 0.0  # kinetic energy of a conserved centre-of-mass motion, eV; not part of the temperature
    remarks: tuple[tuple[str, str], ...] = ()  # (topic, sentence) about everything unusual


def begin(
    dynamics: DynamicsConfig, structure: Structure, velocities: np.ndarray | None, integrator: Integrator
) -> Motion:
    """Determine masses and initial velocities.

    In nve and at the start of Langevin dynamics the centre of mass has the velocity that the file gives; with velocity
    rescaling and with a moving cell it is set to zero, since these would treat its motion as heat.

    Args:
      dynamics: settings of the dynamics.
      structure: initial structure.
      velocities: [n, 3] Å/fs, of the structure's file; None: it has none.
      integrator: integrator of the run.

    Raises:
      ConfigError: if the settings contradict the file, or need something that it does not contain.
      DataError: if the file's masses, fixed coordinates or velocities are unusable.
    """
    held = fixed(structure)
    masses, about_masses = _masses(dynamics, structure)
    start = Motion(masses, remarks=(*about_masses, *_about_held(structure.numbers, held)))
    return _with_velocities(start, dynamics, structure, velocities, integrator)


def fixed(structure: Structure) -> np.ndarray:
    """Fixed coordinates, [n, 3] bool.

    Raises:
      DataError: if all coordinates are fixed.
    """
    n = len(structure.numbers)
    if structure.fixed is None:
        return np.zeros((n, 3), bool)
    held = np.asarray(structure.fixed, bool)
    if held.shape != (n, 3):
        raise DataError(f"structure: held coordinates have shape {held.shape}; allowed: {(n, 3)}")
    if held.all():
        raise DataError("structure: all coordinates of all atoms are held; allowed: at least one that moves")
    return held


def everywhere(structure: Structure, local: np.ndarray, cell: np.ndarray, origin: Origin) -> np.ndarray:
    """Positions [..., n, 3] Å, float64, of atoms in the dynamics; fixed coordinates are exactly those of the structure.

    Args:
      structure: initial structure.
      local: [..., n, 3] Å, relative to `origin`.
      cell: [..., 3, 3] Å, cell at that time.
      origin: origin of these positions.
    """
    found = origin.everywhere(local, cell)
    return found if structure.fixed is None else np.where(structure.fixed, structure.positions, found)


def _masses(dynamics: DynamicsConfig, structure: Structure) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    numbers = structure.numbers
    standard = np.asarray(atomic_masses[numbers], np.float64)
    masses = standard.copy()
    if structure.masses is not None:
        masses = np.array(structure.masses, np.float64)
        if masses.shape != numbers.shape:
            raise DataError(f"structure: masses have shape {masses.shape}; allowed: {numbers.shape}")
        wrong = ~((masses >= LIGHTEST) & (masses <= HEAVIEST))
        if wrong.any():
            i = int(np.argmax(wrong))
            raise DataError(
                f"structure: the mass of atom {i} ({chemical_symbols[numbers[i]]}) is {masses[i]:g} amu; "
                f"allowed: {LIGHTEST:g} to {HEAVIEST:g} amu"
            )
    for symbol, mass in dynamics.masses.items():
        here = numbers == atomic_numbers.get(symbol, -1)
        if not here.any():
            known = ", ".join(chemical_symbols[z] for z in np.unique(numbers))
            raise ConfigError("dynamics.masses", symbol, f"symbols of the structure's elements: {known}")
        key = f"dynamics.masses.{symbol}"
        if not LIGHTEST <= mass <= HEAVIEST:
            raise ConfigError(key, mass, f"{LIGHTEST:g} to {HEAVIEST:g} amu")
        if structure.masses is not None and not np.allclose(masses[here], mass, rtol=SAME_MASS, atol=0.0):
            stated = ", ".join(f"{m:.6g}" for m in np.unique(masses[here]))
            raise ConfigError(key, mass, f"{stated} amu, as in the structure's file, or only one of both")
        masses[here] = mass
    return masses, _about_masses(numbers, masses, standard)


def _about_masses(numbers: np.ndarray, masses: np.ndarray, standard: np.ndarray) -> tuple[tuple[str, str], ...]:
    other = ~np.isclose(masses, standard, rtol=SAME_MASS, atol=0.0)
    if not other.any():
        return ()
    parts = []
    for z in np.unique(numbers[other]):
        stated, counts = np.unique(masses[other & (numbers == z)], return_counts=True)
        each = ", ".join(f"{m:.6g} amu ({count} atoms)" for m, count in zip(stated, counts, strict=True))
        parts.append(f"{chemical_symbols[z]} {each}, in place of {atomic_masses[z]:.6g}")
    return (("masses", "; ".join(parts).replace("(1 atoms)", "(1 atom)")),)


def _about_held(numbers: np.ndarray, held: np.ndarray) -> tuple[tuple[str, str], ...]:
    if not held.any():
        return ()
    whole, partly = np.nonzero(held.all(axis=1))[0], np.nonzero(held.any(axis=1) & ~held.all(axis=1))[0]
    said = [f"{_listed(numbers, whole)} in place"] if len(whole) else []
    if len(partly):
        axes = sorted({"".join(a for a, h in zip("xyz", held[i], strict=True) if h) for i in partly})
        said.append(f"{_listed(numbers, partly)} along {' or '.join(', '.join(a) for a in axes)}")
    return (("held", f"{'; '.join(said)}; {np.count_nonzero(~held)} of {held.size} coordinates move"),)


def _listed(numbers: np.ndarray, atoms: np.ndarray) -> str:
    """List atoms by formula and indices from 0; consecutive indices as a range."""
    ends = np.nonzero(np.diff(atoms) != 1)[0]
    first, last = atoms[np.append(0, ends + 1)], atoms[np.append(ends, len(atoms) - 1)]
    runs = [f"{a}" if a == b else f"{a} to {b}" for a, b in zip(first, last, strict=True)]
    shown = ", ".join(runs[:6]) + (", ..." if len(runs) > 6 else "")
    return f"{len(atoms)} atom{'s' * (len(atoms) > 1)} ({formula(numbers[atoms])}: {shown})"


def _with_velocities(
    start: Motion, dynamics: DynamicsConfig, structure: Structure, velocities: np.ndarray | None, integrator: Integrator
) -> Motion:
    wanted, key, n = dynamics.velocities, "dynamics.velocities", len(structure.numbers)
    drawn_at = f"drawn at {dynamics.initial_temperature_k:g} K"
    if velocities is None:
        if wanted == "file":
            raise ConfigError(key, wanted, "auto or draw, since the structure's file has no velocities")
        return start
    if wanted == "draw":
        return _said(start, f"{drawn_at}; those of the structure's file are left out (dynamics.velocities: draw)")
    velocities = np.asarray(velocities, np.float64)
    if velocities.shape != (n, 3) or not np.isfinite(velocities).all():
        raise DataError(f"structure: velocities have shape {velocities.shape}; allowed: {(n, 3)} finite numbers")
    held = fixed(structure)
    momenta = start.masses[:, None] * velocities / units.FS
    stopped = int(np.count_nonzero(momenta[held]))
    momenta = np.where(held, 0.0, momenta)
    if wanted == "auto" and not momenta.any():
        return _said(start, f"{drawn_at}; those of the structure's file are all zero (dynamics.velocities: file)")
    remarks = [f"{stopped} components of held coordinates are zero"] if stopped else []
    net = np.where(kept_axes(held), np.sum(momenta, axis=0), 0.0)
    total = float(np.sum(start.masses))
    before, carried = _kinetic(momenta, start.masses), float(np.sum(net**2)) / (2.0 * total)
    resting = dynamics.ensemble == "npt" or dynamics.thermostat_used == "bussi"
    if resting:
        momenta = momenta - start.masses[:, None] * net / total
    if carried > AT_REST * before:
        does = "is brought to rest" if resting else "has its motion until friction takes it"
        does = "keeps its motion" if dynamics.ensemble == "nve" else does
        speed = units.METRES_PER_SECOND * float(np.linalg.norm(net)) / total * units.FS
        remarks.append(f"the centre of mass {does} of {speed:.4g} m/s")
    else:
        carried = 0.0
    thermal = max(_kinetic(momenta, start.masses) - (carried if dynamics.ensemble == "nve" else 0.0), 0.0)
    if thermal <= AT_REST * before:
        thermal = 0.0
        if dynamics.thermostat_used == "bussi":
            raise ConfigError(key, wanted, "draw: velocity rescaling cannot start from the file's zero velocities")
    kelvin = 2.0 * thermal / (integrator.degrees_of_freedom(n, structure.fixed) * units.KB)
    text = "; ".join([f"those of the structure's file, {kelvin:.4g} K", *remarks])
    kept = carried if dynamics.ensemble == "nve" else 0.0
    return _said(start._replace(momenta=momenta, carried_ev=kept), text)


def _kinetic(momenta: np.ndarray, masses: np.ndarray) -> float:
    return 0.5 * float(np.sum(momenta**2 / masses[:, None]))


def _said(start: Motion, text: str) -> Motion:
    return start._replace(remarks=(*start.remarks, ("velocities", text)))

"""From a structure to PySCF's molecule: elements, basis, core potentials, charge and spin."""

import warnings
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from ase.data import chemical_symbols
from pydantic import Field

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, EngineSetupError
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.charge_spin import Electrons, initial_moments, settle
from bayes_mlff.engines.engine import CommonSettings

EFFORT: Final = {
    "max_cycle",
    "max_attempts",
    "threads",
    "memory_mb",
    "warm_start",
    "min_distance_angstrom",
    "subtract_net_force",
}
"""Settings that do not identify the level of theory."""


class PyscfSettings(CommonSettings):
    """Level of theory and effort of a PySCF calculation on a molecule."""

    name: Literal["pyscf"] = "pyscf"
    xc: str = Field(default="b3lyp", description="Exchange-correlation functional as PySCF spells it.")
    basis: str = Field(default="def2-svp", description="Basis set of all elements.")
    ecp: str | None = Field(
        default=None, description="Effective core potential; required where the basis set is made for one."
    )
    density_fit: bool = Field(default=True, description="Fit the density: half the time, 1-3 meV in the energy.")
    grid_level: int = Field(
        default=2, ge=1, le=9, description="Integration grid; level 0 is refused, its energies err by up to 0.9 eV."
    )
    conv_tol_hartree: float = Field(default=1e-9, gt=0.0, le=1e-6, description="Energy change at self-consistency.")
    charge: int | None = Field(default=None, description="Charge, e; by default that of the structure, else 0.")
    spin: int | None = Field(
        default=None,
        ge=0,
        description="Number of unpaired electrons, 2S; by default that of the structure, else as few as there can be. "
        "Above 0, or with initial moments, the calculation is unrestricted.",
    )
    dispersion: str | None = Field(default=None, description="Correction such as 'd3bj' or 'd4'.")
    max_cycle: int = Field(default=50, ge=1, description="Cycles of each self-consistency attempt.")
    max_attempts: int = Field(
        default=3, ge=1, le=3, description="1: plain; 2: then damped and level shifted; 3: then second order."
    )
    threads: int = Field(
        default=1, ge=1, description="OpenMP threads of the integrals; more than 1 may cost the last bits."
    )
    memory_mb: int = Field(
        default=4000, ge=500, description="Working memory, on top of what the process already holds."
    )
    warm_start: bool = Field(default=True, description="Start from the previous density.")


def check_elements(pyscf: ModuleType, settings: PyscfSettings, structure: Structure) -> None:
    """Refuse an element without a basis, and a valence basis without its core potential.

    Args:
      pyscf: the package, with `gto` loaded.
      settings: basis and core potential.
      structure: only its elements are used.

    Raises:
      EngineSetupError: naming the setting, the element and what to do.
    """
    for number in np.unique(structure.numbers):
        symbol = chemical_symbols[int(number)]
        try:
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                pyscf.gto.basis.load(settings.basis, symbol)
        except (RuntimeError, KeyError) as error:
            raise EngineSetupError(
                f"engine.basis: PySCF has no {settings.basis!r} for {symbol}; choose another, or "
                "pip install basis-set-exchange"
            ) from error
        if settings.ecp is None and _has_core_potential(pyscf, settings.basis, symbol):
            raise EngineSetupError(
                f"engine.ecp: {settings.basis!r} of {symbol} describes valence electrons only; "
                f"set engine.ecp to {settings.basis!r}"
            )


def _has_core_potential(pyscf: ModuleType, name: str, symbol: str) -> bool:
    """True if PySCF has an effective core potential of this name for this element."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return bool(pyscf.gto.basis.load_ecp(name, symbol))
    except (RuntimeError, KeyError):
        return False


def electrons_of(settings: PyscfSettings, structure: Structure) -> Electrons:
    """Charge and multiplicity, and who states them.

    Raises:
      ConfigError: if settings and structure contradict each other, or there is no such state.
    """
    charge = None if settings.charge is None else ("engine.charge", settings.charge)
    stated = structure.electronic.multiplicity
    if settings.spin is None:
        return settle(structure, initial_moments(None, structure, "structure"), charge=charge)
    if stated is not None and stated != settings.spin + 1:
        allowed = f"{stated - 1}, for multiplicity {stated} of the structure, or nothing"
        raise ConfigError("engine.spin", settings.spin, allowed)
    silent = structure._replace(electronic=structure.electronic._replace(multiplicity=None))
    found = settle(silent, None, charge=charge)
    return found._replace(multiplicity=settings.spin + 1, multiplicity_from="engine.spin")


def build_molecule(pyscf: ModuleType, settings: PyscfSettings, structure: Structure) -> Any:
    """Build PySCF's molecule in bohr, so that only this package's constants convert lengths.

    Args:
      pyscf: the package, with `gto` and `lib` loaded.
      settings: basis, core potential, charge, spin and memory.
      structure: cell and boundary are not used.

    Returns:
      A built `pyscf.gto.Mole`.

    Raises:
      ConfigError: if charge and spin do not fit the number of electrons.
    """
    symbols = [chemical_symbols[int(number)] for number in structure.numbers]
    molecule = pyscf.gto.Mole()
    molecule.atom = list(zip(symbols, (structure.positions / units.BOHR).tolist(), strict=True))
    electronic = electrons_of(settings, structure)
    charge, spin = electronic.charge, electronic.multiplicity - 1
    molecule.unit, molecule.basis, molecule.charge, molecule.spin = "Bohr", settings.basis, charge, None
    if settings.ecp is not None:
        molecule.ecp = {x: settings.ecp for x in set(symbols) if _has_core_potential(pyscf, settings.ecp, x)}
    molecule.verbose = 0
    # PySCF counts the memory of the whole process, models included, against this limit.
    molecule.max_memory = pyscf.lib.current_memory()[0] + settings.memory_mb
    molecule.build(dump_input=False, parse_arg=False)
    electrons = int(molecule.tot_electrons())
    if electrons < 1:
        key = "structure.charge" if settings.charge is None else "engine.charge"
        raise ConfigError(key, charge, f"a charge that leaves electrons; this one leaves {electrons}")
    if spin > electrons or (electrons - spin) % 2:
        parity = "an odd" if electrons % 2 else "an even"
        raise ConfigError(
            "structure.multiplicity - 1" if settings.spin is None else "engine.spin",
            spin,
            f"{parity} number of unpaired electrons, at most {electrons}: engine.charge {charge} "
            f"leaves {electrons} electrons",
        )
    molecule.spin = spin
    return molecule


def spin_guess(molecule: Any, field: Any, moments: np.ndarray) -> np.ndarray:
    """A first density [2, a, a] of superposed atoms, each with its initial moment.

    The number of electrons of either spin is not exact; the occupation of the orbitals sets it right.

    Args:
      molecule: from `build_molecule`.
      field: an unrestricted mean field of it.
      moments: [n] μB; one that exceeds the electrons of its atom counts as much as these.
    """
    total = np.asarray(field.get_init_guess(molecule, "minao")).sum(axis=0)
    overlap = molecule.intor_symmetric("int1e_ovlp")
    up, down = total / 2.0, total / 2.0
    for moment, (_, _, first, last) in zip(moments, molecule.aoslice_by_atom(), strict=True):
        block = np.s_[first:last, first:last]
        electrons = float(np.sum(total[block] * overlap[block]))
        polarised = np.clip(moment / electrons, -1.0, 1.0) if electrons > 0.0 else 0.0
        up[block], down[block] = up[block] * (1.0 + polarised), down[block] * (1.0 - polarised)
    return np.stack([up, down])

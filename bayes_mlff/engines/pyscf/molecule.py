"""Makes PySCF's molecule from a structure: elements, basis set, core potentials, charge and spin."""

import warnings
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from ase.data import chemical_symbols
from pydantic import Field

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, EngineSetupError
from bayes_mlff.data.level import Level, named
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

    name: Literal["pyscf"] = Field(default="pyscf", description="Reference method: PySCF, for molecules.")
    xc: str = Field(default="b3lyp", description="Exchange-correlation functional as PySCF spells it.")
    basis: str = Field(default="def2-svp", description="Name of the basis set of all elements, as PySCF spells it.")
    ecp: str | None = Field(
        default=None,
        description="Name of the effective core potential; null means none, and is refused where the basis set is made "
        "for one.",
    )
    density_fit: bool = Field(
        default=True,
        description="Whether the density is fitted, which halves the time and changes the energy by 1 to 3 meV.",
    )
    grid_level: int = Field(
        default=2,
        ge=1,
        le=9,
        description="Level of PySCF's integration grid; level 0 is refused, since its energies are off by up to 0.9 "
        "eV.",
    )
    conv_tol_hartree: float = Field(
        default=1e-9,
        gt=0.0,
        le=1e-6,
        description="Change of the energy at which the self-consistent field has converged, hartree.",
    )
    charge: int | None = Field(
        default=None, description="Total charge, e; null means that of the structure, or 0 where it states none."
    )
    spin: int | None = Field(
        default=None,
        ge=0,
        description="Number of unpaired electrons, 2S; null means that of the structure, or the smallest possible "
        "where it states none. Above 0, or with initial moments, the calculation is unrestricted.",
    )
    dispersion: str | None = Field(
        default=None, description="Dispersion correction such as d3bj or d4; null means none."
    )
    max_cycle: int = Field(
        default=50, ge=1, description="Largest number of self-consistent-field cycles in each attempt."
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=3,
        description="Number of attempts at self-consistency: the second is damped and level-shifted, the third of "
        "second order.",
    )
    threads: int = Field(
        default=1,
        ge=1,
        description="Number of OpenMP threads of the integrals; with more than 1 energies may differ in the last bits.",
    )
    memory_mb: int = Field(
        default=4000,
        ge=500,
        description="Working memory of the calculation in MB, beyond what the process already holds.",
    )
    warm_start: bool = Field(
        default=True, description="Whether a calculation starts from the density of the previous label."
    )

    @property
    def level(self) -> Level:
        """See `CommonSettings.level`."""
        return named(self.xc, self.dispersion)


def check_elements(pyscf: ModuleType, settings: PyscfSettings, structure: Structure) -> None:
    """Refuse an element without a basis set, and a valence basis set without its core potential.

    Args:
      pyscf: the package, with `gto` imported.
      settings: for basis set and core potential.
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
    """Charge and multiplicity, and where they come from.

    Raises:
      ConfigError: if settings and structure contradict each other, or the spin is impossible.
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
    """Build PySCF's molecule in bohr, so that lengths are converted only with this package's constants.

    Args:
      pyscf: the package, with `gto` and `lib` imported.
      settings: for basis set, core potential, charge, spin and memory.
      structure: its cell and boundary conditions are not used.

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
    # PySCF compares the memory of the whole process, including the models, with this limit.
    molecule.max_memory = pyscf.lib.current_memory()[0] + settings.memory_mb
    molecule.build(dump_input=False, parse_arg=False)
    electrons = int(molecule.tot_electrons())
    key = "structure.charge" if settings.charge is None else "engine.charge"
    if electrons < 1:
        raise ConfigError(key, charge, f"a charge that leaves electrons; this one leaves {electrons}")
    if spin > electrons or (electrons - spin) % 2:
        parity = "an odd" if electrons % 2 else "an even"
        allowed = (
            f"{parity} number of unpaired electrons, at most {electrons}, since {key} {charge} leaves so many electrons"
        )
        if settings.spin is None:
            raise ConfigError("structure.multiplicity", spin + 1, f"one more than {allowed}")
        raise ConfigError("engine.spin", spin, allowed)
    molecule.spin = spin
    return molecule


def spin_guess(molecule: Any, field: Any, moments: np.ndarray) -> np.ndarray:
    """Initial density matrix [2, a, a] as a superposition of atoms, each with its initial moment.

    The numbers of spin-up and spin-down electrons are not exact; the occupation of the orbitals corrects them.

    Args:
      molecule: from `build_molecule`.
      field: an unrestricted mean-field object of the molecule.
      moments: [n] μB; limited to the number of electrons of the atom.
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

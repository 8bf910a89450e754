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
from bayes_mlff.otf.dft.engine import CommonSettings

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
    charge: int = 0
    spin: int = Field(
        default=0, ge=0, description="Number of unpaired electrons, 2S; above 0 the calculation is unrestricted."
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
    molecule.unit, molecule.basis, molecule.charge, molecule.spin = (
        "Bohr",
        settings.basis,
        settings.charge,
        None,
    )
    if settings.ecp is not None:
        molecule.ecp = {x: settings.ecp for x in set(symbols) if _has_core_potential(pyscf, settings.ecp, x)}
    molecule.verbose = 0
    # PySCF counts the memory of the whole process, models included, against this limit.
    molecule.max_memory = pyscf.lib.current_memory()[0] + settings.memory_mb
    molecule.build(dump_input=False, parse_arg=False)
    electrons = int(molecule.tot_electrons())
    if electrons < 1:
        allowed = f"a charge that leaves electrons; this one leaves {electrons}"
        raise ConfigError("engine.charge", settings.charge, allowed)
    if settings.spin > electrons or (electrons - settings.spin) % 2:
        parity = "an odd" if electrons % 2 else "an even"
        raise ConfigError(
            "engine.spin",
            settings.spin,
            f"{parity} number of unpaired electrons, at most {electrons}: engine.charge {settings.charge} "
            f"leaves {electrons} electrons",
        )
    molecule.spin = settings.spin
    return molecule

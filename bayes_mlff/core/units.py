"""Physical constants and unit conversion: the only place of this package that states a conversion factor.

The exception is `engines/gpaw/plane_waves`, which counts plane waves as GPAW does and so uses ASE's constants.

Internal units are eV, Å, eV/Å, eV/Å³, fs, K and amu. The integrators use the time unit that belongs to
eV, Å and amu, Å·sqrt(amu/eV).
"""

import re
from typing import Final

from bayes_mlff.core.errors import ConfigError

KCAL_MOL_PER_EV: Final = 23.060548
KB: Final = 8.617333262e-5
"""Boltzmann constant, eV/K (CODATA 2018)."""
FS: Final = 0.09822694788464063
"""One femtosecond in Å·sqrt(amu/eV)."""
GPA: Final = 0.006241509074460763
"""One gigapascal in eV/Å³."""
HARTREE: Final = 27.211386245988
"""One hartree in eV (CODATA 2018)."""
BOHR: Final = 0.529177210903
"""One bohr in Å (CODATA 2018)."""

RYDBERG: Final = 0.5 * HARTREE
"""One rydberg in eV."""

KCAL_MOL: Final = 1.0 / KCAL_MOL_PER_EV
"""One kcal/mol in eV."""
KJ_MOL: Final = KCAL_MOL / 4.184
"""One kJ/mol in eV."""
METRES_PER_SECOND: Final = 1e5
"""One Å/fs in m/s."""
PER_CM: Final = 2.99792458e-5
"""One cm⁻¹ in 1/fs: the speed of light, cm/fs."""
CM2_S: Final = 10.0
"""One cm²/s in Å²/fs."""

_ENERGY_UNITS: Final = {"kcal/mol": KCAL_MOL, "ev": 1.0, "mev": 1e-3, "kj/mol": KJ_MOL}
_QUANTITY: Final = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z/\u00c5\u212b]+)\s*$")
_FORCE_ENDS: Final = ("/\u00e5", "/angstrom", "/a")
"""Ways to write "per Å", in lower case."""


def parse_energy(text: str, *, n_atoms: int, key: str = "energy") -> float:
    """Convert a quantity such as ``"0.5 kcal/mol"`` or ``"1.3 meV/atom"`` to eV per structure.

    Args:
      text: a positive number and a unit: kcal/mol, kJ/mol, eV or meV, each optionally per atom.
      n_atoms: atoms in the structure, used for per-atom quantities.
      key: dotted configuration key, for the error message.

    Returns:
      Energy of the whole structure, eV.

    Raises:
      ConfigError: if the text is not a positive quantity in one of these units.
    """
    allowed = "a positive number and a unit: 'kcal/mol', 'kJ/mol', 'eV' or 'meV', optionally followed by '/atom'"
    match = _QUANTITY.match(text)
    if match is None:
        raise ConfigError(key, text, allowed)
    unit = match.group(2).lower()
    per_atom = unit.endswith("/atom")
    unit = unit.removesuffix("/atom")
    value = float(match.group(1))
    if unit not in _ENERGY_UNITS or not 0.0 < value < float("inf"):
        raise ConfigError(key, text, allowed)
    return value * _ENERGY_UNITS[unit] * (n_atoms if per_atom else 1)


def parse_force(text: str, *, key: str = "force") -> float:
    """Convert a quantity such as ``"3 kcal/mol/Å"`` to eV/Å.

    Args:
      text: a positive number and a unit: kcal/mol/Å, kJ/mol/Å, eV/Å or meV/Å, where Å may be written A or angstrom.
      key: dotted configuration key, for the error message.

    Raises:
      ConfigError: if the text is not a positive quantity in one of these units, such as an energy.
    """
    return _force(text, key)[0]


def force_unit(text: str, *, key: str = "force") -> tuple[str, float]:
    """Unit of such a quantity, spelt with Å, and what 1 eV/Å is in it.

    Raises:
      ConfigError: as `parse_force`.
    """
    _, unit = _force(text, key)
    return f"{_SPELT[unit]}/Å", 1.0 / _ENERGY_UNITS[unit]


_SPELT: Final = {"kcal/mol": "kcal/mol", "ev": "eV", "mev": "meV", "kj/mol": "kJ/mol"}


def _force(text: str, key: str) -> tuple[float, str]:
    """Value in eV/Å, and the energy in the unit."""
    allowed = "a positive number and a unit of force: 'kcal/mol/Å', 'kJ/mol/Å', 'eV/Å' or 'meV/Å' (Å or A)"
    match = _QUANTITY.match(text)
    value, unit = (float(match.group(1)), match.group(2).lower()) if match else (0.0, "")
    energy = next((unit.removesuffix(end) for end in _FORCE_ENDS if unit.endswith(end)), "")
    if energy not in _ENERGY_UNITS or not 0.0 < value < float("inf"):
        raise ConfigError(key, text, allowed)
    return value * _ENERGY_UNITS[energy], energy

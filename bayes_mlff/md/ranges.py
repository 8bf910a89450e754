"""Allowed ranges of thermostat and barostat settings: values far outside them come from a wrong unit."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError

COMPRESSIBILITY: Final = (1e-4, 5.0)
"""1/GPa: diamond has 0.002, metals 0.01, water 0.45, soft organic liquids 1 to 2."""

PRESSURE: Final = (-100.0, 1000.0)
"""GPa: no solid withstands more tension; the centre of the Earth has 360."""

FEWEST_STEPS: Final = 10.0
"""Smallest number of MD steps in a barostat time."""

PACE: Final = 2e-3
"""Largest change of ln V in a step per GPa of pressure deviation. This number over the true compressibility is the
fraction of the volume deviation that a step removes; above two the volume oscillates with growing amplitude."""

LARGEST_STEP: Final = 0.02
"""Largest change of ln V in a step, caused by the external pressure or by noise."""


def check_thermostat(kind: str | None, timestep_fs: float, *, friction_per_fs: float, time_fs: float) -> None:
    """Refuse a thermostat that is so strong that it replaces the velocities in every step.

    Raises:
      ConfigError: naming the setting of the thermostat that is used.
    """
    if kind == "langevin" and friction_per_fs * timestep_fs > 1.0:
        raise ConfigError(
            "dynamics.friction_per_fs",
            friction_per_fs,
            f"at most {1.0 / timestep_fs:g} 1/fs, one over timestep_fs; 0.001 to 0.05 are usual (a time of 100 fs is "
            "a friction of 0.01)",
        )
    if kind == "bussi" and time_fs < timestep_fs:
        raise ConfigError(
            "dynamics.thermostat_time_fs", time_fs, f"at least timestep_fs = {timestep_fs:g} fs; 50 to 500 are usual"
        )


def check_compressibility(value: float) -> None:
    """Refuse a compressibility outside the range of real materials.

    Raises:
      ConfigError: with the allowed range and values of some materials.
    """
    low, high = COMPRESSIBILITY
    if not low <= value <= high:
        raise ConfigError(
            "dynamics.barostat.compressibility_per_gpa",
            value,
            f"{low:g} to {high:g} 1/GPa: metals have about 0.01, water 0.45, which is 4.5e-5 1/bar",
        )


def check_barostat(
    timestep_fs: float, *, time_fs: float, compressibility_per_gpa: float, pressures_gpa: Iterable[float]
) -> None:
    """Refuse a barostat that would change the volume too much in one step.

    Args:
      timestep_fs: time step of the integrator, fs.
      time_fs: relaxation time τ of the barostat, fs.
      compressibility_per_gpa: isothermal compressibility β, 1/GPa.
      pressures_gpa: external pressures of the run, GPa.

    Raises:
      ConfigError: with the smallest allowed barostat time.
    """
    key = "dynamics.barostat.time_fs"
    if time_fs < FEWEST_STEPS * timestep_fs:
        raise ConfigError(
            key, time_fs, f"at least {FEWEST_STEPS:g} times timestep_fs = {timestep_fs:g} fs; 500 to 5000 fs are usual"
        )
    pace = compressibility_per_gpa * timestep_fs / time_fs
    largest = max((abs(p) for p in pressures_gpa), default=0.0)
    if pace > PACE:
        raise ConfigError(
            key,
            time_fs,
            f"at least {_up(time_fs * pace / PACE)} fs with compressibility_per_gpa = {compressibility_per_gpa:g}: now "
            f"the volume would change by {pace:.2%} in a step for each GPa that the pressure is off, most {PACE:.2%}",
        )
    if pace * largest > LARGEST_STEP:
        raise ConfigError(
            key,
            time_fs,
            f"at least {_up(time_fs * pace * largest / LARGEST_STEP)} fs for a pressure of {largest:g} GPa and "
            f"compressibility_per_gpa = {compressibility_per_gpa:g}: now the volume would change by "
            f"{pace * largest:.2g} of itself in a step, most is {LARGEST_STEP:g}",
        )


def check_noise(
    timestep_fs: float, *, time_fs: float, compressibility_per_gpa: float, temperature_k: float, volume_a3: float
) -> None:
    """Refuse a barostat whose noise is too large for the size of the cell.

    Args:
      timestep_fs: time step of the integrator, fs.
      time_fs: relaxation time τ of the barostat, fs.
      compressibility_per_gpa: isothermal compressibility β, 1/GPa.
      temperature_k: highest temperature of the run, K.
      volume_a3: volume of the cell, Å³.

    Raises:
      ConfigError: with the smallest allowed barostat time.
    """
    mobility = compressibility_per_gpa / units.GPA * timestep_fs / time_fs
    step = float(np.sqrt(2.0 * units.KB * temperature_k * mobility / volume_a3))
    if step > LARGEST_STEP:
        raise ConfigError(
            "dynamics.barostat.time_fs",
            time_fs,
            f"at least {_up(time_fs * (step / LARGEST_STEP) ** 2)} fs for a cell of {volume_a3:.4g} Å³ at "
            f"{temperature_k:g} K with compressibility_per_gpa = {compressibility_per_gpa:g}: now noise would change "
            f"the volume by {step:.1%} in a step, most is {LARGEST_STEP:.0%}",
        )


def _up(value: float) -> str:
    """Three digits, rounded up, so that the value in the message is accepted."""
    scale = 10.0 ** (np.floor(np.log10(value)) - 2)
    return f"{np.ceil(value / scale * (1 - 1e-12)) * scale:g}"

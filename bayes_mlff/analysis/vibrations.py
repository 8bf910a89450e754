"""Velocity autocorrelation and vibrational density of states."""

from typing import Any, Final, NamedTuple

import numpy as np
from scipy import signal

from bayes_mlff.analysis import averages
from bayes_mlff.core import units

WINDOW: Final = "hann"


class Spectrum(NamedTuple):
    """Share of the kinetic energy by wavenumber."""

    wavenumber: np.ndarray  # [k] cm⁻¹, from 0 to the largest that the frames resolve
    density: np.ndarray  # [g, k] 1/cm⁻¹ of each group of atoms; all together integrate to 1
    resolution: float  # cm⁻¹, full width at half maximum of an undamped vibration
    segments: int  # that were averaged, overlapping by half, in all trajectories together
    sum_rule: float  # integral of the unscaled density over the mean kinetic energy; 1 for a stationary motion


def autocorrelation(series: list[np.ndarray], masses: np.ndarray, most: int) -> np.ndarray:
    """Mass-weighted velocity autocorrelation Σ m v(0)·v(t) / Σ m v².

    Args:
      series: velocities [t, n, 3] Å/fs of each trajectory, of one length.
      masses: [n] amu.
      most: number of lags, at most t.

    Returns:
      [most] by lag in frames; 1 at the first.
    """
    total = np.zeros(most)
    for velocities in series:
        product = averages.lagged_products(np.sqrt(masses)[:, None] * velocities)[:most]
        total += product / (len(velocities) - np.arange(most))
    return total / total[0]


def spectrum(
    series: list[np.ndarray], masses: np.ndarray, groups: list[np.ndarray], interval_fs: float, *, length: int
) -> Spectrum:
    """Density of states from velocities (Welch's method): the power spectrum of mass-weighted velocities.

    In a harmonic system at equilibrium every vibration has the same kinetic energy, so that this is the density of
    vibrations (Dickey and Paskin 1969, Phys. Rev. 188, 1407).

    Args:
      series: velocities [t, n, 3] Å/fs of each trajectory.
      masses: [n] amu.
      groups: indices of atoms; disjoint, together all.
      interval_fs: time between frames, fs.
      length: frames of a segment; its duration decides the resolution.
    """
    power, place, count = np.zeros((len(groups), length // 2 + 1)), np.zeros(0), 0
    kinetic = 0.0
    welch: dict[str, Any] = {"window": WINDOW, "nperseg": length, "noverlap": length // 2, "detrend": False}
    for velocities in series:
        weighted = np.sqrt(masses)[:, None] * velocities
        kinetic += float(np.sum(weighted**2) / len(weighted))
        count += 1 + (len(weighted) - length) // (length - length // 2)
        for row, atoms in enumerate(groups):
            place, each = signal.welch(weighted[:, atoms], 1.0 / interval_fs, axis=0, **welch)
            power[row] += each.sum(axis=(1, 2))
    wavenumber = place / units.PER_CM
    area = float(power.sum() * place[1])
    density = power / (area / units.PER_CM)
    return Spectrum(wavenumber, density, 1.44 * float(wavenumber[1]), count, area / kinetic)


def temperature(velocities: np.ndarray, masses: np.ndarray) -> float:
    """Mean temperature, K, if all 3 n directions move.

    Args:
      velocities: [t, n, 3] Å/fs.
      masses: [n] amu.
    """
    kinetic = 0.5 * float(np.mean(np.sum(masses[:, None] * velocities**2, axis=(1, 2)))) / units.FS**2
    return 2.0 * kinetic / (3.0 * len(masses) * units.KB)

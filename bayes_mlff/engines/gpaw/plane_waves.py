"""Number of plane waves in a basis set, and the correction of its effect on the energy.

At a fixed cutoff the number N of plane waves is the number of lattice points in a sphere. It jumps when the cell
changes, and at a cutoff that is not converged the energy jumps with it. The energy for a number proportional to the
volume follows from the Pulay stress (Francis and Payne 1990, J. Phys. Condens. Matter 2, 4395).
"""

import numpy as np
from ase.calculators.calculator import kpts2ndarray
from ase.units import Bohr, Hartree  # the constants that GPAW counts its plane waves with


def count(cell: np.ndarray, k: np.ndarray, cutoff_ev: float) -> int:
    """Number of reciprocal lattice vectors G with |k + G|²/2 up to the cutoff.

    Args:
      cell: [3, 3] Å, rows.
      k: [3] in units of the reciprocal lattice vectors.
      cutoff_ev: largest kinetic energy of a plane wave in the basis set, eV.
    """
    limit = 2.0 * cutoff_ev / Hartree
    lattice = np.asarray(cell) / Bohr
    reciprocal = 2.0 * np.pi * np.linalg.inv(lattice).T
    most = np.ceil(np.sqrt(limit) * np.linalg.norm(lattice, axis=1) / (2.0 * np.pi) + np.abs(k)).astype(int)
    first, second = np.meshgrid(*(np.arange(-m, m + 1) for m in most[:2]), indexing="ij")
    plane = ((first + k[0])[..., None] * reciprocal[0] + (second + k[1])[..., None] * reciprocal[1]).reshape(-1, 3)
    # One layer of vectors at a time: all of them at once would not fit into memory for large cells.
    layers = (np.arange(-most[2], most[2] + 1) + k[2])[:, None] * reciprocal[2]
    return sum(int(np.count_nonzero(np.sum((plane + layer) ** 2, axis=1) <= limit)) for layer in layers)


def smooth_count(cell: np.ndarray, cutoff_ev: float) -> float:
    """Volume of the sphere divided by that of a reciprocal cell; `count` fluctuates around this number."""
    volume = abs(float(np.linalg.det(np.asarray(cell) / Bohr)))
    return volume * (2.0 * cutoff_ev / Hartree) ** 1.5 / (6.0 * np.pi**2)


def log_excess(cell: np.ndarray, kpts: object, cutoff_ev: float) -> float:
    """Mean over k-points of ln(N / N_smooth).

    Args:
      cell: [3, 3] Å, rows.
      kpts: as for ASE's calculators: fractional k-points of equal weights, or a mapping with the size of a grid.
      cutoff_ev: largest kinetic energy of a plane wave in the basis set, eV.
    """
    points = np.asarray(kpts2ndarray(kpts), np.float64).reshape(-1, 3)
    numbers = [count(cell, k, cutoff_ev) for k in points]
    return float(np.mean(np.log(numbers)) - np.log(smooth_count(cell, cutoff_ev)))


def energy_correction(cell: np.ndarray, kpts: object, cutoff_ev: float, virial_ev: np.ndarray) -> float:
    """Correction to add to the energy, eV: -(dE/d ln N) ln(N / N_smooth).

    The uncorrected stress is the derivative of the energy at constant N, the corrected one at constant cutoff; since N
    is then proportional to the volume V, dE/d ln N is V times the difference of the two pressures. It is a property of
    the atoms, not of the cell, as long as the error of the basis set comes from their cores.

    Args:
      cell: [3, 3] Å, rows.
      kpts: see `log_excess`.
      cutoff_ev: largest kinetic energy of a plane wave in the basis set, eV.
      virial_ev: [3, 3] eV, volume times the correction that is added to the stress; tension positive.
    """
    return -float(np.trace(virial_ev)) / 3.0 * log_excess(cell, kpts, cutoff_ev)

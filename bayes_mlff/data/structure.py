"""A structure as plain arrays, and its conversion from and to ASE."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import ase
import numpy as np

from bayes_mlff.core.errors import DataError

FARTHEST: Final = 1e5
"""Largest coordinate, Å: beyond it float32 does not tell 0.01 Å."""

SHORTEST: Final = 0.5
"""Smallest length of a cell vector along which the structure repeats, Å."""

THINNEST: Final = 0.1
"""Smallest distance of its lattice planes, Å: neighbours are searched in some r_max / THINNEST images either way."""


GEOMETRY: Final = ("numbers", "positions", "cell", "pbc")
"""Fields of a `Structure` without which there is none."""

Plain = str | int | float | bool


class ElectronicState(NamedTuple):
    """What a reference method is told about the electrons, as far as it was stated; None or empty where it was not."""

    charge: int | None = None  # of the whole structure, e
    multiplicity: int | None = None  # 2S + 1
    moments: np.ndarray | None = None  # [n] initial magnetic moments, μB
    charges: np.ndarray | None = None  # [n] initial charges, e
    tags: np.ndarray | None = None  # [n] int64, ASE's tags
    info: Mapping[str, Plain] = {}  # further remarks of the file, which some calculators read


class Structure(NamedTuple):
    """Atoms in a cell; all arrays are float64, int64 or bool numpy arrays on the host."""

    numbers: np.ndarray  # [n] atomic numbers
    positions: np.ndarray  # [n, 3] Å
    cell: np.ndarray  # [3, 3] Å, vectors are rows; zero rows along directions without a vector
    pbc: np.ndarray  # [3] bool
    masses: np.ndarray | None = None  # [n] amu; None: ASE's standard ones
    fixed: np.ndarray | None = None  # [n, 3] True where a coordinate is held; None: nowhere
    electronic: ElectronicState = ElectronicState()

    @property
    def is_periodic(self) -> bool:
        """True if the structure repeats in all three directions and so has a volume and a stress."""
        return bool(np.all(self.pbc))


def from_ase(atoms: ase.Atoms) -> Structure:
    """Take the geometry out of an ASE object.

    Args:
      atoms: any ASE structure; calculator and other properties are ignored.

    Returns:
      The structure, positions unwrapped as they came.

    Raises:
      DataError: if there are no atoms, a coordinate is not finite or beyond `FARTHEST`, an atomic number is not in
        1..118, or a periodic direction has no cell vector, or one that is too short or too close to the others.
    """
    structure = Structure(
        np.array(atoms.numbers, np.int64),
        np.array(atoms.positions, np.float64),
        np.array(atoms.cell.array, np.float64),
        np.array(atoms.pbc, bool),
    )
    check(structure)
    return structure


def to_ase(structure: Structure) -> ase.Atoms:
    """Build an ASE object with the same geometry and no calculator."""
    return ase.Atoms(numbers=structure.numbers, positions=structure.positions, cell=structure.cell, pbc=structure.pbc)


def check(structure: Structure) -> None:
    """Refuse a structure that no model could evaluate.

    Raises:
      DataError: see `from_ase`.
    """
    if structure.numbers.size == 0:
        raise DataError("structure: got 0 atoms; allowed: at least 1")
    if not (np.isfinite(structure.positions).all() and np.isfinite(structure.cell).all()):
        raise DataError("structure: positions and cell must be finite numbers in Å")
    largest = max(np.abs(structure.positions).max(), np.abs(structure.cell).max())
    if largest > FARTHEST:
        raise DataError(f"structure: got a coordinate of {largest:.3g} Å; allowed: at most {FARTHEST:g} Å")
    unknown = structure.numbers[(structure.numbers < 1) | (structure.numbers > 118)]
    if unknown.size:
        raise DataError(f"structure: got atomic number {int(unknown[0])}; allowed: 1 to 118")
    periodic = structure.cell[structure.pbc]
    if periodic.size:
        lengths = np.linalg.norm(periodic, axis=1)
        independent = np.linalg.matrix_rank(periodic, tol=1e-6) == len(periodic) and lengths.min() >= SHORTEST
        if not independent or (1.0 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)).min() < THINNEST:
            raise DataError(
                f"structure: periodic directions {structure.pbc.tolist()} need linearly independent cell vectors "
                f"of at least {SHORTEST} Å, and {THINNEST} Å between lattice planes; "
                f"got lengths {np.round(lengths, 3).tolist()}"
            )

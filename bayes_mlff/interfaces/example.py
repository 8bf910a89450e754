"""What the example inputs of all programs describe, and what a program answers."""

from typing import NamedTuple

import ase
import numpy as np
from ase import units as ase_units


class Example(NamedTuple):
    """A short dynamics without thermostat (NVE), the same in every program."""

    name: str  # of the folder, for names of sockets
    atoms: ase.Atoms  # with velocities
    timestep_fs: float
    steps: int

    @property
    def velocities(self) -> np.ndarray:
        """Velocities [n, 3] of the atoms, Å/fs."""
        return self.atoms.get_velocities() * ase_units.fs


class Answer(NamedTuple):
    """What a program says of a structure, in this package's units and in the orientation of the structure."""

    energy: float  # eV
    forces: np.ndarray  # [n, 3] eV/Å
    stress: np.ndarray | None  # [3, 3] eV/Å³, tension positive; None where the program has none


def extent(atoms: ase.Atoms, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinates [3] of the atoms with a margin, Å."""
    return atoms.positions.min(axis=0) - margin, atoms.positions.max(axis=0) + margin


def of_calculator(atoms: ase.Atoms) -> Answer:
    """Answer of the calculator of a structure itself."""
    periodic = bool(np.all(atoms.pbc))
    stress = atoms.get_stress(voigt=False) if periodic else None
    return Answer(float(atoms.get_potential_energy()), atoms.get_forces(apply_constraint=False), stress)

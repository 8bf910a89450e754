"""A crystal of copper and aluminium whose cell leans, and an untrained network for it."""

from typing import Final

import numpy as np
from ase.build import bulk

from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.testing.tiny import tiny_nequip

MODEL: Final = tiny_nequip(
    (13, 29),
    r_max=3.4,
    hidden_irreps="8x0e+4x1o",
    radial_depth=2,
    radial_width=22,
    average_neighbors=12.0,
    energy_scales=(0.02, 0.02),
)


def structure() -> Structure:
    """Eight atoms."""
    atoms = bulk("Cu", "fcc", a=3.75, cubic=True).repeat((2, 1, 1))
    atoms.numbers[[0, 6]] = 13
    atoms.set_cell(
        atoms.cell.array @ np.array([[1.0, 0.01, 0.0], [0.01, 1.0, 0.0], [0.0, 0.0, 1.02]]), scale_atoms=True
    )
    return from_ase(atoms)

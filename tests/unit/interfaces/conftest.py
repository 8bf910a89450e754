"""One small ensemble, whose predictions for two structures are compiled once."""

import numpy as np
import pytest

from bayes_mlff.data.structure import to_ase
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.models import registry
from bayes_mlff.testing import structures
from bayes_mlff.testing.tiny import tiny_nequip

SMALL = tiny_nequip((1, 6, 8), energy_scales=(0.5,) * 3, energy_shifts=(-1.0, -2.0, -4.0))


@pytest.fixture(scope="session")
def ensemble() -> Ensemble:
    flat = registry.initialize(SMALL, 0).flat()[0]
    parts = (SMALL, np.stack([flat, 1.05 * flat]), np.zeros((2, 3)), SigmaFactors(), 0.01, 1.0, "seed: 1\n")
    return Ensemble(*parts, compositions=np.eye(3, dtype=int))


@pytest.fixture(scope="session")
def calculator(ensemble) -> EnsembleCalculator:
    """In float64, so that only rounding of the eighth digit of constants is left between programs."""
    return EnsembleCalculator(ensemble, threshold="20 meV", dtype=np.float64)


@pytest.fixture
def molecule():
    return to_ase(structures.ethanol())


@pytest.fixture
def crystal():
    """A triclinic crystal whose cell is left-handed, far from reduced, and turned."""
    atoms = to_ase(structures.triclinic())
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    atoms.set_cell(np.array([[1, 1, 0], [0, 1, 0], [1, 0, -1]]) @ atoms.cell.array)
    atoms.set_cell(atoms.cell.array @ turn)
    atoms.positions = atoms.positions @ turn
    assert atoms.cell.handedness == -1
    return atoms


@pytest.fixture
def slab():
    return to_ase(structures.slab())

"""The orientation that other programs ask for is a proper rotation of the same lattice."""

import numpy as np
import pytest

from bayes_mlff.interfaces.placement import place

RNG = np.random.default_rng(5)


def random_cells(number):
    while number:
        cell = RNG.normal(size=(3, 3)) * 6.0
        if abs(np.linalg.det(cell)) > 20.0:
            number -= 1
            yield cell


@pytest.mark.parametrize("cell", [*random_cells(20)], ids=range(20))
def test_any_lattice_stays_what_it_is(crystal, cell):
    crystal.set_cell(cell)
    found = place(crystal)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)
    images = found.back(found.cell) @ np.linalg.inv(cell)
    np.testing.assert_allclose(images, np.round(images), atol=1e-9)
    assert abs(np.linalg.det(np.round(images))) == pytest.approx(1.0)
    lower = found.cell
    assert np.all(np.triu(lower, 1) == 0.0) and np.all(np.diag(lower) > 0.0)
    assert abs(lower[1, 0]) <= lower[0, 0] / 2 + 1e-9 and abs(lower[2, 1]) <= lower[1, 1] / 2 + 1e-9
    assert abs(lower[2, 0]) <= lower[0, 0] / 2 + 1e-9
    np.testing.assert_allclose(found.back(found.turn(crystal.positions)), crystal.positions, atol=1e-12)


@pytest.mark.parametrize("free", [0, 1, 2])
def test_periodic_directions_come_first(slab, free):
    order = np.roll([2, 0, 1], free)  # the one that is not periodic at any place
    slab.set_cell(slab.cell.array[order])
    slab.pbc = slab.pbc[order]
    found = place(slab)
    assert found.pbc.tolist() == [True, True, False] and np.linalg.det(found.rotation) == pytest.approx(1.0)
    assert found.cell[2, :2] == pytest.approx([0.0, 0.0])
    images = found.back(found.cell[:2]) @ np.linalg.pinv(slab.cell.array[slab.pbc])
    np.testing.assert_allclose(images, np.round(images), atol=1e-9)


def test_a_molecule_is_not_turned(molecule):
    assert np.array_equal(place(molecule).rotation, np.eye(3))

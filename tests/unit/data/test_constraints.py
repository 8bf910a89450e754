"""Held coordinates: every way in which ASE's objects say them."""

import ase
import numpy as np
import pytest
from ase.build import fcc111, molecule
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixScaled,
    Hookean,
)

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import constraints
from bayes_mlff.data.structure import check, from_ase


def held(*chosen: object, atoms: ase.Atoms | None = None) -> list[list[int]]:
    atoms = molecule("NH3") if atoms is None else atoms
    atoms.set_constraint(chosen)
    found = constraints.held(atoms)
    return [] if found is None else [list(map(int, row)) for row in found]


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [
        ((), []),
        ((FixAtoms([]),), []),
        ((FixAtoms([0, 2]),), [0, 2]),
        ((FixAtoms(mask=[True, False, True, False]),), [0, 2]),
        ((FixAtoms([-1]),), [3]),
        ((FixAtoms([0]), FixAtoms([1])), [0, 1]),
    ],
)
def test_whole_atoms(chosen, rows):
    assert held(*chosen) == ([[1, 1, 1] if i in rows else [0, 0, 0] for i in range(4)] if rows else [])


def test_components_of_atoms_and_of_several_constraints_add_up():
    found = held(FixCartesian(0, (True, False, False)), FixCartesian([0, 1], (0, 0, 1)), FixAtoms([3]))
    assert found == [[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    "constraint",
    [
        FixBondLengths([[0, 1]]),
        FixCom(),
        FixedLine([0], (1, 0, 0)),
        FixedPlane([0], (0, 0, 1)),
        FixInternals(bonds=[(1.0, [0, 1])]),
        Hookean(0, 1, rt=1.0, k=1.0),
    ],
)
def test_every_other_constraint_is_refused_by_its_name(constraint):
    with pytest.raises(DataError, match=rf"constraint {type(constraint).__name__}; allowed: FixAtoms, FixCartesian"):
        held(constraint)


def test_atoms_that_are_not_there_are_named():
    with pytest.raises(DataError, match="names atoms that are not there"):
        held(FixAtoms([7]))


def hexagonal() -> ase.Atoms:
    return fcc111("Cu", (1, 1, 2), vacuum=6.0, periodic=True)


@pytest.mark.parametrize(
    ("mask", "components"),
    [((1, 1, 0), [1, 1, 0]), ((0, 0, 1), [0, 0, 1]), ((1, 1, 1), [1, 1, 1]), ((0, 0, 0), None)],
)
def test_held_cell_vectors_of_a_hexagonal_slab_are_cartesian_components(mask, components):
    found = held(FixScaled(0, mask), atoms=hexagonal())
    assert found == ([] if components is None else [components, [0, 0, 0]])


@pytest.mark.parametrize("mask", [(1, 0, 0), (0, 1, 0), (0, 1, 1), (1, 0, 1)])
def test_held_cell_vectors_agree_with_what_ase_lets_move(mask):
    """In an orthogonal cell of any order of axes a step keeps just the held components."""
    atoms = ase.Atoms("H", cell=[[0, 4, 0], [0, 0, 5], [6, 0, 0]], pbc=True)
    [row] = held(FixScaled(0, mask), atoms=atoms)
    before = atoms.positions.copy()
    atoms.set_positions(before + 0.1)
    np.testing.assert_allclose(atoms.positions - before, [np.where(row, 0.0, 0.1)], atol=1e-12)


@pytest.mark.parametrize("mask", [(1, 0, 0), (0, 1, 1)])
def test_held_cell_vectors_that_are_tilted_are_refused(mask):
    atoms = hexagonal()
    atoms.rotate(20.0, "z", rotate_cell=True)
    with pytest.raises(DataError, match="FixScaled holds atom 0 along cell vectors that do not span Cartesian axes"):
        held(FixScaled(0, mask), atoms=atoms)


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("fixed", [True, False, False, False], [[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ("selective_dynamics", [[True, True, False]] * 4, [[0, 0, 1]] * 4),
        ("move_mask", [1, 1, 1, 0], [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]),
        ("frozen", [0, 0, 0, 0], []),
    ],
)
def test_columns_that_ase_leaves_alone_hold_too(name, column, expected):
    atoms = molecule("NH3")
    atoms.set_array(name, np.array(column))
    assert held(atoms=atoms) == expected


@pytest.mark.parametrize("column", [[0.5, 0, 0, 0], ["F", "T", "T", "T"], [2, 0, 0, 0]])
def test_columns_that_seem_to_hold_and_are_not_understood_are_refused(column):
    atoms = molecule("NH3")
    atoms.set_array("fixed", np.array(column))
    with pytest.raises(DataError, match=r"column fixed of .* seems to hold atoms"):
        held(atoms=atoms)


def test_lists_of_held_atoms_beside_the_atoms_are_refused():
    atoms = molecule("NH3")
    atoms.info["fixed_atoms"] = np.array([0, 1])
    with pytest.raises(DataError, match=r"fixed_atoms=.* is not understood"):
        held(atoms=atoms)


def test_masses_and_held_coordinates_are_checked():
    atoms = molecule("NH3")
    good = from_ase(atoms)
    for fixed in (np.zeros(4, bool), np.zeros((4, 3))):
        with pytest.raises(DataError, match="got fixed of shape"):
            check(good._replace(fixed=fixed))
    for bad in (0.0, -1.0, np.nan, np.inf):
        atoms.arrays["masses"] = np.array([14.0, 1.0, bad, 1.0])
        with pytest.raises(DataError, match=r"mass of .* amu of atom 2 \(H\); allowed: above 0"):
            from_ase(atoms)
    with pytest.raises(DataError, match="got masses of shape"):
        check(good._replace(masses=np.ones(3)))


def test_standard_masses_count_as_none():
    atoms = molecule("NH3")
    atoms.set_masses("defaults")
    assert from_ase(atoms).masses is None
    atoms.set_masses([14.003, 2.014, 2.014, 2.014])
    np.testing.assert_array_equal(from_ase(atoms).masses, [14.003, 2.014, 2.014, 2.014])

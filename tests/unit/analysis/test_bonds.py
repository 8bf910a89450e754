"""Bonds: on a perovskite whose distances are known, in fcc crystals, and of followed and broken ones."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry import get_distances

from bayes_mlff.analysis import bonds
from bayes_mlff.analysis.bonds import Bonds
from tests.support.manganite import lanthanum_manganite, shaken


def octahedra(frames: list[Atoms]) -> Bonds | None:
    positions, cells = np.array([a.positions for a in frames]), np.array([a.cell.array for a in frames])
    return bonds.octahedra(frames[0].numbers, 5.0 * np.arange(len(frames)), positions, cells)


def six_nearest(atoms: Atoms) -> np.ndarray:
    """Distances [b, 6] by brute force over a supercell."""
    big = atoms.repeat(3)
    metal = np.flatnonzero(atoms.numbers == 25)
    shift = atoms.cell.array.sum(axis=0)
    distance = get_distances(atoms.positions[metal] + shift, big.positions[big.numbers == 8])[1]
    return np.sort(distance, axis=1)[:, :6]


def test_distances_of_the_experimental_structure():
    found = octahedra([lanthanum_manganite()])
    assert (found.pair, found.distance.shape) == ("Mn-O", (1, 4, 6))
    a, b, c = 5.5367, 5.7473, 7.6929
    short = np.linalg.norm([a * (0.7256 - 0.5), b * 0.3066, c * 0.0384])
    long = np.linalg.norm([a * (1.0 - 0.7256), b * (0.5 - 0.3066), c * 0.0384])  # along the other diagonal
    middle = np.linalg.norm([a * 0.0745, b * (0.5 - 0.4874), c / 4])
    wanted = np.sort([short, middle, long])
    assert np.allclose(bonds.short_middle_long(found.distance)[0], wanted, rtol=0, atol=1e-12)
    assert np.allclose(wanted, [1.9055, 1.9683, 2.1800], rtol=0, atol=1e-4)


def test_distances_of_distorted_cells_equal_a_search_of_all_images():
    frames = shaken(6)
    got = np.sort(octahedra(frames).distance, axis=-1)
    assert np.allclose(got, [six_nearest(a) for a in frames], rtol=0, atol=1e-10)


@pytest.mark.parametrize("skew", [np.eye(3), [[1, 1, 0], [0, 1, 2], [0, 0, 1]], [[1, 0, 0], [9, 1, 0], [-7, 8, 1]]])
def test_wrapping_and_choice_of_the_cell_change_nothing(skew):
    frames = shaken(5)
    wanted = bonds.short_middle_long(octahedra(frames).distance)
    rng = np.random.default_rng(0)
    moved = []
    for atoms in frames:
        other = atoms.copy()
        other.set_cell(np.array(skew) @ atoms.cell.array)
        other.positions += rng.integers(-3, 4, size=(20, 3)) @ other.cell.array
        if rng.random() < 0.5:
            other.wrap()
        moved.append(other)
    got = bonds.short_middle_long(octahedra(moved).distance)
    assert np.allclose(got, wanted, rtol=0, atol=1e-10)


def test_cubic_cell_of_five_atoms_meets_each_anion_twice():
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    cubic = Atoms("SrTiO3", scaled_positions=places, cell=3.9 * np.eye(3), pbc=True)
    found = octahedra([cubic])
    assert found.pair == "Ti-O"
    assert np.allclose(found.distance, 1.95, rtol=0, atol=1e-12)
    zirconium = Atoms("YZrS3", scaled_positions=places, cell=5.0 * np.eye(3), pbc=True)
    assert octahedra([zirconium]).pair == "Zr-S"  # twelve sulphur atoms around yttrium


def test_bonds_in_motion_are_equal_on_average_but_not_in_a_frame():
    rng = np.random.default_rng(1)
    found = Bonds("B-X", np.arange(4000.0), 2.0 + 0.1 * rng.normal(size=(4000, 4, 6)))
    short, _, long = bonds.short_middle_long(found.distance).mean(axis=0)
    assert long - short > 0.15
    assert np.ptp(bonds.mean_distances(found, 0.0, 4000.0)) < 0.01


def test_neighbours_of_fcc_copper():
    atoms = bulk("Cu", cubic=True).repeat(3)
    every = np.arange(len(atoms))
    got = bonds.neighbour_distances(atoms.positions[None], atoms.cell.array[None], atoms.pbc, every, every)
    assert (got <= bonds.cutoff(29, 29)).sum(axis=-1).tolist() == [[12] * 108]
    assert np.allclose(bonds.nearest(got, 13)[..., :12], 3.61 / np.sqrt(2.0))
    assert np.allclose(bonds.nearest(got, 13)[..., 12], 3.61)


def test_ranks_are_sorted_in_each_atom_and_averaged_over_atoms():
    distance = np.array([[[3.0, 1.0, 2.0, 4.0], [5.0, 8.0, 7.0, 6.0]]])
    assert bonds.by_rank(distance, 4).tolist() == [[3.0, 4.0, 5.0, 6.0]]
    assert bonds.by_rank(distance, 2).tolist() == [[3.5, 5.5]]


def test_kept_bonds_are_those_of_the_first_frame():
    distance = np.array([[[1.0, 2.0, 3.0]], [[9.0, 2.5, 0.5]]])
    assert bonds.kept(distance, 2).tolist() == [[[1.0, 2.0]], [[9.0, 2.5]]]
    assert bonds.nearest(distance, 2).tolist() == [[[1.0, 2.0]], [[0.5, 2.5]]]

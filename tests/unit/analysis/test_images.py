"""Periodic images: against ASE, and paths that were wrapped."""

import numpy as np
import pytest
from ase.geometry import find_mic

from bayes_mlff.analysis import images

CELLS = {
    "cubic": 4.0 * np.eye(3),
    "fcc": 2.0 * (1.0 - np.eye(3)),
    "skewed": np.array([[5.0, 0.0, 0.0], [9.0, 4.0, 0.0], [-3.0, 7.0, 6.0]]),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_nearest_images_are_those_of_ase(cell):
    vectors = 20.0 * np.random.default_rng(0).normal(size=(3, 200, 3))
    cells = np.stack([cell, 1.02 * cell, cell @ (np.eye(3) + 0.03 * np.eye(3, k=1))])
    got = images.minimum_image(vectors, cells, np.ones(3, bool))
    for mine, raw, each in zip(got, vectors, cells, strict=True):
        assert np.allclose(np.linalg.norm(mine, axis=1), find_mic(raw, each)[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("pbc", [(True, True, False), (False, True, False), (False, False, False)])
def test_nearest_images_of_slabs_and_chains_are_those_of_a_search(cell, pbc):
    """ASE's find_mic is longer here than the nearest image, where the vector without periodicity is not across."""
    vectors = 6.0 * np.random.default_rng(0).normal(size=(1, 60, 3))
    got = images.minimum_image(vectors, cell[None], np.array(pbc))
    shifts = (np.indices((31, 31, 31)).reshape(3, -1).T - 15)[:, pbc] @ cell[list(pbc)]
    shifts = np.unique(shifts, axis=0)
    every = np.linalg.norm(vectors[0][:, None] + shifts, axis=-1)
    assert np.allclose(np.linalg.norm(got[0], axis=-1), every.min(axis=1), rtol=0, atol=1e-9)
    change = (got - vectors)[0] @ np.linalg.inv(cell)
    assert np.allclose(change, np.round(change), atol=1e-9) and not np.round(change)[:, ~np.array(pbc)].any()


def test_the_resolved_radius_is_half_the_shortest_lattice_plane():
    three = np.ones(3, bool)
    assert images.resolved_radius(CELLS["cubic"][None], three) == pytest.approx(2.0)
    assert images.resolved_radius(CELLS["fcc"][None], three) == pytest.approx(2.0 * 2.0 / np.sqrt(3.0) / 2.0)
    skewed = np.array([[1, 0, 0], [7, 1, 0], [0, 0, 1]]) @ CELLS["cubic"]
    assert images.resolved_radius(skewed[None], three) == pytest.approx(2.0)
    assert images.resolved_radius(CELLS["cubic"][None], np.zeros(3, bool)) == np.inf


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_paths_do_not_depend_on_wrapping(cell):
    rng = np.random.default_rng(1)
    walk = np.cumsum(0.2 * rng.normal(size=(300, 5, 3)), axis=0)
    wrapped = walk @ np.linalg.inv(cell) % 1.0 @ cell + rng.integers(-2, 3, size=(300, 5, 3)) @ cell
    cells = np.broadcast_to(cell, (300, 3, 3))
    got = images.paths(wrapped, cells, np.ones(3, bool))
    assert np.allclose(got, walk - walk[0], rtol=0, atol=1e-9)
    assert 0.1 < images.largest_step(got, cells, np.ones(3, bool)) < 1.0


def test_a_breathing_cell_does_not_carry_far_atoms_along():
    """An atom that is at rest some cells away: its unwrapped coordinate breathes with every cell, it does not."""
    breath = 1.0 + 0.02 * np.sin(np.arange(200))
    cells = breath[:, None, None] * 10.0 * np.eye(3)
    positions = breath[:, None, None] * np.array([[2.0, 3.0, 4.0], [72.0, -47.0, 64.0]])
    got = images.paths(positions, cells, np.ones(3, bool))
    assert np.abs(got).max() < 0.04 * np.sqrt(3.0) * 10.0 < np.ptp(positions[:, 1], axis=0).max()


def test_followed_vectors_stay_with_their_image():
    cells = np.broadcast_to(6.0 * np.eye(3), (50, 3, 3))
    true = np.linspace([2.0, 0.0, 0.0], [4.9, 0.0, 0.0], 50)  # beyond half the cell, where the nearest image is another
    raw = true + 6.0 * np.random.default_rng(3).integers(-2, 3, size=(50, 3))
    got = images.followed(raw, cells, np.ones(3, bool), true[0])
    assert np.allclose(got, true, rtol=0, atol=1e-12)
    again = images.followed(raw, cells, np.ones(3, bool), true[30], 30)
    assert np.allclose(again[20:], true[20:], rtol=0, atol=1e-12)
    assert not np.allclose(images.minimum_image(raw, cells, np.ones(3, bool)), true)

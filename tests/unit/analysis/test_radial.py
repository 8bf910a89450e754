"""Radial distribution functions: of an ideal gas, of fcc crystals, and of a molecule."""

import numpy as np
import pytest
from ase.build import bulk

from bayes_mlff.analysis import radial
from bayes_mlff.analysis.radial import Pairs

PERIODIC = np.ones(3, bool)
EDGES = 0.1 * np.arange(40)


@pytest.mark.parametrize(
    "cell", [9.0 * np.eye(3), [[9.0, 0, 0], [4.0, 9.5, 0], [-3.0, 4.0, 10.0]]], ids=["cube", "skew"]
)
def test_an_ideal_gas_has_none(cell):
    """Numbers of pairs are binomial, since distances in a periodic box are pairwise independent.

    240 bins with |z| < 4.7: false-alarm rate 6e-4.
    """
    rng, cells = np.random.default_rng(4), np.broadcast_to(np.array(cell, float), (500, 3, 3))
    positions = rng.uniform(size=(500, 50, 3)) @ cells
    shell, volume = 4.0 / 3.0 * np.pi * np.diff(EDGES**3), np.linalg.det(cells[0])
    for first, second in ((slice(30), slice(30)), (slice(30), slice(30, 50)), (slice(30, 50), slice(30, 50))):
        pairs = Pairs(np.arange(50)[first], np.arange(50)[second])
        got = radial.distribution([positions], [cells], PERIODIC, pairs, EDGES)
        same = first == second
        number = 500 * len(pairs.first) * (len(pairs.second) - same) / (1 + same)  # of independent distances
        share = shell / volume
        z = (got.density - 1.0) * share * number / np.sqrt(number * share * (1.0 - share))
        assert np.abs(z).max() < 4.7
        assert 0.5 < np.nanmean(got.error[20:] * share[20:] * number / np.sqrt(number * share[20:])) < 1.5


def test_several_trajectories_weigh_by_their_frames():
    rng, cell = np.random.default_rng(5), np.eye(3) * 9.0
    parts = [rng.uniform(size=(frames, 12, 3)) @ cell for frames in (30, 70)]
    cells = [np.broadcast_to(cell, (len(x), 3, 3)) for x in parts]
    pairs = Pairs(np.arange(12), np.arange(12))
    together = radial.distribution(parts, cells, PERIODIC, pairs, EDGES)
    joined = radial.distribution([np.concatenate(parts)], [np.concatenate(cells)], PERIODIC, pairs, EDGES)
    assert np.allclose(together.density, joined.density, rtol=1e-12)


@pytest.mark.parametrize("atoms", [bulk("Cu", cubic=True).repeat(3), bulk("Cu")], ids=["108 atoms", "1 atom"])
def test_shells_of_fcc_copper(atoms):
    """12 neighbours at a/√2, 6 at a and 24 at a √1.5; of one atom in a primitive cell all are its own images."""
    a, every = 3.61, np.arange(len(atoms))
    edges = 0.02 * np.arange(240)
    got = radial.distribution([atoms.positions[None]], [atoms.cell.array[None]], PERIODIC, Pairs(every, every), edges)
    filled = np.flatnonzero(got.density)
    shells = np.array([np.sqrt(0.5), 1.0, np.sqrt(1.5)]) * a
    assert np.allclose(got.r[filled], shells, rtol=0, atol=0.0101)
    assert np.allclose(got.neighbours[filled], [12, 18, 42], rtol=1e-12)
    assert radial.first_peak(got)[0] == pytest.approx(a / np.sqrt(2.0), abs=0.0101)
    density = 4.0 / a**3 * (1.0 - 1.0 / len(atoms) if len(atoms) > 1 else 1.0)
    shell = 4.0 / 3.0 * np.pi * (edges[filled + 1] ** 3 - edges[filled] ** 3)
    assert np.allclose(got.density[filled], np.array([12, 6, 24]) / shell / density, rtol=1e-9)


def test_distances_of_a_molecule_are_a_density():
    triangle = np.array([[0.0, 0.0, 0.0], [1.05, 0.0, 0.0], [0.0, 2.05, 0.0]])[None]
    every = np.arange(3)
    got = radial.distribution([triangle], [np.zeros((1, 3, 3))], np.zeros(3, bool), Pairs(every, every), EDGES)
    assert not got.bulk
    assert np.sum(got.density) * 0.1 == pytest.approx(1.0)
    assert got.r[got.density > 0].round(2).tolist() == [1.05, 2.05, 2.35]
    assert got.neighbours[-1] == pytest.approx(2.0)

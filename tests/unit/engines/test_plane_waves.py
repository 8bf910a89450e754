"""Numbers of plane waves, and the energy that their jumps cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_mlff.engines.gpaw.plane_waves import count, energy_correction, log_excess, smooth_count

CELL = np.array([[5.5, 0.0, 0.0], [0.4, 5.8, 0.0], [-0.3, 0.6, 7.7]])


def test_the_number_that_gpaw_reports():
    # GPAW 26.7.0, LaMnO3 (5.5367, 5.7473, 7.6929 Å), 400 eV, k = (1/4, 1/4, 1/4): "Plane wave coefficients: 4449".
    assert count(np.diag([5.5367, 5.7473, 7.6929]), np.full(3, 0.25), 400.0) == 4449


@given(st.tuples(*[st.floats(-1.0, 1.0)] * 3))
def test_every_vector_is_found(k):
    lattice = CELL / 0.529177210903
    reciprocal = 2.0 * np.pi * np.linalg.inv(lattice).T
    grid = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    squares = np.sum(((grid + np.array(k)) @ reciprocal) ** 2, axis=1)
    expected = np.count_nonzero(squares <= 2.0 * 90.0 / 27.211386024367243)
    assert abs(count(CELL, np.array(k), 90.0) - expected) <= 2  # constants of other years move a vector on the border


def test_the_number_scatters_around_the_smooth_one():
    rng = np.random.default_rng(0)
    excess = [log_excess(CELL * s, [[0.25, 0.25, 0.25]], 300.0) for s in rng.uniform(1.0, 1.1, 60)]
    n = smooth_count(CELL, 300.0)
    assert 1e-4 < np.std(excess) < 0.02 and abs(np.mean(excess)) < 0.005
    assert smooth_count(2.0 * CELL, 300.0) == pytest.approx(8.0 * n)
    assert smooth_count(CELL, 600.0) == pytest.approx(2.0**1.5 * n)


def test_k_points_are_averaged():
    points = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]]
    single = [log_excess(CELL, [k], 300.0) for k in points]
    assert log_excess(CELL, points, 300.0) == pytest.approx(np.mean(single))
    assert log_excess(CELL, {"size": [1, 1, 2], "gamma": True}, 300.0) == pytest.approx(np.mean(single))


def test_a_model_basis_becomes_smooth():
    """With E = w ln N, the energy of a basis whose Pulay pressure is w / V, the correction leaves w ln N_smooth."""
    w, kpts = -80.0, [[0.25, 0.25, 0.25]]
    virial = w * np.eye(3) + np.array([[9.0, 5.0, 0.0], [5.0, -9.0, 0.0], [0.0, 0.0, 0.0]])
    for scale in np.linspace(1.0, 1.03, 7):
        cell = CELL * scale
        energy = w * np.log(count(cell, np.array(kpts[0]), 300.0))
        smooth = w * np.log(smooth_count(cell, 300.0))
        assert energy + energy_correction(cell, kpts, 300.0, virial) == pytest.approx(smooth, abs=1e-10)

"""Planted hops in a periodic cell."""

import numpy as np
import pytest

from bayes_mlff.analysis import hopping

CELL = np.array([[6.0, 0.0, 0.0], [1.0, 6.0, 0.0], [0.0, -1.0, 6.0]])
HOSTS = np.array([[0.5, 0.5, 0.5], [3.5, 0.5, 0.5], [0.5, 3.5, 0.5]])
PERIODIC = np.ones(3, bool)


def planted(plan, *, noise=0.05, seed=0):
    """A hydrogen that is 1 Å from one host after another, on the side of the next; all atoms wrapped at random.

    Args:
      plan: host and number of frames of each stay.
    """
    rng = np.random.default_rng(seed)
    places = []
    for i, (host, frames) in enumerate(plan):
        towards = plan[i + 1][0] if i + 1 < len(plan) else plan[i - 1][0]
        direction = (HOSTS[towards] - HOSTS[host]) / np.linalg.norm(HOSTS[towards] - HOSTS[host])
        places += [HOSTS[host] + direction] * frames
    positions = np.concatenate([np.broadcast_to(HOSTS, (len(places), 3, 3)), np.array(places)[:, None]], axis=1)
    positions = positions + noise * rng.normal(size=positions.shape)
    cells = np.broadcast_to(CELL, (len(places), 3, 3))
    return positions + rng.integers(-1, 2, size=positions.shape) @ CELL, cells


def follow(positions, cells, **options):
    return hopping.hopping(positions, cells, PERIODIC, np.array([3]), np.array([0, 1, 2]), **options)


def test_planted_hops_are_found_with_their_times_and_stays():
    found = follow(*planted([(0, 100), (1, 60), (0, 40), (2, 80), (1, 30)]))
    assert [(h.before, h.after) for h in found.hops] == [(0, 1), (1, 0), (0, 2), (2, 1)]
    assert [h.crossed for h in found.hops] == [100, 160, 200, 280]
    assert [h.back for h in found.hops] == [False, True, False, False]
    assert found.residence.tolist() == [60, 40, 80]
    assert {h.atom for h in found.hops} == {3}
    assert found.host[:, 0].tolist() == [0] * 100 + [1] * 60 + [0] * 40 + [2] * 80 + [1] * 30


def test_vibrations_half_way_are_no_hops():
    positions, cells = planted([(0, 50), (1, 50)], noise=0.0)
    rng = np.random.default_rng(1)
    middle = 0.5 * (HOSTS[0] + HOSTS[1])
    positions[45:55, 3] = middle + 0.05 * rng.normal(size=(10, 3))
    nearest = np.argmin(np.linalg.norm(positions[45:55, 3, None] - HOSTS[:2], axis=-1), axis=1)
    assert np.count_nonzero(np.diff(nearest)) > 2  # without hysteresis several hops
    (hop,) = follow(positions, cells).hops
    assert (hop.left, hop.entered) == (45, 55) and 45 <= hop.crossed <= 55
    assert nearest[max(hop.crossed - 46, 0)] == 0 or hop.crossed == 45
    assert len(follow(positions, cells, margin=0.01).hops) > 1


def test_hosts_that_meet_for_a_hop_are_seen_to():
    positions, cells = planted([(0, 200), (1, 200), (0, 200)], noise=0.0)
    frames = np.arange(600)
    closer = 0.4 * (np.exp(-((frames - 200) ** 2) / 200.0) + np.exp(-((frames - 400) ** 2) / 200.0))
    positions[:, 1, 0] -= closer
    found = follow(positions, cells)
    profile = hopping.host_distance(positions, cells, PERIODIC, found.hops, 60)
    assert profile.shape == (2, 121)
    assert np.allclose(profile[0], 3.0 - closer[140:261], rtol=0, atol=1e-9)
    assert np.allclose(profile[:, 60], 2.6, atol=1e-9) and np.allclose(profile[:, 0], 3.0, atol=1e-6)
    outside = hopping.host_distance(positions, cells, PERIODIC, found.hops, 250)
    assert np.isnan(outside[0, :50]).all() and np.isfinite(outside[0, 50:]).all()


def test_several_mobile_atoms_hop_on_their_own():
    one, cells = planted([(0, 100), (1, 100)])
    other, _ = planted([(2, 150), (0, 50)], seed=3)
    positions = np.concatenate([one, other[:, 3:]], axis=1)
    found = hopping.hopping(positions, cells, PERIODIC, np.array([3, 4]), np.array([0, 1, 2]))
    assert [(h.atom, h.before, h.after, h.crossed) for h in found.hops] == [(3, 0, 1, 100), (4, 2, 0, 150)]
    assert found.residence.size == 0
    assert not hopping.host_distance(positions, cells, PERIODIC, [], 5).size


def test_without_a_cell_distances_are_plain():
    rng = np.random.default_rng(0)
    free = np.concatenate([np.broadcast_to(HOSTS, (40, 3, 3)), np.zeros((40, 1, 3))], axis=1)
    free = free + 0.01 * rng.normal(size=free.shape)
    free[:20, 3], free[20:, 3] = HOSTS[0] + [0.9, 0, 0], HOSTS[1] - [0.9, 0, 0]
    found = hopping.hopping(free, np.zeros((40, 3, 3)), np.zeros(3, bool), np.array([3]), np.array([0, 1, 2]))
    assert [h.crossed for h in found.hops] == [20]
    profile = hopping.host_distance(free, np.zeros((40, 3, 3)), np.zeros(3, bool), found.hops, 3)
    assert profile[0] == pytest.approx(np.full(7, 3.0), abs=0.1)

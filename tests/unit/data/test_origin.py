"""Forces do not depend on where a structure is, although float32 has few digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.data import neighbors, origin
from bayes_mlff.data.neighbors import NeighborSpec
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import error_law
from bayes_mlff.md.integrators import initial_state
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import predictor
from bayes_mlff.otf.state import DeviceState, HostState, RunState, recentred
from bayes_mlff.testing.structures import ethanol, triclinic
from bayes_mlff.testing.tiny import tiny_nequip
from tests.support.bad_weights import TINY

PLACES = [(500.0, 0.0, 0.0), (1e4, 7e3, 3e3), (-9e4, 0.5, 9e4)]
AWAY = np.array([[0, 0, 0], [20, -7, 3], [-9, 15, 0], [0, 0, 1], [0, 0, 0]])
NEQUIP = tiny_nequip((1, 6, 8))


def single(potential):
    """Forces in float32 of a structure."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), potential.params)
    predict = jax.jit(predictor(potential.node_fn, with_stress=False))

    def forces(structure):
        config = potential.config
        _, state = neighbors.allocate(structure, config.elements, config.r_max, skin=0.0, slack=1.6)
        return np.asarray(predict(params, jax.tree.map(lambda x: x[None], state.graph)).forces[0])

    return forces


@pytest.mark.parametrize("name", ["nequip", "mace"])
def test_forces_are_the_same_anywhere(name):
    config = NEQUIP if name == "nequip" else next(c for c in TINY if type(c).__name__ == "MACEConfig")
    forces = single(registry.initialize(config, 0))
    known = ethanol()._replace(numbers=np.full(9, config.elements[0]))
    here = forces(known)
    for place in PLACES:
        there = forces(known._replace(positions=known.positions + np.array(place)))
        np.testing.assert_allclose(there, here, rtol=0, atol=2e-6 * np.abs(here).max())


def test_forces_of_a_crystal_whose_atoms_are_cells_apart():
    forces, known = single(registry.initialize(NEQUIP, 0)), triclinic()
    away = AWAY @ known.cell
    there = forces(known._replace(positions=known.positions + away + 1e4))
    here = forces(known)
    np.testing.assert_allclose(there, here, rtol=0, atol=5e-6 * np.abs(here).max())


@pytest.mark.parametrize("known", [ethanol(), triclinic()])
def test_structures_near_zero_keep_their_coordinates_to_the_last_bit(known):
    found = origin.find(known)
    assert found == Origin()
    np.testing.assert_array_equal(found.local(known.positions, known.cell), known.positions)


def test_there_and_back():
    known = triclinic()
    far = known.positions + AWAY @ known.cell - 5e3
    found = Origin.from_json(origin.find(known._replace(positions=far)).to_json())
    frames, cells = np.stack([far, far + 0.5]), np.stack([known.cell, 1.01 * known.cell])
    local = found.local(frames, cells)
    assert np.abs(local[0]).max() < 12.0
    np.testing.assert_allclose(found.everywhere(local, cells), frames, rtol=0, atol=1e-9)


def test_one_atom_far_away_does_not_take_the_others_with_it():
    positions = np.concatenate([ethanol().positions, [[9e4, 0.0, 0.0]]])
    known = Structure(np.append(ethanol().numbers, 1), positions, np.zeros((3, 3)), np.zeros(3, bool))
    assert origin.find(known) == Origin()
    far = origin.find(known._replace(positions=positions - [9e4, 0.0, 0.0]))
    assert np.abs(far.local(positions - [9e4, 0.0, 0.0], known.cell)[:9]).max() < 5.0


@pytest.mark.parametrize("repeats", [(False, False, False), (True, True, False)])
def test_pairs_of_structures_with_wide_gaps(repeats):
    """The list of the host ends the process where an atom is 10⁴ Å away, unless gaps are closed first."""
    one, pbc = ethanol(), np.array(repeats)
    cell = 12.0 * np.eye(3) * pbc[:, None]
    away = np.array([0.0, 0.0, 9e4]) if pbc.any() else np.array([9e4, -2e4, 0.0])
    numbers = np.tile(one.numbers, 2)
    known = Structure(numbers, np.concatenate([one.positions, one.positions + away]), cell, pbc)
    full = neighbors.complete_cell(cell, pbc)
    first, second, shift = neighbors.pairs(known, full, 3.4)
    alone, other, moved = neighbors.pairs(one._replace(cell=cell, pbc=pbc), full, 3.4)
    expected = {
        (int(i + k), int(j + k), *s) for i, j, s in zip(alone, other, moved.tolist(), strict=True) for k in (0, 9)
    }
    assert {(int(i), int(j), *s) for i, j, s in zip(first, second, shift.tolist(), strict=True)} == expected


def drifting(by, free=None):
    known = ethanol()
    spec, near = neighbors.allocate(known, NEQUIP.elements, 3.0)
    md = initial_state(near.graph.positions, known.numbers, 0.0, jax.random.key(0), free=free)
    moved = md.set(position=md.position + jnp.asarray(by, jnp.float32)[None, :])
    nothing = jnp.zeros(0)
    device = DeviceState(moved, md, near, nothing, nothing, nothing, np.zeros(0, np.uint8))  # type: ignore[arg-type]
    return RunState(device, HostState(0, 0.0, error_law.init(), NeighborSpec(*spec)))


def test_what_has_drifted_is_counted_from_where_it_is():
    start = drifting([100.0, 0.0, -40.5])
    found = recentred(start)
    assert found.host.origin.centre[1] == 0.0 and np.abs(np.asarray(found.device.md.position)).max() < 6.0
    for before, after in ((start.device.md, found.device.md), (start.device.trusted, found.device.trusted)):
        there = found.host.origin.everywhere(np.asarray(after.position), np.zeros((3, 3)))
        np.testing.assert_allclose(there, np.asarray(before.position), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.device.neighbors.graph.positions, found.device.md.position)
    assert recentred(drifting([1.0, 2.0, 3.0])).host.origin == Origin()
    held = jnp.ones((9, 3), bool).at[0, 0].set(False)
    assert recentred(drifting([100.0, 0.0, 0.0], held)).host.origin == Origin()

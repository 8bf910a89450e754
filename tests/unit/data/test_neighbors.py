"""Neighbour lists: the jitted search against the host's, staleness and overflow."""

import itertools
from functools import partial

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vesin
from hypothesis import strategies as st

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data.graph import edge_vectors
from bayes_mlff.data.neighbors import allocate, complete_cell, image_range, move, species_index, stale, update
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.testing.structures import crystals, ethanol, molecules, random_crystal, slab, supercell, triclinic

ELEMENTS = (1, 6, 8)
renew = jax.jit(update, static_argnames="spec")
is_stale = jax.jit(stale, static_argnames="spec")


def host_edges(positions, cell, pbc, cutoff):
    calculator = vesin.NeighborList(cutoff=cutoff, full_list=True)
    i, j, s = calculator.compute(points=positions, box=cell, periodic=pbc, quantities="ijS")
    return {(int(a), int(b), *(int(x) for x in t)) for a, b, t in zip(i, j, s, strict=True)}


def edges(graph):
    mask = np.asarray(graph.edge_mask)
    shifts = np.rint(np.asarray(graph.shifts)).astype(int)
    found = [
        (int(i), int(graph.neighbors[i, k]), *(int(x) for x in shifts[i, k]))
        for i, k in zip(*mask.nonzero(), strict=True)
    ]
    assert len(set(found)) == len(found), "an edge occurs twice"
    return set(found)


def single_atom():
    cell = np.array([[2.1, 0.0, 0.0], [0.8, 2.3, 0.0], [-0.5, 0.4, 2.0]])
    return Structure(np.array([6]), np.array([[7.0, -3.0, 1.0]]), cell, np.ones(3, bool))


FIXED = {"ethanol": ethanol(), "triclinic": triclinic(), "slab": slab(), "single atom": single_atom()}


def many_molecules():
    """Twelve molecules of ethanol apart from each other, without a cell."""
    one, places = ethanol(), np.random.default_rng(4).uniform(0.0, 15.0, (12, 1, 3))
    positions = (one.positions[None, :, :] + places).reshape(-1, 3)
    return one._replace(numbers=np.tile(one.numbers, 12), positions=positions)


def assert_lists_agree(structure, r_max=3.0, skin=0.4):
    spec, state = allocate(structure, ELEMENTS, r_max, skin=skin, dtype=np.float64, origin=Origin())
    expected = host_edges(
        structure.positions, complete_cell(structure.cell, structure.pbc), structure.pbc, r_max + skin
    )
    assert edges(state.graph) == expected
    again = renew(state, spec=spec)
    assert not again.overflow
    assert edges(again.graph) == expected


@pytest.mark.parametrize("name", list(FIXED))
def test_device_list_equals_host_list(name):
    assert_lists_agree(FIXED[name])


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.one_of(crystals(ELEMENTS), crystals(ELEMENTS, wrapped=False, max_atoms=3), molecules(ELEMENTS)))
def test_device_list_equals_host_list_on_random_structures(structure):
    assert_lists_agree(structure)


@pytest.mark.parametrize("repeats", [(1, 1, 1), (3, 3, 3)])
def test_atoms_may_drift_by_several_cells(repeats):
    structure = supercell(triclinic(), repeats)
    spec, state = allocate(structure, ELEMENTS, 3.0, dtype=np.float64)
    lattice = np.random.default_rng(3).integers(-3, 4, structure.positions.shape)
    drifted = structure._replace(positions=structure.positions + lattice @ structure.cell)
    expected = host_edges(drifted.positions, structure.cell, structure.pbc, spec.reach)
    result = renew(move(state, jnp.asarray(drifted.positions), state.graph.cell), spec=spec)
    assert not result.overflow and edges(result.graph) == expected
    together = renew(
        move(state, jnp.asarray(structure.positions + 5.0 * structure.cell.sum(0)), state.graph.cell),
        spec=spec,
    )
    assert not together.overflow and edges(together.graph) == edges(state.graph)


def sheared():
    """A cell without right angles whose lattice planes are far less apart than its vectors are long."""
    large = supercell(triclinic(), (4, 4, 4))
    shear = np.array([[1.0, 0.0, 0.0], [0.45, 1.0, 0.0], [-0.3, 0.4, 1.0]])
    return large._replace(positions=large.positions @ shear, cell=large.cell @ shear)


LARGE = {
    "orthorhombic": (random_crystal(np.random.default_rng(5), 150, ELEMENTS), (1, 1, 1)),
    "sheared": (sheared(), (1, 1, 1)),
    "thin in one direction": (supercell(triclinic(), (1, 4, 4)), (2, 1, 1)),
    "wide slab": (supercell(slab(), (4, 4, 1)), (1, 1, 0)),
    "thin slab": (supercell(slab(), (4, 1, 1)), (1, 2, 0)),
    "molecules": (many_molecules(), (0, 0, 0)),
}


@pytest.mark.parametrize("name", list(LARGE))
@pytest.mark.parametrize("block", [None, 5000])
def test_device_list_equals_host_list_in_large_cells(name, block, monkeypatch):
    """The nearest image of a pair or several, all rows at once or in blocks, with atoms far outside the cell."""
    structure, images = LARGE[name]
    rng = np.random.default_rng(6)
    away = rng.integers(-4, 5, structure.positions.shape) * structure.pbc @ structure.cell
    structure = structure._replace(positions=structure.positions + away)
    if block is not None:
        monkeypatch.setattr(neighbors, "BLOCK", block)
    spec, state = allocate(structure, ELEMENTS, 3.0, skin=0.4, dtype=np.float64, origin=Origin())
    assert spec.images == images
    again = jax.jit(partial(update, spec=spec))(state)
    assert not again.overflow
    assert edges(again.graph) == edges(state.graph)
    assert edges(again.graph) == host_edges(
        structure.positions, complete_cell(structure.cell, structure.pbc), structure.pbc, spec.reach
    )


def test_memory_grows_linearly_with_the_atoms():
    def needed(repeats):
        spec, state = allocate(supercell(triclinic(), repeats), ELEMENTS, 3.0)
        memory = renew.lower(state, spec=spec).compile().memory_analysis()
        return memory.temp_size_in_bytes, len(state.graph.species)

    (small, few), (large, many) = needed((4, 4, 4)), needed((8, 8, 8))
    assert many == 8 * few
    assert large < 9 * small and large < 64 * neighbors.BLOCK


def test_lattice_translations_stay_true_when_atoms_leave_the_cell():
    _, state = allocate(triclinic(), ELEMENTS, 3.0, dtype=np.float64)
    moved = state.graph.positions + jnp.asarray([[20.0, -11.0, 5.0]])
    before = edge_vectors(state.graph.positions, state.graph.cell, state.graph)
    np.testing.assert_allclose(edge_vectors(moved, state.graph.cell, state.graph), before, atol=1e-12)


@pytest.mark.parametrize("name", ["ethanol", "triclinic", "slab"])
@pytest.mark.parametrize("shear", [0.0, 0.006])
def test_stale_fires_before_an_edge_is_missing(name, shear):
    """Random walks, each step small against the skin; a walk ends at the first alarm, at the latest then."""
    structure, r_max = FIXED[name], 3.0
    spec, start = allocate(structure, ELEMENTS, r_max, skin=0.3, dtype=np.float64)
    periodic = np.asarray(structure.pbc)
    for seed in range(8):
        rng, state, steps = np.random.default_rng(seed), start, 0
        flow = shear * rng.normal(size=(3, 3)) * (periodic[:, None] & periodic[None, :])
        while not is_stale(state, spec=spec):
            cell, positions = np.asarray(state.graph.cell), np.asarray(state.graph.positions)
            needed = host_edges(positions, cell, structure.pbc, r_max)
            assert needed <= edges(state.graph)
            positions = positions @ (np.eye(3) + flow) + rng.normal(0.0, 0.02, positions.shape)
            state = move(state, jnp.asarray(positions), jnp.asarray(cell @ (np.eye(3) + flow)))
            steps += 1
        assert 1 <= steps < 100


def test_wrapping_an_atom_makes_the_list_stale_and_its_update_right():
    structure = triclinic()
    spec, state = allocate(structure, ELEMENTS, 3.0, dtype=np.float64)
    wrapped = structure.positions + np.array([[1.0], [0.0], [0.0], [0.0], [0.0]]) * structure.cell[2]
    moved = move(state, jnp.asarray(wrapped), state.graph.cell)
    assert is_stale(moved, spec=spec)
    expected = host_edges(wrapped, structure.cell, structure.pbc, spec.reach)
    renewed = renew(moved, spec=spec)
    assert not renewed.overflow and edges(renewed.graph) == expected


def test_a_list_follows_a_flowing_cell_or_says_that_it_cannot():
    """Shear, growth and shrinkage by a third, updated only when stale: complete at every step until overflow."""
    structure, r_max = triclinic(), 3.0
    growth = 0.02 * np.eye(3)  # needs no update: nothing comes nearer
    for flow in (growth, -growth, np.diag([0.0, 0.03], -1), np.diag([0.02, -0.02, 0.0])):
        spec, state = allocate(structure, ELEMENTS, r_max, skin=0.4, slack=6.0, dtype=np.float64)
        cell, positions, updates = structure.cell, structure.positions, 0
        for _ in range(25):
            cell, positions = cell @ (np.eye(3) + flow), positions @ (np.eye(3) + flow)
            state = move(state, jnp.asarray(positions), jnp.asarray(cell))
            if is_stale(state, spec=spec):
                state, updates = renew(state, spec=spec), updates + 1
            if state.overflow:
                break
            assert host_edges(positions, cell, structure.pbc, r_max) <= edges(state.graph)
        assert updates >= 1 or flow is growth


def test_stale_ignores_a_common_drift_but_not_one_atom():
    spec, state = allocate(triclinic(), ELEMENTS, 3.0, skin=0.4, dtype=np.float64)
    assert not is_stale(state, spec=spec)
    assert not is_stale(move(state, state.graph.positions + 4.0, state.graph.cell), spec=spec)
    far = state.graph.positions.at[0, 0].add(0.6)
    assert is_stale(move(state, far, state.graph.cell), spec=spec)
    squeezed = move(state, state.graph.positions * 0.85, state.graph.cell * 0.85)
    assert is_stale(squeezed, spec=spec)


def test_stale_is_tight_for_two_atoms_that_approach_each_other():
    """Two atoms that each moved by half the skin: no alarm below, alarm above."""
    spec, state = allocate(FIXED["ethanol"], ELEMENTS, 1.0, skin=0.4, dtype=np.float64)
    for distance, expected in ((0.199, False), (0.201, True)):
        positions = state.graph.positions.at[0, 0].add(distance).at[1, 0].add(-distance)
        assert bool(is_stale(move(state, positions, state.graph.cell), spec=spec)) == expected


def test_overflow_when_neighbours_exceed_the_capacity():
    structure = random_crystal(np.random.default_rng(2), 4, ELEMENTS)
    spec, state = allocate(structure, ELEMENTS, 3.0, skin=0.0, slack=1.0, dtype=np.float64)
    assert not renew(state, spec=spec).overflow
    squeezed = move(state, state.graph.positions * 0.75, state.graph.cell * 0.75)
    result = renew(squeezed, spec=spec._replace(images=tuple(m + 1 for m in spec.images)))
    assert result.overflow
    relaxed = renew(move(result, state.graph.positions, state.graph.cell), spec=spec)
    assert relaxed.overflow, "the bit stays until the host has seen it"


@pytest.mark.parametrize("repeats", [1, 4])
def test_overflow_when_the_cell_becomes_too_thin(repeats):
    structure = supercell(single_atom(), (repeats, repeats, repeats))
    spec, state = allocate(structure, ELEMENTS, 2.5, skin=0.0, slack=40.0, dtype=np.float64)
    assert (spec.images == (1, 1, 1)) == (repeats == 4)
    for factor in np.linspace(1.0, 0.3, 15):
        deform = jnp.asarray([1.0, 1.0, factor])[None, :]
        cell, positions = state.graph.cell * deform, state.graph.positions * deform
        result = renew(move(state, positions, cell), spec=spec)
        complete = edges(result.graph) == host_edges(np.asarray(positions), np.asarray(cell), structure.pbc, 2.5)
        assert complete or result.overflow
    assert result.overflow and not complete


def test_update_compiles_once_and_ignores_padding(count_compilations):
    structure = FIXED["triclinic"]
    spec, state = allocate(structure, ELEMENTS, 3.0, dtype=np.float64)
    graph = state.graph
    padded = graph._replace(
        positions=jnp.concatenate([graph.positions, graph.positions[:1]]),
        species=jnp.concatenate([graph.species, graph.species[:1]]),
        node_mask=jnp.concatenate([graph.node_mask, jnp.zeros(1, bool)]),
        neighbors=jnp.pad(graph.neighbors, ((0, 1), (0, 0))),
        shifts=jnp.pad(graph.shifts, ((0, 1), (0, 0), (0, 0))),
        edge_mask=jnp.pad(graph.edge_mask, ((0, 1), (0, 0))),
    )
    moved = [state._replace(graph=padded._replace(positions=padded.positions + d)) for d in (0.0, 0.01, 0.02)]
    results = [renew(moved[0], spec=spec)]
    with count_compilations() as count:
        results += [renew(other, spec=spec) for other in moved[1:]]
    assert count.value == 0
    assert all(edges(result.graph) == edges(state.graph) for result in results)


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
def test_completed_cells_keep_periodic_vectors_and_are_regular(pbc):
    cell = np.array([[3.0, 0.2, 0.1], [1.0, 2.5, 0.3], [-0.4, 0.6, 4.0]])
    full = complete_cell(cell, np.array(pbc))
    np.testing.assert_array_equal(full[np.array(pbc)], cell[np.array(pbc)])
    assert abs(np.linalg.det(full)) > 0.1
    for normal in full[~np.array(pbc)] if any(pbc) else ():
        assert np.linalg.norm(normal) == pytest.approx(1.0)
        np.testing.assert_allclose(cell[np.array(pbc)] @ normal, 0.0, atol=1e-12)


def test_images_are_counted_by_heights_not_lengths():
    sheared = np.array([[2.0, 0.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 5.0]])  # heights 1.11, 2 and 5
    assert image_range(sheared, np.array([True, True, False]), 4.0) == (5, 3, 0)
    assert image_range(np.eye(3) * 8.5, np.ones(3, bool), 4.0) == (1, 1, 1)
    assert image_range(np.eye(3) * 8.3, np.ones(3, bool), 4.0) == (2, 2, 2)


def test_unknown_elements_are_refused():
    with pytest.raises(DataError, match=r"got elements \['Fe'\]; allowed.*'C', 'O'"):
        species_index(np.array([1, 26]), ELEMENTS)


def test_single_precision_update():
    spec, state = allocate(triclinic(), ELEMENTS, 3.0, dtype=np.float32)
    result = renew(state, spec=spec)
    assert result.graph.shifts.dtype == result.reference.dtype == np.float32
    assert edges(result.graph) == edges(state.graph)

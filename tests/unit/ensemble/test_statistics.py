"""Statistics of forces: which atoms a region contains, effective numbers of components, errors of the same atom."""

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.geometry import get_distances

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.readings import Reading
from bayes_mlff.data.structure import from_ase
from bayes_mlff.ensemble import statistics
from bayes_mlff.ensemble.predictive import combine
from bayes_mlff.ensemble.statistics import Region
from bayes_mlff.models.energetics import Prediction

TILTED = np.array([[6.0, 0.0, 0.0], [2.9, 3.2, 0.0], [-2.5, 1.4, 4.0]])
"""So thin and tilted that rounding a fractional vector does not give the nearest image."""


def crystal(cell=TILTED, pbc=(True, True, True), atoms=24, seed=0):
    """Atoms anywhere, also outside of their cell."""
    place = np.random.default_rng(seed).uniform(-1.2, 2.2, (atoms, 3)) @ cell
    return from_ase(ase.Atoms(numbers=np.resize([1, 8], atoms), positions=place, cell=cell, pbc=pbc))


def graph_of(structure):
    return neighbors.allocate(structure, (1, 8), 1.0, dtype=np.float64)[1].graph


def expected(structure, centres, radius):
    """Distances by ASE, to the nearest image."""
    place = structure.positions
    found = get_distances(place[list(centres)], place, cell=structure.cell, pbc=structure.pbc)[1]
    return found.min(axis=0) <= radius


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
@pytest.mark.parametrize("radius", [1.2, 2.2, 4.5])
def test_a_region_contains_what_is_near_through_any_boundary(pbc, radius):
    start = crystal(pbc=pbc)
    region = statistics.around("", start, np.arange(24), (3, 7), radius)
    graph = graph_of(start)._replace(positions=jnp.asarray(start.positions))  # outside of the cell, as after diffusion
    inside = expected(start, (3, 7), radius)
    assert np.array_equal(region.mask(graph), inside)
    assert radius > 2.0 or not inside.all()


def test_a_region_moves_with_its_atoms_and_changes_with_the_cell():
    start = crystal()
    region = statistics.around("", start, np.arange(24), (3,), 2.4)
    mask = jax.jit(region.mask)
    graph, seen = graph_of(start), set()
    for seed in range(1, 6):
        moved = crystal(cell=TILTED * np.array([0.8, 1.0, 1.25]), seed=seed)
        there = graph._replace(positions=jnp.asarray(moved.positions), cell=jnp.asarray(moved.cell))
        found = np.asarray(mask(there))
        assert np.array_equal(found, expected(moved, (3,), 2.4)) and found[3]
        seen.add(tuple(np.flatnonzero(found)))
    assert len(seen) > 1


def test_all_are_watched_in_a_cell_too_thin_to_tell():
    start = crystal()
    region = statistics.around("", start, np.array([0, 3, 5]), (3,), 2.4)
    flat = graph_of(start)._replace(cell=jnp.asarray(TILTED * 0.2))
    assert np.flatnonzero(region.mask(flat)).tolist() == [0, 3, 5]


def test_some_atoms_alone_and_padding():
    graph = graph_of(crystal())
    chosen = Region("", (2, 5, 9))
    assert np.flatnonzero(chosen.mask(graph)).tolist() == [2, 5, 9]
    padded = graph._replace(node_mask=graph.node_mask.at[5].set(False))
    assert np.flatnonzero(chosen.mask(padded)).tolist() == [2, 9]
    assert hash(statistics.on_forces("x", chosen)) == hash(statistics.on_forces("x", Region("", (2, 5, 9))))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_components_and_trace_are_those_of_the_covariance(dtype, scale):
    rng = np.random.default_rng(1)
    forces = 3.0 + scale * rng.normal(size=(5, 2, 4, 3)) * np.array([1.0, 0.3, 0.1])
    forces[..., 1] += 0.5 * (forces[..., 0] - 3.0)
    noise = scale * rng.uniform(0.05, 0.5, (5, 2, 4))
    if dtype == np.float32:
        forces -= 3.0  # whose digits would be lost
    energy = np.zeros((5, 2), dtype)
    said = combine(Prediction(jnp.asarray(energy), jnp.asarray(forces, dtype), None, jnp.asarray(noise, dtype)),
                   energy_sigma=1.0)  # fmt: skip
    for b in range(2):
        for i in range(4):
            covariance = np.cov(forces[:, b, i].T) + np.mean(noise[:, b, i] ** 2) * np.eye(3)
            dof = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
            assert said.forces_dof[b, i] == pytest.approx(dof, rel=1e-3 if scale < 1.0 else 1e-5)
            trace = np.sum(np.asarray(said.forces_sigma, np.float64)[b, i] ** 2)
            assert trace == pytest.approx(np.trace(covariance), rel=1e-3 if scale < 1.0 else 1e-5)


def test_one_chain_has_three_components_its_noise():
    one = Prediction(jnp.zeros((1, 1)), jnp.ones((1, 1, 2, 3)), None, jnp.full((1, 1, 2), 0.2))
    assert np.allclose(combine(one, energy_sigma=1.0, allow_single_chain=True).forces_dof, 3.0)


def record(forces, predicted):
    atoms = from_ase(ase.Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]))
    return LabelRecord(atoms, Label(-1.0, np.array(forces)), 4, 2.0, "uncertain", 0.5, None, "x", 1.0, -0.3, 0.1,
                       predicted_forces_mean=predicted)  # fmt: skip


def test_the_error_is_that_of_the_atom_that_the_reading_names():
    made = record([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], np.array([[0.3, 0.4, 1.0], [0.0, 0.0, 2.0]]))
    reading = Reading("force", 0.1, 0.2, "eV/Å", 2.0, 0)
    assert statistics.force_error(made, reading) == pytest.approx(0.5)
    assert statistics.force_error(made, reading._replace(atom=1)) == pytest.approx(3.0)
    for wrong in (reading._replace(atom=2), reading._replace(atom=None)):
        with pytest.raises(DataError, match="step 4 has no predicted force"):
            statistics.force_error(made, wrong)
    per_atom = statistics.on_energy_per_atom("each")
    assert per_atom.error(made, Reading("each", 0.1, 0.2, "eV/atom")) == pytest.approx((-0.3 + 0.5) / 2)

"""Draws of several molecules as one disjoint graph give the energies and forces of single evaluations."""

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import molecule
from pretraining.collection import Collection, draw, isolated_energies, layout, make_member
from pretraining.fit import predict_frames

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import species_index
from bayes_mlff.data.structure import Structure
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import predictor
from bayes_mlff.testing.structures import triclinic
from bayes_mlff.testing.tiny import tiny_nequip

CONFIG = tiny_nequip(
    (1, 6, 8),
    sigma_widths=(32, 16),
    hidden_irreps="4x0e+4x1o",
    num_layers=2,
    embedding_features=3,
    radial_width=6,
    energy_scales=(1.0, 2.0, 3.0),
)


def frames(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    atoms = molecule(name)
    rng = np.random.default_rng(len(name))
    return atoms.numbers, atoms.positions + 0.05 * rng.normal(size=(count, len(atoms), 3))


@pytest.mark.parametrize("slots", [1, 3, 8, 20])
def test_rows_of_any_width_give_the_same_energies_and_forces(slots):
    model = registry.initialize(CONFIG, 0)
    sets = [frames("CH3CH2OH", 3), frames("H2O", 3)]
    members = tuple(
        make_member(r, np.zeros_like(r), np.zeros(len(r)), r_max=CONFIG.r_max, capacity=20, slots=slots)
        for _, r in sets
    )
    collection = Collection(members, tuple(species_index(z, CONFIG.elements) for z, _ in sets))
    chosen = [2, 0]
    species, frame = layout(collection, 2)
    batch = draw(collection, tuple(jnp.asarray(chosen) for _ in members))
    energy, forces, _ = predict_frames(model.node_fn, model.params, batch, species, frame)

    predict = predictor(model.node_fn, with_stress=False)
    start = 0
    for i, (numbers, positions) in enumerate(sets):
        for j, f in enumerate(chosen):
            structure = Structure(numbers, positions[f], np.zeros((3, 3)), np.zeros(3, bool))
            _, state = neighbors.allocate(structure, CONFIG.elements, CONFIG.r_max, skin=0.1)
            one = predict(model.params, type(state.graph)(*(x[None] for x in state.graph)))
            np.testing.assert_allclose(energy[2 * i + j], one.energy[0], rtol=2e-5)
            stop = start + len(numbers)
            np.testing.assert_allclose(forces[start:stop], one.forces[0], rtol=1e-4, atol=1e-6)
            start = stop


@pytest.mark.parametrize("slots", [4, 16])
def test_crystals_give_the_same_energies_forces_and_stress(slots):
    model = registry.initialize(CONFIG, 0)
    first = triclinic()
    rng = np.random.default_rng(0)
    crystals = [
        first._replace(
            positions=first.positions + 0.03 * rng.normal(size=first.positions.shape),
            cell=first.cell + 0.1 * rng.normal(size=(3, 3)),
        )
        for _ in range(3)
    ]
    positions, cells = (np.stack([getattr(c, name) for c in crystals]) for name in ("positions", "cell"))
    blank = np.zeros((3, 3, 3))
    member = make_member(
        positions, 0 * positions, np.zeros(3), r_max=3.0, capacity=60, slots=slots, cells=cells, stress=blank
    )
    collection = Collection((member, member), (species_index(first.numbers, CONFIG.elements),) * 2)
    species, frame = layout(collection, 2)
    chosen = ([0, 2], [1, 1])
    batch = draw(collection, tuple(jnp.asarray(c) for c in chosen))
    found = predict_frames(model.node_fn, model.params, batch, species, frame)

    predict = predictor(model.node_fn, with_stress=True)
    for i, f in enumerate(f for pair in chosen for f in pair):
        _, state = neighbors.allocate(crystals[f], CONFIG.elements, CONFIG.r_max, skin=0.1)
        one = predict(model.params, type(state.graph)(*(x[None] for x in state.graph)))
        np.testing.assert_allclose(found.energy[i], one.energy[0], rtol=2e-5)
        np.testing.assert_allclose(found.forces[5 * i : 5 * i + 5], one.forces[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.stress[i], one.stress[0], rtol=1e-4, atol=1e-6)


def test_cells_without_stress_are_refused():
    positions = np.zeros((1, 1, 3))
    with pytest.raises(DataError, match="cells and stress"):
        make_member(positions, positions, np.zeros(1), r_max=1.0, capacity=1, cells=np.eye(3)[None])


def test_too_many_neighbours_are_refused():
    _, positions = frames("CH3CH2OH", 1)
    with pytest.raises(DataError, match="allowed: up to 3"):
        make_member(positions, positions, np.zeros(1), r_max=4.0, capacity=3)


def test_isolated_energies_solve_exactly_additive_data():
    numbers = [np.array([1, 1, 8]), np.array([6, 1, 1, 1, 1]), np.array([6, 8])]
    truth = {1: -0.5, 6: -3.0, 8: -7.0}
    means = [sum(truth[int(z)] for z in n) for n in numbers]
    np.testing.assert_allclose(isolated_energies(numbers, means, (1, 6, 8)), [-0.5, -3.0, -7.0], rtol=1e-12)

"""The pretraining loss is what its docstring says, and descending it learns a teacher's forces."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ase.build import molecule
from pretraining.collection import Collection, draw, layout, make_member
from pretraining.fit import NORM_FLOOR, FitState, make_fit, predict_frames

from bayes_mlff.data.neighbors import species_index
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip

CONFIG = tiny_nequip(
    (1, 6, 8),
    sigma_widths=(32, 16),
    hidden_irreps="4x0e+4x1o",
    num_layers=2,
    embedding_features=3,
    radial_width=6,
    energy_scales=(1.0, 1.0, 1.0),
)


def labelled_by(model: registry.Potential, frames: int) -> Collection:
    """Rattled water and methanol with the model's own energies and forces."""
    members, species = [], []
    for name in ("H2O", "CH3OH"):
        atoms = molecule(name)
        rng = np.random.default_rng(len(name))
        positions = atoms.positions + 0.05 * rng.normal(size=(frames, len(atoms), 3))
        kind = species_index(atoms.numbers, CONFIG.elements)
        blank = make_member(positions, 0 * positions, np.zeros(frames), r_max=CONFIG.r_max, capacity=20)
        alone = Collection((blank,), (kind,))
        sites, frame = layout(alone, frames)
        batch = draw(alone, (jnp.arange(frames),))
        label = jax.jit(lambda params, b=batch, s=sites, f=frame: predict_frames(model.node_fn, params, b, s, f))
        energy, forces, _ = label(model.params)
        members.append(blank._replace(energy=energy, forces=forces.reshape(positions.shape)))
        species.append(kind)
    return Collection(tuple(members), tuple(species))


def fit(start: registry.Potential, collection: Collection, optimizer, **settings):
    """A compiled stretch of training and the state it starts from."""
    flat, unravel = start.flat()
    settings = {"frames_per_member": 1, "energy_weight": 0.3, **settings}
    run = make_fit(start.node_fn, unravel, collection, optax.with_extra_args_support(optimizer), **settings)
    return run, FitState(flat, flat, optimizer.init(flat), jnp.zeros([], jnp.int32))


@pytest.mark.parametrize("force_loss", ["mse", "norm"])
def test_loss_of_one_frame_of_each_molecule(force_loss):
    teacher, student = registry.initialize(CONFIG, 0), registry.initialize(CONFIG, 1)
    collection = labelled_by(teacher, 1)
    run, state = fit(student, collection, optax.sgd(0.0), force_loss=force_loss, steps_per_call=1)
    _, info = run(state, jax.random.key(0))
    predicted = labelled_by(student, 1)
    force_terms, energy_terms, absolute = [], [], []
    for there, here in zip(predicted.members, collection.members, strict=True):
        error = np.asarray(there.forces[0] - here.forces[0], np.float64)
        squares = np.sum(error**2, axis=-1)
        force_terms.append(np.mean(squares if force_loss == "mse" else np.sqrt(squares + NORM_FLOOR**2)) / 3.0)
        absolute.append(np.mean(np.abs(error)))
        scaled = abs(float(there.energy[0] - here.energy[0])) / np.sqrt(len(error))
        energy_terms.append(0.5 * scaled**2 if scaled < 0.2 else 0.2 * (scaled - 0.1))
    np.testing.assert_allclose(info.loss, np.mean(force_terms) + 0.3 * np.mean(energy_terms), rtol=1e-4)
    np.testing.assert_allclose(info.force_mae, np.mean(absolute), rtol=1e-4)


def test_student_learns_the_teacher():
    collection = labelled_by(registry.initialize(CONFIG, 0), 20)
    run, state = fit(registry.initialize(CONFIG, 1), collection, optax.adam(1e-2), steps_per_call=50)
    errors = []
    for i in range(12):
        with jax.numpy_dtype_promotion("standard"):  # optax.adam mixes its step count with floats
            state, info = run(state, jax.random.key(i))
        errors.append(float(info.force_mae))
    assert errors[-1] < 0.4 * errors[0]
    assert int(state.step) == 600
    assert float(jnp.max(jnp.abs(state.average - state.params))) > 0.0

"""Held coordinates, other masses and given momenta in the integrators, against exact results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core import units
from bayes_mlff.md.integrators import (
    initial_state,
    kinetic_energy,
    langevin,
    total_work,
    velocity_rescaling,
    velocity_verlet,
)

SPRING = 5.0  # eV/Å²
HELD = np.array([[True] * 3, [True, False, False], [False] * 3, [False] * 3])
PLACES = np.random.default_rng(0).normal(0.0, 3.0, (4, 3)).astype(np.float32)
ENSEMBLES = {
    "nve": velocity_verlet(0.5),
    "langevin": langevin(0.5, 300.0, 0.02),
    "bussi": velocity_rescaling(0.5, 300.0, 20.0),
}


def springs(position):
    """Every pair is pulled together: forces add up to zero, but not those on the atoms that move."""
    return SPRING * (jnp.mean(position, axis=0, keepdims=True) - position)


def run(integrator, state, force, steps):
    def step(state, _):
        state = integrator.begin(state)
        state = integrator.finish(state, force(state.position))
        return state, (state.position, state.momentum, kinetic_energy(state), total_work(state))

    return jax.lax.scan(step, state.set(force=force(state.position)), None, length=steps)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_held_coordinates_stay_to_the_last_bit_and_their_forces_are_the_true_ones(name):
    free = jnp.asarray(~HELD)
    start = initial_state(jnp.asarray(PLACES), np.array([8, 6, 1, 1]), 300.0, jax.random.key(1), free=free)
    final, (position, momentum, _, _) = jax.jit(lambda s: run(ENSEMBLES[name], s, springs, 200))(start)
    position, momentum = np.asarray(position), np.asarray(momentum)
    np.testing.assert_array_equal(position[:, HELD], np.broadcast_to(PLACES[HELD], (200, 4)))
    assert not momentum[:, HELD].any() and not np.asarray(start.momentum)[HELD].any()
    assert np.abs(position - PLACES)[-1][~HELD].min() > 1e-3
    np.testing.assert_array_equal(final.force, springs(final.position))
    assert np.abs(np.asarray(final.force)[HELD]).min() > 0.01


@pytest.mark.parametrize("name", ENSEMBLES)
def test_nothing_held_changes_no_number(name):
    numbers = np.array([8, 6, 1, 1])
    plain = initial_state(jnp.asarray(PLACES), numbers, 300.0, jax.random.key(1))
    standard = initial_state(
        jnp.asarray(PLACES), numbers, 300.0, jax.random.key(1), masses=np.asarray(plain.mass[:, 0], np.float64)
    )
    both = [run(ENSEMBLES[name], state, springs, 50)[0] for state in (plain, standard)]
    np.testing.assert_array_equal(both[0].position, both[1].position)


def test_degrees_of_freedom():
    nve, friction = ENSEMBLES["nve"], ENSEMBLES["langevin"]
    assert nve.degrees_of_freedom(4) == 9 and friction.degrees_of_freedom(4) == 12
    assert nve.degrees_of_freedom(4, HELD) == 8 and friction.degrees_of_freedom(4, HELD) == 8
    only_x = np.zeros((4, 3), bool)
    only_x[2, 0] = True
    assert nve.degrees_of_freedom(4, only_x) == 12 - 1 - 2
    assert nve.degrees_of_freedom(1) == 3
    single = np.ones((4, 3), bool)
    single[3, 1] = False
    assert nve.degrees_of_freedom(4, single) == 1


def test_first_momenta_rest_along_the_axes_of_which_nothing_is_held():
    """Kinetic energy of 2000 draws of 4 atoms with 9 degrees of freedom: |z| < 4.5, false alarms 7e-6."""
    held = np.zeros((4, 3), bool)
    held[1, 0] = True
    keys = jax.random.split(jax.random.key(2), 2000)
    states = jax.vmap(
        lambda key: initial_state(jnp.zeros((4, 3)), np.array([8, 6, 1, 1]), 300.0, key, free=jnp.asarray(~held))
    )(keys)
    net = np.asarray(states.momentum).sum(axis=1)
    assert np.abs(net[:, 1:]).max() < 1e-12 and np.abs(net[:, 0]).mean() > 0.1
    reduced = np.asarray(jax.vmap(kinetic_energy)(states)) / (units.KB * 300.0)
    assert abs(reduced.mean() - 4.5) < 4.5 * np.sqrt(4.5 / 2000)


@pytest.mark.parametrize("count", [8, 1])
def test_velocity_rescaling_knows_how_many_coordinates_move(count):
    """K/kT of an ideal gas follows the gamma law of shape f/2, in 2000 replicas: false alarms 7e-6 each."""
    held = HELD if count == 8 else np.arange(12).reshape(4, 3) != 7
    integrator = velocity_rescaling(1.0, 400.0, 10.0)
    keys = jax.random.split(jax.random.key(4), 2000)
    states = jax.vmap(
        lambda key: initial_state(jnp.zeros((4, 3)), np.full(4, 18), 100.0, key, free=jnp.asarray(~held))
    )(keys)
    _, (_, _, kinetic, work) = jax.jit(jax.vmap(lambda s: run(integrator, s, jnp.zeros_like, 80)))(states)
    shape, reduced = 0.5 * count, np.asarray(kinetic)[:, -1] / (units.KB * 400.0)
    assert integrator.degrees_of_freedom(4, held) == count
    assert abs(reduced.mean() - shape) < 4.5 * np.sqrt(shape / 2000)
    np.testing.assert_allclose(np.ptp(np.asarray(kinetic - work), axis=1), 0.0, atol=1e-12)


def test_langevin_gives_each_free_coordinate_its_share():
    """500 oscillators of which a third is held, 30 independent looks: |z| < 4.5, false alarms 7e-6."""
    held = np.tile([True, False, False], (500, 1))
    state = initial_state(jnp.zeros((500, 3)), np.full(500, 6), 400.0, jax.random.key(5), free=jnp.asarray(~held))
    _, (position, _, _, _) = run(langevin(1.0, 400.0, 0.05), state, lambda x: -SPRING * x, 3400)
    sample = np.asarray(position[slice(400, None, 100)])[..., 1:] ** 2 * SPRING / (units.KB * 400.0)
    assert abs(sample.mean() - 1.0) / np.sqrt(2.0 / sample.size) < 4.5


def test_a_heavier_dimer_vibrates_slower_by_the_root_of_its_mass():
    def force(x):
        apart = x[1] - x[0]
        length = jnp.linalg.norm(apart)
        pull = SPRING * (length - 1.0) * apart / length
        return jnp.stack([pull, -pull])

    def period(mass):
        state = initial_state(
            jnp.asarray([[0.0, 0.0, 0.0], [0.0, 0.0, 1.02]]),
            np.array([1, 1]),
            0.0,
            jax.random.key(0),
            masses=[mass] * 2,
        )
        _, (position, _, _, _) = run(velocity_verlet(0.02), state, force, 5000)
        away = np.asarray(position[:, 1, 2] - position[:, 0, 2]) - 1.0
        up = np.nonzero((away[:-1] < 0.0) & (away[1:] >= 0.0))[0]
        crossings = up - away[up] / (away[up + 1] - away[up])
        return 0.02 * np.mean(np.diff(crossings))

    light, heavy = period(1.008), period(2.014)
    assert light == pytest.approx(2.0 * np.pi * np.sqrt(1.008 / 2.0 / SPRING) / units.FS, rel=1e-4)
    assert heavy / light == pytest.approx(np.sqrt(2.014 / 1.008), rel=1e-5)

"""Integrators at constant cell against exact results of the harmonic oscillator, and against ASE."""

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.morse import MorsePotential
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from bayes_mlff.core import units
from bayes_mlff.md.integrators import (
    add_work,
    initial_state,
    kinetic_energy,
    langevin,
    total_work,
    velocity_rescaling,
    velocity_verlet,
)
from bayes_mlff.md.schedule import Segment, build

pytestmark = pytest.mark.optimized

SPRING = 5.0  # eV/Å²


def run(integrator, state, force, steps):
    def step(state, _):
        state = integrator.begin(state)
        state = integrator.finish(state, force(state.position))
        return state, (state.position, kinetic_energy(state), total_work(state))

    return jax.lax.scan(step, state.set(force=force(state.position)), None, length=steps)


def total_energy(position, kinetic):
    return kinetic + 0.5 * SPRING * jnp.sum(position**2, axis=(1, 2))


def test_velocity_verlet_is_that_of_ase():
    atoms = ase.Atoms("HO", positions=[[0, 0, 0], [0, 0, 1.2]])
    atoms.calc = MorsePotential(epsilon=2.0, r0=1.0, rcut1=5.0, rcut2=6.0)
    atoms.set_momenta([[0.1, 0.0, -0.2], [0.0, 0.3, 0.1]])

    def force(positions):
        copy = atoms.copy()
        copy.positions = positions
        copy.calc = MorsePotential(epsilon=2.0, r0=1.0, rcut1=5.0, rcut2=6.0)
        return jnp.asarray(copy.get_forces())

    integrator = velocity_verlet(0.5)
    state = initial_state(jnp.asarray(atoms.positions), atoms.numbers, 0.0, jax.random.key(0))
    state = state.set(momentum=jnp.asarray(atoms.get_momenta()), force=force(atoms.positions))
    VelocityVerlet(atoms, timestep=0.5 * fs).run(20)
    for _ in range(20):
        state = integrator.begin(state)
        state = integrator.finish(state, force(np.asarray(state.position)))
    np.testing.assert_allclose(state.position, atoms.positions, rtol=0, atol=1e-7)
    np.testing.assert_allclose(state.momentum, atoms.get_momenta(), rtol=0, atol=1e-7)


def test_velocity_verlet_conserves_energy_to_second_order():
    numbers = np.full(4, 6)
    drift = []
    for timestep in (1.0, 0.5):
        state = initial_state(jnp.zeros((4, 3)), numbers, 300.0, jax.random.key(1))
        final, (position, kinetic, work) = run(
            velocity_verlet(timestep), state, lambda x: -SPRING * x, int(200 / timestep)
        )
        drift.append(float(jnp.ptp(total_energy(position, kinetic))))
        assert not np.any(np.asarray(work)) and int(final.step) == int(200 / timestep)
    assert drift[0] / drift[1] == pytest.approx(4.0, rel=0.15)


def test_langevin_samples_the_boltzmann_law():
    """1000 oscillators, 40 independent looks: |z| < 4.5 on two means of 120 000 values, false alarms 2e-5."""
    temperature, n = 400.0, 1000
    state = initial_state(jnp.zeros((n, 3)), np.full(n, 6), temperature, jax.random.key(2))
    _, (position, kinetic, _) = run(langevin(1.0, temperature, 0.05), state, lambda x: -SPRING * x, 4400)
    looks = slice(400, None, 100)
    kt = units.KB * temperature
    sample = np.asarray(position[looks]).ravel() ** 2 * SPRING / kt
    assert abs(sample.mean() - 1.0) / np.sqrt(2.0 / sample.size) < 4.5
    energy = np.asarray(kinetic[looks]) / (1.5 * n * kt)
    # BAOAB's kinetic energy errs by (ω dt)²/4 in the harmonic limit, 1 % here; its positions do not.
    omega_dt = np.sqrt(SPRING / 12.011) * units.FS
    assert abs(energy.mean() - (1 - omega_dt**2 / 4)) < 4.5 * np.sqrt(2.0 / sample.size) + omega_dt**2 / 10


def test_first_momenta_have_the_temperature_and_no_drift():
    state = initial_state(jnp.zeros((3000, 3)), np.full(3000, 8), 300.0, jax.random.key(3))
    assert abs(np.asarray(state.momentum).sum(axis=0)).max() < 1e-9
    ratio = float(kinetic_energy(state)) / (1.5 * 3000 * units.KB * 300.0)
    assert abs(ratio - 1.0) < 4.5 * np.sqrt(2.0 / 9000)


def test_velocity_rescaling_samples_the_law_of_the_kinetic_energy_and_keeps_momentum():
    """An ideal gas of 4 atoms, 9 degrees of freedom: K/kT follows the gamma law of shape 9/2, in 4000 replicas."""
    numbers, temperature = np.full(4, 18), 400.0
    integrator = velocity_rescaling(1.0, temperature, 20.0)
    states = jax.vmap(lambda key: initial_state(jnp.zeros((4, 3)), numbers, 100.0, key))(
        jax.random.split(jax.random.key(4), 4000)
    )
    final, (_, kinetic, work) = jax.jit(jax.vmap(lambda s: run(integrator, s, jnp.zeros_like, 150)))(states)
    assert integrator.degrees_of_freedom(4) == 9
    reduced = np.asarray(kinetic)[:, -1] / (units.KB * temperature)
    assert abs(reduced.mean() - 4.5) < 4.5 * np.sqrt(4.5 / 4000)
    assert abs(reduced.var() - 4.5) < 4.5 * np.sqrt((3 * 4.5**2 + 6 * 4.5 - 4.5**2) / 4000)
    assert np.abs(np.asarray(final.momentum).sum(axis=1)).max() < 1e-9
    np.testing.assert_allclose(np.ptp(np.asarray(kinetic - work), axis=1), 0.0, atol=1e-12)


@pytest.mark.parametrize("make", [lambda dt: langevin(dt, 400.0, 0.02), lambda dt: velocity_rescaling(dt, 400.0, 50.0)])
def test_the_conserved_energy_of_a_thermostat_drifts_with_the_square_of_the_time_step(make):
    drift = []
    for timestep in (2.0, 1.0):
        state = initial_state(jnp.zeros((50, 3)), np.full(50, 6), 200.0, jax.random.key(5))
        _, (position, kinetic, work) = run(make(timestep), state, lambda x: -SPRING * x, int(400 / timestep))
        total = total_energy(position, kinetic)
        drift.append(float(jnp.ptp(total - work)))
        assert float(jnp.ptp(total)) > 10.0 * drift[-1]
    assert 2.8 < drift[0] / drift[1] < 6.0


def test_a_thermostat_follows_a_schedule():
    segments = [
        Segment(until_ps=1.0, temperature_k=100.0),
        Segment(until_ps=2.0, temperature_k=100.0, end_temperature_k=700.0),
    ]
    state = initial_state(jnp.zeros((500, 3)), np.full(500, 6), 100.0, jax.random.key(6))
    integrator = langevin(1.0, build(segments, temperature_k=1.0, pressure_gpa=0.0), 0.05)
    _, (_, kinetic, _) = run(integrator, state, lambda x: -SPRING * x, 3000)
    kelvin = np.asarray(kinetic) / (1.5 * 500 * units.KB)
    for steps, expected in ((slice(200, 1000), 100.0), (slice(1450, 1550), 400.0), (slice(2200, 3000), 700.0)):
        assert kelvin[steps].mean() == pytest.approx(expected, rel=0.08)


def test_work_is_summed_without_the_rounding_of_single_precision():
    state = initial_state(jnp.zeros((1, 3), jnp.float32), np.array([6]), 0.0, jax.random.key(7))
    state = add_work(state, jnp.asarray(1000.0, jnp.float32))
    small = jnp.asarray(1e-5, jnp.float32)
    state = jax.lax.fori_loop(0, 100_000, lambda _, s: add_work(s, small), state)
    assert float(total_work(state)) == pytest.approx(1001.0, abs=1e-4)

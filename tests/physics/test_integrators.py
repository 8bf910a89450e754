"""Integrators against exact results of the harmonic oscillator, and against ASE."""

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.morse import MorsePotential
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from bayes_mlff.core import units
from bayes_mlff.otf.integrators import initial_state, kinetic_energy, langevin, velocity_verlet

SPRING = 5.0  # eV/Å²


def run(integrator, state, force, steps):
    def step(state, _):
        state = integrator.begin(state)
        state = integrator.finish(state, force(state.position))
        return state, (state.position, kinetic_energy(state))

    return jax.lax.scan(step, state.set(force=force(state.position)), None, length=steps)


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
        _, (position, kinetic) = run(velocity_verlet(timestep), state, lambda x: -SPRING * x, int(200 / timestep))
        total = kinetic + 0.5 * SPRING * jnp.sum(position**2, axis=(1, 2))
        drift.append(float(jnp.ptp(total)))
    assert drift[0] / drift[1] == pytest.approx(4.0, rel=0.15)


def test_langevin_samples_the_boltzmann_law():
    """1000 oscillators, 40 independent looks: |z| < 4.5 on two means of 120 000 values, false alarms 2e-5."""
    temperature, n = 400.0, 1000
    state = initial_state(jnp.zeros((n, 3)), np.full(n, 6), temperature, jax.random.key(2))
    _, (position, kinetic) = run(langevin(1.0, temperature, 0.05), state, lambda x: -SPRING * x, 4400)
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

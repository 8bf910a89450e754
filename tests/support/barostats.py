"""Simulations at constant pressure for tests of their laws."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase.build import bulk

from bayes_mlff.core import units
from bayes_mlff.data.graph import volume
from bayes_mlff.md.barostat import cell_rescaling, internal_tensor
from bayes_mlff.md.integrators import (
    initial_state,
    kinetic_energy,
    rescaling_thermostat,
    total_work,
)
from bayes_mlff.md.schedule import Schedule

ARGON = 18

SITES = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.9]])
"""Fractional coordinates of the atoms of a tethered crystal."""


class Look(NamedTuple):
    cell: jax.Array  # [..., 3, 3] Å
    potential: jax.Array  # [...] eV
    conserved: jax.Array  # [...] eV
    kinetic: jax.Array  # [...] eV
    pressure: jax.Array  # [...] eV/Å³


def evaluate(energy, position, cell):
    """Energy, forces and stress of `energy(position [n, 3], cell [3, 3])`."""

    def strained(position, strain):
        deform = jnp.eye(3, dtype=cell.dtype) + 0.5 * (strain + strain.T)
        return energy(position @ deform, cell @ deform)

    value, (gradient, virial) = jax.value_and_grad(strained, (0, 1))(position, jnp.zeros((3, 3), cell.dtype))
    return value, -gradient, virial / volume(cell)


def simulate(integrator, energy, states, *, looks, every):
    """Run replicas with a leading axis: (final states, observables [replicas, looks])."""
    return jax.jit(jax.vmap(simulation(integrator, energy, looks=looks, every=every)))(states)


def simulation(integrator, energy, *, looks, every):
    """A function of the state of one replica: (final state, observables [looks])."""

    def step(carry):
        state, _ = carry
        state = integrator.begin(state)
        value, force, stress = evaluate(energy, state.position, state.cell)
        return integrator.finish(state, force, stress), value

    def look(carry, _):
        state, value = jax.lax.fori_loop(0, every, lambda _, c: step(c), carry)
        kinetic = kinetic_energy(state)
        seen = Look(
            state.cell,
            value,
            value + kinetic - total_work(state),
            kinetic,
            jnp.trace(internal_tensor(state)) / (3.0 * volume(state.cell)),
        )
        return (state, value), seen

    def replica(state):
        value, force, stress = evaluate(energy, state.position, state.cell)
        state = state.set(force=force, stress=stress)
        (state, _), seen = jax.lax.scan(look, (state, value), None, length=looks)
        return state, seen

    return replica


def replicas(position, cell, temperature, count, seed, *, at_rest=True):
    """Equal geometries with different velocities; `at_rest` for the centre of mass."""
    n = len(position)

    def make(key):
        state = initial_state(jnp.asarray(position), np.full(n, ARGON), temperature, key, cell=jnp.asarray(cell))
        if at_rest:
            return state
        free = jax.random.normal(jax.random.fold_in(key, 1), (n, 3)) * jnp.sqrt(state.mass * units.KB * temperature)
        return state.set(momentum=free)

    return jax.vmap(make)(jax.random.split(jax.random.key(seed), count))


def within(samples, expected, *, allowed=0.0):
    """|z| < 4.5 for the mean of independent samples, beyond a known discretisation error."""
    samples = np.asarray(samples)
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    np.testing.assert_array_less(np.abs(samples.mean(axis=0) - expected) - allowed, 4.5 * error)


GAS_ATOMS, GAS_KT, GAS_PRESSURE = 3, units.KB * 300.0, 0.05


EPSILON, SIGMA, CUTOFF = 0.0103, 3.4, 5.2


def lennard_jones(position, cell):
    """Smooth at its short cutoff, nearest images: for cells at least 10.4 Å thick."""
    n = position.shape[0]
    fractional = position @ jnp.linalg.inv(cell)
    apart = fractional[:, None] - fractional[None]
    apart = (apart - jnp.round(apart)) @ cell
    itself = jnp.eye(n, dtype=bool)
    square = jnp.where(itself, 1.0, jnp.sum(apart**2, axis=-1) / SIGMA**2)
    inside = ~itself & (square < (CUTOFF / SIGMA) ** 2)
    inverse = 1.0 / square**3
    switch = (1.0 - square * (SIGMA / CUTOFF) ** 2) ** 2
    return 2.0 * EPSILON * jnp.sum(jnp.where(inside, (inverse**2 - inverse) * switch, 0.0))


def crystal(lattice=5.3):
    atoms = bulk("Ar", "fcc", a=lattice, cubic=True).repeat(2)
    return atoms.positions, atoms.cell.array


def argon(temperature, pressure, *, timestep=4.0, cell="isotropic", time_fs=400.0, compressibility=2.0):
    always = [[temperature, temperature]], [[pressure, pressure]]
    return cell_rescaling(
        timestep,
        Schedule(np.zeros(1), np.full(1, np.inf), *map(jnp.asarray, always)),
        rescaling_thermostat(timestep, 100.0),
        time_fs=time_fs,
        compressibility_per_gpa=compressibility,
        cell=cell,
    )


FLUIDS = np.array([(300.0, 0.20), (300.0, 0.24), (340.0, 0.20), (340.0, 0.24)])
"""Temperature and pressure, K and GPa."""


@functools.cache
def fluids():
    """Potential energy, volume and pressure [conditions, replicas, looks] of a supercritical fluid of 32 atoms.

    All conditions in one function, which takes longer to compile than to run.
    """

    def at(condition, states):
        return jax.vmap(simulation(argon(*condition), lennard_jones, looks=60, every=60))(states)

    states = jax.tree.map(
        lambda *each: jnp.stack(each), *(replicas(*crystal(6.0), temperature, 10, 7) for temperature, _ in FLUIDS)
    )
    _, seen = jax.jit(jax.vmap(at))(jnp.asarray(FLUIDS), states)
    return [np.asarray(each)[:, :, 10:] for each in (seen.potential, volume(seen.cell), seen.pressure)]

"""Constant pressure against laws known exactly, against ASE, and against what a crystal must do.

Statistical tests compare independent replicas with |z| < 4.5, false alarms 7e-6 each; keys are fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core import units
from bayes_mlff.data.graph import volume
from bayes_mlff.md.barostat import cell_rescaling
from bayes_mlff.md.integrators import (
    friction_thermostat,
    kinetic_energy,
    rescaling_thermostat,
)
from bayes_mlff.md.schedule import constant
from tests.support.barostats import GAS_ATOMS, GAS_KT, GAS_PRESSURE, SITES, replicas, simulate, within


def gas(cell_motion, thermostat, timestep=1.0):
    kinds = {
        "langevin": friction_thermostat(timestep, 0.02),
        "bussi": rescaling_thermostat(timestep, 30.0),
    }
    return cell_rescaling(
        timestep,
        constant(300.0, GAS_PRESSURE),
        kinds[thermostat],
        time_fs=60.0,
        compressibility_per_gpa=1.0 / GAS_PRESSURE,
        cell=cell_motion,
    )


@pytest.mark.parametrize(
    ("cell_motion", "thermostat"),
    [
        ("isotropic", "langevin"),
        ("isotropic", "bussi"),
        ("orthorhombic", "langevin"),
        ("flexible", "langevin"),
        ("flexible", "bussi"),
    ],
)
def test_an_ideal_gas_keeps_its_law_of_volume_and_its_work_theorem(cell_motion, thermostat):
    """p(V) ∝ V^N exp(-PV/kT) is stationary; from there <exp(-Δ/kT)> = 1 for the change Δ of the conserved energy."""
    count, rng = 3000, np.random.default_rng(1)
    pressure = GAS_PRESSURE * units.GPA
    first = rng.gamma(GAS_ATOMS + 1, GAS_KT / pressure, count)
    states = replicas(np.zeros((GAS_ATOMS, 3)), np.eye(3), 300.0, count, 2, at_rest=thermostat == "bussi")
    states = states.set(cell=jnp.asarray(np.cbrt(first)[:, None, None] * np.eye(3)))
    before = np.asarray(jax.vmap(kinetic_energy)(states))
    _, seen = simulate(gas(cell_motion, thermostat), lambda r, h: 0.0 * jnp.sum(r), states, looks=1, every=160)
    reduced = pressure * np.asarray(volume(seen.cell))[:, 0] / GAS_KT
    assert np.corrcoef(reduced, first)[0, 1] < 0.3, "the volumes have hardly moved"
    # The first-order step leaves relative errors of about dt/τ, 2 %, times the stiffness of the volume.
    within(reduced, GAS_ATOMS + 1, allowed=0.02 * (GAS_ATOMS + 1))
    within((reduced - reduced.mean()) ** 2, GAS_ATOMS + 1, allowed=0.04 * (GAS_ATOMS + 1))
    change = (np.asarray(seen.conserved)[:, 0] - before) / GAS_KT
    assert change.std() < 0.4
    within(np.exp(-change), 1.0)


STIFFNESS, SIDE = 40.0 * GAS_KT, 8.0


WIDTH = 0.16  # of the proposal of the quadrature, wider than any marginal


def elastic(cell):
    """Depends on the metric of the cell alone, softly enough that factors of V show."""
    return 0.5 * STIFFNESS * jnp.sum((cell @ cell.T / SIDE**2 - jnp.eye(3)) ** 2)


def tethered(position, cell):
    """A harmonic crystal: every atom on a spring to its site."""
    return elastic(cell) + 0.5 * 0.4 * jnp.sum((position - jnp.asarray(SITES) @ cell) ** 2)


def exact_shapes(cell_motion, power):
    """Means of the features of a lower triangular cell in units of its side, by quadrature.

    Density V^power exp(-(U + PV)/kT) times V⁻² dh, for which dh = L11² L22 dL when the rotation is left out
    (Muirhead 1982, theorem 2.1.13); for orthorhombic cells dLx dLy dLz, for cubes dV.
    """
    rng = np.random.default_rng(5)
    logs = rng.normal(0.0, WIDTH, (400_000, 3))
    skew = rng.normal(0.0, WIDTH, (400_000, 3))
    if cell_motion == "isotropic":
        logs[:] = logs[:, :1]
    drawn = 0.5 * np.sum(logs[:, : 1 if cell_motion == "isotropic" else 3] ** 2, axis=1) / WIDTH**2
    if cell_motion == "flexible":
        drawn += 0.5 * np.sum(skew**2, axis=1) / WIDTH**2
    else:
        skew[:] = 0.0
    cell = np.zeros((len(logs), 3, 3))
    cell[:, [0, 1, 2], [0, 1, 2]] = np.exp(logs)
    cell[:, [1, 2, 2], [0, 0, 1]] = skew
    size = np.exp(logs.sum(axis=1))
    metric = cell @ np.swapaxes(cell, 1, 2) - np.eye(3)
    energy = 0.5 * STIFFNESS * np.sum(metric**2, axis=(1, 2)) + GAS_PRESSURE * units.GPA * SIDE**3 * size
    # dL11 dL22 dL33 = V d(logs) times L11² L22 V⁻² for a flexible cell, V d(logs) otherwise.
    measure = size if cell_motion != "flexible" else cell[:, 0, 0] ** 2 * cell[:, 1, 1] / size
    weight = measure * size**power * np.exp(drawn - (energy - energy.min()) / GAS_KT)
    return np.average(_features(cell), axis=0, weights=weight)


def _features(cell):
    """Logarithms of the diagonal and their squares, the off-diagonal and its squares, reduced elastic energy."""
    logs = np.log(cell[..., [0, 1, 2], [0, 1, 2]])
    skew = cell[..., [1, 2, 2], [0, 0, 1]]
    metric = cell @ np.swapaxes(cell, -1, -2) - np.eye(3)
    energy = 0.5 * np.sum(metric**2, axis=(-2, -1))[..., None]  # all components at once: the sharpest of these
    return np.concatenate([logs, logs**2, skew, skew**2, energy], axis=-1)


@pytest.mark.parametrize(
    ("cell_motion", "matter", "power"),
    [("isotropic", "gas", 2), ("orthorhombic", "gas", 2), ("flexible", "gas", 2), ("flexible", "crystal", 0)],
)
def test_the_shapes_of_an_elastic_cell_follow_their_exact_law(cell_motion, matter, power):
    energy = tethered if matter == "crystal" else lambda r, h: elastic(h) + 0.0 * jnp.sum(r)
    position = SITES @ (SIDE * np.eye(3))
    mobility = 0.02 * 3.0 * SIDE**3 / (4.0 * STIFFNESS)  # a relaxation time of about 50 steps
    integrator = cell_rescaling(
        2.0,
        constant(300.0, GAS_PRESSURE),
        friction_thermostat(2.0, 0.02),
        time_fs=100.0,
        compressibility_per_gpa=mobility * 50.0 * units.GPA,
        cell=cell_motion,
    )
    states = replicas(position, SIDE * np.eye(3), 300.0, 1500, 6, at_rest=False)
    _, seen = simulate(integrator, energy, states, looks=3, every=170)
    cell = np.asarray(seen.cell)[:, 1:] / SIDE
    if cell_motion != "isotropic":
        assert np.abs(cell[..., [0, 0, 1], [1, 2, 2]]).max() < 1e-9, "the cell has turned"
    expected = exact_shapes(cell_motion, power)
    within(_features(cell).mean(axis=1), expected, allowed=0.02 * np.abs(expected) + 2e-4)

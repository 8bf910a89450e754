"""Argon, deformed crystals and schedules at constant pressure."""

import functools

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.md.nose_hoover_chain import MTKNPT
from ase.md.velocitydistribution import thermalize_momenta

from bayes_mlff.core import units
from bayes_mlff.data.graph import volume
from bayes_mlff.md.barostat import cell_rescaling
from bayes_mlff.md.integrators import (
    rescaling_thermostat,
)
from bayes_mlff.md.schedule import Segment, build
from tests.support.barostats import FLUIDS, argon, crystal, evaluate, fluids, lennard_jones, replicas, simulate, within


@pytest.mark.optimized
@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2), (0, 3)])
def test_argon_at_two_temperatures_and_pressures_is_one_ensemble(first, second):
    """The log-ratio of the joint histograms of volume and energy has the slopes that T and P prescribe."""
    ensemble = pytest.importorskip("physical_validation.ensemble")
    data = pytest.importorskip("physical_validation.data")
    simulations = []
    for which in (first, second):
        temperature, pressure = FLUIDS[which]
        potential, size, _ = (each[which] for each in fluids())
        simulations.append(
            data.SimulationData(
                units=data.UnitData(
                    kb=units.KB,
                    energy_str="eV",
                    energy_conversion=96.485,
                    length_str="A",
                    length_conversion=0.1,
                    volume_str="A3",
                    volume_conversion=1e-3,
                    temperature_str="K",
                    temperature_conversion=1.0,
                    pressure_str="eV/A3",
                    pressure_conversion=1.602176634e6,
                    time_str="fs",
                    time_conversion=1e-3,
                ),
                ensemble=data.EnsembleData("NPT", natoms=32, pressure=pressure * units.GPA, temperature=temperature),
                observables=data.ObservableData(potential_energy=potential.ravel(), volume=size.ravel()),
            )
        )
    deviations = ensemble.check(*simulations, total_energy=False, data_is_uncorrelated=True, verbosity=0)
    assert max(np.abs(deviations)) < 4.0


@pytest.mark.optimized
@pytest.mark.parametrize("which", [0, 3])
def test_the_mean_internal_pressure_is_that_of_the_barostat(which):
    """<P_int + kT/V> = P with the centre of mass at rest, by partial integration over V."""
    temperature, pressure = FLUIDS[which]
    _, size, internal = (each[which] for each in fluids())
    resting = units.KB * temperature / size
    within((internal + resting).mean(axis=1) / units.GPA, pressure, allowed=0.01 * pressure)


def test_the_conserved_energy_drifts_less_with_a_shorter_time_step():
    spread = []
    for timestep in (8.0, 4.0, 2.0):
        states = replicas(*crystal(), 60.0, 12, 8)
        integrator = argon(60.0, 0.0, timestep=timestep, cell="flexible", time_fs=200.0, compressibility=0.5)
        _, seen = simulate(integrator, lennard_jones, states, looks=2, every=int(1600 / timestep))
        conserved = np.asarray(seen.conserved)
        spread.append(np.sqrt(np.mean((conserved[:, 1] - conserved[:, 0]) ** 2)) / (units.KB * 60.0))
        assert np.asarray(seen.potential).std() / (units.KB * 60.0) > 2.0
    assert spread[2] < 0.15
    assert spread[0] > 1.6 * spread[1] > 1.6**2 * spread[2]


DEFORMATIONS = {
    "compressed": np.eye(3) * 0.96,
    "stretched": np.eye(3) * 1.03,
    "xy": np.array([[1.0, 0, 0], [0.06, 1.0, 0], [0, 0, 1.0]]),
    "yz": np.array([[1.0, 0, 0], [0, 1.0, 0], [0, -0.06, 1.0]]),
    "tetragonal": np.diag([1.04, 0.98, 0.98]),
}


@pytest.mark.optimized
def test_a_deformed_crystal_goes_back():
    """Under pressure it expands, under tension it shrinks, a shear relaxes, all to the cell of the same crystal."""
    deform = np.stack(list(DEFORMATIONS.values()))
    position, cell = crystal(5.05)
    rest, noise = 5.20 * 2 * np.eye(3), 0.018  # relaxed; released heat
    states = replicas(position, cell, 1.0, len(deform), 10)
    states = states.set(
        position=jnp.asarray(position @ np.linalg.inv(cell) @ rest @ deform), cell=jnp.asarray(rest @ deform)
    )
    integrator = argon(1.0, 0.0, cell="flexible", time_fs=500.0, compressibility=0.3)
    _, seen = simulate(integrator, lennard_jones, states, looks=3, every=500)
    cells = np.concatenate([np.asarray(states.cell)[:, None], np.asarray(seen.cell)], axis=1)
    far = np.abs(cells @ np.linalg.inv(rest) - np.eye(3)).max(axis=(2, 3))
    for name, course in zip(DEFORMATIONS, far, strict=True):
        assert course[1] < 0.85 * course[0], name
        assert course[-1] < max(0.5 * course[0], noise), name


def test_a_triclinic_start_keeps_its_orientation_and_gives_the_volume_of_the_cubic_one():
    """27 atoms in a rotated, skewed cell of the same crystal at the same conditions."""
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    skewed = bulk("Ar", "fcc", a=5.3).repeat(3)
    cases = {
        "cubic": crystal(),
        "skewed": (skewed.positions @ turn, (np.array([[1, 0, 0], [0, 1, 0], [0, -1, 1]]) @ skewed.cell.array) @ turn),
    }
    per_atom = {}
    for name, (position, cell) in cases.items():
        integrator = argon(30.0, 0.1, cell="flexible", time_fs=300.0, compressibility=0.3)
        states = replicas(position, cell, 30.0, 12, 11)
        final, seen = simulate(integrator, lennard_jones, states, looks=30, every=50)
        per_atom[name] = np.asarray(volume(seen.cell))[:, 8:].mean(axis=1) / len(position)
        for h in np.asarray(final.cell):
            assert h[0] @ cell[0] / np.linalg.norm(h[0]) / np.linalg.norm(cell[0]) == pytest.approx(1.0, abs=1e-12)
            assert abs(h[1] @ np.cross(cell[0], cell[1])) < 1e-9
        assert np.ptp(np.asarray(final.cell), axis=0).max() > 0.02
    cubic, skewed = per_atom["cubic"], per_atom["skewed"]
    error = np.hypot(cubic.std(ddof=1), skewed.std(ddof=1)) / np.sqrt(12)
    # Finite size: vibrations of 27 and of 32 atoms differ.
    assert abs(cubic.mean() - skewed.mean()) < 4.5 * error + 0.002 * cubic.mean()


def test_pressure_and_temperature_follow_their_schedule():
    segments = [
        Segment(duration_ps=2.0, temperature_k=10.0, pressure_gpa=0.0),
        Segment(until_ps=4.0, temperature_k=10.0, end_temperature_k=40.0, end_pressure_gpa=0.5),
        Segment(duration_ps=2.0, temperature_k=40.0),
    ]
    integrator = cell_rescaling(
        4.0,
        build(segments, temperature_k=1.0, pressure_gpa=0.0),
        rescaling_thermostat(4.0, 50.0),
        time_fs=200.0,
        compressibility_per_gpa=0.3,
    )
    states = replicas(*crystal(5.05), 10.0, 12, 12)
    _, seen = simulate(integrator, lennard_jones, states, looks=60, every=25)
    kelvin = 2.0 * np.asarray(seen.kinetic) / (93 * units.KB)
    pressure = np.asarray(seen.pressure) / units.GPA
    parts = ((slice(5, 20), 10.0, 0.0, 0.03), (slice(28, 32), 25.0, 0.25, 0.1), (slice(46, 60), 40.0, 0.5, 0.03))
    for looks, temperature, expected, lag in parts:
        assert kelvin[:, looks].mean() == pytest.approx(temperature, rel=0.08)
        assert pressure[:, looks].mean() == pytest.approx(expected, abs=lag)


def test_single_precision_neither_turns_nor_loses_energy():
    position, cell = (x.astype(np.float32) for x in crystal(5.1))
    states = replicas(position, cell, 30.0, 1, 13)
    assert states.position.dtype == np.float32
    integrator = argon(30.0, 0.0, timestep=2.0, cell="flexible", time_fs=300.0, compressibility=0.3)
    final, seen = simulate(integrator, lennard_jones, states, looks=10, every=300)
    assert final.cell.dtype == final.work.dtype == final.stress.dtype == np.float32
    assert np.abs(np.asarray(final.cell)[0][[0, 0, 1], [1, 2, 2]]).max() < 1e-4
    assert np.ptp(np.asarray(seen.conserved)) < 0.5 * units.KB * 30.0


def test_a_missing_stress_is_refused_when_the_step_is_traced():
    state = jax.tree.map(lambda x: x[0], replicas(*crystal(), 10.0, 1, 14))
    integrator = argon(10.0, 0.0)
    with pytest.raises(ValueError, match="stress"):
        integrator.finish(integrator.begin(state), state.force)


class JaxCalculator(Calculator):
    """`lennard_jones` for ASE."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012
    compiled = staticmethod(jax.jit(functools.partial(evaluate, lennard_jones)))

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy, forces, stress = self.compiled(jnp.asarray(self.atoms.positions), jnp.asarray(self.atoms.cell.array))
        self.results = {
            "energy": float(energy),
            "forces": np.asarray(forces),
            "stress": np.asarray(stress)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


@pytest.mark.slow
def test_mean_cell_agrees_with_that_of_ase():
    """A solid at 40 K and 0.1 GPa against the deterministic flexible-cell dynamics of Martyna et al. in ASE."""
    temperature, pressure = 40.0, 0.1
    states = replicas(*crystal(), temperature, 16, 15)
    integrator = argon(temperature, pressure, cell="flexible", time_fs=300.0, compressibility=0.3)
    _, seen = simulate(integrator, lennard_jones, states, looks=60, every=50)
    metric = lambda cell: np.einsum("...ik,...jk->...ij", cell, cell)[..., [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # noqa: E731
    ours = np.concatenate([np.asarray(volume(seen.cell))[..., None], metric(np.asarray(seen.cell))], axis=-1)[
        :, 15:
    ].mean(axis=1)
    position, cell = crystal()
    theirs = []
    for seed in range(8):
        atoms = ase.Atoms(f"Ar{len(position)}", positions=position, cell=cell, pbc=True, calculator=JaxCalculator())
        thermalize_momenta(atoms, temperature_K=temperature, rng=np.random.default_rng(seed))
        fs = ase.units.fs
        dynamics = MTKNPT(
            atoms,
            4.0 * fs,
            temperature_K=temperature,
            pressure_au=pressure * ase.units.GPa,
            tdamp=100.0 * fs,
            pdamp=1000.0 * fs,
        )
        rows = []
        dynamics.attach(lambda a=atoms, r=rows: r.append([a.get_volume(), *metric(a.cell.array)]), interval=25)
        dynamics.run(3000)
        theirs.append(np.mean(rows[30:], axis=0))
    theirs = np.array(theirs)
    error = np.sqrt(ours.var(axis=0, ddof=1) / len(ours) + theirs.var(axis=0, ddof=1) / len(theirs))
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    assert np.all(np.abs(difference) < 4.5 * error + 0.001 * np.abs(theirs.mean(axis=0)))
    assert error[0] < 0.01 * theirs[:, 0].mean(), "the test says nothing"

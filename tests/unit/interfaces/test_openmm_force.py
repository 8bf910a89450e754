"""OpenMM gets energies and forces that belong together, in its units and boxes."""

import numpy as np
import pytest
from ase import units as ase_units
from ase.md.verlet import VelocityVerlet

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.interfaces import ase_files, openmm_force
from bayes_mlff.interfaces.placement import place

openmm = pytest.importorskip("openmm")

SHIFT_NM = 1e-5


def context_of(built):
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(built.system, openmm.VerletIntegrator(0.0005), platform)
    built.start(context)
    return context


@pytest.mark.parametrize("kind", ["molecule", "crystal"])
def test_forces_are_derivatives_of_the_energy_in_the_units_of_openmm(kind, request, calculator):
    built = openmm_force.build(request.getfixturevalue(kind), calculator)
    context = context_of(built)
    found = context.getState(forces=True).getForces(asNumpy=True)
    forces = found.value_in_unit(openmm.unit.kilojoules_per_mole / openmm.unit.nanometer)
    for atom, axis in ((0, 0), (2, 1), (4, 2)):
        ends = []
        for sign in (-1.0, 1.0):
            positions = built.positions.copy()
            positions[atom, axis] += sign * SHIFT_NM
            context.setPositions(positions)
            energy = context.getState(energy=True).getPotentialEnergy()
            ends.append(energy.value_in_unit(openmm.unit.kilojoules_per_mole))
        assert forces[atom, axis] == pytest.approx(-(ends[1] - ends[0]) / (2.0 * SHIFT_NM), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("kind", ["molecule", "crystal"])
def test_what_openmm_says_is_what_the_ensemble_says(kind, request, calculator):
    atoms = request.getfixturevalue(kind)
    (own,), (theirs,) = ase_files.evaluate(calculator, [atoms]), openmm_force.evaluate(calculator, [atoms])
    assert theirs.energy == pytest.approx(own.energy, rel=2e-8) and theirs.stress is None
    np.testing.assert_allclose(theirs.forces, own.forces, rtol=1e-6, atol=1e-7)


def test_the_box_of_a_step_is_used(crystal, calculator):
    """As a Monte Carlo barostat changes it."""
    built, placement = openmm_force.build(crystal, calculator), place(crystal)
    context = context_of(built)
    wider = crystal.copy()
    wider.set_cell(1.02 * crystal.cell.array, scale_atoms=True)
    context.setPeriodicBoxVectors(*(openmm.Vec3(*map(float, row)) for row in 0.102 * placement.cell))
    context.setPositions(0.102 * placement.turn(crystal.positions))
    energy = context.getState(energy=True).getPotentialEnergy().value_in_unit(openmm.unit.kilojoules_per_mole)
    calculator.calculate(wider)
    assert energy * units.KJ_MOL == pytest.approx(calculator.results["energy"], rel=1e-9)


def test_one_compilation_and_a_row_of_sigma_each_step(molecule, calculator, count_compilations, tmp_path):
    molecule.set_velocities(np.full((9, 3), 0.01))
    built = openmm_force.build(molecule, calculator)
    np.testing.assert_allclose(built.velocities, 0.001 / (1e-3 * 10.180505305645), rtol=1e-6)  # ASE's time unit, fs
    integrator = openmm.VerletIntegrator(0.0005)
    app = openmm.app
    platform = openmm.Platform.getPlatform("Reference")
    simulation = app.Simulation(built.topology, built.system, integrator, platform)
    built.start(simulation.context, half_step_fs=0.25)
    simulation.reporters.append(openmm_force.SigmaReporter(tmp_path / "sigma.csv", 2, built.force))
    simulation.step(1)
    with count_compilations() as count:
        simulation.step(5)
    assert count.value == 0
    rows = (tmp_path / "sigma.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["2", "4", "6"]
    assert float(rows[-1].split(",")[1]) == pytest.approx(calculator.results["energy_sigma"], rel=1e-6)


def test_leapfrog_goes_where_velocity_verlet_goes(crystal, calculator):
    """From the same positions and velocities; ASE's integrator is the other one."""
    crystal.set_velocities(np.random.default_rng(2).normal(size=(5, 3)) * 0.1)
    built, placement = openmm_force.build(crystal, calculator), place(crystal)
    context = openmm.Context(
        built.system, integrator := openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatform("Reference")
    )
    built.start(context, half_step_fs=0.5 / 2)
    integrator.step(10)
    found = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(openmm.unit.angstrom)
    other = crystal.copy()
    other.calc = calculator
    with VelocityVerlet(other, 0.5 * ase_units.fs) as dynamics:
        dynamics.run(10)
    assert np.abs(other.positions - crystal.positions).max() > 0.01
    np.testing.assert_allclose(placement.back(found), other.positions, atol=1e-7)


def test_what_cannot_be_is_refused(slab, molecule, calculator, monkeypatch):
    with pytest.raises(ConfigError, match="TTF'; allowed: FFF or TTT"):
        openmm_force.build(slab, calculator)
    built = openmm_force.build(molecule, calculator)
    context = context_of(built)
    context.setPositions(1e6 * built.positions)
    with pytest.raises(openmm.OpenMMException, match="got a coordinate of"):
        context.getState(energy=True)
    monkeypatch.delattr(openmm, "PythonForce")
    with pytest.raises(ConfigError, match=r"8\.4 or newer"):
        openmm_force.build(molecule, calculator)

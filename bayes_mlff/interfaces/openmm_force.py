"""OpenMM asks a trained ensemble for forces, through its `PythonForce` (OpenMM 8.4 and newer).

The force is that of all particles of the system. It works with every integrator and, in a periodic box, with
`MonteCarloBarostat`, which needs energies alone; OpenMM has no stress. Besides systems without a box only boxes that
are periodic in three directions exist.
"""

import math
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import ase
import numpy as np

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.ensemble.calculator import PROBABILITY, EnsembleCalculator
from bayes_mlff.interfaces import packages
from bayes_mlff.interfaces.example import Answer, Example
from bayes_mlff.interfaces.placement import place

NM: Final = 10.0
"""One nanometre in Å."""

RUN: Final = """\
import openmm
from ase.io import read
from openmm import app, unit
from bayes_mlff import EnsembleCalculator
from bayes_mlff.core.jax_start import start_jax
from bayes_mlff.interfaces.openmm_force import SigmaReporter, build

start_jax(1, running=True)  # full precision on GPUs, and what is compiled is kept
calculator = EnsembleCalculator("ensemble.safetensors")
built = build(read("start.extxyz"), calculator)
integrator = openmm.VerletIntegrator({timestep:.10g} * unit.femtoseconds)
platform = openmm.Platform.getPlatform("Reference")  # in double precision; the time goes into the ensemble
simulation = app.Simulation(built.topology, built.system, integrator, platform)
built.start(simulation.context, half_step_fs={half:.10g})  # velocities of leapfrog are half a step earlier
simulation.reporters += [
    app.StateDataReporter("energies.csv", 1, step=True, potentialEnergy=True, kineticEnergy=True, totalEnergy=True),
    app.PDBReporter("trajectory.pdb", 1),
    SigmaReporter("sigma.csv", 1, built.force),
]
simulation.step({steps})
"""


def check(atoms: ase.Atoms) -> None:
    """Refuse what OpenMM cannot have.

    Raises:
      ConfigError: if the structure is periodic in one or two directions.
    """
    if np.any(atoms.pbc) and not np.all(atoms.pbc):
        got = "".join("FT"[int(x)] for x in atoms.pbc)
        raise ConfigError("atoms", f"periodic directions {got}", "FFF or TTT, since OpenMM has no others")


class EnsembleForce:
    """Computation of a `PythonForce`: State to energy (kJ/mol) and forces (kJ/mol/nm).

    Args:
      calculator: of the ensemble. Its `results` are those of the last evaluation, in the orientation of the box.
      atoms: atoms of all particles in their order.
    """

    def __init__(self, calculator: EnsembleCalculator, atoms: ase.Atoms):
        self._calculator, self._info = calculator, dict(atoms.info)
        self._numbers, self._periodic = atoms.numbers.copy(), bool(np.all(atoms.pbc))

    @property
    def results(self) -> dict[str, Any]:
        """Results of the calculator for the last evaluation."""
        return self._calculator.results

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """Energy in kJ/mol and forces [n, 3] in kJ/mol/nm."""
        md = packages.load("openmm", "openmm").unit.md_unit_system
        positions = NM * state.getPositions(asNumpy=True).value_in_unit_system(md)
        cell = None
        if self._periodic:
            cell = NM * state.getPeriodicBoxVectors(asNumpy=True).value_in_unit_system(md)
        atoms = ase.Atoms(self._numbers, positions, cell=cell, pbc=self._periodic, info=self._info)
        self._calculator.calculate(atoms)
        results: dict[str, Any] = self._calculator.results
        return results["energy"] / units.KJ_MOL, results["forces"] * (NM / units.KJ_MOL)


class Built(NamedTuple):
    """What a simulation is made of."""

    topology: Any  # openmm.app.Topology
    system: Any  # openmm.System, with masses, box and the force
    force: EnsembleForce
    positions: np.ndarray  # [n, 3] nm, in the orientation of the box
    velocities: np.ndarray  # [n, 3] nm/ps

    def start(self, context: Any, *, half_step_fs: float = 0.0) -> None:
        """Set positions and velocities.

        Args:
          context: of the simulation.
          half_step_fs: time by which velocities of a leapfrog integrator are earlier than positions, fs.
        """
        md = packages.load("openmm", "openmm").unit.md_unit_system
        context.setPositions(self.positions)
        velocities = self.velocities
        if half_step_fs:
            forces = context.getState(forces=True).getForces(asNumpy=True).value_in_unit_system(md)
            masses = [self.system.getParticleMass(i).value_in_unit_system(md) for i in range(len(forces))]
            velocities = velocities - 1e-3 * half_step_fs * forces / np.array(masses)[:, None]
        context.setVelocities(velocities)


def build(atoms: ase.Atoms, calculator: EnsembleCalculator) -> Built:
    """Make a system of a structure; a periodic one is turned so that its box is as OpenMM wants it.

    Args:
      atoms: structure with masses and, if it has any, velocities.
      calculator: of the ensemble.

    Raises:
      ConfigError: if OpenMM is missing or older than 8.4, or cannot have this structure.
    """
    check(atoms)
    openmm, app = packages.load("openmm", "openmm"), packages.load("openmm.app", "openmm")
    if not hasattr(openmm, "PythonForce"):
        version = openmm.Platform.getOpenMMVersion()
        raise ConfigError("--to", f"openmm {version}", "8.4 or newer, which has PythonForce")
    placement, periodic = place(atoms), bool(np.all(atoms.pbc))
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("ALL", topology.addChain())
    for i, (number, mass) in enumerate(zip(atoms.numbers, atoms.get_masses(), strict=True)):
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(f"{element.symbol}{i + 1}", element, residue)
        system.addParticle(float(mass))
    force = EnsembleForce(calculator, atoms)
    added = openmm.PythonForce(force)
    added.setUsesPeriodicBoundaryConditions(periodic)
    if periodic:
        vectors = [openmm.Vec3(*map(float, row)) for row in placement.cell / NM]
        system.setDefaultPeriodicBoxVectors(*vectors)
        topology.setPeriodicBoxVectors(vectors * openmm.unit.nanometers)
    system.addForce(added)
    per_ps = 1e3 * Example("", atoms, 1.0, 1).velocities / NM
    return Built(topology, system, force, placement.turn(atoms.positions) / NM, placement.turn(per_ps))


class SigmaReporter:
    """Reporter that writes σ of the energy (eV), the largest σ of a force component (eV/Å) and the probability.

    Args:
      file: path of the CSV file.
      interval: steps between rows.
      force: of the system.
    """

    def __init__(self, file: Path | str, interval: int, force: EnsembleForce):
        self._interval, self._force = interval, force
        self._out: TextIO = Path(file).open("w", encoding="utf-8")  # noqa: SIM115 (closed with the reporter)
        self._out.write("step,energy_sigma_ev,largest_forces_sigma_ev_a,probability_above_threshold\n")

    def __del__(self) -> None:
        self._out.close()

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:  # noqa: N802 (OpenMM's name)
        """Steps until the next row; the energy is asked for, so that the results are those of this step."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": None, "include": ["energy"]}

    def report(self, simulation: Any, state: Any) -> None:
        """Write a row."""
        results, _ = self._force.results, state
        largest = float(np.max(results.get("forces_sigma", math.nan)))
        values = (results["energy_sigma"], largest, results.get(PROBABILITY, math.nan))
        self._out.write(",".join([str(simulation.currentStep), *(f"{value:.8g}" for value in values)]) + "\n")
        self._out.flush()


def files(example: Example) -> dict[str, str]:
    """Input files of an example by name."""
    dt = example.timestep_fs
    return {"run.py": RUN.format(timestep=dt, half=0.5 * dt, steps=example.steps)}


def evaluate(calculator: EnsembleCalculator, frames: list[ase.Atoms]) -> list[Answer]:
    """Energies and forces as a context of OpenMM has them."""
    return [_evaluate(calculator, atoms) for atoms in frames]


def _evaluate(calculator: EnsembleCalculator, atoms: ase.Atoms) -> Answer:
    built, openmm = build(atoms, calculator), packages.load("openmm", "openmm")
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(built.system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(built.positions)
    state, unit = context.getState(energy=True, forces=True), openmm.unit
    per_mole = unit.AVOGADRO_CONSTANT_NA
    energy = (state.getPotentialEnergy() / per_mole).value_in_unit(unit.elementary_charge * unit.volt)
    forces = state.getForces(asNumpy=True) / per_mole
    forces = np.array(forces.value_in_unit(unit.elementary_charge * unit.volt / unit.angstrom))
    return Answer(float(energy), place(atoms).back(forces), None)

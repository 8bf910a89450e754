"""Input files of ASE for a structure, and an evaluation of structures by ASE."""

from typing import Final

import ase

from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.interfaces.example import Answer, Example, of_calculator

RUN: Final = """\
from ase import units
from ase.io import read
from ase.md.verlet import VelocityVerlet
from bayes_mlff import EnsembleCalculator
from bayes_mlff.core.jax_start import start_jax

start_jax(1, running=True)  # full precision on GPUs, and what is compiled is kept
atoms = read("start.extxyz")
atoms.calc = EnsembleCalculator("ensemble.safetensors")
dynamics = VelocityVerlet(atoms, {timestep:.10g} * units.fs, trajectory="trajectory.traj")


def show():
    sigma = atoms.calc.results["energy_sigma"]
    print(dynamics.nsteps, atoms.get_potential_energy(), atoms.get_kinetic_energy(), sigma)


dynamics.attach(show)
dynamics.run({steps})
"""


def files(example: Example) -> dict[str, str]:
    """Input files of an example by name."""
    return {"run.py": RUN.format(timestep=example.timestep_fs, steps=example.steps)}


def evaluate(calculator: EnsembleCalculator, frames: list[ase.Atoms]) -> list[Answer]:
    """Energies, forces and stresses as ASE has them."""
    answers = []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        answers.append(of_calculator(atoms))
    return answers

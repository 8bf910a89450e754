"""100 steps of NVE in other programs against ours: the examples that `bayes-mlff export --to` writes, run as they are.

python benchmarks/exports.py ENSEMBLE OUT.json [--structure FILE] [--programs ase,ipi,lammps,openmm] [--double]

Exports to a temporary folder for each program, and runs its example there. The calculator of the example is replaced by
one that notes positions and energies at every evaluation. Ours is the velocity Verlet of `md.integrators`. Writes the
largest differences along the way.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ase.io
import jax
import numpy as np

import bayes_mlff
from bayes_mlff.api import runner
from bayes_mlff.core import units
from bayes_mlff.data import neighbors
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.interfaces.placement import place
from bayes_mlff.interfaces.programs import PROGRAMS
from bayes_mlff.md import integrators
from bayes_mlff.report.program_export import START, STEPS


class Noting(EnsembleCalculator):
    """Remembers positions and energies of all evaluations, but for repeated ones."""

    newest: "Noting"
    double = False

    def __init__(self, *args: Any, **options: Any):
        kind = np.float64 if self.double else np.float32
        super().__init__(*args, **{"dtype": kind} | options)
        self.positions: list[np.ndarray] = []
        self.energies: list[float] = []
        Noting.newest = self

    def calculate(self, *args: Any, **options: Any) -> None:
        super().calculate(*args, **options)
        if not self.positions or not np.array_equal(self.positions[-1], self.atoms.positions):
            self.positions.append(self.atoms.positions.copy())
            self.energies.append(self.results["energy"])


def ours(folder: Path, timestep_fs: float) -> dict[str, np.ndarray]:
    """Positions, potential and kinetic energies of our own integrator, from the same start."""
    atoms = ase.io.read(folder / START)
    calculator = Noting(folder)
    step = integrators.velocity_verlet(timestep_fs)
    dtype = np.float64 if Noting.double else np.float32
    cell = np.asarray(neighbors.complete_cell(atoms.cell.array, atoms.pbc), dtype)
    state = integrators.initial_state(
        np.asarray(atoms.positions, dtype), atoms.numbers, 0.0, jax.random.key(0), cell=cell, masses=atoms.get_masses()
    )
    state = state._replace(momentum=np.asarray(atoms.get_momenta(), dtype))
    kinetic = []
    for i in range(STEPS + 1):
        atoms.positions = np.asarray(state.position, np.float64)
        calculator.calculate(atoms)
        force = np.asarray(calculator.results["forces"], dtype)
        state = step.finish(state, force) if i else state._replace(force=force)
        kinetic.append(float(integrators.kinetic_energy(state)))
        state = step.begin(state)
    return {
        "positions": np.array(calculator.positions),
        "potential": np.array(calculator.energies),
        "kinetic": np.array(kinetic),
    }


def run_example(name: str, folder: Path) -> None:
    """The example of a program, in its folder, as it is."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        if name != "ipi":
            runpy.run_path("run.py", run_name="__main__")
            return
        with Path("i-pi.log").open("w") as log:
            server = subprocess.Popen(
                [str(Path(sys.executable).with_name("i-pi")), "input.xml"], stdout=log, stderr=log
            )
        try:
            runpy.run_path("driver.py", run_name="__main__")
            server.wait(timeout=60.0)
        finally:
            server.kill()
    finally:
        os.chdir(before)


def kinetic(name: str, folder: Path) -> np.ndarray:
    """Kinetic energies as the program itself says them, eV, of steps 0 to 100 (OpenMM: from 1)."""
    if name == "ase":
        frames = ase.io.read(folder / "trajectory.traj", ":")
        return np.array([frame.get_kinetic_energy() for frame in frames])
    if name == "ipi":
        return np.loadtxt(folder / "nve.out")[:, 4]
    if name == "lammps":
        rows = [line.split() for line in (folder / "log.lammps").read_text().splitlines()]
        begin = next(i for i, row in enumerate(rows) if row[:1] == ["Step"])
        return np.array([float(row[2]) for row in rows[begin + 1 : begin + 2 + STEPS]])
    table = np.loadtxt(folder / "energies.csv", delimiter=",", skiprows=1)
    return np.concatenate([[np.nan], table[:, 2] * units.KJ_MOL])


def compare(name: str, folder: Path, own: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest differences of a program from ours over all steps."""
    calculator, start = Noting.newest, ase.io.read(folder / START)
    placement = place(start)
    found = np.array(calculator.positions)[: STEPS + 1]
    assert len(found) == STEPS + 1, (name, len(found))
    if name != "ase":
        found = placement.back(found)
    apart = found - own["positions"]
    if start.pbc.any():
        cell = neighbors.complete_cell(start.cell.array, start.pbc)
        turns = np.round(apart @ np.linalg.inv(cell)) * start.pbc
        apart -= turns @ cell
    potential = np.array(calculator.energies)[: STEPS + 1]
    theirs = kinetic(name, folder)[: STEPS + 1]
    total = potential + theirs
    return {
        "largest_position_difference_angstrom": float(np.max(np.abs(apart))),
        "largest_potential_difference_ev": float(np.max(np.abs(potential - own["potential"]))),
        "largest_kinetic_difference_ev": float(np.nanmax(np.abs(theirs - own["kinetic"]))),
        "total_energy_range_ev": float(np.nanmax(total) - np.nanmin(total)),
    }


def main() -> None:
    """Export, run and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ensemble", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--structure", type=Path)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--double", action="store_true", help="float64, which separates rounding from mistakes")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", args.double)
    Noting.double = args.double
    bayes_mlff.EnsembleCalculator = Noting  # what the examples import
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        for name in args.programs.split(","):
            folder = Path(root) / f"nve_{name}"
            exported = runner.export_to(args.ensemble.resolve(), name, folder, structure=args.structure)
            text = next(line for line in exported.remarks if line.startswith("start:"))
            timestep = float(text.split("time step ")[1].split(" fs")[0])
            own = ours(folder, timestep)
            run_example(name, folder)
            parity = {each.quantity: each.largest for each in exported.parity.differences}
            results[name] = {"parity": parity, "nve": compare(name, folder, own)}
            moved = own["positions"] - own["positions"][0]
            results["ours"] = {
                "atoms": own["positions"].shape[1],
                "timestep_fs": timestep,
                "steps": STEPS,
                "dtype": "float64" if args.double else "float32",
                "largest_displacement_angstrom": float(np.max(np.abs(moved))),
                "total_energy_range_ev": float(np.ptp(own["potential"] + own["kinetic"])),
            }
            print(name, json.dumps(results[name]))
    args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Input files of LAMMPS for a structure, and an evaluation of structures by LAMMPS."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import ase
import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core import units
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.interfaces.example import Answer, Example, extent
from bayes_mlff.interfaces.lammps_fix import EnsembleFix, start
from bayes_mlff.interfaces.placement import Placement, place

MARGIN: Final = 2.0
"""Empty space around the atoms along directions that are not periodic, Å; LAMMPS shrinks it."""

BAR: Final = 1e-4 * units.GPA
"""One bar in eV/Å³."""

PRESSURE: Final = (("pxx", "pxy", "pxz"), ("pxy", "pyy", "pyz"), ("pxz", "pyz", "pzz"))

RUN: Final = """\
from ase.io import read
from bayes_mlff import EnsembleCalculator
from bayes_mlff.core.jax_start import start_jax
from bayes_mlff.interfaces.lammps_fix import EnsembleFix, start

start_jax(1, running=True)  # full precision on GPUs, and what is compiled is kept
lmp = start()
lmp.file("system.in")
calculator = EnsembleCalculator("ensemble.safetensors")
fix = EnsembleFix(lmp, calculator, {elements}, info=read("start.extxyz").info)
fix.command(open("dynamics.in").read())  # your own commands, if this is your own input
"""

DYNAMICS: Final = """\
timestep {timestep:.10g}  # ps
thermo 1
thermo_style custom step pe ke etotal press f_ensemble[1] f_ensemble[2]  # eV, bar; σ of the energy, largest of forces
thermo_modify format float %.10g
dump trajectory all custom 1 trajectory.lammpstrj id element x y z
dump_modify trajectory element {elements} sort id format float %.10g
fix nve all nve
run {steps}
"""


def files(example: Example) -> dict[str, str]:
    """Input files of an example by name."""
    placement, elements = place(example.atoms), [chemical_symbols[number] for number, _ in _types(example.atoms)]
    return {
        "start.data": data_file(example.atoms, placement, example.velocities),
        "system.in": definition(placement),
        "dynamics.in": DYNAMICS.format(
            timestep=1e-3 * example.timestep_fs, elements=" ".join(elements), steps=example.steps
        ),
        "run.py": RUN.format(elements=elements),
    }


def definition(placement: Placement) -> str:
    """Commands that read `start.data`."""
    boundary = " ".join("p" if periodic else "s" for periodic in placement.pbc)
    return (
        f"units metal\natom_style atomic\nboundary {boundary}\nread_data start.data\n"
        "pair_style zero 1.0  # all forces come from the ensemble\npair_coeff * *\nneighbor 0.5 bin\n"
    )


def data_file(atoms: ase.Atoms, placement: Placement, velocities: np.ndarray | None = None) -> str:
    """The structure in LAMMPS's orientation; atom types are pairs of element and mass.

    Args:
      atoms: structure, with masses.
      placement: orientation of the cell.
      velocities: [n, 3] Å/fs; None leaves them out.
    """
    kinds, positions = _types(atoms), placement.turn(atoms.positions)
    low, high = extent(ase.Atoms(positions=positions), MARGIN)
    sides, cell, letters = np.diag(placement.cell), placement.cell, "xyz"
    lines = ["Structure of a trained ensemble", "", f"{len(atoms)} atoms", f"{len(kinds)} atom types"]
    for i, letter in enumerate(letters):
        ends = (0.0, sides[i]) if placement.pbc[i] else (low[i], high[i])
        lines.append(f"{ends[0]:.17g} {ends[1]:.17g} {letter}lo {letter}hi")
    if placement.pbc.any() and np.any(np.tril(cell, -1)):
        lines.append(f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz")
    lines += ["", "Masses", "", *(f"{i} {mass:.17g}" for i, (_, mass) in enumerate(kinds, start=1))]
    lines += ["", "Atoms # atomic", ""]
    for i, (number, mass, position) in enumerate(zip(atoms.numbers, atoms.get_masses(), positions, strict=True), 1):
        lines.append(f"{i} {kinds.index((int(number), float(mass))) + 1} {_row(position)}")
    if velocities is not None:
        turned = 1e3 * placement.turn(velocities)  # Å/ps
        lines += ["", "Velocities", "", *(f"{i} {_row(v)}" for i, v in enumerate(turned, start=1))]
    return "\n".join(lines) + "\n"


def evaluate(calculator: EnsembleCalculator, frames: list[ase.Atoms]) -> list[Answer]:
    """Energies, forces and stresses as LAMMPS has them at step 0."""
    return [_evaluate(calculator, atoms) for atoms in frames]


def _evaluate(calculator: EnsembleCalculator, atoms: ase.Atoms) -> Answer:
    placement = place(atoms)
    lmp = start("-screen", "none", "-log", "none")
    try:
        with TemporaryDirectory() as folder:
            data = Path(folder) / "start.data"
            data.write_text(data_file(atoms, placement), encoding="utf-8")
            lmp.commands_string(definition(placement).replace("start.data", str(data)))
        elements = [chemical_symbols[number] for number, _ in _types(atoms)]
        fix = EnsembleFix(lmp, calculator, elements, info=atoms.info)
        fix.command(
            f"thermo_style custom step pe {' '.join(sorted({name for row in PRESSURE for name in row}))}\nrun 0"
        )
        order = np.argsort(lmp.numpy.extract_atom("id")[: len(atoms)])
        forces = np.array(lmp.numpy.extract_atom("f")[: len(atoms)])[order]
        pressure = np.array([[lmp.get_thermo(name) for name in row] for row in PRESSURE]) * BAR
        stress = placement.tensor_back(-pressure) if placement.pbc.all() else None
        return Answer(lmp.get_thermo("pe"), placement.back(forces), stress)
    finally:
        lmp.close()


def _types(atoms: ase.Atoms) -> list[tuple[int, float]]:
    return sorted({(int(z), float(m)) for z, m in zip(atoms.numbers, atoms.get_masses(), strict=True)})


def _row(vector: np.ndarray) -> str:
    return " ".join(f"{x:.17g}" for x in vector)

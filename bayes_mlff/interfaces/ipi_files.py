"""Input files of i-PI for a structure, and an evaluation of structures by i-PI."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import ase
import numpy as np

from bayes_mlff.core import units
from bayes_mlff.core.errors import DataError
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.interfaces import packages
from bayes_mlff.interfaces.example import Answer, Example, extent
from bayes_mlff.interfaces.ipi_driver import RETRY_S, SOCKETS, drive
from bayes_mlff.interfaces.placement import Placement, place

BOX_MARGIN: Final = 20.0
"""Space around a molecule in the box that i-PI wants, Å; nobody repeats it."""

END_S: Final = 60.0
"""Longest time that i-PI may take to end after the last structure, s."""

DRIVER: Final = """\
from ase.io import read
from bayes_mlff import EnsembleCalculator
from bayes_mlff.core.jax_start import start_jax
from bayes_mlff.interfaces.ipi_driver import RETRY_S, SOCKETS, drive

start_jax(1, running=True)  # full precision on GPUs, and what is compiled is kept
# The order of the atoms is that of init.xyz. host="localhost", port=31415 in the place of unixsocket for INET.
drive(read("start.extxyz"), EnsembleCalculator("ensemble.safetensors"), unixsocket="{address}")
"""

RUN: Final = """\
#!/bin/sh
# The server in the background, the driver in front; either ends with the other.
i-pi input.xml > i-pi.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null' EXIT
python driver.py && wait $server
"""

INPUT: Final = """\
<simulation verbosity="low">
  <output prefix="nve">
    <properties stride="1" filename="out">[ step, time{{femtosecond}}, conserved{{electronvolt}},
      potential{{electronvolt}}, kinetic_md{{electronvolt}} ]</properties>
    <trajectory stride="1" filename="pos">positions{{angstrom}}</trajectory>
    <trajectory stride="1" filename="sigma" extra_type="energy_sigma">extras</trajectory>
  </output>
  <total_steps>{steps}</total_steps>
  <ffsocket name="ensemble" mode="unix" pbc="false"><address>{address}</address></ffsocket>
  <system>
    <initialize nbeads="1">
      <file mode="xyz" units="angstrom" cell_units="angstrom">init.xyz</file>
      <masses mode="manual" units="dalton">{masses}</masses>
      <velocities mode="xyz" units="m/s">velocities.xyz</velocities>
    </initialize>
    <forces><force forcefield="ensemble"/></forces>
    <motion mode="dynamics">
      <fixcom>False</fixcom>
      <dynamics mode="nve"><timestep units="femtosecond">{timestep:.10g}</timestep></dynamics>
    </motion>
  </system>
</simulation>
"""


def files(example: Example) -> dict[str, str]:
    """Input files of an example by name."""
    placement, address = place(example.atoms), "".join(c if c.isalnum() else "_" for c in example.name)
    velocities = units.METRES_PER_SECOND * placement.turn(example.velocities)
    symbols = example.atoms.get_chemical_symbols()
    return {
        "init.xyz": init_xyz(example.atoms, placement),
        "velocities.xyz": _xyz(symbols, velocities, "velocities{m/s}"),
        "input.xml": INPUT.format(
            steps=example.steps,
            address=address,
            masses=_listed(example.atoms.get_masses()),
            timestep=example.timestep_fs,
        ),
        "driver.py": DRIVER.format(address=address),
        "run.sh": RUN,
    }


def init_xyz(atoms: ase.Atoms, placement: Placement) -> str:
    """The structure in i-PI's orientation and format; a molecule gets a box, which its forces do not know."""
    cell, positions = placement.cell.copy(), placement.turn(atoms.positions)
    low, high = extent(ase.Atoms(positions=positions), BOX_MARGIN)
    for i in np.flatnonzero(~placement.pbc):
        cell[i] *= high[i] - low[i]
    matrix = " ".join(f"{x:.17g}" for x in cell.T.ravel())  # vectors are columns
    return _xyz(atoms.get_chemical_symbols(), positions, f"CELL(H): {matrix} positions{{angstrom}} cell{{angstrom}}")


def evaluate(calculator: EnsembleCalculator, frames: list[ase.Atoms]) -> list[Answer]:
    """Energies, forces and stresses as i-PI has them, which runs in a process of its own.

    Raises:
      ConfigError: if i-PI is missing.
      DataError: if i-PI ended with an error.
    """
    packages.load("ipi", "ipi")
    placements = [place(atoms) for atoms in frames]
    with TemporaryDirectory() as name:
        folder = Path(name)
        for i, (atoms, placement) in enumerate(zip(frames, placements, strict=True)):
            (folder / f"{i}.xyz").write_text(init_xyz(atoms, placement), encoding="utf-8")
        _serve(folder, frames, calculator)
        found = np.load(folder / "answers.npz", allow_pickle=False)
    answers = []
    for atoms, placement, *values in zip(
        frames, placements, *(found[k] for k in ("energy", "forces", "virial")), strict=True
    ):
        energy, forces, virial = values
        stress = placement.tensor_back(-virial / atoms.get_volume()) if placement.pbc.all() else None
        answers.append(Answer(float(energy), placement.back(forces), stress))
    return answers


def _serve(folder: Path, frames: list[ase.Atoms], calculator: EnsembleCalculator) -> None:
    """Let i-PI ask for the structures in a folder."""
    address = f"bayes_mlff_{uuid.uuid4().hex[:12]}"
    command = [sys.executable, "-m", "bayes_mlff.interfaces.ipi_server", address, str(len(frames))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (folder / "log").open("w+", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        try:
            while server.poll() is None and not Path(f"{SOCKETS}{address}").exists():
                time.sleep(RETRY_S)
            if server.poll() is None:
                drive(frames[0], calculator, unixsocket=address)
            status = server.wait(timeout=END_S)
        finally:
            server.kill()
            server.wait()
        log.seek(0)
        if status != 0:
            raise DataError(f"i-PI ended with status {status}: {log.read()[-1000:].strip()}")


def _xyz(symbols: list[str], vectors: np.ndarray, comment: str) -> str:
    rows = [f"{s} {' '.join(f'{x:.17g}' for x in v)}" for s, v in zip(symbols, vectors, strict=True)]
    return "\n".join([str(len(symbols)), f"# {comment}", *rows]) + "\n"


def _listed(numbers: np.ndarray) -> str:
    return f"[ {', '.join(f'{x:.17g}' for x in np.ravel(numbers))} ]"

"""i-PI with structures from files, for a comparison: `python -m bayes_mlff.interfaces.ipi_server ADDRESS NUMBER`.

Reads 0.xyz, 1.xyz and so on in the working directory, and writes energies (eV), forces (eV/Å) and virials (eV) as i-PI
has them, converted by i-PI, to `answers.npz`.
"""

import sys

import numpy as np

from bayes_mlff.interfaces import packages

INPUT = """<simulation verbosity="quiet">
  <ffsocket name="ensemble" mode="unix" pbc="false"><address>{address}</address></ffsocket>
  <system>
    <initialize nbeads="1"><file mode="xyz" units="angstrom" cell_units="angstrom">{file}</file></initialize>
    <forces><force forcefield="ensemble"/></forces>
    <motion mode="dynamics"><dynamics mode="nve"><timestep units="femtosecond">1.0</timestep></dynamics></motion>
  </system>
</simulation>
"""


def main(address: str, number: int) -> None:
    """Serve the structures one after the other."""
    init_file = packages.load("ipi.engine.initializer", "ipi").init_file
    unit_to_user = packages.load("ipi.utils.units", "ipi").unit_to_user
    simulation = packages.load("ipi.utils.scripting", "ipi").InteractiveSimulation(
        INPUT.format(address=address, file="0.xyz")
    )
    system = simulation.syslist[0]
    energies, forces, virials = [], [], []
    for i in range(number):
        (beads,), cell = init_file("xyz", f"{i}.xyz", "length", "angstrom", "angstrom")[:2]
        system.cell.h = cell.h
        system.beads.q[0] = beads.q
        energies.append(float(system.forces.pot) * unit_to_user("energy", "ase", 1.0))
        forces.append(np.array(system.forces.f[0]).reshape(-1, 3) * unit_to_user("force", "ase", 1.0))
        upper = np.triu(system.forces.vir)  # i-PI uses no other components
        virials.append((upper + np.triu(upper, 1).T) * unit_to_user("energy", "ase", 1.0))
    np.savez("answers.npz", energy=energies, forces=forces, virial=virials)
    simulation.stop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

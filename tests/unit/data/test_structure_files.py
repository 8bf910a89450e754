"""What structure files say: taken with the right value, or refused by name. The small files are in tests/data/cases."""

import shutil
from pathlib import Path

import ase
import ase.db
import ase.io
import ase.units
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import structure_files
from bayes_mlff.data.structure_settings import StructureSettings
from bayes_mlff.otf import systems
from tests.support.places import CASES
from tests.support.structure_reading import AMMONIA, PLAIN, case, read, said, xyz


def deuterons(found) -> np.ndarray:
    """Masses of the hydrogen atoms, amu."""
    return found.structure.masses[found.structure.numbers == 1]


def test_held_atoms_of_move_mask_and_of_selective_dynamics():
    found = case("fixed.xyz")
    np.testing.assert_array_equal(found.structure.fixed, [[True] * 3, [False] * 3, [False] * 3, [False] * 3])
    found = case("slab_fixed.vasp")
    np.testing.assert_array_equal(found.structure.fixed, np.arange(6)[:, None] < np.array([2, 2, 2]))


def test_masses_of_deuterium():
    found = case("nd3.xyz")
    np.testing.assert_array_equal(found.structure.masses, [14.003, 2.014, 2.014, 2.014])


def test_velocities_in_angstrom_per_femtosecond():
    """1000 m/s are 0.01 Å/fs."""
    found = case("moving.xyz")
    np.testing.assert_allclose(found.velocities, np.tile([0.01, 0.0, 0.0], (4, 1)), rtol=1e-6, atol=1e-12)


def test_momenta_are_divided_by_the_masses_of_the_file(tmp_path):
    atoms = molecule("NH3")
    atoms.set_masses([14.003, 2.014, 2.014, 2.014])
    atoms.set_velocities(np.full((4, 3), 0.02 / ase.units.fs))
    ase.io.write(tmp_path / "a.traj", atoms)
    np.testing.assert_allclose(read(tmp_path / "a.traj").velocities, np.full((4, 3), 0.02), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "charge", "multiplicity", "words"),
    [
        ("nh4.xyz", 1, 1, "charge 1, multiplicity 1"),
        ("o2.xyz", 0, 3, "charge 0, multiplicity 3"),
        ("n2_mag.xyz", 1, None, "charge 1; multiplicity is not stated"),
        ("nd3.xyz", None, None, "charge and multiplicity are not stated"),
    ],
)
def test_charge_and_multiplicity(name, charge, multiplicity, words):
    found = case(name)
    assert found.structure.electronic[:2] == (charge, multiplicity) and words in said(found)


def test_moments_and_charges_of_columns():
    found = case("n2_mag.xyz").structure.electronic
    np.testing.assert_array_equal(found.moments, [1.5, -1.5])
    np.testing.assert_array_equal(found.charges, [1.0, 0.0])
    np.testing.assert_array_equal(case("o2.xyz").structure.electronic.moments, [1.0, 1.0])


def test_partial_occupancy_names_the_sites():
    with pytest.raises(DataError, match=r"occupied in part: La1 0\.67, Sr1 0\.33, O1 0\.97"):
        case("lsmo.cif")


def test_numbered_elements_are_asked_for_and_checked():
    with pytest.raises(ConfigError, match=r"structure\.elements: got \[\]; allowed: the elements of the 1 types"):
        case("cu.lammps-data")
    found = case("cu.lammps-data", elements=["Cu"])
    assert found.structure.numbers.tolist() == [29] * 4 and found.structure.masses is None
    assert found.remarks[0].startswith("Cu4: 4 atoms, cell 3.6000 x 3.6000 x 3.6000 Å")
    for wrong, message in ((["Cu", "O"], "allowed: 1,"), (["Cx"], "chemical symbols"), (["X"], "chemical symbols")):
        with pytest.raises(ConfigError, match=message):
            case("cu.lammps-data", elements=wrong)
    with pytest.raises(ConfigError, match=r"structure\.elements: got \['N'\].*extxyz names its elements"):
        case("fixed.xyz", elements=["N"])


@pytest.mark.parametrize(("name", "cell"), [("nh3_cryst1.pdb", "1 x 1 x 1 Å"), ("zero.xyz", "of zero vectors")])
def test_placeholders_of_cells_are_left_out(name, cell):
    found = case(name)
    assert not found.structure.pbc.any() and not found.structure.cell.any()
    assert f"the cell {cell} is a placeholder and is dropped: the structure is not periodic" in said(found)


def test_the_frame_taken_is_named():
    last, first = case("two.xyz"), case("two.xyz", index=0)
    assert "frame 1 of 2, counted from 0; structure.index chooses another" in said(last)
    assert "frame 0 of 2" in said(first)
    assert last.structure.positions[1, 1] == 1.22165022 and first.structure.positions[1, 1] == 0.93973094
    np.testing.assert_array_equal(case("two.xyz", index=-2).structure.positions, first.structure.positions)
    for index in (2, -3):
        with pytest.raises(ConfigError, match=rf"structure\.index: got {index}; allowed: -2 to 1.*2 frames"):
            case("two.xyz", index=index)


def test_a_trajectory_keeps_everything(tmp_path):
    atoms = molecule("NH3")
    atoms.set_constraint([FixAtoms([0]), FixCartesian(1, (True, False, False))])
    atoms.set_initial_magnetic_moments([1.0, 0.0, 0.0, 0.0])
    atoms.set_initial_charges([1.0, 0.0, 0.0, 0.0])
    atoms.set_tags([0, 1, 1, 1])
    atoms.info |= {"charge": 1, "multiplicity": 2}
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, magmoms=np.ones(4))
    ase.io.write(tmp_path / "a.traj", atoms)
    found = read(tmp_path / "a.traj")
    structure, state = found.structure, found.structure.electronic
    assert structure.fixed is not None
    np.testing.assert_array_equal(structure.fixed[:2], [[True] * 3, [True, False, False]])
    assert state[:2] == (1, 2)
    np.testing.assert_array_equal(state.moments, [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(state.charges, [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(state.tags, [0, 1, 1, 1])
    assert "results of a calculation that are not used: energy, magmoms; moments and charges among them" in said(found)


def test_key_value_pairs_of_a_database_state_the_charge(tmp_path):
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(molecule("NH3"), charge=1, multiplicity=2)
        database.write(molecule("NH3"), data={"charge": -1, "spin": 2, "path": np.zeros(3)})
    assert read(tmp_path / "a.db", index=0).structure.electronic[:2] == (1, 2)
    assert read(tmp_path / "a.db", index=1).structure.electronic[:2] == (-1, 2)


def test_velocities_that_are_zero_are_kept(tmp_path):
    atoms = molecule("NH3")
    atoms.set_velocities(np.zeros((4, 3)))
    ase.io.write(tmp_path / "a.traj", atoms)
    found = read(tmp_path / "a.traj")
    assert found.velocities is not None and not found.velocities.any()


def test_velocities_of_held_coordinates_are_not_used(tmp_path):
    body = AMMONIA.replace("\n", " 1 0 0 T\n").replace("T", "F", 1)
    found = read(xyz(tmp_path, f"{PLAIN}:momenta:R:3:move_mask:L:1", body))
    assert found.velocities is not None
    assert not found.velocities[0].any() and found.velocities[1:, 0].all()
    assert "velocities of held coordinates are not used" in said(found)


@pytest.mark.parametrize("symbol", ["D", "T", "d"])
def test_symbols_of_isotopes(tmp_path, symbol):
    body = AMMONIA.replace("H 0 ", f"{symbol} 0 ").replace("\n", " 1 0 0\n")
    found = read(xyz(tmp_path, f"{PLAIN}:momenta:R:3", body))
    mass = {"D": 2.014, "T": 3.016}[symbol.upper()]
    assert found.structure.numbers.tolist() == [7, 1, 1, 1] and found.structure.masses is not None
    np.testing.assert_allclose(found.structure.masses, [14.007, mass, 1.008, 1.008], atol=2e-4)
    assert found.velocities is not None
    np.testing.assert_allclose(found.velocities[1, 0], ase.units.fs / mass, rtol=1e-4)  # the momentum is the file's


def test_isotopes_of_a_plain_file_and_of_other_columns(tmp_path):
    found = read(xyz(tmp_path, "", AMMONIA.replace("H", "D")))
    np.testing.assert_allclose(deuterons(found), [2.014] * 3, rtol=1e-4)
    body = "0 0 0 N\n0 0 1 D\n"
    assert read(xyz(tmp_path, "Properties=pos:R:3:species:S:1", body)).structure.numbers.tolist() == [7, 1]


@pytest.mark.parametrize(
    ("comment", "column", "message"),
    [
        (f"{PLAIN}:vel:R:3", "0.1 0 0", "column vel has velocities in a unit"),
        (f"{PLAIN}:velo:R:3", "0.1 0 0", "column velo has velocities in a unit"),
        (f"{PLAIN}:occupancy:R:1", "0.5", r"occupied in part: atom 0 \(N\) 0\.5"),
        (f"{PLAIN}:masses:R:1", "0.0", r"mass of 0 amu of atom 0 \(N\)"),
        (f"{PLAIN}:fix:R:1", "0.5", "seems to hold atoms"),
        (f"{PLAIN}:move_mask:L:1", "F", "every coordinate is held"),
        ("", "0.1 0.2 0.3", "columns 5 to 7 of the atoms have no name"),
    ],
)
def test_columns_that_would_be_lost_are_refused(tmp_path, comment, column, message):
    with pytest.raises(DataError, match=message):
        read(xyz(tmp_path, comment, AMMONIA.replace("\n", f" {column}\n")))


def test_columns_that_change_nothing_are_named(tmp_path):
    body = AMMONIA.replace("\n", " 1.0 1.0\n")
    found = read(xyz(tmp_path, f"{PLAIN}:weight:R:1:occupancy:R:1 config=new", body))
    assert "columns that are not used: weight" in found.remarks
    assert "remarks that a calculator may read: {'config': 'new'}" in found.remarks
    assert found.structure.electronic.info == {"config": "new"}


@pytest.mark.parametrize("title", ["1 2", "charge 1", "NH3 cation", "-1 1", "mult 3 NH3"])
def test_titles_that_seem_to_state_charge_or_spin_are_refused(tmp_path, title):
    path = xyz(tmp_path, title)
    with pytest.raises(DataError, match=r"the comment line .* says .*structure\.charge and structure\.multiplicity"):
        read(path)
    found = read(path, charge=0, multiplicity=1)
    assert found.structure.electronic[:2] == (0, 1) and "comment line" in said(found)


@pytest.mark.parametrize("title", ["", "ammonia, B3LYP", "0 1"])
def test_other_titles_are_named(tmp_path, title):
    found = read(xyz(tmp_path, title))
    assert (f"the comment line {title!r} is not used" in found.remarks) == bool(title)
    assert found.structure.electronic.info == {}


def test_settings_fill_in_what_the_file_does_not_say(tmp_path):
    found = read(xyz(tmp_path), charge=1, multiplicity=2)
    assert found.structure.electronic[:2] == (1, 2) and "charge 1, multiplicity 2" in said(found)
    assert read(xyz(tmp_path, f"{PLAIN} spin=2"), charge=1).structure.electronic[:2] == (1, 2)
    assert read(xyz(tmp_path, f"{PLAIN} spin=2"), multiplicity=3).structure.electronic.multiplicity == 3


@pytest.mark.parametrize(
    ("comment", "settings", "message"),
    [
        ("charge=1", {"charge": 0}, r"structure\.charge: got 0; allowed: 1, which the file states"),
        ("multiplicity=3", {"multiplicity": 1}, r"structure\.multiplicity: got 1; allowed: 3, which the file states"),
        ("spin=1", {"multiplicity": 5}, r"structure\.multiplicity: got 5; allowed: what the file states as spin=1"),
        ("charge=1", {"multiplicity": 1}, r"multiplicity 1 of 9 electrons \(charge 1\)"),
        ("", {"charge": 1, "multiplicity": 1}, r"multiplicity 1 of 9 electrons \(charge 1\)"),
        ("", {"charge": 10}, "10 protons"),
    ],
)
def test_settings_that_contradict_the_file_or_the_electrons_are_refused(tmp_path, comment, settings, message):
    with pytest.raises((ConfigError, DataError), match=message):
        read(xyz(tmp_path, f"{PLAIN} {comment}"), **settings)


@pytest.mark.parametrize(
    ("lattice", "message"),
    [
        ("1 0 0 0 1 0 0 0 1", r"a crystal of 1 Å³ with 4 atoms.*the cell vectors of the file are 1, 1, 1 Å long"),
        ("1.5 0 0 0 9 0 0 0 9", r"an image of it in a neighbouring cell.*cell vectors of the file are 1\.5, 9, 9 Å"),
        ("5 0 0 0 5 0 0 0 0", r"got lengths \[5\.0, 5\.0, 0\.0\]"),
    ],
)
def test_cells_that_are_none_are_refused_saying_what_they_are(tmp_path, lattice, message):
    with pytest.raises(DataError, match=message):
        read(xyz(tmp_path, f'Lattice="{lattice}" {PLAIN}'))


def test_formula_cell_and_periodicity_are_told(tmp_path):
    bulk("NaCl", "rocksalt", a=5.64).write(tmp_path / "a.vasp")
    [first, *_] = read(tmp_path / "a.vasp").remarks
    assert (
        first == "ClNa: 2 atoms, cell 3.9881 x 3.9881 x 3.9881 Å, angles 60.00, 60.00, 60.00°, periodic along a, b, c"
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("extxzy", "did you mean 'extxyz'"), ("poscars", "did you mean 'poscar'"), ("png", "a format that ASE reads: ")],
)
def test_unknown_formats_are_refused_with_near_ones(wanted, message):
    with pytest.raises(ConfigError, match=rf"structure\.format: got '{wanted}'.*{message}"):
        case("nh4.xyz", format=wanted)


def test_the_stated_format_is_used(tmp_path):
    shutil.copy(CASES / "slab_fixed.vasp", tmp_path / "structure.txt")
    for name in ("vasp", "VASP", "poscar"):
        assert read(tmp_path / "structure.txt", format=name).structure.numbers.tolist() == [29] * 6
    with pytest.raises(ConfigError, match=r"structure\.format"):
        read(tmp_path / "structure.txt")
    assert case("nh4.xyz", format="xyz").structure.electronic.charge == 1  # plain or extended, as the file is


def test_a_format_whose_package_is_missing_is_named(tmp_path, monkeypatch):
    def without(*_: object) -> None:
        raise ImportError("No module named 'netCDF4'")

    (tmp_path / "a.nc").write_bytes(b"CDF\x01")
    monkeypatch.setattr(structure_files.structure_frames, "read", without)
    with pytest.raises(ConfigError, match=r"structure\.format: got 'netcdftrajectory'.*No module named 'netCDF4'"):
        read(tmp_path / "a.nc")


def test_formats_of_which_not_everything_is_known_say_so(tmp_path):
    bulk("Cu").write(tmp_path / "a.xsf")
    assert "of the format xsf only the items named here were read" in read(tmp_path / "a.xsf").remarks[-1]
    assert "only the items named" not in said(case("fixed.xyz"))


def test_a_file_with_an_at_sign_goes_by_its_whole_name(tmp_path):
    shutil.copy(CASES / "nh3_cryst1.pdb", tmp_path / "a@0.pdb")
    assert len(read(tmp_path / "a@0.pdb").structure.numbers) == 4


def test_atoms_without_an_element_are_refused(tmp_path):
    with pytest.raises(DataError, match="atom 0 is X"):
        read(xyz(tmp_path, body=AMMONIA.replace("N", "X")))


def test_a_built_in_structure_is_described():
    found = systems.initial_structure(StructureSettings(file="ethanol"), base=Path())
    assert found.remarks[0] == "C2H6O: 9 atoms, no cell" and found.velocities is None

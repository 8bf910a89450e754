"""What ASE's readers leave out of formats or misread, format by format."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import fcc111, molecule
from ase.constraints import FixAtoms, FixScaled

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import structure_files
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.data.structure_settings import StructureSettings
from tests.support.places import CASES

VELOCITIES = "  0.01 0.0 -0.02\n" * 6


def read(path: Path, text: str | None = None, **settings: object) -> InitialStructure:
    if text is not None:
        path.write_text(text)
    return structure_files.read(StructureSettings.model_validate({"file": str(path), **settings}), path)


def slab() -> str:
    return (CASES / "slab_fixed.vasp").read_text().rstrip("\n") + "\n"


@pytest.mark.parametrize(
    "tail",
    ["\n" + VELOCITIES, "Cartesian\n" + VELOCITIES, "\n" + VELOCITIES + "\n 1\n 0.5\n 1 2 3\n" * 2,
     "Lattice velocities and vectors\n 1\n" + " 0 0 0\n" * 6 + "\n" + VELOCITIES],
)  # fmt: skip
def test_velocities_of_a_contcar(tmp_path, tail):
    """Å/fs; predictor-corrector blocks and lattice velocities are left out."""
    text = slab().replace("   F   F   F", "   T   T   T", 1)
    found = read(tmp_path / "CONTCAR", text + tail)
    assert found.velocities is not None
    expected = np.tile([0.01, 0.0, -0.02], (6, 1))
    expected[1] = 0.0  # held
    np.testing.assert_allclose(found.velocities, expected, rtol=1e-12)
    assert ("the velocities of the lattice are not used" in found.remarks) == tail.startswith("L")


def test_velocities_of_a_contcar_that_state_no_unit_are_refused_unless_they_are_zero(tmp_path):
    with pytest.raises(DataError, match="velocities in direct coordinates are per time step"):
        read(tmp_path / "CONTCAR", slab() + "Direct\n" + VELOCITIES)
    found = read(tmp_path / "CONTCAR", slab() + "Direct\n" + "0.0 0.0 0.0\n" * 6)
    assert found.velocities is not None and not found.velocities.any()


@pytest.mark.parametrize("flags", ["F F F", "f f f", ".FALSE. .F. .false."])
def test_flags_in_any_spelling_of_fortran(tmp_path, flags):
    found = read(tmp_path / "POSCAR", slab().replace("F   F   F", flags))
    assert found.structure.fixed is not None and found.structure.fixed.sum() == 6


@pytest.mark.parametrize("flags", ["no no no", "F F", "0 0 0"])
def test_flags_that_are_none_are_refused(tmp_path, flags):
    with pytest.raises(DataError, match=r"line 10: got .*; allowed: three coordinates and three T or F"):
        read(tmp_path / "POSCAR", slab().replace("F   F   F", flags))


def test_partial_selective_dynamics(tmp_path):
    atoms = fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=True)
    atoms.set_constraint([FixScaled(0, (1, 1, 0)), FixScaled(1, (0, 0, 1)), FixAtoms([2])])
    atoms.write(tmp_path / "a.vasp")
    fixed = read(tmp_path / "a.vasp").structure.fixed
    np.testing.assert_array_equal(fixed, [[True, True, False], [False, False, True], [True] * 3])
    atoms.set_constraint(FixScaled(0, (1, 0, 0)))
    atoms.write(tmp_path / "a.vasp")
    with pytest.raises(DataError, match="FixScaled holds atom 0"):
        read(tmp_path / "a.vasp")


def test_isotopes_of_a_poscar_move_as_fast_as_the_file_says(tmp_path):
    text = slab().replace("   F   F   F", "   T   T   T").replace(" Cu ", " D_h/abc12 Cu ", 1).replace("   6", "  2 4")
    found = read(tmp_path / "POSCAR", text + "\n" + VELOCITIES)
    assert found.structure.numbers.tolist() == [1, 1, 29, 29, 29, 29] and found.velocities is not None
    np.testing.assert_allclose(found.structure.masses[found.structure.numbers == 1], [2.014] * 2, rtol=1e-4)
    np.testing.assert_allclose(found.velocities, np.tile([0.01, 0.0, -0.02], (6, 1)), rtol=1e-12)


def test_elements_of_the_title_line_are_named(tmp_path):
    found = read(tmp_path / "POSCAR", slab().replace(" Cu \n", "", 1))
    assert "elements are read from the title line 'Cu', since the file has no line of elements" in found.remarks


BOX = "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 1           1\n"


def models() -> str:
    """One model of the case, without its cell."""
    return (CASES / "nh3_cryst1.pdb").read_text().split("\n", 1)[1]


def test_the_cell_before_the_first_model_is_that_of_all(tmp_path):
    """ASE gives it to the first one only, and takes END for a frame without atoms."""
    text = BOX + models() + models().replace("MODEL     1", "MODEL     2").rstrip("\n") + "\nEND\n"
    found = read(tmp_path / "a.pdb", text)
    assert found.structure.pbc.all() and len(found.structure.numbers) == 4
    assert any("frame 1 of 2" in remark for remark in found.remarks)
    assert not read(tmp_path / "b.pdb", models().replace("ENDMDL\n", "")).structure.pbc.any()


def test_isotopes_and_formal_charges_of_a_pdb(tmp_path):
    found = read(tmp_path / "a.pdb", models().replace("           H  ", "           D  "))
    assert found.structure.numbers.tolist() == [7, 1, 1, 1]
    assert np.isclose(found.structure.masses, 2.014, rtol=1e-4).sum() == 3
    assert read(tmp_path / "a.pdb", models().replace(" N  \n", " N1+\n")).structure.electronic.charge == 1
    assert read(tmp_path / "a.pdb", models().replace(" H  \n", " H1-\n")).structure.electronic.charge == -3


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("  1.00  0.00", "  0.50  0.00", r"occupied in part: atom 0 \(N\) 0\.5"),
        ("    2    H MOL", "    2    HBMOL", "alternate locations"),
        ("   N MOL     1       0.000  -0.000   0.069  1.00  0.00           N  ",
         "  CA MOL     1       0.000  -0.000   0.069  1.00  0.00              ", "its name can mean several"),
    ],
)  # fmt: skip
def test_what_a_pdb_says_and_ase_loses_is_refused(tmp_path, before, after, message):
    assert before in models()
    text = models().replace(before, after, 1)
    if "locations" in message:
        text = text.replace("    3    H MOL", "    3    HAMOL")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.pdb", text)


def test_occupancies_that_nobody_filled_in_are_none(tmp_path):
    assert len(read(tmp_path / "a.pdb", models().replace("  1.00  0.00", "  0.00  0.00")).structure.numbers) == 4


AMMONIUM = """ammonium
  program 01010101013D

  5  0  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 N   0  0
    0.5900    0.5900    0.5900 H   0  0
   -0.5900   -0.5900    0.5900 H   0  0
   -0.5900    0.5900   -0.5900 H   0  0
    0.5900   -0.5900   -0.5900 D   0  0
M  CHG  1   1   1
M  ISO  1   2   3
M  END
"""


def test_charge_and_isotopes_of_a_molfile(tmp_path):
    for name, text in (
        ("a.sdf", AMMONIUM + "$$$$\n"),
        ("a.mol", AMMONIUM.replace("M  CHG  1   1   1\n", "").replace("N   0  0", "N   0  3")),
    ):
        found = read(tmp_path / name, text)
        assert found.structure.electronic.charge == 1 and found.structure.masses is not None
        np.testing.assert_allclose(found.structure.masses, [14.007, 3.016, 1.008, 1.008, 2.014], atol=2e-4)
    found = read(tmp_path / "a.sdf", (AMMONIUM + "$$$$\n") * 3, index=1)
    assert any("frame 1 of 3" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [("V2000", "V3000", "allowed: V2000"), ("3D\n", "2D\n", "a drawing"), ("M  CHG", "M  RAD", "radicals")],
)
def test_molfiles_that_say_what_is_not_read_are_refused(tmp_path, before, after, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.sdf", AMMONIUM.replace(before, after) + "$$$$\n")


def test_charge_multiplicity_and_isotopes_of_a_gaussian_input(tmp_path):
    text = "#p hf\n\nt\n\n1 2\nN 0.0 0.0 0.07\nH(Iso=2) 0.0 0.94 -0.32\nH 0.81 -0.47 -0.32\nH -0.81 -0.47 -0.32\n\n"
    found = read(tmp_path / "a.gjf", text)
    assert found.structure.electronic[:2] == (1, 2)
    assert np.isclose(found.structure.masses, 2.014, rtol=1e-4).sum() == 1


def test_inputs_that_state_a_charge_which_ase_does_not_read_ask_for_it(tmp_path):
    ase.io.write(tmp_path / "a.nwi", molecule("H2O"))
    with pytest.raises(ConfigError, match=r"structure\.charge: got None.*nwchem-in.*has a charge and a multiplicity"):
        read(tmp_path / "a.nwi")
    assert read(tmp_path / "a.nwi", charge=0, multiplicity=1).structure.electronic[:2] == (0, 1)
    text = "&control\n/\n&system\n ibrav=0, nat=1, ntyp=1, {}\n/\nATOMIC_SPECIES\nCu 63.5 cu.upf\n"
    text += "CELL_PARAMETERS angstrom\n5 0 0\n0 5 0\n0 0 5\nATOMIC_POSITIONS angstrom\nCu 0 0 0 0 0 1\n"
    with pytest.raises(ConfigError, match=r"structure\.charge.*the word 'tot_charge='"):
        read(tmp_path / "a.pwi", text.format("tot_charge=1"))
    found = read(tmp_path / "a.pwi", text.format("nspin=1"))
    np.testing.assert_array_equal(found.structure.fixed, [[True, True, False]])


CRYSTAL = """data_x
_cell_length_a 5
_cell_length_b 5
_cell_length_c 5
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P -1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{tag}
A1 {symbol} 0.1 0.2 0.3 {first}
O1 O {place} {second}
"""


def crystal(symbol="H", tag="", first="", second="", place="0.3 0.2 0.3") -> str:
    return CRYSTAL.format(symbol=symbol, tag=tag, first=first, second=second, place=place)


@pytest.mark.parametrize(("symbol", "mass"), [("D", 2.014), ("T", 3.016), ("H", None)])
def test_isotopes_of_a_cif(tmp_path, symbol, mass):
    found = read(tmp_path / "a.cif", crystal(symbol)).structure
    assert found.numbers.tolist() == [1, 1, 8, 8]
    if mass is None:
        assert found.masses is None
    else:
        assert found.masses is not None
        np.testing.assert_allclose(found.masses, [mass, mass, 15.999, 15.999], atol=2e-4)


@pytest.mark.parametrize(("symbol", "number"), [("CL", 17), ("Cl1-", 17), ("cl", 17), ("C", 6), ("NA+", 11)])
def test_symbols_of_a_cif_in_any_case(tmp_path, symbol, number):
    """ASE takes CL for carbon."""
    assert read(tmp_path / "a.cif", crystal(symbol)).structure.numbers[0] == number


@pytest.mark.parametrize(("tag", "second", "message"), [
    ("_atom_site_occupancy", "0.5(2)", "occupied in part: O1 0.5"),
    ("_atom_site_disorder_group", "1", "site O1 is one of alternatives"),
    ("_atom_site_attached_hydrogens", "2", "site O1 has hydrogen atoms without a place"),
    ("_atom_site_calc_flag", "dum", "site O1 is no atom"),
    ("_atom_site_moment_crystalaxis_x", "2.0", "magnetic moments of a CIF"),
])  # fmt: skip
def test_sites_of_a_cif_that_are_no_whole_atoms_are_refused(tmp_path, tag, second, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.cif", crystal(tag=tag, first=".", second=second))


@pytest.mark.parametrize("place", ["0.1 0.2 0.3", "0.9 0.8 0.7", "1.1 0.2 0.3"])
def test_several_species_on_one_site_are_refused(tmp_path, place):
    """Also where symmetry or translation makes it the same."""
    with pytest.raises(DataError, match="sites A1 and O1 are at the same position"):
        read(tmp_path / "a.cif", crystal(place=place))


def test_whole_sites_with_occupancies_are_atoms(tmp_path):
    text = crystal(tag="_atom_site_occupancy", first="1.0", second="?")
    assert read(tmp_path / "a.cif", text).structure.numbers.tolist() == [1, 1, 8, 8]
    found = read(tmp_path / "a.cif", text + crystal("Cu").replace("data_x", "data_y"), index=0)
    assert any("frame 0 of 2" in remark for remark in found.remarks) and found.structure.numbers[0] == 1


@pytest.mark.parametrize(
    ("label", "number"), [("Ca1", 20), ("C12", 6), ("H2A", 1), ("OW", 8), ("D3", 1), ("CA1", None)]
)
def test_labels_tell_the_element_or_are_refused(tmp_path, label, number):
    text = crystal("").replace("_atom_site_type_symbol\n", "").replace("A1 ", f"{label} ").replace("O1 O", "O1")
    if number is None:
        with pytest.raises(DataError, match=f"site '{label}' has no clear element"):
            read(tmp_path / "a.cif", text)
    else:
        assert read(tmp_path / "a.cif", text).structure.numbers[0] == number


def copper(mass: str = "", units: str = "", velocities: bool = False) -> str:
    text = (CASES / "cu.lammps-data").read_text()
    masses = f"\nMasses\n\n1 {mass}\n\nAtoms" if mass else "\nAtoms"
    tail = "\nVelocities\n\n" + "".join(f"{i} 1.0 0 0\n" for i in range(1, 5)) if velocities else ""
    return text.replace("\nAtoms", masses, 1).replace("by hand", f"units = {units}" if units else "x") + tail


def test_masses_of_lammps_tell_elements_and_isotopes(tmp_path):
    found = read(tmp_path / "a.lammps-data", copper("63.546"))
    assert found.structure.numbers.tolist() == [29] * 4
    assert "elements of the types are identified by their masses: Cu" in found.remarks
    found = read(tmp_path / "a.lammps-data", copper("2.014"))
    assert found.structure.numbers.tolist() == [1] * 4
    assert np.isclose(found.structure.masses, 2.014, rtol=1e-4).sum() == 4
    with pytest.raises(ConfigError, match=r"structure\.elements.*a mass of 100\.5 amu \(type 1\) fits none"):
        read(tmp_path / "a.lammps-data", copper("100.5"))
    with pytest.raises(DataError, match=r"type 1 is called O and has a mass of 63\.546"):
        read(tmp_path / "a.lammps-data", copper("63.546 # O"))
    for elements, message in ((["O"], r"type 1 has 63\.546 amu"), (["Ni"], "type 1 is Cu")):
        text = copper("63.546 # Cu") if elements == ["Ni"] else copper("63.546")
        with pytest.raises(ConfigError, match=message):
            read(tmp_path / "a.lammps-data", text, elements=elements)


@pytest.mark.parametrize(("units", "factor"), [("metal", 0.001), ("real", 1.0)])
def test_velocities_of_lammps_are_in_the_units_that_it_states(tmp_path, units, factor):
    found = read(tmp_path / "a.lammps-data", copper("63.546", units, velocities=True))
    assert found.velocities is not None
    np.testing.assert_allclose(found.velocities[:, 0], factor, rtol=1e-6)


def test_units_of_lammps_that_are_not_known_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not state its units"):
        read(tmp_path / "a.lammps-data", copper("63.546", velocities=True))
    with pytest.raises(DataError, match="LAMMPS units lj; allowed: metal, real"):
        read(tmp_path / "a.lammps-data", copper("63.546", "lj"))
    assert any("taken as Å" in remark for remark in read(tmp_path / "a.lammps-data", copper("63.546")).remarks)


DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 10
0 10
0 10
ITEM: ATOMS id {columns}
2 {second}
1 {first}
"""


def dump(columns: str, first: str, second: str) -> str:
    return DUMP.format(columns=columns, first=first, second=second)


def test_elements_of_a_dump(tmp_path):
    path = tmp_path / "a.dump"
    typed = dump("type x y z", "1 2.5 1 1", "2 1 1 1")
    with pytest.raises(ConfigError, match=r"structure\.elements: got \[\]; allowed: the elements of the 2 types"):
        read(path, typed)
    assert read(path, typed, elements=["C", "O"]).structure.numbers.tolist() == [6, 8]
    with pytest.raises(ConfigError, match=r"structure\.elements: got \['C'\]"):
        read(path, typed, elements=["C"])
    named = dump("element x y z", "C 2.5 1 1", "O 1 1 1")
    found = read(path, named * 3, index=1)
    assert found.structure.numbers.tolist() == [6, 8] and any("frame 1 of 3" in x for x in found.remarks)
    with pytest.raises(ConfigError, match="the dump has a column of its elements"):
        read(path, named, elements=["C", "O"])


def test_masses_of_a_dump(tmp_path):
    found = read(tmp_path / "a.dump", dump("type mass x y z", "1 35.45 2.5 1 1", "2 2.014 1 1 1")).structure
    assert found.numbers.tolist() == [17, 1] and found.masses is not None
    np.testing.assert_array_equal(found.masses, [35.45, 2.014])


def test_velocities_of_a_dump(tmp_path):
    text = dump("element x y z vx vy vz", "C 2.5 1 1 1 0 0", "O 1 1 1 0 0 0")
    with pytest.raises(DataError, match="does not state its units"):
        read(tmp_path / "a.dump", text)
    found = read(tmp_path / "a.dump", "ITEM: UNITS\nmetal\n" + text)
    assert found.velocities is not None
    np.testing.assert_allclose(found.velocities, [[0.001, 0, 0], [0, 0, 0]], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("cut", ["2 1 1 1 1\n", "1 2.5 1 1\n"])
def test_a_dump_that_is_cut_off_is_refused(tmp_path, cut):
    text = dump("element x y z", "C 2.5 1 1", "O 1 1 1")
    with pytest.raises(DataError, match="does not hold the atoms and columns"):
        read(tmp_path / "a.dump", text.rsplit("\n", 2)[0] + "\n" + cut[:3])


def test_names_of_gromacs_that_can_mean_several_elements_are_refused(tmp_path):
    atoms = molecule("CH3Cl")
    atoms.set_velocities(np.full((5, 3), 0.1))
    ase.io.write(tmp_path / "a.gro", atoms)
    found = read(tmp_path / "a.gro")
    assert found.structure.numbers.tolist() == atoms.numbers.tolist() and found.velocities is not None
    np.testing.assert_allclose(found.velocities, atoms.get_velocities() * ase.units.fs, atol=1e-6)
    with pytest.raises(DataError, match="the name 'CL' of an atom can mean C and Cl"):
        read(tmp_path / "a.gro", (tmp_path / "a.gro").read_text().replace("Cl", "CL"))


def test_turbomole_aims_and_eon(tmp_path):
    found = read(tmp_path / "coord", "$coord\n 0 0 0 n f\n 0 0 2 h\n$end\n")
    np.testing.assert_array_equal(found.structure.fixed, [[True] * 3, [False] * 3])
    text = "lattice_vector 5 0 0\nlattice_vector 0 5 0\nlattice_vector 0 0 5\natom 0 0 0 Cu\ninitial_moment 2\n"
    found = read(tmp_path / "geometry.in", text + "constrain_relaxation x\nvelocity 0 3 0\n")
    np.testing.assert_array_equal(found.structure.fixed, [[True, False, False]])
    np.testing.assert_array_equal(found.structure.electronic.moments, [2.0])
    assert found.velocities is not None
    np.testing.assert_allclose(found.velocities, [[0.0, 0.003, 0.0]])
    for wrong in ("constrain_relaxation .TRUE.\n", "homogeneous_field 0 0 1\n"):
        with pytest.raises(DataError, match="is not read"):
            read(tmp_path / "geometry.in", text + wrong)
    with pytest.raises(DataError, match=r"is not read; allowed: .* after an atom"):
        read(tmp_path / "geometry.in", text.replace("5\natom", "5\nconstrain_relaxation .true.\natom"))
    atoms = molecule("NH3")
    atoms.set_masses([14.0, 2.0, 2.0, 2.0])
    atoms.set_constraint(FixAtoms([1]))
    atoms.set_cell([9, 9, 9])
    ase.io.write(tmp_path / "a.con", atoms)
    found = read(tmp_path / "a.con").structure
    np.testing.assert_array_equal(found.masses, [14.0, 2.0, 2.0, 2.0])
    np.testing.assert_array_equal(found.fixed[:, 0], [False, True, False, False])
    assert found.pbc.all()

"""Remarks, titles and columns of structure files that change the physics: understood or refused by name, none lost."""

from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import molecule

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import dataset, structure_files
from bayes_mlff.data.labels import Label
from bayes_mlff.data.readings import Reading
from bayes_mlff.data.stated import State, state_of
from bayes_mlff.data.structure import ElectronicState, Structure
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.data.structure_settings import StructureSettings
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import Frame
from bayes_mlff.runs.trajectory import constants

AMMONIA = "N 0 0 0.07\nH 0 0.94 -0.32\nH 0.81 -0.47 -0.32\nH -0.81 -0.47 -0.32\n"
PLAIN = "Properties=species:S:1:pos:R:3"


def read(path: Path, **settings: object) -> InitialStructure:
    return structure_files.read(StructureSettings.model_validate({"file": str(path), **settings}), path)


def xyz(folder: Path, comment: str, *columns: str) -> Path:
    """Ammonia with further columns, one text for each atom or one for all."""
    each = columns * 4 if len(columns) == 1 else columns or ("",) * 4
    rows = [f"{row} {extra}" for row, extra in zip(AMMONIA.splitlines(), each, strict=True)]
    path = folder / "a.xyz"
    path.write_text("\n".join(["4", comment, *rows, ""]))
    return path


@pytest.mark.parametrize(
    "remark",
    ['fixed_indices="0 1"', 'frozen_atoms="0 2"', 'fix_atoms="0 1"', 'constraint_atoms="0 1"', "fixed_atom=1",
     "fixed_atom=0", "fixedAtoms=2", "frozen=T", "fix_com=T", 'FrozenAtoms="1 2"', 'move_mask="F F F F"', "movable=F",
     'mobile_atoms="0 1"', 'active_atoms="0 1"', "fix_symmetry=T", "selective_dynamics=T", "constraints=FixAtoms",
     'is_fixed="T F F F"', "held=T"],
)  # fmt: skip
def test_remarks_that_hold_atoms_are_refused(tmp_path, remark):
    name = remark.split("=")[0]
    with pytest.raises(DataError, match=f"structure: {name}=.* as a remark is not understood"):
        read(xyz(tmp_path, f"{PLAIN} {remark}"))


@pytest.mark.parametrize(
    "remark",
    ["fixed=F", 'fixed="F F F F"', "constraints=none", "frozen_core=T", "held_out=T", "prefix=a", "n_fixed=0",
     "constraint_energy=0.1", 'move_mask="T T T T"', "movable=T", "config_type=fixed", "relaxed=T", "spacegroup=225",
     'charge_method=hirshfeld', "spin_polarized=T", "nspin=2", "spin_contamination=0.76", 'REF_charges="1 0 0 1"',
     'mulliken_charges="1 0 0 0"', 'dipole_moment="0 0 1.5 0"', "REF_energy=-11.7", "force_field=ff14SB", "q=0", "S=0",
     "nelectrons=10", "units=metal", "length_unit=Ang", "energy_unit=Hartree", 'pos_unit="Å"', "mass=17.03",
     "cell=cubic", "electric_field=none", 'electric_field="0 0 0"', 'magmoms="1 0 0 1"', "electronic_temperature=300",
     "charge_ok=0"],
)  # fmt: skip
def test_innocent_remarks_are_listed(tmp_path, remark):
    found, name = read(xyz(tmp_path, f"{PLAIN} {remark}")), remark.split("=")[0]
    listed = [line for line in found.remarks if line.startswith(("remarks that", "results of"))]
    assert any(name in line for line in listed) or name == "spacegroup"
    assert found.structure.fixed is None and found.structure.electronic[:4] == (None, None, None, None)


def test_lists_beside_the_atoms_are_named(tmp_path):
    found = read(xyz(tmp_path, f'{PLAIN} weights="1 2 3 4" REF_energy=-1 config_type=a'))
    assert "remarks that are not used: REF_energy, weights" in found.remarks


@pytest.mark.parametrize(
    "remark",
    ['electric_field="0 0 0.1"', "efield=0.1", 'external_field="0 0 0.1 V/A"', 'initial_magmoms="1 0 0 1"',
     'spins="1 0 0 1"', 'initial_charges="1 0 0 0"', 'masses="14 2 2 2"', "mass_H=2.014", "isotope=2",
     'cell="5 5 5" pbc="T T T"', "box=10", 'celldisp="1 0 0"', 'unit_cell_vectors="5 0 0 0 5 0 0 0 5"', "periodic=T",
     'velocities="1 0 0 0 0 0 0 0 0 0 0 0"', "mass=2.014"],
)  # fmt: skip
def test_fields_cells_and_lists_of_atoms_beside_them_are_refused(tmp_path, remark):
    with pytest.raises(DataError, match=f"structure: {remark.split('=')[0]}="):
        read(xyz(tmp_path, f"{PLAIN} {remark}"))


def test_a_cell_that_repeats_the_lattice_is_taken(tmp_path):
    found = read(xyz(tmp_path, f'Lattice="9 0 0 0 9 0 0 0 9" cell="9 9 9" {PLAIN}'))
    assert found.structure.pbc.all()


@pytest.mark.parametrize("kind", ["traj", "db"])
def test_lists_of_other_formats(tmp_path, kind):
    atoms = molecule("NH3")
    if kind == "db":
        ase.db.connect(tmp_path / "a.db").write(atoms, data={"fixed_indices": [0, 1]})
    else:
        atoms.info["fixed_indices"] = [0, 1]
        ase.io.write(tmp_path / "a.traj", atoms)
    with pytest.raises(DataError, match=r"structure: fixed_indices="):
        read(tmp_path / f"a.{kind}")


@pytest.mark.parametrize(
    ("comment", "column", "width"),
    [("i = 0, time = 0.000, E = -11.7", "0.1 0.2 0.3", 7), ("charge=1", "T", 5), ("", "0.1", 5)],
)
def test_columns_without_names_are_refused_whatever_the_title(tmp_path, comment, column, width):
    with pytest.raises(DataError, match=f"columns 5 to {width} of the atoms have no name"):
        read(xyz(tmp_path, comment, column))
    with pytest.raises(DataError, match="have no name"):
        read(xyz(tmp_path, comment, "", "", column, ""))
    assert read(xyz(tmp_path, comment)).structure.electronic.charge == (1 if comment == "charge=1" else None)


TURBOMOLE = "$coord\n 0 0 0.13 n{}\n 0 1.77 -0.6 h\n 1.53 -0.88 -0.6 h\n -1.53 -0.88 -0.6 h\n{}$end\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TURBOMOLE.format("", "$periodic 3\n$cell angs\n 5 5 5 90 90 90\n"), r"\$periodic is not read"),
        (TURBOMOLE.format("", "$lattice\n 9 0 0\n 0 9 0\n 0 0 9\n"), r"\$lattice is not read"),
        (TURBOMOLE.format("", "$eht charge=1 unpaired=1\n"), r"structure\.charge: .*the word 'charge='"),
        (TURBOMOLE.format("", "$eht unpaired=1\n"), r"structure\.charge: .*the word 'unpaired='"),
        (TURBOMOLE.format("", "").replace("$coord", "$coord angs"), r"'\$coord angs' is not read"),
        (TURBOMOLE.format(" F", ""), "line 2: got '0 0 0.13 n F'"),
    ],
)
def test_what_a_turbomole_file_says_beside_the_atoms(tmp_path, text, message):
    (tmp_path / "coord").write_text(text)
    with pytest.raises((ConfigError, DataError), match=message):
        read(tmp_path / "coord", format="turbomole")


def test_a_turbomole_file_with_held_atoms_and_stated_settings(tmp_path):
    (tmp_path / "coord").write_text(TURBOMOLE.format(" f", "$eht charge=1 unpaired=1\n"))
    found = read(tmp_path / "coord", format="turbomole", charge=1, multiplicity=2).structure
    assert found.electronic[:2] == (1, 2) and found.fixed is not None
    np.testing.assert_array_equal(found.fixed, [[True] * 3, *[[False] * 3] * 3])


@pytest.mark.parametrize("name", ["mass", "Mass", "atomic_masses"])
def test_a_column_of_masses_under_another_name_is_taken(tmp_path, name):
    found = read(xyz(tmp_path, f"{PLAIN}:{name}:R:1", "14.003", "2.014", "2.014", "2.014")).structure
    np.testing.assert_array_equal(found.masses, [14.003, 2.014, 2.014, 2.014])
    with pytest.raises(DataError, match="contradict each other"):
        read(xyz(tmp_path, f"{PLAIN}:{name}:R:1:masses:R:1", "14.003 14.0", "2 2", "2 2", "2 2"))


@pytest.mark.parametrize(
    ("column", "values"),
    [("isotope:I:1", "2"), ("vels:R:3", "0.1 0 0"), ("vx:R:1:vy:R:1:vz:R:1", "0.1 0 0"), ("momentum:R:3", "1 0 0"),
     ("formal_charges:I:1", "1"), ("formal_charge:I:1", "1"), ("spin:R:1", "1"), ("spins:R:1", "1"),
     ("magnetic_moments:R:1", "1"), ("atom_charge:R:1", "0.25"), ("fixed_mask2:L:1", "T"), ("fix_xyz:L:3", "T T F")],
)  # fmt: skip
def test_columns_that_change_the_physics_are_refused(tmp_path, column, values):
    with pytest.raises(DataError, match=f"structure: column {column.split(':')[0]} "):
        read(xyz(tmp_path, f"{PLAIN}:{column}", values))


def test_columns_of_zeros_and_of_results_are_listed(tmp_path):
    columns = "isotope:I:1:mulliken_charges:R:1:REF_magmom:R:1:vels:R:3:formal_charges:I:1:atom_charge:R:1"
    found = read(xyz(tmp_path, f"{PLAIN}:{columns}", "0 1.0 1.0 0 0 0 0 0.1"))
    names = "REF_magmom, atom_charge, formal_charges, isotope, mulliken_charges, vels"
    assert f"columns that are not used: {names}" in found.remarks


@pytest.mark.parametrize(
    "remark",
    ["units=bohr", "unit=Bohr", "pos_unit=bohr", "r_unit=nm", "length_unit=a.u.", "positions_units=Bohr",
     "fractional=T", "coordinates=direct", "units=atomic", "cell_unit=bohr"],
)  # fmt: skip
def test_lengths_in_other_units_are_refused(tmp_path, remark):
    with pytest.raises(DataError, match=f"structure: {remark.split('=')[0]}=.*allowed: positions"):
        read(xyz(tmp_path, f"{PLAIN} {remark}"))


@pytest.mark.parametrize("title", ["NH3 in bohr", "NH3 energy=-1 bohr"])
def test_titles_that_name_other_lengths_are_refused(tmp_path, title):
    with pytest.raises(DataError, match="names units other than Å"):
        read(xyz(tmp_path, title), charge=0, multiplicity=1)


@pytest.mark.parametrize(
    "remark",
    ["q=1", "Q=+1", "formal_charge=1", "nelectrons=9", "n_electrons=9", "S=0.5", "net_spin=1", "spin_z=0.5",
     "charge_state=1+", "system_net_charge=-1", "charge_of_molecule=cation", "q_total=1", "charged=T",
     "n_unpaired_electrons=1", "chg=1", "nel=9", "nup=5", "doublet=T", "cation=T"],
)  # fmt: skip
def test_words_for_charge_and_spin_that_are_not_understood_are_refused(tmp_path, remark):
    with pytest.raises(DataError, match=rf"structure: {remark.split('=')[0]}=.* is not understood.*structure\.charge"):
        read(xyz(tmp_path, f"{PLAIN} {remark}"))


@pytest.mark.parametrize("remark", ["q=1", "formal_charge=1", "nelectrons=9", "S=0.5", "net_spin=1"])
def test_they_are_accepted_where_they_fit_what_is_stated(tmp_path, remark):
    path = xyz(tmp_path, f"{PLAIN} {remark}")
    assert read(path, charge=1, multiplicity=2).structure.electronic[:2] == (1, 2)
    with pytest.raises(DataError, match="is not understood"):
        read(path, charge=-1, multiplicity=4)


@pytest.mark.parametrize(("remark", "state"), [("mol_charge=1", (1, None)), ("charge=1 spinmult=2", (1, 2))])
def test_further_names_of_charge_and_multiplicity(tmp_path, remark, state):
    assert read(xyz(tmp_path, f"{PLAIN} {remark}")).structure.electronic[:2] == state


def test_labelled_files_know_the_same_names():
    assert state_of({"mol_charge": 1, "spinmult": 2}) == State(1.0, ("spinmult", 2.0))


@pytest.mark.parametrize(
    "title", ["NH3 1 2", "NH3+ doublet", "1 2 NH3", "NH4+", "[NH3]2+", "triplet", "E=-1 cation", "1 2 E=-1", "NH3 -1 2"]
)
def test_titles_that_state_charge_or_spin_are_refused(tmp_path, title):
    with pytest.raises(DataError, match=r"the comment line .* says .*structure\.charge"):
        read(xyz(tmp_path, title))


@pytest.mark.parametrize(
    "title",
    ["NH3 0 1", "frame 12 of 100", "B3LYP/6-31+G*", "by a script, fixed atoms none", "H2O-1", "step 10"],
)
def test_other_titles_are_taken(tmp_path, title):
    assert f"the comment line {title!r} is not used" in read(xyz(tmp_path, title)).remarks


def test_loose_words_beside_keys_are_no_remarks_of_the_structure(tmp_path):
    found = read(xyz(tmp_path, "all atoms fixed before, energy=-1 config=new"))
    assert "the words 'all atoms fixed before,' of the comment line are not used" in found.remarks
    assert found.structure.electronic.info == {"config": "new"} and found.structure.fixed is None


def test_a_title_with_keys_before_cell_vectors_is_refused(tmp_path):
    path = xyz(tmp_path, "charge=1")
    path.write_text(path.read_text() + "VEC1 9 0 0\nVEC2 0 9 0\nVEC3 0 0 9\n")
    with pytest.raises(DataError, match="of a file with cell vectors VEC is not read"):
        read(path)


CRYSTAL = """data_x
_cell_length_a 5
_cell_length_b 5
_cell_length_c 5
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
O1 O 0 0 0
H1 {} 0.2 0 0
H2 H 0 0.2 0
"""


@pytest.mark.parametrize(("symbol", "mass"), [("2H", 2.0141), ("3H", 3.0160), ("2H1+", 2.0141), ("1H", 1.008)])
def test_hydrogen_of_a_cif_by_mass_number(tmp_path, symbol, mass):
    (tmp_path / "a.cif").write_text(CRYSTAL.format(symbol))
    found = read(tmp_path / "a.cif").structure
    assert found.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose([15.999, 1.008, 1.008] if found.masses is None else found.masses, [15.999, mass, 1.008],
                               atol=1e-4)  # fmt: skip
    (tmp_path / "a.cif").write_text(CRYSTAL.format("18O"))
    with pytest.raises(DataError, match="type symbol '18O' names an isotope"):
        read(tmp_path / "a.cif")


def test_frames_of_a_run_begin_another_with_held_atoms_to_the_last_bit(tmp_path):
    atoms = molecule("NH3")
    positions = atoms.positions + np.pi * 1e-9 + 1.0 / 3.0
    fixed = np.zeros((4, 3), bool)
    fixed[0], fixed[1, 2] = True, True
    state = ElectronicState(charge=1, multiplicity=2, moments=np.array([1.0, 0, 0, 0]), info={"config_type": "a"})
    start = Structure(atoms.numbers, positions, np.zeros((3, 3)), np.zeros(3, bool), None, fixed, state)
    run = RunDirectory(tmp_path)
    frame = Frame(3, 1.5, positions, start.cell, None, np.zeros((4, 3)))
    run.append_frames(start.numbers, start.pbc, [frame], constants(start, atoms.get_masses()))
    found = read(run.trajectory).structure
    np.testing.assert_array_equal(found.fixed, fixed)
    np.testing.assert_array_equal(found.positions[fixed], positions[fixed])
    np.testing.assert_allclose(found.positions, positions, rtol=0, atol=1e-8)
    assert found.electronic[:2] == (1, 2) and found.electronic.info == {"config_type": "a"}


def test_labels_of_a_run_begin_another(tmp_path):
    atoms = molecule("NH3")
    state = ElectronicState(charge=1, multiplicity=2)
    start = Structure(atoms.numbers, atoms.positions, 9.0 * np.eye(3), np.ones(3, bool), electronic=state)
    forces, stress = np.full((4, 3), 0.1), np.eye(3)
    record = dataset.LabelRecord(
        step=1, time_fs=0.5, structure=start, label=Label(-1.0, forces, stress), reason="first", pretrained_energy=-1.0,
        predicted_energy_mean=-1.0, predicted_energy_sigma=0.1, predicted_forces_mean=forces,
        predicted_forces_sigma=forces, predicted_stress_mean=stress, predicted_stress_sigma=stress, confidence=0.9,
        readings=(Reading("energy", 0.1, 0.1, "eV"),), engine_hash="a", engine_seconds=1.0, energy_offset=0.0,
    )  # fmt: skip
    dataset.append(tmp_path / "dataset.extxyz", record)
    found = read(tmp_path / "dataset.extxyz")
    assert found.structure.electronic[:2] == (1, 2) and found.structure.fixed is None
    np.testing.assert_array_equal(found.structure.positions, atoms.positions)

"""What labelled files say of units, charge, spin and held atoms in other words takes effect or is refused."""

import json
import sqlite3

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from bayes_mlff.core.errors import DataError
from bayes_mlff.core.units import BOHR, HARTREE, KCAL_MOL
from bayes_mlff.data.stated import State, multiplicities, names_unit, state_of, units_of
from bayes_mlff.finetune import config, frames
from tests.support.places import CASES


def read(path, targets="energy+forces", **data):
    return frames.read(config.parse({"data": {"train": str(path)} | data, "targets": targets}))


def moved(count, name="CH3CH2OH", seed=0):
    """Molecules with labels of no meaning in a calculator."""
    random, made = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = molecule(name)
        atoms.set_initial_magnetic_moments(None)
        atoms.positions += 0.05 * random.normal(size=atoms.positions.shape)
        forces = 0.1 * random.normal(size=atoms.positions.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=float(random.normal()), forces=forces)
        made.append(atoms)
    return made


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("unit_energy", "energy"), ("units_energy", "energy"), ("unit_force", "force"), ("unit_forces", "force"),
        ("total_energy_unit", "energy"), ("unit_E", "energy"), ("e_unit ", "energy"), ("Energy Units", "energy"),
        ("energyunit", "energy"), ("unitE", "energy"), ("REF_forces_unit", "force"), ("grad_unit", "force"),
        ("cell_unit", "position"), ("_distance_unit", "position"), ("R_units", "position"), ("stress-unit", "stress"),
        ("units", ""), ("Unit", ""), ("energy_per_atom_unit", "unclear"), ("pressure_unit", "unclear"),
        ("unit_cell", None), ("unitcell", None), ("formula_units", None), ("time_unit", None), ("dipole_units", None),
        ("community", None), ("unity", None), ("spacegroup", None), ("energy", None),
    ],
)  # fmt: skip
def test_keys_that_state_units(name, kind):
    assert names_unit(name) == kind


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"units": "eV, Angstrom"}, {"energy": "eV", "position": "A"}),
        ({"units": "real"}, {"position": "A", "energy": "kcal/mol", "force": "kcal/mol/A"}),
        ({"units": {"energy": "Ha", "forces": "Ha/bohr"}}, {"energy": "Ha", "force": "Ha/bohr"}),
        ({"e_unit": np.array(["Ha", "Ha"])}, {"energy": "Ha"}),
        ({"unit_cell": "conventional", "formula_units": 4, "time_unit": "fs"}, {}),
    ],
)
def test_units_that_are_understood(values, found):
    assert units_of(values) == found


@pytest.mark.parametrize(
    "info",
    [
        {"units": "kcal/mol"}, {"units": "kcal/mol, Angstrom"}, {"units": "nano"}, {"units": "si"}, {"units": "meV"},
        {"unit": "Ry"}, {"energy_per_atom_unit": "eV"}, {"units": True}, {"units": 27.2114}, {"energy_unit": 27.2114},
        {"units": np.array(["Ha", "bohr"])}, {"pressure_unit": "GPa"},
    ],
)  # fmt: skip
def test_units_without_a_known_meaning_are_refused_until_they_are_configured(tmp_path, info):
    made = moved(2)
    for atoms in made:
        atoms.info |= info
    ase.io.write(tmp_path / "a.traj", made)
    with pytest.raises(DataError, match=rf"{next(iter(info))}=.* is not understood; allowed: say it by data"):
        read(tmp_path / "a.traj")
    said = {"positions_unit": "A", "energy_unit": "kcal/mol", "forces_unit": "kcal/mol/A"}
    found = read(tmp_path / "a.traj", **said).train
    np.testing.assert_allclose(found.energy, [a.get_potential_energy() * KCAL_MOL for a in made], rtol=1e-9)
    with pytest.raises(DataError, match=r"say it by data.forces_unit$|is not understood"):
        read(tmp_path / "a.traj", positions_unit="A", energy_unit="kcal/mol")


def test_units_in_an_npz_file_by_other_names(tmp_path):
    good = dict(np.load(CASES / "et_good.npz"))
    np.savez(tmp_path / "a.npz", **good | {"E": good["E"] / HARTREE, "unit_E": "Ha", "F": good["F"] / HARTREE * BOHR})
    with pytest.raises(DataError, match=r"data.positions_unit: got bohr|bonds|distance|closer"):
        read(tmp_path / "a.npz", positions_unit="bohr")
    np.savez(tmp_path / "a.npz", **good | {"E": good["E"] / KCAL_MOL, "F": good["F"] / KCAL_MOL, "e_unit ": "kcal/mol"})
    np.testing.assert_allclose(read(tmp_path / "a.npz").train.forces, good["F"], rtol=1e-9)
    for units in (np.array(["kcal/mol", "Ang"]), np.array({"energy": "Ha"}, object)):
        np.savez(tmp_path / "b.npz", allow_pickle=True, **good | {"units": units})
        with pytest.raises(DataError, match=r"b.npz states units=.* is not understood"):
            read(tmp_path / "b.npz")
        assert read(tmp_path / "b.npz", positions_unit="A", energy_unit="eV", forces_unit="eV/A").train.size == 50


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_databases_are_read_with_their_keys_and_data(tmp_path, suffix):
    made, path = moved(3), tmp_path / f"a.{suffix}"
    with ase.db.connect(path) as rows:
        for index, atoms in enumerate(made):
            keys = {"REF_energy": 2.0 + index, "energy_unit": "Ha", "charge": 1}
            rows.write(atoms, key_value_pairs=keys, data={"REF_forces": 3.0 * atoms.get_forces()})
    found = read(path)
    np.testing.assert_allclose(found.train.energy, HARTREE * np.arange(2.0, 5.0))
    np.testing.assert_allclose(found.train.forces, [3.0 * HARTREE * atoms.get_forces() for atoms in made], rtol=1e-9)
    assert found.state == {"charge": 1.0}


def test_units_of_a_whole_database(tmp_path):
    with ase.db.connect(tmp_path / "a.db") as rows:
        for atoms in moved(2):
            labels = {"energy": np.array([atoms.get_potential_energy()]), "forces": atoms.get_forces()}
            atoms.calc = None
            rows.write(atoms, data=labels)
        rows.metadata = {
            "_distance_unit": "Ang",
            "_property_unit_dict": {"energy": "kcal/mol", "forces": "kcal/mol/Ang"},
        }
    assert read(tmp_path / "a.db").units["train"][:3] == ("A", "kcal/mol", "kcal/mol/A")


def test_files_that_are_no_databases_are_named_and_left_alone(tmp_path):
    (tmp_path / "empty.db").touch()
    (tmp_path / "empty.json").touch()
    (tmp_path / "garbage.db").write_bytes(b"no database" * 100)
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "list.json").write_text("[1]")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE a (b)")
    other.close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in before:
        with pytest.raises(DataError, match=rf"{path.name}: (unreadable|is empty)"):
            read(path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["fixed", "frozen", "FIX", "movable"])
def test_a_column_of_another_name_holds_atoms(tmp_path, name):
    made, held = moved(2), np.zeros(9, bool)
    held[:2] = True
    made[0].calc.results["forces"][:2] = 0.0
    made[0].calc.results["forces"][5, 0] = 0.0
    for atoms, column in zip(made, (held, np.zeros(9, bool)), strict=True):  # zeros of every frame are found without
        atoms.arrays[name] = ~column if name == "movable" else column
    ase.io.write(tmp_path / "a.extxyz", made)
    mask = read(tmp_path / "a.extxyz").train.without_forces
    assert mask[0, :2].all() and np.count_nonzero(mask) == 6
    made[0].arrays[name] = np.full(9, "perhaps")
    ase.io.write(tmp_path / "b.extxyz", made[0])
    with pytest.raises(DataError, match=rf"b.extxyz: frame 0: structure: column {name}"):
        read(tmp_path / "b.extxyz")


def labelled(atoms):
    """Labels belong to atoms as they are now: ASE forgets them where charges or moments are set afterwards."""
    atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results)
    return atoms


def test_initial_charges_and_moments_state_charge_and_spin(tmp_path):
    def two(name="CH3CH2OH"):
        return moved(1, name), moved(1, name, seed=1)

    (one,), (other,) = two()
    other.set_initial_charges([0.5, 0.4] + [0.0] * 7)
    ase.io.write(tmp_path / "a.traj", [one, labelled(other)])
    with pytest.raises(DataError, match=r"frame 1 states 1, data.train, frame 0 states none: frames of another charge"):
        read(tmp_path / "a.traj")
    assert read(tmp_path / "a.traj", electronic_states="allow").train.size == 2
    ase.io.write(tmp_path / "b.extxyz", other, columns=["symbols", "positions", "initial_charges", "forces"])
    assert read(tmp_path / "b.extxyz", targets="forces").state == {"charge": 1.0}
    other.info["charge"] = 0
    ase.io.write(tmp_path / "b.traj", other)
    with pytest.raises(DataError, match=r"initial charges that add up to 0.9"):
        read(tmp_path / "b.traj")
    (one,), (other,) = two()
    other.set_initial_magnetic_moments([1.0, 1.0] + [0.0] * 7)
    ase.io.write(tmp_path / "c.traj", [one, labelled(other)])
    with pytest.raises(DataError, match=r"frame 1 states multiplicity 3, .*frame 0 states none.*another spin"):
        read(tmp_path / "c.traj")
    for moments, found in (([1.0, 0.0, 0.0], 2.0), ([0.7, 0.0, 0.0], None), ([1.6, 0.0, 0.0], 3.0)):
        water = molecule("H2O")
        water.set_initial_magnetic_moments(moments)
        assert state_of({}, water) == State(None, None if found is None else ("multiplicity", found))
    iron = bulk("Fe", cubic=True)  # a cell has any moment
    iron.set_initial_magnetic_moments([2.0, 2.2])
    assert state_of({}, iron) == State()


@pytest.mark.parametrize(
    ("stated", "refused"),
    [
        ([{"multiplicity": 1, "spin": 0}, {"multiplicity": 1, "spin": 2}], "frame 1: states .*contradict"),
        ([{"multiplicity": 1, "spin": 0}, {"multiplicity": 1, "spin": 1}], None),
        ([{"multiplicity": 1, "uhf": 2}] * 2, "contradict"),
        ([{"multiplicity": 1}, {"uhf": 0}], None),
        ([{"multiplicity": 3}, {"spin": 2}], None),
        ([{"multiplicity": 3}, {"spin": 1}], "another spin"),
        ([{"multiplicity": 2}] * 2, r"frame 0 states multiplicity 2, which 10 electrons \(charge 0\) cannot have"),
        ([{"multiplicity": 2, "charge": 1}] * 2, None),
        ([{"spin": 0, "charge": 1}] * 2, "which 9 electrons"),
        ([{"multiplicity": 13}] * 2, "cannot have"),
    ],
)
def test_spins_in_different_words(tmp_path, stated, refused):
    made = moved(2, "NH3")
    for atoms, info in zip(made, stated, strict=True):
        atoms.info |= info
    ase.io.write(tmp_path / "a.xyz", made, format="extxyz")
    if refused is None:
        assert read(tmp_path / "a.xyz").train.size == 2
        return
    with pytest.raises(DataError, match=refused):
        read(tmp_path / "a.xyz")
    if "frame 0 states" in refused or "electrons" in refused:
        assert read(tmp_path / "a.xyz", electronic_states="allow").train.size == 2


def test_multiplicities():
    water, methyl = molecule("H2O").numbers, molecule("CH3").numbers
    for state, found in (
        (State(), {1}),
        (State(1.0), {2}),
        (State(0.0, ("spin", 2.0)), {3}),
        (State(0.0, ("2s", 2.0)), {3}),
    ):
        assert multiplicities(state, water, periodic=False) == found
    assert multiplicities(State(), methyl, periodic=False) == {2}
    assert multiplicities(State(None, ("total_spin", 1.0)), water, periodic=False) == {1, 3}
    assert multiplicities(State(None, ("multiplicity", 2.0)), water, periodic=True) == {2}


def test_charges_and_spins_of_single_atoms_state_nothing(tmp_path):
    made = moved(2)
    random = np.random.default_rng(0)
    for atoms in made:
        atoms.arrays["spin"] = random.normal(size=9)
        atoms.arrays["charge"] = random.normal(size=9)
    ase.io.write(tmp_path / "a.extxyz", made)
    assert read(tmp_path / "a.extxyz").state == {}
    good = dict(np.load(CASES / "et_good.npz"))
    for shape in ((9,), (50, 9), (50, 9, 1)):
        np.savez(tmp_path / "a.npz", **good, Q=random.normal(size=shape), spin=np.zeros(shape))
        assert read(tmp_path / "a.npz").state == {}
    np.savez(tmp_path / "a.npz", **good, Q=np.zeros(7))
    with pytest.raises(DataError, match="Q has shape"):
        read(tmp_path / "a.npz")

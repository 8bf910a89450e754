"""Masses, held coordinates and first velocities: what takes effect, what is said, what is refused."""

import ase
import ase.io
import ase.units
import numpy as np
import pytest

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data.structure import ElectronicState, Structure
from bayes_mlff.otf import config, motion
from bayes_mlff.otf.integrator import make_integrator
from bayes_mlff.runs import trajectory
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import Frame

NH3 = np.array([[0.0, 0.0, 0.069], [0.0, 0.94, -0.319], [0.814, -0.47, -0.319], [-0.814, -0.47, -0.319]])
FASTER = np.tile([0.01, 0.0, 0.0], (4, 1))  # 1000 m/s along x


def ammonia(**changes):
    return Structure(np.array([7, 1, 1, 1]), NH3, np.zeros((3, 3)), np.zeros(3, bool))._replace(**changes)


def holding(*atoms, axes=(0, 1, 2)):
    held = np.zeros((4, 3), bool)
    held[np.ix_(atoms, axes)] = True
    return ammonia(fixed=held)


def begin(structure=None, *, file=None, **dynamics):
    parsed = config.parse({"structure": "x.xyz", "dynamics": dynamics}).dynamics
    structure = ammonia() if structure is None else structure
    return motion.begin(parsed, structure, file, make_integrator(parsed, structure))


def said(found, word):
    return next(text for name, text in found.remarks if name == word)


def test_without_anything_special_nothing_is_said():
    found = begin()
    assert found.momenta is None and found.carried_ev == 0.0 and found.remarks == ()
    np.testing.assert_array_equal(found.masses, ase.Atoms("NH3").get_masses())


def test_masses_of_the_file_and_of_the_settings():
    heavy = np.array([14.003, 2.014, 2.014, 2.014])
    found = begin(ammonia(masses=heavy))
    np.testing.assert_array_equal(found.masses, heavy)
    assert (
        said(found, "masses") == "H 2.014 amu (3 atoms), in place of 1.008; N 14.003 amu (1 atom), in place of 14.007"
    )
    found = begin(masses={"H": 2.014})
    np.testing.assert_array_equal(found.masses, [14.007, 2.014, 2.014, 2.014])
    assert said(found, "masses") == "H 2.014 amu (3 atoms), in place of 1.008"
    np.testing.assert_array_equal(begin(ammonia(masses=heavy), masses={"H": 2.014}).masses, heavy)


@pytest.mark.parametrize(
    ("masses", "stated", "message"),
    [
        ({"H": 3.016}, [14.003, 2.014, 2.014, 2.014], r"dynamics\.masses\.H: got 3\.016; allowed: 2\.014 amu"),
        ({"H": 2.014}, [14.003, 1.008, 1.008, 2.014], r"1\.008, 2\.014 amu"),
        ({"O": 17.999}, None, r"dynamics\.masses: got 'O'; allowed: symbols of the structure's elements: H, N"),
        ({"D": 2.014}, None, r"dynamics\.masses: got 'D'"),
        ({"H": 0.01}, None, r"0\.1 to 1000 amu"),
        ({"H": 1001.0}, None, r"0\.1 to 1000 amu"),
    ],
)
def test_masses_that_contradict_or_do_not_belong_are_refused(masses, stated, message):
    with pytest.raises(ConfigError, match=message):
        begin(ammonia(masses=None if stated is None else np.array(stated)), masses=masses)


def test_impossible_masses_of_a_file_are_refused():
    with pytest.raises(DataError, match=r"mass of atom 1 \(H\) is 0 amu"):
        begin(ammonia(masses=np.array([14.0, 0.0, 1.0, 1.0])))


def test_held_coordinates_are_said_and_refused_where_they_cannot_be():
    assert said(begin(holding(0)), "held") == "1 atom (N: 0) in place; 9 of 12 coordinates move"
    assert "3 atoms (H3: 1 to 3) along z; 9 of 12" in said(begin(holding(1, 2, 3, axes=(2,))), "held")
    with pytest.raises(DataError, match="all coordinates of all atoms are held"):
        begin(holding(0, 1, 2, 3))
    box = holding(0)._replace(cell=5.0 * np.eye(3), pbc=np.ones(3, bool))
    raw = {"structure": "x.xyz", "dynamics": {"ensemble": "npt"}, "engine": {"name": "ase", "calculator": "a:b"}}
    raw["engine"]["stress"] = True
    with pytest.raises(ConfigError, match=r"dynamics\.ensemble: got 'npt'.*held coordinates"):
        make_integrator(config.parse(raw).dynamics, box)


@pytest.mark.parametrize(("ensemble", "thermostat"), [("nve", "bussi"), ("nvt", "langevin"), ("nvt", "bussi")])
def test_velocities_of_the_file_and_their_centre_of_mass(ensemble, thermostat):
    internal = np.array([[0.0, 0.0, 0.0], [0.002, 0.0, 0.0], [-0.001, 0.0, 0.0], [-0.001, 0.0, 0.0]])
    found = begin(file=FASTER + internal, ensemble=ensemble, thermostat=thermostat)
    resting = ensemble == "nvt" and thermostat == "bussi"
    kept = 0.0 if resting else 0.01
    assert found.momenta is not None
    velocity = found.momenta / found.masses[:, None] * units.FS
    np.testing.assert_allclose(velocity, internal + np.array([kept, 0.0, 0.0]), atol=1e-15)
    warm = 0.5 * np.sum(found.masses[:, None] * (internal / units.FS) ** 2)
    moving = 0.5 * found.masses.sum() * (0.01 / units.FS) ** 2
    assert moving == pytest.approx(0.08826, abs=1e-4)  # of 17.031 amu at 1000 m/s, eV
    assert found.carried_ev == pytest.approx(moving if ensemble == "nve" else 0.0)
    whole = ensemble == "nvt" and not resting  # friction acts on the centre of mass as on all else
    kelvin = 2.0 * (warm + (moving if whole else 0.0)) / units.KB / (12 if whole else 9)
    assert f"those of the structure's file, {kelvin:.4g} K" in said(found, "velocities")
    assert "of 1000 m/s" in said(found, "velocities")


def test_which_velocities_are_taken():
    drawn = begin(file=FASTER, velocities="draw")
    assert drawn.momenta is None and "left out" in said(drawn, "velocities")
    rest = begin(file=np.zeros((4, 3)))
    assert rest.momenta is None and "all zero" in said(rest, "velocities")
    still = begin(file=np.zeros((4, 3)), velocities="file")
    assert still.momenta is not None and not still.momenta.any()
    with pytest.raises(ConfigError, match=r"dynamics\.velocities: got 'file'.*has no velocities"):
        begin(velocities="file")
    with pytest.raises(ConfigError, match=r"dynamics\.velocities.*velocity rescaling cannot"):
        begin(file=FASTER, thermostat="bussi")
    with pytest.raises(DataError, match="finite numbers"):
        begin(file=np.full((4, 3), np.nan))


def test_velocities_of_held_coordinates_are_zero_and_the_others_keep_theirs():
    found = begin(holding(0), file=FASTER, ensemble="nve")
    assert found.momenta is not None and not found.momenta[0].any()
    np.testing.assert_allclose(found.momenta[1:, 0], 1.008 * 0.01 / units.FS)
    assert found.carried_ev == 0.0  # what holds the atom takes the momentum up: it is heat
    assert "1 components of held coordinates are zero" in said(found, "velocities")


def test_a_frame_is_a_whole_structure_for_ase(tmp_path):
    state = ElectronicState(1, 2, np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.5, 0.5, 0.0, 0.0]), None, {"note": "a b"})
    held = holding(0)._replace(electronic=state)
    held.fixed[2, 1] = True
    masses, momenta = np.array([14.007, 2.014, 2.014, 2.014]), np.random.default_rng(0).normal(size=(4, 3))
    run = RunDirectory(tmp_path)
    frame = Frame(10, 5.0, NH3 + 1e4, np.zeros((3, 3)), None, momenta)
    run.append_frames(held.numbers, held.pbc, [frame, frame], trajectory.constants(held, masses))
    atoms = ase.io.read(run.trajectory, index=-1)
    assert isinstance(atoms, ase.Atoms)
    np.testing.assert_allclose(atoms.positions, NH3 + 1e4, rtol=0, atol=1e-8)
    np.testing.assert_allclose(atoms.arrays["momenta"], momenta, rtol=1e-8)
    np.testing.assert_allclose(atoms.get_velocities() * ase.units.fs, momenta / masses[:, None] * units.FS, rtol=1e-8)
    np.testing.assert_array_equal(atoms.get_masses(), masses)
    np.testing.assert_array_equal(atoms.get_initial_magnetic_moments(), [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(atoms.get_initial_charges(), [0.5, 0.5, 0.0, 0.0])
    assert atoms.info["charge"] == 1 and atoms.info["multiplicity"] == 2 and atoms.info["note"] == "a b"
    before = atoms.positions.copy()
    atoms.set_positions(before + 1.0)
    np.testing.assert_array_equal(atoms.positions == before, held.fixed)
    found = trajectory.read(run.trajectory)
    np.testing.assert_allclose(found.positions, np.stack([NH3 + 1e4] * 2), rtol=0, atol=1e-8)


def test_an_ordinary_frame_has_momenta_alone_and_old_files_are_read(tmp_path):
    run = RunDirectory(tmp_path)
    usual = trajectory.constants(ammonia(), begin().masses)
    assert usual == trajectory.Constants("", ("",) * 4, "")
    run.append_frames(ammonia().numbers, ammonia().pbc, [Frame(1, 0.5, NH3, np.zeros((3, 3)), None, NH3)], usual)
    text = run.trajectory.read_text().splitlines()
    assert text[1] == 'Properties=species:S:1:pos:R:3:momenta:R:3 step=1 time_fs=0.5 pbc="F F F"'
    assert len(text[2].split()) == 7
    old = tmp_path / "old.extxyz"
    old.write_text('1\nProperties=species:S:1:pos:R:3 step=3 time_fs=1.5 pbc="F F F"\nHe 0.1 0.2 0.3\n')
    assert trajectory.read(old).positions.tolist() == [[[0.1, 0.2, 0.3]]]

"""Trajectories from runs and from files, and what is refused by name."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from bayes_mlff.analysis import replica
from bayes_mlff.core import units
from bayes_mlff.core.errors import BayesMlffError, ConfigError, DataError, RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import from_ase
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import Frame
from bayes_mlff.runs.trajectory import constants


def frames(count=4, *, momenta=True, seed=0):
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        atoms = molecule("H2O", cell=8.0 * np.eye(3), pbc=True)
        atoms.positions += 0.1 * rng.normal(size=(3, 3))
        if momenta:
            atoms.set_momenta(rng.normal(size=(3, 3)))
        atoms.info["time_fs"] = 10.0 + 2.5 * i
        made.append(atoms)
    return made


def write_run(path, made, *, heavy=False, reasons=("initial", "uncertain", "audit", "uncertain")):
    path.mkdir()
    run, first = RunDirectory(path), from_ase(made[0])
    masses = made[0].get_masses() * (2.0 if heavy else 1.0)
    series = (
        Frame(i, 2.5 * i, a.positions, a.cell.array, None, a.get_momenta() if a.has("momenta") else None)
        for i, a in enumerate(made)
    )
    run.append_frames(first.numbers, first.pbc, series, constants(first, masses))
    for step, reason in enumerate(reasons):
        label = Label(-1.0, np.zeros((len(made[0]), 3)))
        record = LabelRecord(first, label, step, 2.5 * step, reason, 0.0, None, "abc", 1.0)
        dataset.append(path / "dataset.extxyz", record)
    return path


@pytest.mark.parametrize("heavy", [False, True])
def test_a_run_gives_velocities_masses_and_the_labels_that_were_asked_for(tmp_path, heavy):
    made = frames()
    got = replica.read(write_run(tmp_path / "run", made, heavy=heavy))
    factor = 2.0 if heavy else 1.0
    assert np.allclose(got.positions, [a.positions for a in made], rtol=0, atol=1e-8)
    assert np.allclose(got.velocities, [a.get_velocities() * units.FS / factor for a in made], rtol=1e-8)
    assert np.allclose(got.masses, factor * made[0].get_masses())
    assert got.time_fs.tolist() == [0.0, 2.5, 5.0, 7.5]
    assert (got.label_fs.tolist(), got.unasked) == ([2.5, 7.5], 2)
    assert got.since(4.0).label_fs.tolist() == [7.5]


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj"])
def test_a_file_of_ase_gives_the_same(tmp_path, name):
    made, with_times = frames(), name.endswith("extxyz")
    for atoms in made if not with_times else []:
        del atoms.info["time_fs"]
    ase.io.write(tmp_path / name, made)
    got = replica.read(tmp_path / name, None if with_times else 2.5)
    assert np.allclose(got.velocities, [a.get_velocities() * units.FS for a in made], rtol=1e-7, atol=1e-9)
    assert np.allclose(np.diff(got.time_fs), 2.5)
    assert got.label_fs is None
    if with_times:
        with pytest.raises(ConfigError, match="--interval-fs"):
            replica.read(tmp_path / name, 1.0)
    else:
        with pytest.raises(DataError, match=r"no times.*--interval-fs"):
            replica.read(tmp_path / name).times()


def test_frames_of_a_run_without_momenta_have_no_velocities(tmp_path):
    assert replica.read(write_run(tmp_path / "run", frames(momenta=False))).velocities is None
    mixed = frames()
    mixed[2] = frames(momenta=False)[2]
    assert replica.read(write_run(tmp_path / "mixed", mixed)).velocities is None


def other_atoms():
    made = frames()
    made[2] = Atoms("HOH", made[2].positions, cell=made[2].cell, pbc=True, info={"time_fs": 15.0})
    return made


def at(*times):
    made = frames(len(times))
    for atoms, time in zip(made, times, strict=True):
        atoms.info["time_fs"] = time
    return made


def flat():
    made = frames()
    made[3].cell[2] = 0.0
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: frames(1), "got 1 frame; allowed: a trajectory of at least 2"),
        (other_atoms, "frame 2 has other atoms"),
        (lambda: at(0.0, 1.0, 3.0), "1 to 2 fs; allowed: even"),
        (lambda: at(0.0, 2.0, 1.0), "even and rising"),
        (lambda: at(0.0, "x", 2.0), "time_fs"),
        (flat, "frame 3"),
    ],
)
def test_unsuitable_frames_are_refused_by_name(tmp_path, made, message):
    path = tmp_path / "a.extxyz"
    ase.io.write(path, made())
    with pytest.raises(DataError, match=message) as caught:
        replica.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "no trajectory", "3\n\nH 0 0\n"])
def test_files_that_ase_cannot_read_are_refused_by_name(tmp_path, content):
    path = tmp_path / "a.extxyz"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BayesMlffError, match=r"a\.extxyz"):
        replica.read(path)


def test_a_directory_without_trajectory_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"no trajectory\.extxyz"):
        replica.read(tmp_path)


def test_replicas_must_be_of_one_system_and_length(tmp_path):
    ase.io.write(tmp_path / "a.extxyz", frames(4))
    ase.io.write(tmp_path / "b.extxyz", frames(6))
    ase.io.write(tmp_path / "c.extxyz", [molecule("NH3"), molecule("NH3")])
    a, b = (replica.read(tmp_path / f"{name}.extxyz") for name in "ab")
    c = replica.read(tmp_path / "c.extxyz", 2.5)
    replica.check_together([a, b])
    with pytest.raises(DataError, match=r"b\.extxyz: 6 frames, .*a\.extxyz: 4"):
        replica.check_equal_lengths([a, b])
    with pytest.raises(DataError, match=r"c\.extxyz: other atoms"):
        replica.check_together([a, c])
    slower = b._replace(time_fs=2.0 * b.time_fs)
    with pytest.raises(DataError, match="5 fs between frames"):
        replica.check_equal_lengths([b, slower])
    with pytest.raises(ConfigError, match="--skip-ps"):
        a.since(1000.0)
    with pytest.raises(ConfigError, match=r"--mobile.*'Xx'.*H, O"):
        a.of("Xx", "--mobile")
    assert a.pairs() == [("O", "O"), ("O", "H"), ("H", "H")]

"""Frames in NetCDF: what is read back, by this package and by ASE, and files that a kill has interrupted."""

import ase.io
import numpy as np
import pytest
from ase.data import atomic_masses

from bayes_mlff.analysis import replica
from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, RunDirectoryError
from bayes_mlff.runs import compact_frames
from bayes_mlff.runs.compact_frames import CompactFiles
from bayes_mlff.runs.growing_files import Frame, GrowingFiles

NUMBERS = np.array([8, 1, 1, 26])
MASSES = atomic_masses[NUMBERS].copy()
MASSES[1] = 2.014
TILTED = np.array([[0.1, 4.0, 0.2], [3.0, 0.5, 0.0], [0.3, 0.2, 5.0]])  # left-handed
PERIODIC, MOLECULE = np.ones(3, bool), np.zeros(3, bool)


def frames(count=6, cell=TILTED):
    random = np.random.default_rng(0)
    return [
        Frame(5 * (i + 1), 2.5 * (i + 1), random.normal(size=(4, 3)), cell * (1 + 0.01 * i), None,
              random.normal(size=(4, 3))) for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def library():
    return pytest.importorskip("netCDF4", reason="the extra netcdf is not installed")


def write(folder, many, pbc=PERIODIC):
    folder.mkdir(exist_ok=True)
    files = CompactFiles(folder, MASSES)
    files.append_frames(NUMBERS, pbc, many[:2])
    files.append_frames(NUMBERS, pbc, many[2:])
    return files


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(compact_frames.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"format: got 'netcdf'; .*bayes-mlff\[netcdf\]"):
        CompactFiles(tmp_path, MASSES)


CASES = [(PERIODIC, TILTED), (PERIODIC, TILTED[[1, 0, 2]]), (MOLECULE, np.zeros((3, 3)))]


@pytest.mark.parametrize(("pbc", "cell"), CASES)
def test_what_is_written_is_read_with_cells_turned(library, tmp_path, pbc, cell):
    many = frames(cell=cell)
    write(tmp_path, many, pbc)
    found = replica.read(tmp_path)
    np.testing.assert_array_equal(found.numbers, NUMBERS)
    np.testing.assert_allclose(found.masses, MASSES)
    np.testing.assert_allclose(found.time_fs, [frame.time_fs for frame in many], rtol=1e-6)
    np.testing.assert_array_equal(found.pbc, pbc)
    seen = ase.io.read(tmp_path / "trajectory.nc", index=":")
    for i, frame in enumerate(many):
        if pbc.all():
            # Of a left-handed cell all vectors are reversed, which makes the same lattice and mirrors no atoms.
            fractional = frame.positions @ np.linalg.inv(frame.cell) * np.sign(np.linalg.det(frame.cell))
            np.testing.assert_allclose(found.positions[i] @ np.linalg.inv(found.cells[i]), fractional, atol=1e-5)
        speed = np.linalg.norm(frame.momenta / MASSES[:, None] * units.FS, axis=1)
        np.testing.assert_allclose(np.linalg.norm(found.velocities[i], axis=1), speed, rtol=1e-5)
        apart = np.linalg.norm(frame.positions[:, None] - frame.positions[None], axis=-1)
        np.testing.assert_allclose(seen[i].get_all_distances(), apart, atol=1e-5)
        np.testing.assert_array_equal(seen[i].numbers, NUMBERS)
        if pbc.all():
            volume = abs(np.linalg.det(frame.cell))
            assert abs(np.linalg.det(seen[i].cell.array)) == pytest.approx(volume, rel=1e-6)
        handed = np.linalg.det(frame.positions[:3]), np.linalg.det(found.positions[i, :3])
        assert handed[0] == pytest.approx(handed[1], rel=1e-4)
        # The work of a force along a velocity survives the turn, so that both were turned alike.
        mixed = np.sum(frame.positions * frame.momenta / MASSES[:, None] * units.FS, axis=1)
        np.testing.assert_allclose(np.sum(found.positions[i] * found.velocities[i], axis=1), mixed, atol=1e-6)


def test_frames_behind_a_checkpoint_are_written_again(library, tmp_path):
    many = frames()
    whole = write(tmp_path / "whole", many)
    cut = write(tmp_path / "cut", many[:4])
    assert cut.sizes() == {"thermo.csv": 0, "trajectory.nc": 4}
    again = CompactFiles(tmp_path / "cut", MASSES)
    again.truncate({"thermo.csv": 0, "trajectory.nc": 3})
    again.append_frames(NUMBERS, PERIODIC, many[3:])
    assert again.trajectory.read_bytes() == whole.trajectory.read_bytes()
    with pytest.raises(RunDirectoryError, match="6 frames, but the checkpoint knows 7"):
        again.truncate({"thermo.csv": 0, "trajectory.nc": 7})
    again.truncate({"thermo.csv": 0, "trajectory.nc": 0})
    assert not again.trajectory.exists()


def test_files_are_a_fourth_of_text(library, tmp_path):
    many = frames() * 100
    compact = write(tmp_path, many)
    text = GrowingFiles(tmp_path)
    text.append_frames(NUMBERS, PERIODIC, many)
    assert compact.trajectory.stat().st_size < 0.5 * text.trajectory.stat().st_size  # of 4 atoms, beside their cells

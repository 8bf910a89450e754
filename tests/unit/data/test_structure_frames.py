"""Frames of structure files: which one of how many, from compressed files, in bounded memory."""

import bz2
import gzip
import lzma
import tracemalloc
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms

from bayes_mlff.core.errors import BayesMlffError, ConfigError
from bayes_mlff.data import structure_frames
from tests.support.places import CASES
from tests.support.structure_reading import AMMONIA, case, read, said, xyz


def frame_files(folder: Path) -> list[Path]:
    """Three frames in several formats, whose first atom is at x = 0, 1 and 2 Å."""
    frames = [molecule("NH3") for _ in range(3)]
    for x, atoms in enumerate(frames):
        atoms.positions[:, 0] += x
    names = ("a.traj", "a.db", "a.json", "a.extxyz.gz", "a.pdb", "a.xsf", "a.con")
    for name in names:
        if name.endswith((".db", ".json")):
            with ase.db.connect(folder / name) as database:
                for atoms in frames:
                    database.write(atoms)
        else:
            ase.io.write(folder / name, frames, format="extxyz" if "extxyz" in name else None)
    return [folder / name for name in names]


def test_any_frame_of_any_format(tmp_path):
    for path in frame_files(tmp_path):
        kind = "extxyz" if "extxyz" in path.name else None
        for index, x in ((0, 0.0), (1, 1.0), (-1, 2.0), (-3, 0.0)):
            found = read(path, index=index, format=kind)
            assert found.structure.positions[0, 0] == pytest.approx(x, abs=1e-3), (path.name, index)
            assert f"frame {index % 3} of 3" in said(found), path.name
        with pytest.raises(ConfigError, match=r"structure\.index"):
            read(path, index=3, format=kind)


def test_a_compressed_file_is_read_as_the_same():
    assert case("nh3.xyz.gz").remarks[0] == "H3N: 4 atoms, no cell"


@pytest.mark.parametrize(("opener", "suffix"), [(gzip.open, "gz"), (bz2.open, "bz2"), (lzma.open, "xz")])
@pytest.mark.parametrize("name", ["nh4.xyz", "slab_fixed.vasp", "nh3_cryst1.pdb"])
def test_compressed_files(tmp_path, opener, suffix, name):
    with opener(tmp_path / f"{name}.{suffix}", "wb") as file:
        file.write((CASES / name).read_bytes())
    found, plain = read(tmp_path / f"{name}.{suffix}"), case(name)
    np.testing.assert_array_equal(found.structure.positions, plain.structure.positions)
    assert found.remarks == plain.remarks
    assert found.structure.electronic[:2] == plain.structure.electronic[:2]


def test_compressed_binary_files(tmp_path):
    atoms = molecule("NH3")
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "a.traj", atoms)
    with gzip.open(tmp_path / "b.traj.gz", "wb") as file:
        file.write((tmp_path / "a.traj").read_bytes())
    assert read(tmp_path / "b.traj.gz").structure.fixed is not None


@pytest.mark.parametrize("name", ["a.xyz.gz", "a.xyz.xz", "a.cif.bz2", "b.vasp.xz"])
def test_files_that_are_not_compressed_as_they_say_are_refused(tmp_path, name):
    (tmp_path / name).write_text(f"4\n\n{AMMONIA}")
    with pytest.raises(BayesMlffError, match="readable"):
        read(tmp_path / name)


def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path):
    (tmp_path / "a.xyz.gz").write_bytes((CASES / "nh3.xyz.gz").read_bytes()[:-12])
    with pytest.raises(BayesMlffError, match="readable"):
        read(tmp_path / "a.xyz.gz")


def test_compressed_files_that_grow_without_bound_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(structure_frames, "MOST_BYTES", 1 << 20)
    with gzip.open(tmp_path / "a.pdb.gz", "wb") as file:
        file.write(b"REMARK\n" * (1 << 18))
    with pytest.raises(ConfigError, match=r"structure\.file.*a file of at most"):
        read(tmp_path / "a.pdb.gz")


def test_a_long_file_is_read_frame_by_frame(tmp_path):
    """Eight MiB of frames take far less memory than that."""
    path = xyz(tmp_path, body=AMMONIA, frames=80_000)
    tracemalloc.start()
    found = read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "frame 79999 of 80000" in said(found) and peak < 2 << 20 < path.stat().st_size

"""The append-only dataset: exact, durable, and recoverable after a crash at any byte."""

import errno
import os
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import dataset, label_notes
from bayes_mlff.data.dataset import LabelRecord, Recovery
from bayes_mlff.data.labelled_files import read_extxyz
from bayes_mlff.data.labels import Label
from bayes_mlff.data.molecule_sets import MD17_KEYS, SGDML_KEYS, read_npz
from bayes_mlff.data.readings import Reading
from bayes_mlff.data.structure import Structure
from tests.support.faults import Fault, accident


def make_record(step: int, *, periodic: bool = False, predicted: bool = True, n: int = 4) -> LabelRecord:
    rng = np.random.default_rng(step)
    structure = Structure(
        rng.integers(1, 60, n),
        rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-12, 3, (n, 3)),
        rng.normal(size=(3, 3)) + 6.0 * np.eye(3) if periodic else np.zeros((3, 3)),
        np.array([periodic] * 3),
    )
    stress = rng.normal(size=(3, 3)) * 1e-3
    label = Label(float(rng.normal() * 1e5), rng.normal(size=(n, 3)), stress + stress.T if periodic else None)
    record = LabelRecord(structure, label, step, 0.1 * step, "sigma 0.02 > 0.01", 1.0 / 3.0, -2.5, "sha256:12e34", 3.3)
    if not predicted:
        return record
    means, sigmas = rng.normal(size=(2, n, 3))
    if periodic:
        record = record._replace(predicted_stress_mean=stress, predicted_stress_sigma=abs(stress))
    return record._replace(
        predicted_energy_mean=float(rng.normal()),
        predicted_energy_sigma=0.1,
        predicted_forces_mean=means,
        predicted_forces_sigma=abs(sigmas),
        readings=(Reading("energy", 0.1, 1e-300, "eV"), Reading("force", 0.2, 1.0 / 3.0, "eV/Å")),
        confidence=0.949999999999,
    )


def assert_same(left: object, right: object) -> None:
    if isinstance(left, tuple):
        assert type(left) is type(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right, strict=True)
    else:
        assert left == right and type(left) is type(right)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("n", [1, 4])
def test_a_frame_reads_back_to_the_last_bit(tmp_path, periodic, predicted, n):
    path = tmp_path / "labels.extxyz"
    records = [make_record(step, periodic=periodic, predicted=predicted, n=n) for step in (7, 0, 12345)]
    for record in records:
        dataset.append(path, record)
    for back, record in zip(dataset.read(path), records, strict=True):
        assert_same(back, record)


def test_triggers_with_and_without_an_atom_read_back(tmp_path):
    readings = (
        Reading("energy", 0.1, 0.2, "eV"),
        Reading("hydroxyl", 0.3, 0.1, "eV/Å", 2.718281828, 3),
        Reading("each", 1e-3, 2e-3, "eV/atom"),
    )
    made = make_record(7)._replace(readings=readings, predicted_energy_sigma=0.1, asked=("hydroxyl", "each"))
    path = tmp_path / "dataset.extxyz"
    dataset.append(path, made)
    (found,) = dataset.read(path)
    assert (found.readings, found.asked) == (readings, ("hydroxyl", "each"))
    (note,) = label_notes.read(path)
    assert note.asked == ("hydroxyl", "each")
    sound = path.read_text()
    old = (
        sound.replace(' asked="hydroxyl each"', "")
        .replace("reason=", "reason=")
        .replace(f'reason="{made.reason}"', 'reason="uncertain"')
    )
    path.write_text(old)
    assert label_notes.read(path)[0].asked == ("energy",)  # of a run from before it was stored
    for wrong in (
        "0.3 0.1 eV/Å 2.7",
        "0.3 0.1 eV/Å -1.0 3",
        "0.3 0.1 eV/Å 2.7 -3",
        "0.3 0.1 eV/Å 2.7 x",
        "0.3 nan eV/Å",
    ):
        path.write_text(re.sub('trigger_sigma_hydroxyl="[^"]*"', f'trigger_sigma_hydroxyl="{wrong}"', sound))
        with pytest.raises(DataError, match="trigger_sigma_hydroxyl is"):
            dataset.read(path)


def test_ase_reads_the_same_numbers_under_the_documented_names(tmp_path):
    path = tmp_path / "labels.extxyz"
    record = make_record(3, periodic=True)
    dataset.append(path, record)
    atoms = ase.io.read(path)
    np.testing.assert_array_equal(atoms.positions, record.structure.positions)
    np.testing.assert_array_equal(atoms.cell.array, record.structure.cell)
    np.testing.assert_array_equal(atoms.arrays["REF_forces"], record.label.forces)
    np.testing.assert_array_equal(atoms.arrays["predicted_forces_sigma"], record.predicted_forces_sigma)
    np.testing.assert_array_equal(atoms.info["REF_stress"], record.label.stress)
    assert atoms.info["REF_energy"] == record.label.energy
    expected = {
        "predicted_energy_mean",
        "predicted_energy_sigma",
        "sigma_crit",
        "trigger_sigma_force",
        "confidence",
        "step",
        "time_fs",
    }
    expected |= {"reason", "energy_offset", "pretrained_energy", "engine_hash", "engine_seconds"}
    expected |= {"predicted_stress_mean", "predicted_stress_sigma"}
    assert set(atoms.info) == expected | {"REF_energy", "REF_stress"}
    [(structure, label)] = read_extxyz(path)
    assert_same(structure, record.structure)
    assert_same(label, record.label)


def test_frame_and_new_directory_entry_are_synced_before_append_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def spy(descriptor):
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((target, target.stat().st_size if target.is_file() else None))
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", spy)
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(1))
    first = path.stat().st_size
    assert synced == [(path, first), (tmp_path, None)]
    dataset.append(path, make_record(2))
    assert synced[2:] == [(path, path.stat().st_size)]
    assert path.stat().st_size > first


def test_a_tear_at_any_byte_of_the_last_frame_is_found_and_removed(tmp_path):
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(1, n=2))
    whole = path.stat().st_size
    dataset.append(path, make_record(2, n=2))
    data = path.read_bytes()
    for size in range(whole + 1, len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match="frame 1 is incomplete"):
            dataset.read(path)
        if size % 50 == 0:
            with pytest.raises(DataError, match="incomplete"):
                dataset.append(path, make_record(3))
        assert dataset.recover(path) == Recovery(1, size - whole)
        assert path.read_bytes() == data[:whole]
    dataset.append(path, make_record(2, n=2))
    assert path.read_bytes() == data
    assert dataset.recover(path) == Recovery(2, 0)


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_a_tail_of_zeros_counts_as_torn(tmp_path, kept):
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept] + b"\0" * 100)
    assert dataset.recover(path) == Recovery(1, kept + 100)


def test_damage_elsewhere_is_an_error_that_names_the_frame_and_recovery_leaves_it_alone(tmp_path):
    path = tmp_path / "labels.extxyz"
    for step in range(3):
        dataset.append(path, make_record(step, n=4))
    good = path.read_text()
    frames = good.split("4\nProperties")
    for wrong, message in (("9", "frame 2, at byte"), ("99", "frame 1 does not end")):
        path.write_text(good.replace("4\nProperties" + frames[2], wrong + "\nProperties" + frames[2]))
        with pytest.raises(DataError, match=message):
            dataset.recover(path)
    lines = good.splitlines()
    lines[6 + 3] = lines[6 + 3].replace(".", "x", 1)
    path.write_text("\n".join(lines) + "\n")
    damaged = path.read_bytes()
    with pytest.raises(DataError, match="frame 1: unreadable"):
        dataset.read(path)
    dataset.recover(path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("key", ["REF_energy", "energy_offset", "reason", "step"])
def test_a_missing_key_is_an_error(tmp_path, key):
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(1))
    path.write_text(path.read_text().replace(f" {key}=", f" other_{key}="))
    with pytest.raises(DataError, match=f"frame 0.*{key}"):
        dataset.read(path)


def test_missing_forces_are_an_error(tmp_path):
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(1))
    path.write_text(path.read_text().replace("REF_forces", "forces_of_another_name"))
    with pytest.raises(DataError, match="lacks REF_forces"):
        dataset.read(path)
    with pytest.raises(DataError, match="frame 0 lacks REF_forces"):
        read_extxyz(path)


def test_a_step_is_labelled_once(tmp_path):
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(5))
    before = path.read_bytes()
    with pytest.raises(DataError, match="step 5 is already labelled"):
        dataset.append(path, make_record(5)._replace(time_fs=99.0))
    assert path.read_bytes() == before
    path.write_bytes(before + before)
    with pytest.raises(DataError, match="frames 0 and 1 both hold step 5"):
        dataset.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"label": Label(float("nan"), np.zeros((4, 3)))},
        {"label": Label(0.0, np.full((4, 3), np.nan))},
        {"label": Label(0.0, np.zeros((3, 3)))},
        {"readings": (Reading("energy", 0.1, float("inf"), "eV"),)},
        {"readings": (Reading("energy", 0.2, 0.3, "eV"),)},  # not the predicted σ
        {"readings": (Reading("force", 0.2, 0.3, "furlong"),)},
        {"predicted_forces_mean": np.zeros((4,))},
        {"reason": "two\nlines"},
        {"reason": ""},
        {"reason": "007"},
        {"engine_hash": "T"},
    ],
)
def test_what_cannot_be_written_exactly_is_refused_before_it_is_written(tmp_path, change):
    path = tmp_path / "labels.extxyz"
    with pytest.raises(DataError):
        dataset.append(path, make_record(1)._replace(**change))
    assert not path.exists()


@pytest.mark.parametrize("reason", ['a "quoted" back\\slash', "step=4 k = [1]{2}", "12", "σ > 0.1 eV/Å"])
def test_awkward_texts_survive(tmp_path, reason):
    path = tmp_path / "labels.extxyz"
    record = make_record(1)._replace(reason=reason)
    dataset.append(path, record)
    assert_same(dataset.read(path)[0], record)


def test_a_failed_write_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(1))
    before = path.read_bytes()
    real = os.write

    def full_disk(descriptor, content):
        if len(content) > 30:
            return real(descriptor, content[:30])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(DataError, match=r"label of step 2 cannot be written \(No space"):
        dataset.append(path, make_record(2))
    assert path.read_bytes() == before


def test_on_a_full_disk_a_label_takes_the_reserved_space(tmp_path):
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(1))
    dataset.reserve(tmp_path, 1 << 16)
    with accident(Fault("any_write", 1, errno.ENOSPC), tmp_path):
        dataset.append(path, make_record(2))
        assert not (tmp_path / dataset.RESERVE).exists()
    assert_same(dataset.read(path)[1], make_record(2))
    dataset.reserve(tmp_path, 100)  # less than a frame
    before = path.read_bytes()
    with accident(Fault("any_write", 1, errno.EDQUOT), tmp_path), pytest.raises(DataError, match="label of step 3"):
        dataset.append(path, make_record(3))
    assert path.read_bytes() == before
    dataset.append(path, make_record(3))


def test_a_disk_that_fails_otherwise_keeps_its_reserve(tmp_path):
    dataset.reserve(tmp_path, 1 << 12)
    with accident(Fault("any_write", 1, errno.EIO), tmp_path), pytest.raises(DataError, match="Input/output error"):
        dataset.append(tmp_path / "labels.extxyz", make_record(1))
    assert (tmp_path / dataset.RESERVE).stat().st_size == 1 << 12
    assert dataset.release(tmp_path) and not dataset.release(tmp_path)


def test_reserved_space_is_renewed_and_refused_where_there_is_none(tmp_path):
    dataset.reserve(tmp_path, 1 << 12)
    dataset.reserve(tmp_path, 1 << 13)
    assert (tmp_path / dataset.RESERVE).stat().st_size == 1 << 13
    with accident(Fault("any_write", 1, errno.ENOSPC), tmp_path), pytest.raises(OSError, match="No space"):
        dataset.reserve(tmp_path, 1 << 14)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_look_at_a_file_that_is_being_written_leaves_the_last_frame_out(tmp_path):
    path = tmp_path / "labels.extxyz"
    dataset.append(path, make_record(1))
    dataset.append(path, make_record(2))
    os.truncate(path, path.stat().st_size - 10)
    before = path.read_bytes()
    assert [r.step for r in dataset.read(path, unfinished=True)] == [1]
    assert path.read_bytes() == before
    with pytest.raises(DataError, match="incomplete"):
        dataset.read(path)


def test_npz_sets(tmp_path):
    path = tmp_path / "set.npz"
    rng = np.random.default_rng(0)
    positions, forces = rng.normal(size=(2, 5, 3, 3)).astype(np.float32)
    energies = rng.normal(size=(5, 1))
    np.savez(path, z=np.array([8, 1, 1], np.int32), R=positions, E=energies, F=forces)
    molecules = read_npz(path, keys=SGDML_KEYS)
    assert molecules.positions.dtype == np.float64 and molecules.numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(molecules.positions, positions.astype(np.float64))
    np.testing.assert_array_equal(molecules.energies, energies[:, 0])
    np.testing.assert_array_equal(molecules.forces, forces.astype(np.float64))
    with pytest.raises(DataError, match="E_md17, F_md17; present: E, F, R, z"):
        read_npz(path, keys=MD17_KEYS)
    np.savez(path, z=np.array([8, 1, 1]), R=positions, E=energies[:4], F=forces)
    with pytest.raises(DataError, match="E has shape"):
        read_npz(path, keys=SGDML_KEYS)
    forces[2, 1, 0] = np.nan
    np.savez(path, z=np.array([8, 1, 1]), R=positions, E=energies, F=forces)
    with pytest.raises(DataError, match="F is not finite"):
        read_npz(path, keys=SGDML_KEYS)
    with pytest.raises(DataError, match="no such file"):
        read_npz(tmp_path / "none.npz", keys=SGDML_KEYS)


def test_extxyz_reads_keys_that_ase_moves_into_a_calculator_and_voigt_stress(tmp_path):
    path = tmp_path / "set.extxyz"
    path.write_text(
        '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 '
        'my_stress="1 2 3 4 5 6"\n'
        "Cu 0.0 0.0 0.0 0.1 0.2 0.3\n"
    )
    [(structure, label)] = read_extxyz(path, energy_key="energy", forces_key="forces", stress_key="my_stress")
    assert structure.is_periodic and label.energy == -1.5 and label.forces.tolist() == [[0.1, 0.2, 0.3]]
    assert label.stress.tolist() == [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]
    with pytest.raises(DataError, match=r"lacks REF_energy, REF_forces; present: .*energy"):
        read_extxyz(path)

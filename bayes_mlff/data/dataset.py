"""The labelled frames of a run: an append-only extended-XYZ file.

Numbers are written with as many digits as a float64 needs: a frame read back, also by ASE, is bit-identical. A frame
is on the disk when `append` returns; a crash can only leave an incomplete last frame.
"""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import ase
import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core import durable
from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data import extxyz, readings
from bayes_mlff.data import structure as structures
from bayes_mlff.data.frame_text import Scan, refuse_torn, scan
from bayes_mlff.data.labels import Label, check_label
from bayes_mlff.data.readings import Reading
from bayes_mlff.data.structure import GEOMETRY, ElectronicState, Structure

RESERVE: Final = "label.reserve"
"""Name of the file that keeps disk space for labels while a run works."""


class LabelRecord(NamedTuple):
    """One label, with the prediction of the model and the values of the triggers before the label was known."""

    structure: Structure
    label: Label  # as returned by the engine, without offset
    step: int  # MD step; unique in a file
    time_fs: float
    reason: str  # why the label was requested
    energy_offset: float  # eV, to be added to the label's energy
    pretrained_energy: float | None  # eV, of the pretrained model
    engine_hash: str  # identifies the level of theory
    engine_seconds: float
    predicted_energy_mean: float | None = None  # eV
    predicted_energy_sigma: float | None = None  # eV
    predicted_forces_mean: np.ndarray | None = None  # [n, 3] eV/Å
    predicted_forces_sigma: np.ndarray | None = None  # [n, 3] eV/Å
    predicted_stress_mean: np.ndarray | None = None  # [3, 3] eV/Å³, tension positive
    predicted_stress_sigma: np.ndarray | None = None  # [3, 3] eV/Å³
    readings: tuple[Reading, ...] = ()  # of the triggers; the value of the one on the energy is its predicted σ
    confidence: float | None = None  # probability that the error of the energy was within the threshold
    asked: tuple[str, ...] = ()  # names of the triggers that requested the label


class Recovery(NamedTuple):
    """Result of `recover`."""

    frames_kept: int
    bytes_removed: int  # 0 if the file was complete


_FLOATS = ("time_fs", "energy_offset", "engine_seconds")
_OPTIONAL_FLOATS = (
    "pretrained_energy",
    "predicted_energy_mean",
    "predicted_energy_sigma",
    "confidence",
)
_ELECTRONIC = ("charge", "multiplicity")
_TEXTS = ("reason", "engine_hash")
_OPTIONAL_ARRAYS = ("predicted_forces_mean", "predicted_forces_sigma")
_OPTIONAL_MATRICES = ("predicted_stress_mean", "predicted_stress_sigma")


def append(path: Path, record: LabelRecord, *, repeats: bool = False) -> None:
    """Add one frame; it is on the disk when this function returns.

    Args:
      path: the file, created if missing; its directory must exist.
      record: a finite label of a step that is not in the file yet.
      repeats: the file may hold a step several times.

    Raises:
      DataError: if the record is unusable, its step is already there, the file ends in a torn frame, or the frame
        cannot be written; then the file is as it was.
    """
    content = _format(record).encode()
    existing = scan(path) if path.exists() else Scan([], 0, 0)
    refuse_torn(path, existing)
    if not repeats and record.step in {_step(f"{path}: frame {i}", text) for i, text in enumerate(existing.frames)}:
        raise DataError(f"{path}: step {record.step} is already labelled; a step is labelled once")
    try:
        try:
            _write_durably(path, content, existing.whole_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not release(path.parent):
                raise
            _write_durably(path, content, existing.whole_bytes)
    except OSError as error:
        raise DataError(
            f"{path}: the label of step {record.step} cannot be written ({error.strerror}); the frames before it are "
            "intact"
        ) from error


def text(records: Iterable[LabelRecord]) -> str:
    """Frames as `append` writes them, for a file that is written at once.

    Raises:
      DataError: if a record is unusable.
    """
    return "".join(map(_format, records))


def reserve(folder: Path, size: int) -> None:
    """Reserve disk space for labels: `append` uses it when the disk is full, so that no finished label is lost.

    Args:
      folder: folder of the datasets; the space is reserved by a file in it.
      size: bytes.

    Raises:
      OSError: if there is not enough space.
    """
    path = folder / RESERVE
    if not path.exists() or path.stat().st_size != size:
        durable.write_whole(path, os.urandom(size))  # random bytes, since file systems may compress others


def release(folder: Path) -> bool:
    """Release the reserved space; False if there is none."""
    try:
        (folder / RESERVE).unlink()
    except OSError:
        return False
    return True


def read(path: Path, *, repeats: bool = False, unfinished: bool = False) -> list[LabelRecord]:
    """Read all frames in the order in which they were labelled.

    Args:
      path: extended XYZ file of the labels.
      repeats: the file may hold a step several times.
      unfinished: ignore an incomplete last frame, for files that are being written or were left by a kill.

    Raises:
      DataError: if the file is missing, ends in a torn frame (see `recover`) or wrongly holds a step twice, or a
        frame is unreadable or lacks a key; the frame is named by its index, from 0.
    """
    if not path.exists():
        raise DataError(f"{path}: no such dataset")
    found = scan(path)
    if not unfinished:
        refuse_torn(path, found)
    records = [_parse(f"{path}: frame {index}", text) for index, text in enumerate(found.frames)]
    seen: dict[int, int] = {}
    for index, record in enumerate(records):
        if record.step in seen and not repeats:
            raise DataError(f"{path}: frames {seen[record.step]} and {index} both hold step {record.step}")
        seen[record.step] = index
    return records


def recover(path: Path) -> Recovery:
    """Remove an incomplete last frame left by a crash; complete frames are never changed.

    Raises:
      DataError: if the file is missing or damaged anywhere else than at its end.
    """
    if not path.exists():
        raise DataError(f"{path}: no such dataset")
    found = scan(path)
    if found.torn_bytes:
        with path.open("r+b") as file:
            file.truncate(found.whole_bytes)
            os.fsync(file.fileno())
    return Recovery(len(found.frames), found.torn_bytes)


def _step(where: str, text: str) -> int:
    """The step of a frame, from its comment line alone."""
    step = extxyz.comment_values(text.split("\n", 2)[1], where).get("step")
    if not isinstance(step, int | np.integer) or isinstance(step, bool):
        raise DataError(f"{where}: step is {shown(step)}; allowed: a whole number")
    return int(step)


def _format(record: LabelRecord) -> str:
    """One frame as text, refused unless it reads back as the same record."""
    record = record._replace(structure=_stored(record.structure))
    structure, label = record.structure, record.label
    structures.check(structure)
    n = len(structure.numbers)
    check_label(label, n)
    columns: dict[str, np.ndarray] = {"pos": structure.positions, "REF_forces": label.forces}
    columns |= {name: v for name in _OPTIONAL_ARRAYS if (v := getattr(record, name)) is not None}
    for name, column in columns.items():
        if np.shape(column) != (n, 3) or not np.isfinite(column).all():
            raise DataError(f"record.{name}: got shape {np.shape(column)}; allowed: {(n, 3)} finite numbers")
    values = _comment_values(record)
    properties = ":".join(["species:S:1", *(f"{name}:R:3" for name in columns)])
    head = []
    if structure.cell.any():
        head.append(f'Lattice="{_numbers(structure.cell)}"')
    head.append(f"Properties={properties}")
    head.append('pbc="{} {} {}"'.format(*("T" if periodic else "F" for periodic in structure.pbc)))
    comment = " ".join([*head, *(f"{key}={value}" for key, value in values.items())])
    rows = np.concatenate([np.asarray(column, np.float64) for column in columns.values()], axis=1)
    lines = [f"{chemical_symbols[z]} {_numbers(row)}" for z, row in zip(structure.numbers, rows, strict=True)]
    text = "\n".join([str(n), comment, *lines, ""])
    if text.count("\n") != n + 2 or not _equal(_parse("record", text), record):
        raise DataError(f"record of step {record.step}: a text field does not survive writing: {record.reason!r}")
    return text


def _comment_values(record: LabelRecord) -> dict[str, str]:
    """Values of the comment line besides the geometry, in writing order."""
    numbers: dict[str, float | None] = {"REF_energy": record.label.energy}
    numbers |= {name: getattr(record, name) for name in (*_FLOATS, *_OPTIONAL_FLOATS)}
    given = {name: float(value) for name, value in numbers.items() if value is not None}
    for name, value in given.items():
        if not np.isfinite(value):
            raise DataError(f"record.{name}: got {value!r}; allowed: a finite number")
    values = {"step": str(int(record.step)), **{name: repr(value) for name, value in given.items()}}
    values |= readings.to_comment(record.readings)
    stated = {name: getattr(record.structure.electronic, name) for name in _ELECTRONIC}
    values |= {name: str(int(value)) for name, value in stated.items() if value is not None}
    matrices = {"REF_stress": record.label.stress} | {name: getattr(record, name) for name in _OPTIONAL_MATRICES}
    for name, matrix in matrices.items():
        if matrix is None:
            continue
        if np.shape(matrix) != (3, 3) or not np.isfinite(matrix).all():
            raise DataError(f"record.{name}: got shape {np.shape(matrix)}; allowed: (3, 3) finite numbers")
        # ASE would read a plain list of nine numbers as a vector.
        values[name] = f'"_JSON {json.dumps(np.asarray(matrix, np.float64).tolist())}"'
    if record.asked:
        values["asked"] = f'"{" ".join(record.asked)}"'
    for name in _TEXTS:
        escaped = getattr(record, name).replace("\\", "\\\\").replace('"', '\\"')
        values[name] = f'"{escaped}"'
    return values


def _numbers(array: np.ndarray) -> str:
    """Shortest text that reads back to the same float64 numbers."""
    return " ".join(repr(value) for value in np.asarray(array, np.float64).ravel().tolist())


def _parse(where: str, text: str) -> LabelRecord:
    """Read one frame."""
    (atoms,) = extxyz.parse(text, where)
    step = _step(where, text)
    missing = [key for key in ("REF_energy", *_FLOATS, *_TEXTS) if key not in atoms.info]
    missing += [key for key in ("REF_forces",) if key not in atoms.arrays]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; present: {sorted([*atoms.info, *atoms.arrays])}")
    try:
        state = ElectronicState(charge=_whole(atoms, "charge"), multiplicity=_whole(atoms, "multiplicity"))
        structure = structures.geometry(atoms)._replace(electronic=state)
        stress = _matrix(atoms, "REF_stress") if "REF_stress" in atoms.info else None
        label = Label(_float(atoms, "REF_energy"), _array(atoms, "REF_forces"), stress)
        check_label(label, len(atoms))
        values: dict[str, Any] = {key: _float(atoms, key) for key in _FLOATS}
        values |= {key: _float(atoms, key) for key in _OPTIONAL_FLOATS if key in atoms.info}
        values |= {key: _array(atoms, key) for key in _OPTIONAL_ARRAYS if key in atoms.arrays}
        values |= {key: _matrix(atoms, key) for key in _OPTIONAL_MATRICES if key in atoms.info}
        values["readings"] = readings.from_comment(atoms.info, values.get("predicted_energy_sigma"))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    values |= {key: str(atoms.info[key]) for key in _TEXTS}
    values["asked"] = tuple(str(atoms.info.get("asked", "")).split())
    return LabelRecord(structure=structure, label=label, step=step, **{"pretrained_energy": None, **values})


def _stored(structure: Structure) -> Structure:
    """The part of a structure that belongs to its label: no masses, no held coordinates (forces are unconstrained)."""
    geometry = Structure(*(getattr(structure, name) for name in GEOMETRY))
    state = structure.electronic
    return geometry._replace(electronic=ElectronicState(state.charge, state.multiplicity))


def _whole(atoms: ase.Atoms, key: str) -> int | None:
    value = atoms.info.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
        raise DataError(f"{key} is {shown(value)}; allowed: a whole number")
    return None if value is None else int(value)


def _float(atoms: ase.Atoms, key: str) -> float:
    value = atoms.info[key]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise DataError(f"{key} is {shown(value)}; allowed: a finite number")
    return float(value)


def _array(atoms: ase.Atoms, key: str) -> np.ndarray:
    return _numbers_of(key, atoms.arrays[key], (len(atoms), 3))


def _matrix(atoms: ase.Atoms, key: str) -> np.ndarray:
    return _numbers_of(key, np.asarray(atoms.info[key]), (3, 3))


def _numbers_of(key: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.dtype.kind not in "fi" or array.shape != shape or not np.isfinite(array).all():
        raise DataError(f"{key} has shape {array.shape}, type {array.dtype}; allowed: {shape} finite numbers")
    return np.asarray(array, np.float64)


def _equal(left: Any, right: Any) -> bool:
    """Equality to the last bit of nested records."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    if left is None or right is None:
        return left is right
    return bool(np.array_equal(left, right))


def _write_durably(path: Path, content: bytes, size: int) -> None:
    """Append and flush to the disk; a partial write is undone."""
    created = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)
    if created:
        durable.sync_folder(path.parent)

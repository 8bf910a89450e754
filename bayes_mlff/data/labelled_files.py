"""Read labelled frames of any structures, plain or compressed, with ASE, and the units and states that they give."""

import bz2
import gzip
import lzma
import math
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import ase.db
import ase.io
import numpy as np
from ase.io.formats import UnknownFileTypeError
from ase.stress import voigt_6_to_full_3x3_stress

from bayes_mlff.core.errors import READER_ERRORS, DataError, shown
from bayes_mlff.core.paths import bounded_memory
from bayes_mlff.data import constraints, extxyz
from bayes_mlff.data.labels import Label, check_label
from bayes_mlff.data.stated import State, state_of, units_of
from bayes_mlff.data.structure import Structure, check

FORMATS: Final = {".xyz": "extxyz", ".extxyz": "extxyz", ".traj": "traj", ".db": "db", ".json": "json"}
"""ASE's names of formats by suffix."""
COMPRESSED: Final[dict[str, Callable[[Path], IO[bytes]]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # pyright: ignore[reportAssignmentType]
MOST_BYTES: Final = 8 << 30
"""Largest size, bytes, of an uncompressed file, and of the memory for reading it."""
USUAL: Final = ("REF_energy", "REF_forces", "REF_stress")
"""Keys of labels that are used if none are configured."""
COMPUTED: Final = ("energy", "forces", "stress")
"""The same among calculator results; `free_energy` takes precedence, since forces are its negative gradient."""


class LabelKeys(NamedTuple):
    """Keys of the labels; None: the usual key, or, in a file without any of these, the results of a calculator.

    Of a file that was read: the keys that were looked for, None for forces that no frame has.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None


class LabelledStructure(NamedTuple):
    """A structure and its label."""

    structure: Structure
    label: Label


class LabelledFile(NamedTuple):
    """All frames of a file, with the stated units and states."""

    frames: list[LabelledStructure]  # in the units of the file; `structure.fixed` is set if atoms are held
    keys: LabelKeys  # keys of the labels used
    units: dict[str, str]  # as stated by the file, see `units_of`
    states: list[State]  # charge and spin as stated by each frame


def known_suffix(path: Path) -> bool:
    """True if this module reads files with the suffix of this name."""
    return _inner(path).suffix in FORMATS


def read_labelled(
    path: Path, keys: LabelKeys | None = None, *, energies_optional: bool = False, with_forces: bool = True
) -> LabelledFile:
    """Read all frames of a file.

    Args:
      path: .xyz, .extxyz, .traj, .db or .json, also with .gz, .bz2 or .xz after it.
      keys: of the labels; stress is optional, 3x3, nine numbers or six in Voigt order xx yy zz yz xz xy.
      energies_optional: frames without an energy are read, too.
      with_forces: False reads no forces, whether frames have them or not.

    Returns:
      The frames in file order. Geometries are not checked, since their unit is not known; a missing energy is nan, and
      so are forces that are not read.

    Raises:
      DataError: if the file is unreadable or empty, a frame (named by its index, from 0) lacks a label, or frames
        state different units.
    """
    frames = _atoms(path)
    present = [_present(atoms) for atoms in frames]
    used = _keys(keys or LabelKeys(), present)
    found, states, units = [], [], [units_of(values) for values in present]
    other = next((i for i, stated in enumerate(units) if stated != units[0]), None)
    if other is not None:
        raise DataError(f"{path}: frame {other} states units {units[other]}, frame 0 {units[0]}; allowed: the same")
    for index, (atoms, values) in enumerate(zip(frames, present, strict=True)):
        known = used.energy in values
        needed = ([] if energies_optional else [used.energy]) + ([used.forces] if with_forces else [])
        missing = [key for key in needed if key not in values]
        if missing:
            names = ", ".join(sorted(values))
            raise DataError(f"{path}: frame {index} lacks {', '.join(map(str, missing))}; present: {names}")
        try:
            stress = _full_stress(_real(values, used.stress)) if used.stress in values else None
            energy = _real(values, used.energy, ()).item() if known else 0.0
            label = Label(energy, _real(values, used.forces) if with_forces else np.zeros((len(atoms), 3)), stress)
            check_label(label, len(atoms))
            label = label if known else label._replace(energy=math.nan)
            label = label if with_forces else label._replace(forces=np.full((len(atoms), 3), np.nan))
            found.append(LabelledStructure(_structure(atoms), label))
            states.append(state_of(values, atoms))
        except DataError as error:
            raise DataError(f"{path}: frame {index}: {error}") from error
    if not any(used.forces in values for values in present):
        used = used._replace(forces=None)
    return LabelledFile(found, used, units[0], states)


def read_extxyz(
    path: Path,
    *,
    energy_key: str = USUAL[0],
    forces_key: str = USUAL[1],
    stress_key: str = USUAL[2],
    energies_optional: bool = False,
) -> list[LabelledStructure]:
    """Labelled frames of an extended-XYZ file in Å, eV, eV/Å and, for stress, eV/Å³ tension positive.

    Raises:
      DataError: see `read_labelled`.
    """
    keys = LabelKeys(energy_key, forces_key, stress_key)
    found = read_labelled(path, keys, energies_optional=energies_optional).frames
    for index, (structure, _) in enumerate(found):
        try:
            check(structure)
        except DataError as error:
            raise DataError(f"{path}: frame {index}: {error}") from error
    return found


def _structure(atoms: ase.Atoms) -> Structure:
    """Geometry and held coordinates; momenta, moments and other constraints do not affect labels."""
    geometry = (np.array(atoms.numbers, np.int64), np.array(atoms.positions, np.float64), atoms.cell.array.copy())
    return Structure(*geometry, np.array(atoms.pbc, bool), fixed=constraints.zeroed(atoms))


def _keys(asked: LabelKeys, present: list[dict[str, Any]]) -> LabelKeys:
    """Keys to look for: one source for all keys that are not configured, so that levels of theory are not mixed."""
    keyed = any(name in values for values in present for name in USUAL[:2])
    computed = any(name in values for values in present for name in COMPUTED[:2])
    names: list[str] = list(USUAL if keyed or not computed else COMPUTED)
    if names[0] == "energy" and all("free_energy" in values for values in present):
        names[0] = "free_energy"
    return LabelKeys(*(name if said is None else said for said, name in zip(asked, names, strict=True)))


def _present(atoms: ase.Atoms) -> dict[str, Any]:
    """All values of a frame by name; those of a calculator first, since ASE removes them from the rest."""
    computed = {} if atoms.calc is None else atoms.calc.results
    rows = [atoms.info.get(name) for name in ("data", "key_value_pairs")]  # of a row of a database
    inner = {str(k): v for row in rows if isinstance(row, Mapping) for k, v in row.items()}
    return {**inner, **{str(k): v for k, v in atoms.info.items()}, **atoms.arrays, **computed}


def _inner(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in COMPRESSED else path


def _atoms(path: Path) -> list[ase.Atoms]:
    """All frames, read by ASE."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    kind = FORMATS.get(_inner(path).suffix, "extxyz")
    if path.suffix not in COMPRESSED:
        return _read(path, kind, str(path))
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / f"unpacked{_inner(path).suffix}"
        _unpack(path, unpacked)
        return _read(unpacked, kind, str(path))


def _unpack(path: Path, target: Path) -> None:
    size = 0
    try:
        with COMPRESSED[path.suffix](path) as packed, target.open("wb") as unpacked:
            while part := packed.read(1 << 20):
                size += len(part)
                if size > MOST_BYTES:
                    raise DataError(f"{path}: holds more than {MOST_BYTES >> 30} GiB; allowed: less, or a plain file")
                unpacked.write(part)
    except (*READER_ERRORS, lzma.LZMAError) as error:
        raise DataError(f"{path}: not a readable {path.suffix} file: {type(error).__name__}: {error}") from error


def _read(path: Path, kind: str, name: str) -> list[ase.Atoms]:
    if path.stat().st_size == 0:
        raise DataError(f"{name}: is empty")
    try:
        with bounded_memory(MOST_BYTES):
            if kind in ("db", "json"):
                read = _rows(path, kind)
            elif kind == "extxyz":
                read = extxyz.read_frames(path, name)
            else:
                read = ase.io.read(path, index=":", format=kind, do_not_split_by_at_sign=True)
    except (*READER_ERRORS, sqlite3.Error, UnknownFileTypeError) as error:
        raise DataError(f"{name}: unreadable: {type(error).__name__}: {error}") from error
    frames = cast(list[ase.Atoms], read)
    if not frames:
        raise DataError(f"{name}: no frames")
    return frames


def _rows(path: Path, kind: str) -> list[ase.Atoms]:
    """Rows of a database; `info` has their key-value pairs and data, and the units stated by the database."""
    if kind == "db":
        # ASE would add its tables to a file without any.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchall():
                raise ValueError("no database of ASE")
    database = ase.db.connect(path, type=kind, serial=True)
    said = {str(k): v for k, v in database.metadata.items() if "unit" in str(k).lower()}
    found = []
    for row in database.select():
        atoms = row.toatoms(add_additional_information=True)
        # A row's attribute `charge` is the sum of initial charges and hides a key of this name.
        pairs = {key: vars(row).get(key, value) for key, value in row.key_value_pairs.items()}
        atoms.info |= said | {"key_value_pairs": pairs}
        found.append(atoms)
    return found


def _real(present: dict[str, Any], key: str | None, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A value as float64 if it is made of numbers, of any shape or of the given one; else None."""
    value = present[str(key)]
    array = np.asarray(value)
    array = array.reshape(()) if shape == () and array.shape == (1,) else array  # as databases store numbers
    if array.dtype.kind not in "fiu" or (shape is not None and array.shape != shape):
        raise DataError(f"{key} is {shown(value)}; allowed: {'a number' if shape == () else 'numbers'}")
    return array.astype(np.float64)


def _full_stress(array: np.ndarray) -> np.ndarray:
    """A [3, 3] stress from any common shape; `check_label` refuses other shapes."""
    if array.shape == (6,):
        return voigt_6_to_full_3x3_stress(array)
    return array.reshape(3, 3) if array.shape == (9,) else array

"""Labelled sets as others publish them: npz files of molecules and extended XYZ of anything."""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import ase.io
import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import ArrayLike

from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.errors import READER_ERRORS, DataError, shown
from bayes_mlff.data.extxyz import check_file
from bayes_mlff.data.labels import Label, check_label
from bayes_mlff.data.structure import Structure, check, from_ase


class NpzKeys(NamedTuple):
    """Which array of a file holds what; levels of theory share files, so the choice is always explicit."""

    numbers: str
    positions: str
    energies: str
    forces: str


SGDML_KEYS: Final = NpzKeys("z", "R", "E", "F")
MD17_KEYS: Final = NpzKeys("z", "R", "E_md17", "F_md17")
"""The original PBE+vdW-TS labels; never to be mixed with `RMD17_KEYS`."""
RMD17_KEYS: Final = NpzKeys("z", "R", "E_rmd17", "F_rmd17")
"""The recomputed PBE/def2-SVP labels of the same geometries (Christensen and von Lilienfeld 2020)."""


class MoleculeSet(NamedTuple):
    """Frames of one molecule or of one composition of a crystal, float64; the last two are None for molecules."""

    numbers: np.ndarray  # [n] atomic numbers
    positions: np.ndarray  # [f, n, 3] Å
    energies: np.ndarray  # [f] eV; nan where not labelled
    forces: np.ndarray  # [f, n, 3] eV/Å
    cells: np.ndarray | None = None  # [f, 3, 3] Å, rows are vectors
    stress: np.ndarray | None = None  # [f, 3, 3] eV/Å³, tension positive

    def take(self, index: np.ndarray) -> "MoleculeSet":
        """Some of the frames."""
        cells, stress = (None if x is None else x[index] for x in (self.cells, self.stress))
        return MoleculeSet(self.numbers, self.positions[index], self.energies[index], self.forces[index], cells, stress)


class LabelledStructure(NamedTuple):
    """A structure and what the reference says about it."""

    structure: Structure
    label: Label


def read_npz(path: Path, *, keys: NpzKeys, energies_optional: bool = False) -> MoleculeSet:
    """Read all frames of a set whose units are Å, eV and eV/Å.

    Args:
      path: an npz file; it is not allowed to hold pickled objects.
      keys: the names of the four arrays.
      energies_optional: a file without an array of energies is read, too.

    Returns:
      The frames in file order; energies nan if there are none.

    Raises:
      DataError: if the file is missing or no npz, a key is missing (all present ones are listed), or arrays
        have the wrong shape or are not finite.
    """
    known = not energies_optional or keys.energies in array_names(path)
    names = keys if known else (keys.numbers, keys.positions, keys.forces)
    arrays = dict(zip(names, read_arrays(path, names), strict=True))
    numbers, positions, forces = arrays[keys.numbers], arrays[keys.positions], arrays[keys.forces]
    if positions.ndim != 3 or positions.shape[2] != 3 or len(positions) == 0:
        raise DataError(f"{path}: {keys.positions} has shape {positions.shape}; allowed: (frames, atoms, 3)")
    f, n, _ = positions.shape
    energies = arrays[keys.energies] if known else np.zeros(f)
    if energies.shape == (f, 1):
        energies = energies[:, 0]
    expected = (
        (keys.numbers, numbers, (n,)),
        (keys.energies, energies, (f,)),
        (keys.forces, forces, (f, n, 3)),
        (keys.positions, positions, (f, n, 3)),
    )
    for key, array, shape in expected:
        if array.shape != shape:
            raise DataError(f"{path}: {key} has shape {array.shape}; allowed: {shape}")
        if array.dtype.kind not in "fiu":
            raise DataError(f"{path}: {key} has type {array.dtype}; allowed: real numbers")
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {key} is not finite")
    if not np.isin(numbers, np.arange(1, 119)).all():
        raise DataError(f"{path}: {keys.numbers} is {shown(numbers.tolist())}; allowed: atomic numbers, 1 to 118")
    found = MoleculeSet(numbers.astype(np.int64), *(x.astype(np.float64) for x in (positions, energies, forces)))
    for index in range(f):
        try:
            check_label(Label(float(found.energies[index]), found.forces[index]), n)
            check(Structure(found.numbers, found.positions[index], np.zeros((3, 3)), np.zeros(3, bool)))
        except DataError as error:
            raise DataError(f"{path}: frame {index}: {error}") from error
    return found if known else found._replace(energies=np.full(f, math.nan))


def read_arrays(path: Path, keys: tuple[str, ...]) -> list[np.ndarray]:
    """Arrays of an npz file by their names.

    Raises:
      DataError: if the file is missing, no npz, lacks a key, holds Python objects, or claims arrays of another size
        than it has.
    """
    present = array_names(path)
    missing = [key for key in keys if key not in present]
    if missing:
        raise DataError(f"{path}: no array {', '.join(missing)}; present: {', '.join(present)}")
    with _opened(path) as archive:
        return [_read_array(archive, f"{key}.npy") for key in keys]


def array_names(path: Path) -> list[str]:
    """Names of the arrays of an npz file, in order.

    Raises:
      DataError: if the file is missing or no npz.
    """
    with _opened(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except READER_ERRORS as error:
        raise DataError(f"{path}: not a readable npz file: {type(error).__name__}: {error}") from error


def write_npz(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write named arrays, replacing a file that is there at once.

    Raises:
      OSError: if it cannot be written; then the file is as it was.
    """
    content, named = io.BytesIO(), cast(dict[str, Any], {name: np.asarray(array) for name, array in arrays.items()})
    np.savez(content, **named)
    write_whole(path, content.getvalue())


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, whose header is held against the size of its file before memory is taken for it."""
    with archive.open(name) as file:
        shape, _, dtype = _read_header(file)
        claimed = math.prod(shape) * dtype.itemsize + file.tell()
    if dtype.hasobject or claimed != archive.getinfo(name).file_size:
        raise ValueError(f"{name} claims {dtype} of shape {shape}, in {archive.getinfo(name).file_size} bytes")
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the array of an npy file, which is left at its first number."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    return read(file)


def read_extxyz(
    path: Path,
    *,
    energy_key: str = "REF_energy",
    forces_key: str = "REF_forces",
    stress_key: str = "REF_stress",
    energies_optional: bool = False,
) -> list[LabelledStructure]:
    """Read labelled frames of any structures.

    Args:
      path: an extended-XYZ file in Å, eV, eV/Å and, for stress, eV/Å³ tension positive.
      energy_key: of the total energy; required in every frame unless `energies_optional`.
      forces_key: of the forces; required in every frame.
      stress_key: of the stress, 3x3, nine numbers or six in Voigt order xx yy zz yz xz xy; optional.
      energies_optional: frames without an energy are read, too.

    Returns:
      The frames in file order; the energy is nan where there is none.

    Raises:
      DataError: if the file is unreadable or empty, or a frame (named by its index, from 0) lacks a key.
    """
    check_file(path)
    try:
        read = ase.io.read(path, index=":", format="extxyz", do_not_split_by_at_sign=True)
    except READER_ERRORS as error:
        raise DataError(f"{path}: unreadable: {type(error).__name__}: {error}") from error
    frames = cast(list[ase.Atoms], read)
    labelled = []
    for index, atoms in enumerate(frames):
        # ASE takes plain `energy`, `forces` and `stress` out of the file into a calculator.
        computed = {} if atoms.calc is None else atoms.calc.results
        present = {**atoms.info, **atoms.arrays, **computed}
        known = energy_key in present
        missing = [key for key in (energy_key, forces_key) if key not in present]
        missing = [key for key in missing if key != energy_key or not energies_optional]
        if missing:
            raise DataError(f"{path}: frame {index} lacks {', '.join(missing)}; present: {', '.join(sorted(present))}")
        try:
            stress = _full_stress(_real(present, stress_key)) if stress_key in present else None
            energy = _real(present, energy_key, ()).item() if known else 0.0
            label = Label(energy, _real(present, forces_key), stress)
            check_label(label, len(atoms))
            label = label if known else label._replace(energy=math.nan)
            labelled.append(LabelledStructure(from_ase(atoms), label))
        except DataError as error:
            raise DataError(f"{path}: frame {index}: {error}") from error
    return labelled


def stack(labelled: list[LabelledStructure]) -> MoleculeSet:
    """One set of structures that have the same atoms in the same order, all crystals with stress or all molecules.

    Raises:
      DataError: naming the first structure (from 0) that differs from the first one.
    """
    first = labelled[0]
    periodic = bool(first.structure.pbc.all())
    for index, (structure, label) in enumerate(labelled):
        if not np.array_equal(structure.numbers, first.structure.numbers):
            raise DataError(f"frame {index}: other atoms, or in another order, than frame 0")
        if not np.array_equal(structure.pbc, first.structure.pbc) or (structure.pbc.any() and not periodic):
            raise DataError(f"frame {index}: pbc {structure.pbc.tolist()}; allowed: all or none, as in frame 0")
        if periodic and label.stress is None:
            raise DataError(f"frame {index}: no stress; crystals need it")
    return MoleculeSet(
        first.structure.numbers,
        np.stack([s.positions for s, _ in labelled]),
        np.array([label.energy for _, label in labelled]),
        np.stack([label.forces for _, label in labelled]),
        np.stack([s.cell for s, _ in labelled]) if periodic else None,
        np.stack([label.stress for _, label in labelled if label.stress is not None]) if periodic else None,
    )


def _real(present: dict[str, Any], key: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A value as float64, if it is made of numbers; of any shape, or of the one given."""
    array = np.asarray(present[key])
    if array.dtype.kind not in "fiu" or (shape is not None and array.shape != shape):
        raise DataError(f"{key} is {shown(present[key])}; allowed: {'a number' if shape == () else 'numbers'}")
    return array.astype(np.float64)


def _full_stress(array: np.ndarray) -> np.ndarray:
    """A [3, 3] stress from any of the shapes in use; another shape is left for `check_label` to refuse."""
    if array.shape == (6,):
        return voigt_6_to_full_3x3_stress(array)
    return array.reshape(3, 3) if array.shape == (9,) else array

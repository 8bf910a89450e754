"""Published labelled sets: npz files of molecules."""

import math
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data.labelled_files import LabelledStructure
from bayes_mlff.data.labels import Label, check_label
from bayes_mlff.data.npz import array_names, read_arrays
from bayes_mlff.data.stated import CHARGES, SPINS, State, names_unit, state_of, units_of
from bayes_mlff.data.structure import Structure, check


class NpzKeys(NamedTuple):
    """Names of the arrays of a file. Files may contain several levels of theory, so the choice is always explicit."""

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
    forces: np.ndarray  # [f, n, 3] eV/Å; nan where not read
    cells: np.ndarray | None = None  # [f, 3, 3] Å, rows are vectors
    stress: np.ndarray | None = None  # [f, 3, 3] eV/Å³, tension positive

    def take(self, index: np.ndarray) -> "MoleculeSet":
        """Some of the frames."""
        cells, stress = (None if x is None else x[index] for x in (self.cells, self.stress))
        return MoleculeSet(self.numbers, self.positions[index], self.energies[index], self.forces[index], cells, stress)


def read_npz(path: Path, *, keys: NpzKeys, energies_optional: bool = False, with_forces: bool = True) -> MoleculeSet:
    """Read all frames of a set whose units are Å, eV and eV/Å.

    Args:
      path: an npz file; it is not allowed to hold pickled objects.
      keys: the names of the four arrays.
      energies_optional: a file without an array of energies is read, too.
      with_forces: False reads no forces, whether the file has them or not.

    Returns:
      The frames in file order; energies nan if there are none, and forces if they are not read.

    Raises:
      DataError: if the file is missing or no npz, a key is missing (all present ones are listed), or arrays
        have the wrong shape or are not finite.
    """
    known = not energies_optional or keys.energies in array_names(path)
    names = (keys.numbers, keys.positions, *([keys.energies] if known else []), *([keys.forces] if with_forces else []))
    arrays = dict(zip(names, read_arrays(path, names), strict=True))
    numbers, positions = arrays[keys.numbers], arrays[keys.positions]
    if positions.ndim != 3 or positions.shape[2] != 3 or len(positions) == 0:
        raise DataError(f"{path}: {keys.positions} has shape {positions.shape}; allowed: (frames, atoms, 3)")
    f, n, _ = positions.shape
    forces = arrays[keys.forces] if with_forces else np.zeros((f, n, 3))
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
    found = found if known else found._replace(energies=np.full(f, math.nan))
    return found if with_forces else found._replace(forces=np.full((f, n, 3), math.nan))


class NpzRemarks(NamedTuple):
    """Information in an npz file besides its labels."""

    units: dict[str, str]  # see `units_of`
    states: list[State]  # charge and spin of each frame


def read_npz_remarks(path: Path, frames: int, atoms: int) -> NpzRemarks:
    """Units, charges and spins of an npz file: `r_unit`, `e_unit`, `f_unit` and the like, `charge`, `Q`, `spin`.

    Args:
      path: of the file.
      frames: number of frames, f.
      atoms: number of atoms, n; arrays [n] or [f, n] of charges and spins are per-atom values and are ignored.

    Raises:
      DataError: if the file is unreadable, or such an array holds something else than one value or one of each frame.
    """
    names = array_names(path)
    counted = {
        name: "charge" if name == "Q" else name for name in names if name == "Q" or name.lower() in CHARGES + SPINS
    }
    texts = {name: _remark(path, name) for name in names if names_unit(name) is not None}
    rows: dict[str, np.ndarray] = {}
    for name, array in zip(counted, read_arrays(path, tuple(counted)), strict=True):
        if (
            atoms > 1
            and array.size not in (1, frames)
            and array.shape in ((atoms,), (frames, atoms), (frames, atoms, 1))
        ):
            continue  # per-atom values
        if array.size not in (1, frames):
            raise DataError(f"{path}: {name} has shape {array.shape}; allowed: one number, or one for each frame")
        rows[counted[name]] = np.broadcast_to(array.ravel(), frames)
    try:
        states = [state_of({name: row[index] for name, row in rows.items()}) for index in range(frames)]
        return NpzRemarks(units_of(texts), states)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _remark(path: Path, name: str) -> np.ndarray:
    """Text of an array; if it is not text, a description of what it is."""
    try:
        return read_arrays(path, (name,))[0]
    except DataError:
        return np.array(["an array that is neither text", "nor numbers"])


def stack(labelled: list[LabelledStructure]) -> MoleculeSet:
    """One set from structures with the same atoms in the same order, all crystals with stress or all molecules.

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

"""A structure as plain arrays, and its conversion from and to ASE."""

from typing import Final, NamedTuple

import ase
import numpy as np
from ase.data import atomic_masses, chemical_symbols

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import constraints as holding
from bayes_mlff.data import electronic as electrons
from bayes_mlff.data.electronic import ElectronicState, Plain

__all__ = ["GEOMETRY", "ElectronicState", "Plain", "Structure", "check", "from_ase", "geometry", "repeated", "to_ase"]

FARTHEST: Final = 1e5
"""Largest coordinate, Å: beyond it float32 does not resolve 0.01 Å."""

SHORTEST: Final = 0.5
"""Smallest length of a cell vector along a periodic direction, Å."""

THINNEST: Final = 0.1
"""Smallest distance of its lattice planes, Å: neighbours are searched in some r_max / THINNEST images either way."""


NAMES: Final = ("label", "labels", "atom_label", "atomtypes", "dlp4_labels")
"""Columns with names of atoms, in lower case, of which the first is used (extended XYZ, CIF, PDB, GROMACS, DL_POLY)."""

GEOMETRY: Final = ("numbers", "positions", "cell", "pbc")
"""Fields of a `Structure` without which there is none."""


class Structure(NamedTuple):
    """Atoms in a cell; all arrays are float64, int64 or bool numpy arrays on the host."""

    numbers: np.ndarray  # [n] atomic numbers
    positions: np.ndarray  # [n, 3] Å
    cell: np.ndarray  # [3, 3] Å, vectors are rows; a row of zeros for a direction without a vector
    pbc: np.ndarray  # [3] bool
    masses: np.ndarray | None = None  # [n] amu; None: standard masses of ASE
    fixed: np.ndarray | None = None  # [n, 3] True where a coordinate is held; None: nowhere
    electronic: ElectronicState = ElectronicState()
    labels: np.ndarray | None = None  # [n] text, names that the file gives the atoms; None: it gives none

    @property
    def is_periodic(self) -> bool:
        """True if the structure repeats in all three directions and so has a volume and a stress."""
        return bool(np.all(self.pbc))


def repeated(structure: Structure, times: tuple[int, int, int]) -> Structure:
    """A supercell: copies one after another, in the order of ASE's `repeat`.

    Args:
      structure: what to repeat.
      times: number of copies along each cell vector, from 1.

    Returns:
      The supercell. A stated charge is that of all copies together; a multiplicity, which has no meaning for
      them, and remarks of the file are left out.

    Raises:
      ConfigError: if it is to be repeated along a direction that is not periodic.
    """
    copies = int(np.prod(times))
    if copies == 1:
        return structure
    for axis, (count, periodic) in enumerate(zip(times, structure.pbc, strict=True)):
        if count > 1 and not periodic:
            raise ConfigError(
                "supercell", list(times), f"1 along {'abc'[axis]}, in which the structure is not periodic"
            )
    grid = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (structure.positions[None] + grid @ structure.cell).reshape(-1, 3)

    def tiled(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.tile(values, (copies, *[1] * (values.ndim - 1)))

    state = structure.electronic
    electronic = ElectronicState(
        None if state.charge is None else copies * state.charge,
        None,
        tiled(state.moments),
        tiled(state.charges),
        tiled(state.tags),
    )
    return Structure(
        np.tile(structure.numbers, copies),
        positions,
        structure.cell * np.array(times)[:, None],
        structure.pbc,
        tiled(structure.masses),
        tiled(structure.fixed),
        electronic,
        tiled(structure.labels),
    )


def from_ase(atoms: ase.Atoms, *, constraints: bool = True) -> Structure:
    """Convert an ASE object.

    Args:
      atoms: any ASE structure; results of a calculator are ignored.
      constraints: read held coordinates; False ignores all constraints, if only unconstrained forces are needed.

    Returns:
      The structure; positions are not wrapped into the cell.

    Raises:
      DataError: if there are no atoms, a coordinate is not finite or beyond `FARTHEST`, an atomic number is not in
        1..118, a periodic direction has no cell vector, or one that is too short or too close to the others, a
        mass is not positive, a constraint does not fix single Cartesian components, or charge and spin are impossible.
    """
    structure = geometry(atoms)
    structure = structure._replace(
        masses=_masses(atoms),
        fixed=holding.held(atoms) if constraints else None,
        electronic=electrons.from_atoms(atoms),
        labels=_labels(atoms),
    )
    check(structure)
    return structure


def geometry(atoms: ase.Atoms) -> Structure:
    """Convert atomic numbers, positions, cell and pbc only.

    Raises:
      DataError: see `from_ase`.
    """
    structure = Structure(
        np.array(atoms.numbers, np.int64),
        np.array(atoms.positions, np.float64),
        np.array(atoms.cell.array, np.float64),
        np.array(atoms.pbc, bool),
    )
    check(structure)
    return structure


def to_ase(structure: Structure, *, constraints: bool = False) -> ase.Atoms:
    """Build the corresponding ASE object, without a calculator.

    Args:
      structure: what to convert.
      constraints: add constraints for held coordinates, for files; they would set a calculator's forces to zero.
    """
    atoms = ase.Atoms(
        numbers=structure.numbers,
        positions=structure.positions,
        cell=structure.cell,
        pbc=structure.pbc,
        masses=structure.masses,
    )
    electrons.to_atoms(structure.electronic, atoms)
    if constraints and structure.fixed is not None:
        atoms.set_constraint(holding.constraints(structure.fixed))
    return atoms


def _masses(atoms: ase.Atoms) -> np.ndarray | None:
    """Masses of the atoms, amu; None if they are ASE's standard ones."""
    if "masses" not in atoms.arrays:
        return None
    masses = np.array(atoms.arrays["masses"], np.float64)
    standard = atomic_masses[atoms.numbers]
    return None if np.array_equal(masses, standard) else masses


def _labels(atoms: ase.Atoms) -> np.ndarray | None:
    """Names of the atoms, from the first column that holds names."""
    columns = {name.lower(): column for name, column in atoms.arrays.items()}
    for name in NAMES:
        column = np.asarray(columns.get(name, 0.0))
        if column.shape == (len(atoms),) and column.dtype.kind in "OSUi":
            return np.array([str(each).strip() for each in column])
    return None


def check(structure: Structure) -> None:
    """Refuse a structure that no model could evaluate.

    Raises:
      DataError: see `from_ase`.
    """
    if structure.numbers.size == 0:
        raise DataError("structure: got 0 atoms; allowed: at least 1")
    if not (np.isfinite(structure.positions).all() and np.isfinite(structure.cell).all()):
        raise DataError("structure: positions and cell must be finite numbers in Å")
    largest = max(np.abs(structure.positions).max(), np.abs(structure.cell).max())
    if largest > FARTHEST:
        raise DataError(f"structure: got a coordinate of {largest:.3g} Å; allowed: at most {FARTHEST:g} Å")
    unknown = structure.numbers[(structure.numbers < 1) | (structure.numbers > 118)]
    if unknown.size:
        raise DataError(f"structure: got atomic number {int(unknown[0])}; allowed: 1 to 118")
    periodic = structure.cell[structure.pbc]
    if periodic.size:
        lengths = np.linalg.norm(periodic, axis=1)
        independent = np.linalg.matrix_rank(periodic, tol=1e-6) == len(periodic) and lengths.min() >= SHORTEST
        if not independent or (1.0 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)).min() < THINNEST:
            raise DataError(
                f"structure: periodic directions {structure.pbc.tolist()} need linearly independent cell vectors "
                f"of at least {SHORTEST} Å, and {THINNEST} Å between lattice planes; "
                f"got lengths {np.round(lengths, 3).tolist()}"
            )
    _check_masses(structure)
    if structure.fixed is not None:
        shape, kind = np.shape(structure.fixed), np.asarray(structure.fixed).dtype
        if shape != structure.positions.shape or kind.kind != "b":
            raise DataError(f"structure: got fixed of shape {shape} and type {kind}; allowed: [n, 3] bool")
    electrons.check(structure.electronic, structure.numbers)


def _check_masses(structure: Structure) -> None:
    if structure.masses is None:
        return
    masses = np.asarray(structure.masses)
    if masses.shape != structure.numbers.shape:
        raise DataError(f"structure: got masses of shape {masses.shape}; allowed: {structure.numbers.shape}")
    bad = np.flatnonzero(~(np.isfinite(masses) & (masses > 0.0)))
    if len(bad):
        symbol = chemical_symbols[structure.numbers[bad[0]]]
        raise DataError(
            f"structure: got a mass of {masses[bad[0]]:g} amu of atom {bad[0]} ({symbol}); allowed: above 0"
        )

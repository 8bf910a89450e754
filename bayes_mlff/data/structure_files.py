"""The initial structure of a run from a file: what it says that changes the physics takes effect or is refused."""

from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
from ase.io import ParseError
from ase.io.formats import UnknownFileTypeError, filetype
from pydantic import Field

from bayes_mlff.core.errors import READER_ERRORS, ConfigError, DataError
from bayes_mlff.core.paths import bounded_memory
from bayes_mlff.core.settings import Count, Section
from bayes_mlff.data import neighbors
from bayes_mlff.data.extxyz import check_file
from bayes_mlff.data.structure import Structure, from_ase

CLOSEST = 0.3
"""Distance, Å, below which two atoms of a first structure are one atom twice, or not in Å."""

MOST_BYTES = 4 << 30
"""Memory that reading a structure may take: some formats reserve it for as many atoms as a header claims."""

MOST_CELLS = 20
"""Cells over which unwrapped atoms of a first structure may be spread."""


class StructureSettings(Section):
    """Where the initial structure is, and what its file does not say."""

    file: str = Field(description="Path of a file that ASE reads, or the name of a built-in structure.")
    format: str | None = Field(default=None, description="ASE's name of the file format; by default found out.")
    index: int = Field(default=-1, description="Frame to take, from 0; negative: counted from the end.")
    elements: tuple[str, ...] = Field(
        default=(), description="Elements of the atom types 1, 2, ... of formats that only number them (LAMMPS)."
    )
    charge: int | None = Field(default=None, ge=-1000, le=1000, description="Charge of the structure, e.")
    multiplicity: Count | None = Field(default=None, description="Spin multiplicity of the structure, 2S + 1.")


class InitialStructure(NamedTuple):
    """What a file says about the start of a run."""

    structure: Structure
    velocities: np.ndarray | None = None  # [n, 3] Å/fs; None: the file has none
    remarks: tuple[str, ...] = ()  # what was taken, assumed or left out, one sentence each


def read(settings: StructureSettings, path: Path) -> InitialStructure:
    """Read one frame of a file.

    Args:
      settings: which frame, and what the file does not say.
      path: an existing file.

    Raises:
      ConfigError: if ASE cannot read it, or a setting contradicts it.
      DataError: if it is no structure from which dynamics can start.
    """
    name = settings.file
    try:
        kind = filetype(str(path))
        if kind in ("extxyz", "xyz"):
            check_file(path)
        with bounded_memory(MOST_BYTES):
            atoms = ase.io.read(path, index=-1, format=kind, do_not_split_by_at_sign=True)
    except MemoryError as error:
        allowed = f"a file that takes at most {MOST_BYTES >> 30} GiB to read, whatever it claims to hold"
        raise ConfigError("structure", name, allowed) from error
    except (*READER_ERRORS, ParseError, UnknownFileTypeError) as error:
        raise ConfigError("structure", name, f"a file that ASE reads ({type(error).__name__}: {error})") from error
    if not isinstance(atoms, ase.Atoms):
        raise ConfigError("structure", name, "a file with one structure")
    try:
        found = from_ase(atoms)
        _check_start(found)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return InitialStructure(found)


def _check_start(found: Structure) -> None:
    """Refuse a structure from which no dynamics can start."""
    cell = neighbors.complete_cell(found.cell, found.pbc)
    spread = np.ptp(found.positions @ np.linalg.inv(cell), axis=0)[found.pbc].max(initial=0.0)
    if spread > MOST_CELLS:
        raise DataError(f"structure: atoms are {spread:.3g} cells apart; allowed: up to {MOST_CELLS}, so wrap them")
    first, second, _ = neighbors.pairs(found, cell, CLOSEST)
    if len(first):
        raise DataError(f"structure: atoms {first[0]} and {second[0]} are closer than {CLOSEST} Å")

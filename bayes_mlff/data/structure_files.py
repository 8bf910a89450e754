"""The initial structure of a run from a file: what it says that changes the physics takes effect or is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ase.io.formats import ioformats
from pydantic import Field

from bayes_mlff.core import units
from bayes_mlff.core.errors import BayesMlffError, ConfigError, DataError, brief
from bayes_mlff.core.paths import bounded_memory
from bayes_mlff.core.settings import Count, Section
from bayes_mlff.data import (
    electronic,
    neighbors,
    structure_checks,
    structure_formats,
    structure_frames,
    structure_molecules,
    structure_remarks,
)
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.data.structure_cif import read_cif
from bayes_mlff.data.structure_formats import Given
from bayes_mlff.data.structure_frames import MOST_BYTES, Raw
from bayes_mlff.data.structure_lammps import read_data, read_dump

CLOSEST = 0.3
"""Distance, Å, below which two atoms of a first structure are one atom twice, or not in Å."""

DENSEST = 1.5
"""Volume of a crystal for each atom, Å³, below which its cell is none: hydrogen at some 500 GPa."""

MOST_CELLS = 20
"""Cells over which unwrapped atoms of a first structure may be spread."""

READERS: Final[Mapping[str, Callable[[Path, int, Given], Raw]]] = {
    **structure_formats.READERS,
    **structure_molecules.READERS,
    "cif": read_cif,
    "lammps-data": read_data,
    "lammps-dump-text": read_dump,
}
"""Formats with a reader of their own; the others are left to ASE's."""

NUMBERED: Final = ("lammps-data", "lammps-dump-text")
"""Formats that number the elements."""


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
      DataError: if it is no structure from which dynamics can start, or says what would be lost; see docs/inputs.md.
    """
    kind = structure_frames.format_of(path, settings.format)
    if settings.elements and kind not in NUMBERED:
        raise ConfigError(
            "structure.elements", list(settings.elements), f"nothing: a file of {kind} names its elements"
        )
    raw = _read(settings, path, kind)
    try:
        return _taken(settings, raw, kind)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read(settings: StructureSettings, path: Path, kind: str) -> Raw:
    """A frame as ASE's reader or one of this package gives it, within bounds of memory."""
    given = Given(settings.elements, settings.charge, settings.multiplicity)
    try:
        with bounded_memory(MOST_BYTES):
            if kind in ("extxyz", "xyz"):
                return READERS[kind](path, settings.index, given)
            with structure_frames.decompressed(path) as plain:
                structure_checks.check_input(plain, kind, given)
                if kind in READERS:
                    return READERS[kind](plain, settings.index, given)
                return structure_frames.read(plain, kind, settings.index)
    except MemoryError as error:
        allowed = f"a file that takes at most {MOST_BYTES >> 30} GiB to read, whatever it claims to hold"
        raise ConfigError("structure", settings.file, allowed) from error
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error
    except BayesMlffError:
        raise
    except ImportError as error:
        allowed = f"a format whose packages are installed ({error})"
        raise ConfigError("structure.format", kind, allowed) from error
    except Exception as error:  # ASE's readers raise whatever their authors took
        said = brief(f"{type(error).__name__}: {error}")
        raise ConfigError("structure", settings.file, f"a file that ASE reads as {kind} ({said})") from error


def _taken(settings: StructureSettings, raw: Raw, kind: str) -> InitialStructure:
    """Everything that a frame says, or a refusal."""
    atoms, remarks = raw.atoms, [*raw.warned]
    remarks += structure_checks.drop_dummy_cell(atoms, kind)
    structure_checks.check_said(atoms, kind)
    _add_settings(atoms.info, settings)
    found = from_ase(atoms)
    _check_start(found)
    velocities = None
    if atoms.has("momenta"):
        velocities = np.array(atoms.get_velocities(), np.float64) * units.FS
        if not np.isfinite(velocities).all():
            raise DataError("structure: velocities are not finite numbers")
        if found.fixed is not None and velocities[found.fixed].any():
            velocities[found.fixed] = 0.0
            remarks.append("velocities of held coordinates are not used")
    where = f"read as {ioformats[kind].description} ({kind}), frame {raw.index} of {raw.count}, counted from 0"
    choice = "; structure.index chooses another" if raw.count > 1 else ""
    described = structure_remarks.describe(found)
    beside = structure_remarks.unused(atoms, found.electronic)
    caveat = structure_checks.caveat(kind)
    return InitialStructure(found, velocities, (*described, where + choice, *remarks, *beside, *caveat))


def _add_settings(info: dict[Any, Any], settings: StructureSettings) -> None:
    """Put charge and multiplicity of the settings beside what the file says of them, unless they contradict it."""
    words = electronic.stated(info)
    for name, wanted, said in (
        ("charge", settings.charge, words.charge),
        ("multiplicity", settings.multiplicity, words.multiplicity),
    ):
        if wanted is None:
            continue
        if said not in (None, wanted):
            raise ConfigError(f"structure.{name}", wanted, f"{said}, which the file states, or no such setting")
        info[name] = wanted
    known = settings.multiplicity
    if known is not None and words.spin is not None and known not in (words.spin, words.spin + 1):
        raise ConfigError("structure.multiplicity", known, f"what the file states as spin={words.spin}")


def _check_start(found: Structure) -> None:
    """Refuse a structure from which no dynamics can start."""
    cell = neighbors.complete_cell(found.cell, found.pbc)
    lengths = ", ".join(f"{x:.4g}" for x in np.linalg.norm(found.cell, axis=1))
    hint = (
        f"; the cell vectors of the file are {lengths} Å long: a placeholder must be left out"
        if found.pbc.any()
        else ""
    )
    volume = abs(np.linalg.det(cell))
    if found.is_periodic and volume < DENSEST * len(found.numbers):
        raise DataError(
            f"structure: a crystal of {volume:.3g} Å³ with {len(found.numbers)} atoms; "
            f"allowed: at least {DENSEST} Å³ for each atom{hint}"
        )
    spread = np.ptp(found.positions @ np.linalg.inv(cell), axis=0)[found.pbc].max(initial=0.0)
    if spread > MOST_CELLS:
        raise DataError(
            f"structure: atoms are {spread:.3g} cells apart; allowed: up to {MOST_CELLS}, so wrap them{hint}"
        )
    if found.fixed is not None and found.fixed.all():
        raise DataError("structure: every coordinate is held; allowed: at least one that moves")
    first, second, shift = neighbors.pairs(found, cell, CLOSEST)
    if len(first):
        image = " (an image of it in a neighbouring cell)" if np.any(shift[0]) else ""
        raise DataError(
            f"structure: atoms {first[0]} and {second[0]}{image} are closer than {CLOSEST} Å{hint if image else ''}"
        )

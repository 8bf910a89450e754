"""Initial structure of a run from a file: statements that change the physics take effect or are refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ase.io.formats import ioformats

from bayes_mlff.core import units
from bayes_mlff.core.errors import BayesMlffError, ConfigError, DataError, brief
from bayes_mlff.core.paths import bounded_memory
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
from bayes_mlff.data.structure_settings import StructureSettings

CLOSEST = 0.3
"""Smallest distance of two atoms, Å; closer ones are duplicates, or not in Å."""

DENSEST = 1.5
"""Smallest volume of a crystal per atom, Å³: that of hydrogen at about 500 GPa."""

MOST_CELLS = 20
"""Largest number of cells over which unwrapped atoms of an initial structure may be spread."""

READERS: Final[Mapping[str, Callable[[Path, int, Given], Raw]]] = {
    **structure_formats.READERS,
    **structure_molecules.READERS,
    "cif": read_cif,
    "lammps-data": read_data,
    "lammps-dump-text": read_dump,
}
"""Formats with a reader in this package; ASE reads the others."""

NUMBERED: Final = ("lammps-data", "lammps-dump-text")
"""Formats in which elements are type numbers."""


class InitialStructure(NamedTuple):
    """Initial state of a run as read from a file."""

    structure: Structure
    velocities: np.ndarray | None = None  # [n, 3] Å/fs; None if the file has none
    remarks: tuple[str, ...] = ()  # what was read, assumed or ignored, one sentence each


def read(settings: StructureSettings, path: Path) -> InitialStructure:
    """Read one frame of a file.

    Args:
      settings: frame index, and statements that the file lacks.
      path: an existing file.

    Raises:
      ConfigError: if ASE cannot read it, or a setting contradicts it.
      DataError: if dynamics cannot start from it, or if a statement would be lost; see docs/inputs.md.
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
    """Read a frame with ASE's reader or one of this package, with a limit on memory."""
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
    except Exception as error:  # ASE's readers may raise any exception
        said = brief(f"{type(error).__name__}: {error}")
        raise ConfigError("structure", settings.file, f"a file that ASE reads as {kind} ({said})") from error


def _taken(settings: StructureSettings, raw: Raw, kind: str) -> InitialStructure:
    """The initial state stated by a frame; statements that cannot be used are refused."""
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
    """Add charge and multiplicity of the settings, unless they contradict the file."""
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
    """Refuse a structure from which dynamics cannot start."""
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

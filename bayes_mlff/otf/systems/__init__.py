"""Built-in systems: an initial structure and the settings of their runs."""

from importlib import resources
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.io import ParseError
from ase.io.formats import UnknownFileTypeError, filetype

from bayes_mlff.core.errors import READER_ERRORS, ConfigError, DataError
from bayes_mlff.core.paths import bounded_memory, is_file
from bayes_mlff.core.settings import read_yaml
from bayes_mlff.data import neighbors
from bayes_mlff.data.extxyz import check_file
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.models import registry
from bayes_mlff.otf.dft import registry as engines

SYSTEMS = {"ethanol": ("demo", "paper"), "lamno3": ("demo", "large", "paper")}
"""Names accepted by `--system`, and the profiles of each: `demo` ends within minutes on two cores, `large` wants an
accelerator, `paper` has the length of the published run."""

DURATIONS = {
    ("ethanol", "demo"): "about 10 minutes on two cores",
    ("ethanol", "paper"): "about an hour on two cores",
    ("lamno3", "demo"): "15 to 20 minutes on two cores",
}
"""What was measured."""

STRUCTURES = ("ethanol", "lamno3", "lamno3-40")
"""Initial structures accepted in place of a file. LaMnO3 has the Pbnm cell of 20 atoms at room temperature of
Rodríguez-Carvajal et al. 1998, Phys. Rev. B 57, R3189, or the 2x2x2 pseudo-cubic one of 40 atoms made of it."""

CLOSEST = 0.3
"""Distance, Å, below which two atoms of a first structure are one atom twice, or not in Å."""

MOST_BYTES = 4 << 30
"""Memory that reading a structure may take: some formats reserve it for as many atoms as a header claims."""

MOST_CELLS = 20
"""Cells over which unwrapped atoms of a first structure may be spread."""


def _folder() -> Path:
    return Path(str(resources.files("bayes_mlff.otf.systems")))


def settings(system: str, profile: str) -> dict[str, Any]:
    """Raw configuration of a built-in system.

    Raises:
      ConfigError: if there is no such system or profile.
    """
    check_system(system)
    if profile not in SYSTEMS[system]:
        raise ConfigError("--profile", profile, f"one of {list(SYSTEMS[system])}")
    path = _folder() / f"{system}_{profile}.yaml"
    return read_yaml(path)


def check_system(system: str) -> None:
    """Raise a ConfigError if there is no such built-in system."""
    if system not in SYSTEMS:
        raise ConfigError("--system", system, f"one of {list(SYSTEMS)}")


def default_profile(system: str, *, accelerator: bool) -> str:
    """The profile to run where the user names none.

    Raises:
      ConfigError: if there is no such system.
    """
    check_system(system)
    return "large" if accelerator and "large" in SYSTEMS[system] else "demo"


def introduction(system: str, profile: str) -> str:
    """Which profile was chosen, what is known about its cost, and how to change what was chosen."""
    asked = f"python -m bayes_mlff.otf check --system {system} --profile {profile}"
    duration = DURATIONS.get((system, profile), f"duration not measured; its cost: {asked} [--label]")
    return (
        f"profile {profile} of {', '.join(SYSTEMS[system])} (--profile): {duration}; every setting can be changed with "
        f"--set, e.g. --set model=NAME ({', '.join(registry.NAMES)}, or a file), "
        f"--set engine.name=NAME ({', '.join(engines.NAMES)})"
    )


def structure(name: str, *, base: Path) -> Structure:
    """The initial structure of a run.

    Args:
      name: one of `STRUCTURES`, or the path of a file that ASE reads (its last frame is taken).
      base: directory against which a relative path is resolved.

    Raises:
      ConfigError: if there is no such structure or file, or ASE cannot read it.
      DataError: if it is no structure from which dynamics can start.
    """
    path = (_folder() / f"{name}.xyz" if name in STRUCTURES else base / name).absolute()
    if not is_file(path):
        raise ConfigError("structure", name, f"one of {list(STRUCTURES)} or the path of a structure file")
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
    return found


def _check_start(found: Structure) -> None:
    """Refuse a structure from which no dynamics can start."""
    cell = neighbors.complete_cell(found.cell, found.pbc)
    spread = np.ptp(found.positions @ np.linalg.inv(cell), axis=0)[found.pbc].max(initial=0.0)
    if spread > MOST_CELLS:
        raise DataError(f"structure: atoms are {spread:.3g} cells apart; allowed: up to {MOST_CELLS}, so wrap them")
    first, second, _ = neighbors.pairs(found, cell, CLOSEST)
    if len(first):
        raise DataError(f"structure: atoms {first[0]} and {second[0]} are closer than {CLOSEST} Å")

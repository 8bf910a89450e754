"""Built-in systems: an initial structure and the settings of their runs."""

from importlib import resources
from pathlib import Path
from typing import Any

import ase.io
import yaml
from ase.io.formats import UnknownFileTypeError

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import Structure, from_ase

SYSTEMS = {"ethanol": ("demo", "paper"), "lamno3": ("demo", "large")}
"""Names accepted by `--system`, and the profiles of each: `demo` ends within minutes on two cores, `large` wants an
accelerator, `paper` has the length of the published run."""

STRUCTURES = ("ethanol", "lamno3", "lamno3-40")
"""Initial structures accepted in place of a file: also LaMnO3 (Pbnm, 20 atoms; 2x2x2 pseudo-cubic, 40 atoms)."""


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
    return yaml.safe_load(path.read_text())


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


def structure(name: str, *, base: Path) -> Structure:
    """The initial structure of a run.

    Args:
      name: one of `STRUCTURES`, or the path of a file that ASE reads (its last frame is taken).
      base: directory against which a relative path is resolved.

    Raises:
      ConfigError: if there is no such structure or file, or ASE cannot read it.
    """
    path = _folder() / f"{name}.xyz" if name in STRUCTURES else base / name
    if not path.is_file():
        raise ConfigError("structure", name, f"one of {list(STRUCTURES)} or the path of a structure file")
    try:
        atoms = ase.io.read(path, index=-1)
    except (ValueError, KeyError, IndexError, OSError, UnknownFileTypeError) as error:
        raise ConfigError("structure", name, f"a file that ASE reads ({type(error).__name__}: {error})") from error
    if not isinstance(atoms, ase.Atoms):
        raise ConfigError("structure", name, "a file with one structure")
    return from_ase(atoms)

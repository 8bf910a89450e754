"""Built-in systems: an initial structure and the settings of their runs."""

from importlib import resources
from pathlib import Path
from typing import Any

import ase.io
import yaml
from ase.io.formats import UnknownFileTypeError

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import Structure, from_ase

SYSTEMS = ("ethanol",)
"""Names accepted by `--system`."""
PROFILES = ("demo", "paper")
"""demo ends within minutes on two cores; paper has the length of the published run."""


def _folder() -> Path:
    return Path(str(resources.files("bayes_mlff.otf.systems")))


def settings(system: str, profile: str) -> dict[str, Any]:
    """Raw configuration of a built-in system.

    Raises:
      ConfigError: if there is no such system or profile.
    """
    if system not in SYSTEMS:
        raise ConfigError("--system", system, f"one of {list(SYSTEMS)}")
    if profile not in PROFILES:
        raise ConfigError("--profile", profile, f"one of {list(PROFILES)}")
    path = _folder() / f"{system}_{profile}.yaml"
    return yaml.safe_load(path.read_text())


def structure(name: str, *, base: Path) -> Structure:
    """The initial structure of a run.

    Args:
      name: a built-in system, or the path of a file that ASE reads (its last frame is taken).
      base: directory against which a relative path is resolved.

    Raises:
      ConfigError: if there is no such system or file, or ASE cannot read it.
    """
    path = _folder() / f"{name}.xyz" if name in SYSTEMS else base / name
    if not path.is_file():
        raise ConfigError("structure", name, f"one of {list(SYSTEMS)} or the path of a structure file")
    try:
        atoms = ase.io.read(path, index=-1)
    except (ValueError, KeyError, IndexError, OSError, UnknownFileTypeError) as error:
        raise ConfigError("structure", name, f"a file that ASE reads ({type(error).__name__}: {error})") from error
    if not isinstance(atoms, ase.Atoms):
        raise ConfigError("structure", name, "a file with one structure")
    return from_ase(atoms)

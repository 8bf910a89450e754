"""Built-in systems: an initial structure and the settings of their runs."""

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.paths import is_file
from bayes_mlff.core.settings import read_yaml
from bayes_mlff.data.structure_settings import StructureSettings

# The program names the systems in its help, for which neither the readers of structures nor the networks are loaded.
if TYPE_CHECKING:
    from bayes_mlff.data.structure import Structure
    from bayes_mlff.data.structure_files import InitialStructure

SYSTEMS = {"ethanol": ("demo", "paper"), "lamno3": ("demo", "large", "paper"), "cazrs3": ("demo", "large")}
"""Names accepted by `--system`, and the profiles of each: `demo` ends within minutes on two cores, `large` wants an
accelerator, `paper` has the length of the published run."""

DURATIONS = {
    ("ethanol", "demo"): "3 to 5 minutes on two cores",
    ("ethanol", "paper"): "about an hour on two cores",
    ("lamno3", "demo"): "about 10 minutes on two cores",
}
"""What was measured."""

STRUCTURES = ("ethanol", "lamno3", "lamno3-40", "cazrs3", "cazrs3-162")
"""Initial structures accepted in place of a file. LaMnO3 has the Pbnm cell of 20 atoms at room temperature of
Rodríguez-Carvajal et al. 1998, Phys. Rev. B 57, R3189, or the 2x2x2 pseudo-cubic one of 40 atoms made of it. CaZrS3 is
Ca4Zr4S12 in the Pbnm cell of the published run with one H beside a sulphur, or 2x2x2 such cells with two H; its atoms
lie where SevenNet-l3i5 has its minimum in the small cell, with the proton or without."""


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
    from bayes_mlff.engines import registry as engines

    asked = f"bayes-mlff check --system {system} --profile {profile}"
    duration = DURATIONS.get((system, profile), f"duration not measured; its cost: {asked} [--label]")
    return (
        f"profile {profile} of {', '.join(SYSTEMS[system])} (--profile): {duration}; every setting can be changed with "
        f"--set, e.g. --set model=NAME (one of 'bayes-mlff models', or a file), "
        f"--set engine.name=NAME ({', '.join(engines.NAMES)})"
    )


def initial_structure(settings: StructureSettings, *, base: Path) -> "InitialStructure":
    """The structure from which a run starts: a built-in one, or that of a file.

    Args:
      settings: `file` is one of `STRUCTURES`, or the path of a file that ASE reads.
      base: directory against which a relative path is resolved.

    Raises:
      ConfigError: if there is no such structure or file, or a setting contradicts it.
      DataError: if it is no structure from which dynamics can start.
    """
    from bayes_mlff.data import structure_files

    name = settings.file
    path = (_folder() / f"{name}.xyz" if name in STRUCTURES else base / name).absolute()
    if not is_file(path):
        raise ConfigError("structure.file", name, f"one of {list(STRUCTURES)} or the path of a structure file")
    return structure_files.read(settings, path)


def structure(name: str, *, base: Path = Path()) -> "Structure":
    """The atoms of `initial_structure`, of its last frame."""
    return initial_structure(StructureSettings(file=name), base=base).structure

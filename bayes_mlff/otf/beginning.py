"""Checks that an existing run has the settings, structure, model and reference that the user requests."""

from pathlib import Path
from typing import Final, NamedTuple

from bayes_mlff.core.changes import changes
from bayes_mlff.core.errors import ConfigError, RunDirectoryError, shown
from bayes_mlff.core.paths import is_file
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.models import catalogue, registry
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf import given, systems
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.problem import prepare, stated
from bayes_mlff.parallel import hosts
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.same_start import model_differences, structure_differences
from bayes_mlff.runs.start import Start

_ELSE: Final = "choose another --output for another run, or continue that run as it is with"

_COPY: Final = "the copy in the run directory is used"

GONE: Final = f"modules or files beside the configuration are gone: {_COPY}"


class Begun(NamedTuple):
    """An existing run."""

    start: Start
    remarks: tuple[str, ...]  # files that could not be compared


def same_run(config: RunConfig, stored: RunConfig, path: Path) -> Begun:
    """Check that the run in a directory is the one of a configuration; returns what it was started from.

    Structure and model are compared by content and not by path, since files may have been moved. If a file no longer
    exists, it is not compared, and the copy in the directory is used.

    Args:
      config: the requested configuration, with absolute paths.
      stored: the configuration in the directory.
      path: run directory.

    Raises:
      RunDirectoryError: naming what differs, or what is damaged.
      ConfigError, DataError, WeightsError: if the file of the structure or the model exists but cannot be read.
    """
    start, remarks = starts.read(path), []
    if config.start is not None and config.start.ensemble is not None and "model" not in config.model_fields_set:
        config = config.model_copy(update={"model": stored.model, "head": stored.head})  # that of the ensemble
    config, stored = (stated(each, start.potential) for each in (config, stored))
    alike = stored.model_copy(update={"structure": config.structure, "model": config.model, "start": config.start})
    differing = changes(alike, config)
    if differing:
        said = "; ".join(f"{c.key} is {shown(c.after)}, there {shown(c.before)}" for c in differing)
        raise RunDirectoryError(
            f"{path}: holds a run with another configuration ({said}); choose another --output, remove the directory, "
            f"or continue that run with 'resume {path}'"
        )
    structure = _structure(config)
    if structure is None:
        remarks.append(f"structure  {config.structure.file} is gone: {_COPY}")
    else:
        _refuse(path, "structure", config.structure.file, structure_differences(structure, start.initial))
    model = _model(config, start)
    if model is None:
        remarks.append(f"model      {config.model} is gone: {_COPY}")
    else:
        _refuse(path, "model", config.model, model_differences(model, start.potential))
    remarks += _same_given(config, stored, start, path)
    return Begun(start, tuple(remarks))


def _same_given(config: RunConfig, stored: RunConfig, start: Start, path: Path) -> list[str]:
    """Compare labels and samples that a run was given with those that its configuration names now.

    Returns:
      Which files are gone, so that they were not compared.
    """
    asked = config.start
    if asked is None or stored.start is None:
        if asked is not stored.start:
            said = ("nothing was named then",) if stored.start is None else ("nothing is named now",)
            _refuse(path, "start", "the configuration", said)
        return []
    gone = [each for each in asked.paths() if not Path(each).exists()]
    if gone:
        return [f"start      {', '.join(gone)} is gone: {_COPY}"]
    problem = prepare(stored, start.initial.structure, start.potential, velocities=start.initial.velocities)
    now = given.read(config, problem, start.engine_hash)
    pairs = (("labels", now.labels, start.labels), ("samples", now.ensemble, start.ensemble))
    _refuse(path, "start", " and ".join(asked.paths()), tuple(f"other {what}" for what, a, b in pairs if a != b))
    return []


def folder_of(start: Start, path: Path, base: Path) -> Path:
    """Folder of the reference's modules and files: that of the configuration, or the run's copy if files are missing.

    Args:
      start: what the run was started from.
      path: run directory.
      base: folder of the configuration.

    Raises:
      RunDirectoryError: naming a file that has changed, or that no longer exists.
    """
    names = (*start.beside.kept, *start.beside.needed)
    for name in hosts.shared(lambda: [n for n, c in start.beside.kept.items() if _is_other(base / n, c)]):
        raise RunDirectoryError(
            f"{path}: was started from another {name} than {base / name} is now; {_ELSE} 'resume {path}', which uses "
            "the one that it was started from"
        )
    here = hosts.shared(lambda: all((base / name).is_file() for name in names))
    return base if here else Path(hosts.shared(lambda: str(starts.base_of(start, path))))


def _is_other(path: Path, content: bytes) -> bool:
    return is_file(path) and path.read_bytes() != content


def check_engine(start: Start, settings_hash: str, description: str) -> None:
    """Refuse a reference other than that with which the run was started.

    Raises:
      ConfigError: naming both.
    """
    if settings_hash != start.engine_hash:
        raise ConfigError(
            "engine",
            description,
            f"the method with which the labels of this run were made, {start.engine} (its settings or its version "
            f"have changed: {settings_hash} is not {start.engine_hash}); start another run for another method",
        )


def _refuse(path: Path, what: str, file: str, differences: tuple[str, ...]) -> None:
    if differences:
        raise RunDirectoryError(
            f"{path}: was started from another {what} than {file} is now: {'; '.join(differences)}; {_ELSE} "
            f"'resume {path}', which uses the {what} that it was started from"
        )


def _structure(config: RunConfig) -> InitialStructure | None:
    built_in = config.structure.file in systems.STRUCTURES
    if not built_in and not is_file(Path(config.structure.file)):
        return None
    return systems.initial_structure(config.structure, base=Path())


def _model(config: RunConfig, start: Start) -> Potential | None:
    """The model of the configuration, for the elements of the run; None if it does not exist."""
    if config.model not in catalogue.NAMES and not is_file(Path(config.model)):
        return None
    try:
        found = registry.load(config.model, head=config.head)
    except ConfigError as error:  # a model of a package that is no longer installed, or that cannot be downloaded
        if error.key == "head":
            raise
        return None
    missing = set(start.potential.config.elements) - set(found.config.elements)
    if missing:
        raise RunDirectoryError(
            f"model: {config.model} is not what the run was started from: it knows no atomic number "
            f"{', '.join(str(z) for z in sorted(missing))}"
        )
    return registry.restrict(found, start.potential.config.elements)

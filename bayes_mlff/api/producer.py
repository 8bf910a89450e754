"""Executes productions from their settings to the summary, for the program and for Python."""

import hashlib
import importlib.metadata
import platform
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bayes_mlff.api import labelling
from bayes_mlff.core import settings
from bayes_mlff.core.changes import changes
from bayes_mlff.core.errors import ConfigError, RunDirectoryError, RunInterruptedError, shown
from bayes_mlff.data.structure_remarks import formula
from bayes_mlff.ensemble.files import CHECKPOINTS
from bayes_mlff.models import selfcheck
from bayes_mlff.production import config as configuration
from bayes_mlff.production import material as materials
from bayes_mlff.production import summary
from bayes_mlff.production.config import ProductionConfig, noun
from bayes_mlff.production.folder import SUMMARY, TEXT, write_json
from bayes_mlff.production.labelling import refuse_unfit
from bayes_mlff.production.loop import Session
from bayes_mlff.production.material import Material
from bayes_mlff.production.setup import Setup, prepare
from bayes_mlff.production.state import Observer
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.directory import CONFIG, IN_FORCE, RunDirectory
from bayes_mlff.runs.growing_files import write_whole
from bayes_mlff.runs.interruption import Interruption, nothing_to_say, time_limit
from bayes_mlff.runs.replica_folders import MARK

PACKAGES = ("bayes-mlff", "jax", "jaxlib", "jax-md", "numpy", "ase")


class Asked(NamedTuple):
    """A production that can begin."""

    config: ProductionConfig
    material: Material


def ask(source: Path, raw: Mapping[str, Any], *, base: Path) -> Asked:
    """Read the ensemble and validate the settings.

    Args:
      source: directory of a run or a fine-tuning, or file of an ensemble.
      raw: settings as YAML has them; what is missing is as in the run.
      base: folder from which the path of a structure starts.

    Raises:
      ConfigError, DataError, RunDirectoryError, WeightsError: naming what cannot be used.
    """
    found = materials.read(source)
    config = configuration.parse(raw, found.run)
    material = materials.gather(found, config, base=base)
    refuse_unfit(found, material, config)
    return Asked(config, material)


def produce(
    asked: Asked, path: Path, *, observer: Observer, wall_time_s: float | None = None, spent_s: float = 0.0
) -> dict[str, Any]:
    """Start a production in `path`, or continue the same one.

    Returns:
      The facts of the summary.

    Raises:
      ConfigError, DataError: before anything is written, if it cannot work.
      RunDirectoryError: if `path` holds another production, or something else.
      RunInterruptedError: if a signal or the time limit ended it; it can be continued.
    """
    if (path / MARK).is_file():
        _refuse_other(path, asked)
        return resume(path, observer=observer, wall_time_s=wall_time_s, spent_s=spent_s)
    if path.exists() and not _is_free(path):
        raise ConfigError("output", str(path), "a new or empty directory, or that of the same production")
    began = time.monotonic()
    with Interruption(time_limit(wall_time_s, spent_s=spent_s), farewell="go on with the same command") as interruption:
        setup = _prepared(asked, observer)
        labelling.check_engine(*asked)
        directory = RunDirectory(path.absolute())
        directory.config.unlink(missing_ok=True)  # of a process that was killed before the mark was there
        directory.create(settings.dump(asked.config), materials.contents(asked.material))
        write_json(path / MARK, _about(asked))  # last: with it, this is a production
        found = _work(setup, directory, path, observer, interruption)
    return _labelled(asked, setup, path, found, observer, wall_time_s, spent_s + time.monotonic() - began)


def resume(path: Path, *, observer: Observer, wall_time_s: float | None = None, spent_s: float = 0.0) -> dict[str, Any]:
    """Continue a production from its newest intact checkpoint; its directory is all that is needed.

    Raises:
      RunDirectoryError: if there is none, another process works on it, or a file in it is damaged.
      RunInterruptedError: if a signal or the time limit ended it; it can be continued.
    """
    began = time.monotonic()
    with Interruption(time_limit(wall_time_s, spent_s=spent_s), farewell=_how_to_resume(path)) as interruption:
        asked = kept(path)
        setup = _prepared(asked, observer)
        found = _work(setup, RunDirectory(path.absolute()), path, observer, interruption)
    return _labelled(asked, setup, path, found, observer, wall_time_s, spent_s + time.monotonic() - began)


def _is_free(path: Path) -> bool:
    """Whether a directory is empty, or has what a process has left that was killed while it began a production."""
    begun = {starts.FOLDER, CHECKPOINTS, CONFIG, IN_FORCE}
    names = {each.name.removesuffix(".tmp") for each in path.iterdir()} if path.is_dir() else {""}
    return names <= begun | {MARK} and not (path / starts.FOLDER / starts.IDENTITY).is_file()


def is_production(path: Path) -> bool:
    """Whether a path is the directory of a production."""
    return (path / MARK).is_file()


def kept(path: Path) -> Asked:
    """Settings and material of a production, from the copies in its directory."""
    if not is_production(path):
        raise RunDirectoryError(f"{path}: no production here ({MARK} is missing)")
    raw = settings.read_yaml(path / CONFIG)
    return Asked(settings.validate(ProductionConfig, raw, source=path / CONFIG), materials.kept(path))


def _refuse_other(path: Path, asked: Asked) -> None:
    """Refuse a directory with another production."""
    there = kept(path)
    differing = changes(there.config, asked.config)
    if differing:
        first = differing[0]
        allowed = f"{shown(first.before)}, as in the production that {path} holds, or another --output"
        raise ConfigError(first.key, first.after, allowed)
    other = materials.same(there.material, asked.material)
    if other is not None:
        allowed = f"another directory, since this one holds a production with {other}; 'resume {path}' continues that"
        raise ConfigError("output", str(path), allowed)


def _how_to_resume(path: Path) -> str:
    return f"go on with: bayes-mlff resume {shlex.quote(str(path))}"


def _prepared(asked: Asked, observer: Observer) -> Setup:
    observer.working("checking that JAX computes correct numbers")
    selfcheck.ensure(observer.say)
    observer.working("preparing the ensemble and the structure")
    setup = prepare(asked.config, asked.material)
    for line in introduction(setup, asked.material):
        observer.say(line)
    return setup


def _about(asked: Asked) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "format": materials.FORMAT,
        "source": asked.material.source,
        "source_sha256": asked.material.sha256,
        "ensemble_sha256": hashlib.sha256(asked.material.content).hexdigest(),
        "provenance": dict(asked.material.ensemble.provenance),
        "versions": {**versions, "python": platform.python_version(), "backend": jax.default_backend()},
        "settings": asked.config.model_dump(mode="json"),
    }


def _work(
    setup: Setup,
    directory: RunDirectory,
    path: Path,
    observer: Observer,
    interruption: Interruption,
) -> dict[str, Any]:
    interruption.farewell = _how_to_resume(path)
    directory.open()

    def take_leave(reason: str) -> None:
        directory.log("interrupted", step=interruption.step, reason=reason)
        directory.close()

    interruption.last_words = take_leave
    session = Session(setup, directory, observer, interruption)
    state = None
    try:
        directory.log("session_started")
        state = session.finish(session.resume())
    except RunInterruptedError as error:
        directory.log("interrupted", step=interruption.step, reason=error.reason)
        raise
    finally:
        interruption.last_words = nothing_to_say
        directory.close()
    return summary.facts(setup, state.host)


def _labelled(
    asked: Asked,
    setup: Setup,
    path: Path,
    found: dict[str, Any],
    observer: Observer,
    wall_time_s: float | None,
    spent_s: float,
) -> dict[str, Any]:
    """Write the summary, before and after what uncertain replicas do as on-the-fly runs; returns its facts."""
    if asked.config.on_uncertain == "label":
        _summarise(setup, path, found)
        limits = {"wall_time_s": wall_time_s, "spent_s": spent_s, "farewell": _how_to_resume(path)}
        found["on_the_fly"] = labelling.go_on(*asked, path, found, observer=observer, **limits)
    for line in _summarise(setup, path, found):
        observer.say(line)
    observer.say(f"results in {path}; bayes-mlff analyse {shlex.quote(str(path))} reads all replicas")
    return found


def _summarise(setup: Setup, path: Path, found: dict[str, Any]) -> list[str]:
    """Write the files of the summary; returns its lines."""
    lines = [*summary.text(setup, found), *(f"  {line}" for line in labelling.text(found.get("on_the_fly", [])))]
    write_json(path / SUMMARY, found)
    write_whole(path / TEXT, "".join(f"{line}\n" for line in lines).encode())
    return lines


def introduction(setup: Setup, material: Material) -> list[str]:
    """What is done, and what is assumed, in lines."""
    config, numbers = setup.config, np.asarray(setup.structure.numbers)
    unit = "" if config.replicas == 1 else "s"
    what = f"{len(setup.params)} trained samples" if setup.has_sigma else "one set of weights"
    if material.ensemble.linear:
        what = f"the optimum, with {len(setup.params) - 1} samples around it,"
    model = (
        f"{what} of {material.source}"
        if config.model == "ensemble"
        else f"the model from which {material.source} was started"
    )
    lines = [
        f"{formula(numbers)}: {len(numbers)} atoms, {config.replicas} replica{unit} with seed{unit} "
        + ", ".join(str(config.seed + i) for i in range(min(config.replicas, 5)))
        + (", ..." if config.replicas > 5 else ""),
        f"  {'model':<10} {model}",
    ]
    for part in setup.parts:
        lines.append(f"  {noun(part.name):<13} {_dynamics(part)}")
    lines.append(f"  {'uncertain':<10} {_uncertain(setup)}")
    return lines + [f"  {topic:<10} {text}" for topic, text in (*setup.watch.remarks, *setup.remarks)]


def _dynamics(part: Any) -> str:
    dynamics = part.dynamics
    thermostat = "" if dynamics.thermostat_used is None else f" ({dynamics.thermostat_used})"
    kelvin = list(dict.fromkeys(f"{each.initial_temperature_k:g}" for each in part.each))
    at = "" if dynamics.ensemble == "nve" and part.before else f", {', '.join(kelvin)} K"
    at += ", then as scheduled" if dynamics.schedule else ""
    pressure = f", {dynamics.pressure_gpa:g} GPa" if dynamics.ensemble == "npt" else ""
    return (
        f"{dynamics.duration_ps:g} ps of {dynamics.ensemble}{thermostat}{at}{pressure}, {part.n_steps} steps of "
        f"{dynamics.timestep_fs:g} fs, frames every {dynamics.trajectory_every}"
    )


def _uncertain(setup: Setup) -> str:
    if not setup.watch.known:
        return "nothing is watched, since no limit of σ is known"
    does = {
        "warn": "is counted, and the replica goes on",
        "stop": "ends the replica",
        "label": "ends the replica, which goes on as an on-the-fly run with the reference of the run",
    }[setup.config.on_uncertain]
    return f"a step with σ above its limit {does}"

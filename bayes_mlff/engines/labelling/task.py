"""The label task: what a worker needs, and what it does where only the engine, ASE and NumPy are installed."""

import atexit
import contextlib
import importlib.metadata
import json
import os
import platform
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter

from bayes_mlff.core.errors import BayesMlffError, ConfigError, EngineFailedError, EngineRetryError, EngineSetupError
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import CommonSettings, Engine
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.engines.labelling.outcome import Kind, Outcome, key_of
from bayes_mlff.engines.labelling.spool import Spool
from bayes_mlff.engines.registry import EngineSettings, make_engine

_VERSIONS: Final = ("bayes-mlff", "ase", "numpy")


class Method(NamedTuple):
    """A reference method as plain data, which means the same on every host that sees the same files."""

    settings: str  # JSON of the engine's settings
    base: str | None  # folder of the configuration, for modules and files that the settings name
    settings_hash: str  # that the engine must have on the worker


class Task(NamedTuple):
    """One request for a label."""

    method: Method
    structure: Structure
    spool: str  # folder in which the worker stores the outcome

    @property
    def key(self) -> str:
        """Key of the outcome, see `outcome.key_of`."""
        return key_of(self.method.settings_hash, self.structure)


class Trial(NamedTuple):
    """What a worker says about itself before anything is calculated."""

    settings_hash: str  # of the engine there
    description: str  # of the engine there
    versions: dict[str, str]  # of Python and packages
    where: str  # host and process id
    problem: str | None  # why it cannot label; None if it can


def method_of(settings: CommonSettings, base: Path | None, settings_hash: str) -> Method:
    """A method for tasks.

    Raises:
      ConfigError: if the settings are not plain data, or labels would depend on which was calculated first.
    """
    if isinstance(settings, GpawSettings) and settings.stress == "pulay-corrected" and settings.pulay_virial_ev is None:
        raise ConfigError(
            "engine.pulay_virial_ev",
            None,
            "the virial that an earlier calculation found: labels in parallel have no common first structure from "
            "which it could be taken",
        )
    try:
        text = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ConfigError("engine", repr(settings), f"plain data, which other processes can read ({error})") from error
    return Method(text, None if base is None else str(base.resolve()), settings_hash)


def label(task: Task) -> Outcome:
    """Calculate a label, or find it in the spool; it is on the disk there when this returns.

    The result does not depend on earlier labels of the process, nor on which process calculates it.
    """
    problem = _missing_folder(task.spool, "the spool") or _missing_folder(task.method.base, "the configuration's")
    if problem is not None:
        return _without(task, "setup", problem, 0.0)
    spool = Spool(Path(task.spool))
    with _ONE_AT_A_TIME, spool.alone(task.key) as locking:
        found = spool.take(task.key, task.structure)
        if found.outcome is not None:
            return found.outcome
        outcome = _calculated(task)
        remarks = [*locking, *found.remarks]
        if outcome.paid:
            try:
                spool.put(outcome)
            except OSError as error:
                remarks.append(f"{spool.folder}: the label could not be stored by its worker ({error})")
    return outcome._replace(remarks=tuple(remarks))


def try_out(method: Method, spool: str, structure: Structure) -> Trial:
    """Make the engine and check, without a calculation, that it can label structures like this one."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found = description = ""
    problem = _missing_folder(spool, "the spool") or _missing_folder(method.base, "the configuration's")
    if problem is None:
        try:
            engine = _engine(method)
            found, description = engine.settings_hash, engine.description
            problem = _other_method(method, found)
            if problem is None:
                engine.check(structure)
        except BayesMlffError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 (errors of other packages may not survive pickling)
            problem = _unforeseen(error)
    return Trial(found, description, versions, _here(), problem)


def _calculated(task: Task) -> Outcome:
    """The engine's answer; every error becomes a value."""
    start = time.perf_counter()
    kind: Kind
    try:
        engine = _engine(task.method)
        problem = _other_method(task.method, engine.settings_hash)
        if problem is not None:
            return _without(task, "setup", problem, 0.0)
        engine.restore_state(None)
        start = time.perf_counter()
        result = engine.label(task.structure)
        return Outcome(task.key, "label", result, "", result.seconds, _here())
    except EngineFailedError as error:
        kind, message = "failed", str(error)
    except EngineRetryError as error:
        kind, message = "lost", str(error)
    except BayesMlffError as error:
        kind, message = "setup", str(error)
    except Exception as error:  # noqa: BLE001 (errors of other packages may not survive pickling)
        kind, message = "lost", _unforeseen(error)
    return _without(task, kind, message, time.perf_counter() - start)


_ONE_AT_A_TIME: Final = threading.Lock()
"""Lock for the engine of this process, for executors whose workers are threads."""

_ENGINES: Final[dict[Method, Engine]] = {}
"""The engine of this process: made with the first task, since some take long to start."""


def _engine(method: Method) -> Engine:
    """The engine of this process for these settings.

    Raises:
      EngineSetupError: if it cannot be made.
      ConfigError: if a setting is not one of this version.
    """
    made = _ENGINES.get(method)
    if made is not None:
        return made
    for other in list(_ENGINES):
        _ENGINES.pop(other).close()
    try:
        settings: Any = TypeAdapter(EngineSettings).validate_json(method.settings)
    except ValueError as error:
        raise EngineSetupError(f"engine: its settings are not those of this version here: {error}") from error
    engine = make_engine(settings, base=None if method.base is None else Path(method.base))
    _ENGINES[method] = engine
    atexit.register(engine.close)
    return engine


def _other_method(method: Method, found: str) -> str | None:
    """A message if the engine here has other settings than that of the configuration."""
    if found == method.settings_hash:
        return None
    return (
        f"engine: the worker's has the settings_hash {found}, the driver's {method.settings_hash}; allowed: the same "
        "versions of the engine, and of modules beside the configuration, on both"
    )


def _missing_folder(folder: str | None, whose: str) -> str | None:
    if folder is None or os.path.isdir(folder):
        return None
    return f"{_here()}: there is no folder {folder} ({whose}) here; allowed: workers that see the driver's files"


def _without(task: Task, kind: Kind, message: str, seconds: float) -> Outcome:
    return Outcome(task.key, kind, None, message, seconds, _here())


def _unforeseen(error: Exception) -> str:
    place = "".join(traceback.format_tb(error.__traceback__)[-2:])
    return f"{type(error).__name__}: {error}; {' '.join(place.split())}"


def _here() -> str:
    return f"{os.uname().nodename}:{os.getpid()}"

"""Makes the executor that a configuration names."""

import threading
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path
from typing import Any, Final

from bayes_mlff.core.errors import EngineSetupError, brief
from bayes_mlff.engines import factories
from bayes_mlff.engines.labelling.clusters import parsl_config
from bayes_mlff.engines.labelling.local import LocalPool
from bayes_mlff.engines.labelling.settings import ExecutorBase, ImportedSettings, LocalSettings, ParslSettings

CLOSING_S: Final = 60.0
"""Longest time in which an executor closes, s."""

_BROKEN: Final = ("BadStateException", "TooManyJobFailuresError")
"""Names of further exceptions by which an executor says that it can run nothing any more: Parsl's, for tasks that it
had and for those that it gets later."""


def make_executor(settings: ExecutorBase, *, base: Path | None, work: Path) -> Executor:
    """Start an executor.

    Args:
      settings: settings of any executor.
      base: folder of the configuration, for modules that the settings name.
      work: folder for logs of the executor, which all hosts see.

    Raises:
      EngineSetupError: if it cannot be imported, does not start, or is not a `concurrent.futures.Executor`.
    """
    if isinstance(settings, LocalSettings):
        return LocalPool(settings.workers, threads=settings.threads)
    if isinstance(settings, ParslSettings):
        config = parsl_config(settings, work) if settings.config is None else _config(settings.config, base)
        return _started("executor", "parsl.concurrent:ParslPoolExecutor", {"config": config}, base)
    assert isinstance(settings, ImportedSettings)
    return _started("executor.executor", settings.executor, settings.arguments, base)


def is_broken(error: BaseException) -> bool:
    """True if an executor says by this error that it will run nothing any more."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ in _BROKEN


def close(executor: Executor) -> bool:
    """Close an executor without waiting for what it runs.

    Returns:
      False if it has not closed within `CLOSING_S`, or failed to; it is then left alone.
    """
    closed = threading.Event()

    def shut() -> None:
        executor.shutdown(wait=False)  # Parsl takes its jobs out of the queue here
        closed.set()

    threading.Thread(target=shut, daemon=True).start()
    return closed.wait(CLOSING_S)


def _config(path: str, base: Path | None) -> Any:
    found = _imported("executor.config", path, base)
    return found() if callable(found) else found


def _started(place: str, path: str, arguments: Any, base: Path | None) -> Executor:
    factory = _imported(place, path, base)
    try:
        made = factory(**arguments)
    except Exception as error:
        raise EngineSetupError(
            f"{place}: {path} does not start: {type(error).__name__}: {brief(str(error))}"
        ) from error
    if not isinstance(made, Executor):
        raise EngineSetupError(
            f"{place}: {path} makes a {type(made).__name__}; allowed: what makes a concurrent.futures.Executor"
        )
    return made


def _imported(place: str, path: str, base: Path | None) -> Any:
    try:
        return factories.find(path, place, None if base is None else str(base.resolve()))
    except factories.UnusableError as error:
        raise EngineSetupError(str(error)) from error

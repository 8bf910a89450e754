"""Carries on the uncertain replicas of a production as on-the-fly runs; see `production.labelling`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayes_mlff.api import runner
from bayes_mlff.api.observing import Silent
from bayes_mlff.core.errors import ConfigError, RunDirectoryError, RunInterruptedError
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.shared import SharedEngine
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.given_labels import is_run
from bayes_mlff.production import labelling
from bayes_mlff.production.config import ProductionConfig, noun
from bayes_mlff.production.labelling import Rest
from bayes_mlff.production.material import Material
from bayes_mlff.production.state import Observer
from bayes_mlff.report import run_log
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.directory import CONFIG


class _AsOfRun(Silent):
    """An observer of runs that tells an observer of productions about labels and messages."""

    def __init__(self, observer: Observer):
        self._observer = observer

    def say(self, text: str) -> None:
        """Pass the text on."""
        self._observer.say(text)

    def working(self, what: str) -> None:
        """Pass the description on."""
        self._observer.working(what)

    def label(self, *, step: int, reason: str, error_ev: float | None, sigma_ev: float | None, seconds: float) -> None:
        """Say that there is a label."""
        self._observer.say(f"    step {step}: label ({reason}, {seconds:.1f} s)")

    def notice(self, *, step: int, text: str) -> None:
        """Pass the message on."""
        self._observer.say(f"    step {step}: {text}")


def check_engine(config: ProductionConfig, material: Material) -> None:
    """Check, before a production with `on_uncertain: label` begins, that the reference can label its structure.

    Raises:
      EngineError, ConfigError: if it cannot.
      RunDirectoryError: if the run is gone.
    """
    if config.on_uncertain != "label" or material.run is None:
        return
    settings, base = material.run.engine, _base(Path(material.source))
    with SharedEngine(lambda: make_engine(settings, base=base)) as engine:
        engine.check(material.initial.structure)


def go_on(
    config: ProductionConfig,
    material: Material,
    path: Path,
    found: Mapping[str, Any],
    *,
    observer: Observer,
    wall_time_s: float | None,
    spent_s: float,
    farewell: str,
) -> list[dict[str, Any]]:
    """Run what uncertain replicas have left, one after the other; what is done already is not done again.

    Args:
      config: settings of the production.
      material: of the production.
      path: its directory.
      found: its `summary.facts`.
      observer: told what happens.
      wall_time_s: time limit, s; None: no limit.
      spent_s: part of this time that was spent before this call, s.
      farewell: how the user can continue, for the message of an interruption.

    Returns:
      For each run: `replica`, `part`, `begin` (step of the part), `directory`, `labels` that were paid for, `finished`.

    Raises:
      RunInterruptedError: if a signal or the time limit ended it; it can be continued.
      RunStoppedError: if a run cannot continue without a decision of the user.
      RunDirectoryError: if the run that the ensemble comes from is gone before it is needed.
    """
    began, before, done = time.monotonic(), Path(material.source), []
    path = path.absolute()
    for rest in labelling.rests(config, found):
        directory = path / rest.folder
        if not _is_finished(directory):
            observer.say(f"  replica {rest.replica + 1} goes on as an on-the-fly run in {directory}")
            limits = {"wall_time_s": wall_time_s, "spent_s": spent_s + time.monotonic() - began}
            try:
                _run(rest, config, material, path, before, _AsOfRun(observer), limits)
            except RunInterruptedError as error:
                raise RunInterruptedError(error.reason, error.where, farewell) from error
        done.append(_facts(rest, directory))
        before = directory
    return done


def text(done: list[dict[str, Any]]) -> list[str]:
    """Lines of the summary about runs of `go_on`."""
    return [
        f"replica {each['replica']} goes on from step {each['begin']} of the {noun(each['part'])} in "
        f"{each['directory']}: {each['labels']} labels, {'all steps are done' if each['finished'] else 'not finished'}"
        for each in done
    ]


def _run(
    rest: Rest,
    config: ProductionConfig,
    material: Material,
    path: Path,
    before: Path,
    observer: _AsOfRun,
    limits: dict[str, Any],
) -> None:
    directory, source = path / rest.folder, Path(material.source)
    if (directory / CONFIG).is_file():
        runner.resume(configuration.load(directory / CONFIG), directory, observer=observer, **limits)
        return
    base = _base(source)
    if material.run is None:
        raise ConfigError("on_uncertain", "label", "warn or stop: the ensemble comes from no run")
    made = labelling.configure(rest, material.run, config, source=source, before=before, path=path)
    runner.run(made, directory, base=base, observer=observer, **limits)


def _base(source: Path) -> Path:
    """Folder of the modules and files of the reference of a run.

    Raises:
      RunDirectoryError: if the run is gone.
    """
    if not is_run(source):
        raise RunDirectoryError(
            f"{source}: no run there any more, which on_uncertain: label needs for its reference and its labels; put "
            "it back, then continue the production"
        )
    return starts.base_of(starts.read(source), source)


def _is_finished(directory: Path) -> bool:
    if not (directory / CONFIG).is_file():
        return False
    return run_log.read(directory).all_steps and (directory / "report.html").is_file()


def _facts(rest: Rest, directory: Path) -> dict[str, Any]:
    return {
        "replica": rest.replica + 1,
        "part": rest.part,
        "begin": rest.begin,
        "directory": str(rest.folder),
        "labels": len(run_log.read(directory).labels),
        "finished": _is_finished(directory),
    }

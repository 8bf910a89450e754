"""Executes runs from a configuration to the final report, for the program and for Python."""

import shlex
import shutil
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bayes_mlff.api import introduction
from bayes_mlff.api.observing import RunObserver, Silent
from bayes_mlff.core import durations, settings
from bayes_mlff.core.changes import Change
from bayes_mlff.core.errors import RunInterruptedError
from bayes_mlff.core.jax_start import start_jax
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.engines import consistency
from bayes_mlff.engines.beside import Beside, gather
from bayes_mlff.engines.engine import Engine
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.shared import SharedEngine
from bayes_mlff.models import catalogue, registry, selfcheck
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf import artefact, beginning, carried, cost, given, systems, thresholds
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.changes import check_changes
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.cost import Cost
from bayes_mlff.otf.given import Given
from bayes_mlff.otf.loop import Session
from bayes_mlff.otf.problem import Problem, prepare, stated
from bayes_mlff.otf.state import RunState
from bayes_mlff.otf.validate import validate
from bayes_mlff.parallel import hosts
from bayes_mlff.parallel.devices import GIB
from bayes_mlff.report import export as exporting
from bayes_mlff.report import page as reporting
from bayes_mlff.report import program_export, run_data, run_log, status
from bayes_mlff.report.program_export import Exported
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.directory import CONFIG, RunDirectory
from bayes_mlff.runs.interruption import Interruption, nothing_to_say, time_limit
from bayes_mlff.runs.process_folder import run_directory
from bayes_mlff.runs.start import Start


def run(
    config: RunConfig,
    path: Path,
    *,
    base: Path,
    observer: RunObserver,
    wall_time_s: float | None = None,
    spent_s: float = 0.0,
) -> None:
    """Start a run in `path`, or continue the same run if it was interrupted.

    An existing run continues from the structure and the model that its directory contains; those of the configuration
    must be the same, or may no longer exist.

    Args:
      config: validated configuration.
      path: run directory.
      base: directory from which relative paths of structure and model start.
      observer: receives reports about the progress.
      wall_time_s: time limit of the run, s; None: no limit.
      spent_s: part of this time that was spent before this call, s.

    Raises:
      ConfigError, DataError, EngineError: before anything is written, if the run cannot work.
      RunDirectoryError: if `path` contains another run.
      RunInterruptedError: if a signal or the time limit ended it; it can be continued.
    """
    observer = _alone(observer)
    limit = time_limit(wall_time_s, spent_s=spent_s)
    with Interruption(limit, farewell="go on with the same command") as interruption:
        config, base = with_absolute_paths(config, base), base.absolute()
        with run_directory(path.absolute()) as own:
            if not (own / CONFIG).is_file():
                _begin(config, own, base, Outside(path, observer, interruption))
                return
            interruption.farewell = _how_to_resume(path)
            stored = configuration.load(own / CONFIG)
            begun = beginning.same_run(config, stored, own)
            for remark in begun.remarks:
                observer.say(f"  {remark}")
            folder = beginning.folder_of(begun.start, own, base)
            if folder != base:
                observer.say(f"  engine     {beginning.GONE}")
            _continue(stored, own, begun.start._replace(base=folder), Outside(path, observer, interruption))


def resume(
    config: RunConfig, path: Path, *, observer: RunObserver, wall_time_s: float | None = None, spent_s: float = 0.0
) -> None:
    """Continue a run from its newest intact checkpoint, with the structure and the model in its directory.

    Raises:
      ConfigError: if a setting was changed that may not change; see `changes.FREE`.
      RunDirectoryError: if there is no run, another process works on it, or a file in it is damaged.
      RunInterruptedError: if a signal or the time limit ended it; it can be continued.
    """
    observer, limit = _alone(observer), time_limit(wall_time_s, spent_s=spent_s)
    with (
        Interruption(limit, farewell=_how_to_resume(path)) as interruption,
        run_directory(path.absolute()) as own,
    ):
        start = starts.read(own)
        folder = Path(hosts.shared(lambda: str(starts.base_of(start, own))))
        _continue(config, own, start._replace(base=folder), Outside(path, observer, interruption))


class Outside(NamedTuple):
    """What a run needs from its caller: path, observer and interruption."""

    path: Path  # run directory as the user named it
    observer: RunObserver
    interruption: Interruption


def _how_to_resume(path: Path) -> str:
    return f"go on with: bayes-mlff resume {shlex.quote(str(path))}"


def _begin(config: RunConfig, path: Path, base: Path, outside: Outside) -> None:
    initial = systems.initial_structure(config.structure, base=base)
    config = carried.with_model(config)
    problem = _problem(config, initial, outside.observer)
    with SharedEngine(lambda: make_engine(config.engine, path, base=base)) as engine:
        engine.check(problem.structure)
        found = given.read(config, problem, engine.settings_hash)
        beside = gather(config.engine, base) if hosts.first() else Beside()
        about = engine.settings_hash, engine.description, base, beside
        start = Start(initial, problem.potential, *about, found.labels, found.ensemble)
        directory = RunDirectory(path)
        directory.create(settings.dump(problem.config), starts.contents(start))
        _work(problem, engine, directory, outside, given=found.given)


def _continue(config: RunConfig, path: Path, start: Start, outside: Outside) -> None:
    directory = RunDirectory(path)
    before = configuration.load(directory.in_force) if directory.in_force.is_file() else config
    config, before = (stated(each, start.potential) for each in (config, before))
    changed = check_changes(before, config)
    problem = _problem(config, start.initial, outside.observer, start.potential)
    with SharedEngine(lambda: make_engine(config.engine, path, base=start.base)) as engine:
        beginning.check_engine(start, engine.settings_hash, engine.description)
        engine.check(problem.structure)
        _work(problem, engine, directory, outside, changed, given.kept(start, path))


def check(config: RunConfig, *, base: Path, observer: RunObserver, label: bool, forces: bool = False) -> None:
    """Validate everything that can be validated without a run; `label` makes one label, `forces` 3 or 5 in all."""
    start, observer = systems.initial_structure(config.structure, base=base), _alone(observer)
    config = carried.with_model(with_absolute_paths(config, base))
    problem = _problem(config, start, observer)
    with SharedEngine(lambda: make_engine(config.engine, base=base)) as engine:
        engine.check(problem.structure)
        introduction.introduce(problem, engine, observer)
        introduction.say_given(given.read(config, problem, engine.settings_hash).given, observer)
        if not config.triggers:
            introduction.say_thresholds(problem, observer)
        observer.working("compiling, and measuring the cost")
        spent = cost.measure(problem)
        _say_cost(config, spent, observer)
        if label or forces:
            observer.working("reference calculation")
            result = engine.label(problem.structure)
            hours = spent.run_s(config, labels=config.max_labels, label_s=result.seconds) / 3600.0
            observer.say(
                f"  one label: {result.seconds:.1f} s, energy {result.label.energy:.6f} eV; with all "
                f"{config.max_labels} allowed labels the run takes {hours:.2g} h"
            )
            for line in thresholds.first_errors(problem, result.label):
                observer.say(f"  {line}")
        if forces:
            observer.working("comparing energy and forces by further reference calculations")
            for line in consistency.compare(engine, problem.structure, result.label):
                observer.say(f"  {line}")
    observer.say("everything is ready to run")


def _say_cost(config: RunConfig, spent: Cost, observer: RunObserver) -> None:
    md_s = spent.run_s(config, labels=0, label_s=0.0)
    observer.say(
        f"  cost       {1e3 * spent.step_s:.3g} ms per MD step, {md_s / 60.0:.2g} min in all; "
        f"{spent.update_s:.2g} s per update after a label; memory {spent.memory_bytes / GIB:.2g} GiB and "
        f"{spent.label_bytes / 2**20:.2g} MiB per label"
    )


def report(path: Path) -> Path:
    """Write report.html and return its path."""
    run = run_data.read(path)
    title = f"On-the-fly run of {Path(run.config.structure.file).stem}"
    return reporting.write_report(path, threshold_ev=run.threshold_ev, title=title, run=run)


def export(path: Path, folder: Path, *, what: str | None, template: Path | None, trust: bool) -> list[Path]:
    """Write the trained models of a run or a fine-tuning to files; see `exporting.export`."""
    if (path / exporting.FINE_TUNED).is_file():
        source = exporting.of_fine_tuning(path)
    else:
        source = exporting.of_run(path, starts.read(path).potential)
    return exporting.export(source, folder, what=what, template=template, trust=trust)


def export_to(path: Path, program: str, folder: Path, *, structure: Path | None = None) -> Exported:
    """Write a folder with which another program uses an ensemble; see `program_export.export`."""
    start_jax(1, running=True)
    return program_export.export(path, program, folder, structure=structure)


def _problem(
    config: RunConfig, start: InitialStructure, observer: RunObserver, potential: Potential | None = None
) -> Problem:
    """Make the constants of a run; if no potential is given, the model of the configuration is loaded."""
    observer.working("checking that JAX computes correct numbers, and reading structure and model")
    selfcheck.ensure(observer.say)
    for remark in start.remarks:
        observer.say(f"  structure  {remark}")
    if potential is None:
        whole = registry.load(config.model, head=config.head, listener=observer)
        potential = registry.for_atoms(whole, start.structure.numbers)
    return prepare(config, start.structure, potential, velocities=start.velocities)


def with_absolute_paths(config: RunConfig, base: Path) -> RunConfig:
    """Make paths absolute, so that the run can be resumed from any working directory."""
    changes = {}
    if config.structure.file not in systems.STRUCTURES:
        where = str((base / config.structure.file).resolve())
        changes["structure"] = config.structure.model_copy(update={"file": where})
    if config.model not in catalogue.NAMES:
        changes["model"] = str((base / config.model).resolve())
    if config.start is not None:
        changes["start"] = config.start.absolute(base)
    return config.model_copy(update=changes)


def _alone(observer: RunObserver) -> RunObserver:
    """The observer in the first of several processes; a silent one in the others."""
    return observer if hosts.first() else Silent()


def _work(
    problem: Problem,
    engine: SharedEngine,
    directory: RunDirectory,
    outside: Outside,
    changed: tuple[Change, ...] = (),
    given: Given = given.NOTHING,
) -> None:
    observer, interruption, started = outside.observer, outside.interruption, time.perf_counter()
    interruption.farewell = _how_to_resume(outside.path)
    directory.open()
    interruption.last_words = partial(_take_leave, directory, interruption)
    try:
        directory.log("session_started", preset=introduction.preset(problem))
        introduction.introduce(problem, engine, observer)
        introduction.say_given(given, observer)
        _say_limit(interruption, observer)
        _put_in_force(problem.config, changed, directory, observer)
        session = Session(problem, engine, directory, observer, interruption, given)
        observer.working("compiling the potential")
        state = session.finish(session.resume())
        path = hosts.shared(lambda: str(_conclude(problem, engine.own, directory, state, observer, interruption)))
    except RunInterruptedError as error:
        directory.log("interrupted", step=interruption.step, reason=error.reason)
        raise
    finally:
        interruption.last_words = nothing_to_say
        directory.close()
    if not hosts.first():
        return
    run = run_log.read(directory.path)
    for name, value in status.judgement(run):
        observer.say(f"  {name}: {value}")
    observer.say(
        f"finished in {(time.perf_counter() - started) / 60.0:.1f} min: {len(run.labels)} labels; report: {path}"
    )


def _take_leave(directory: RunDirectory, interruption: Interruption, reason: str) -> None:
    """Last work before the process ends outside of the loop's regular exit."""
    directory.log("interrupted", step=interruption.step, reason=reason)
    try:
        artefact.publish(directory)
    finally:
        directory.close()
    if not hosts.first():
        shutil.rmtree(directory.path, ignore_errors=True)


def _say_limit(interruption: Interruption, observer: RunObserver) -> None:
    limit = interruption.limit
    if limit is not None:
        left = limit.monotonic_s - time.monotonic()
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + left))
        observer.say(
            f"  time       ends within {durations.shown(left)}, by {at}: {limit.reason}; it can be resumed then"
        )


def _conclude(
    problem: Problem,
    engine: Engine,
    directory: RunDirectory,
    state: RunState,
    observer: RunObserver,
    interruption: Interruption,
) -> Path:
    """Validate a finished run if configured, write its report and return the path of the report."""
    if problem.config.validation_frames > 0:
        validate(
            problem,
            engine,
            directory,
            state,
            lambda done, of: observer.working(f"reference energy of random frame {done} of {of}"),
            interruption,
        )
    return report(directory.path)


def _put_in_force(
    config: RunConfig, changed: tuple[Change, ...], directory: RunDirectory, observer: RunObserver
) -> None:
    """Print and log which settings have changed since the run was last continued, and store them."""
    for change in changed:
        directory.log("setting", **change._asdict())
        observer.say(f"  changed    {change.key}: {change.before} -> {change.after}")
    directory.put_in_force(settings.dump(config))

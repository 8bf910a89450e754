"""From a configuration to a finished run: the thin shell around the loop that the command line calls."""

import time
from pathlib import Path

import numpy as np
from rich.console import Console

from bayes_mlff.core import settings
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.structure import Structure
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.models import registry, selfcheck
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf import cost, hosts, run_data, systems, verdict
from bayes_mlff.otf import export as exporting
from bayes_mlff.otf import report as reporting
from bayes_mlff.otf.changes import Change, check_changes
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.console import ConsoleObserver
from bayes_mlff.otf.cost import Cost
from bayes_mlff.otf.devices import GIB
from bayes_mlff.otf.dft.engine import Engine
from bayes_mlff.otf.dft.registry import make_engine
from bayes_mlff.otf.loop import Session
from bayes_mlff.otf.problem import Problem, prepare
from bayes_mlff.otf.run_data import RunData
from bayes_mlff.otf.rundir import RunDirectory
from bayes_mlff.otf.state import RunState
from bayes_mlff.otf.validate import validate


def run(config: RunConfig, path: Path, *, base: Path, console: Console) -> None:
    """Start a run in `path`, or continue the same run if it was interrupted.

    Args:
      config: validated configuration.
      path: run directory.
      base: directory against which the structure's and the model's relative paths are resolved.
      console: where to report progress.

    Raises:
      ConfigError, DataError, EngineError: before anything is written, if the run cannot work.
      RunDirectoryError: if `path` holds another run.
    """
    start = systems.initial_structure(config.structure, base=base)
    config, console = _with_absolute_paths(config, base), _alone(console)
    with hosts.run_directory(path) as own:
        _run(config, own, start, console)


def _run(config: RunConfig, path: Path, start: InitialStructure, console: Console) -> None:
    directory = RunDirectory(path)
    if directory.config.is_file():
        if configuration.load(directory.config) != config:
            raise RunDirectoryError(
                f"{path}: holds a run with another configuration; choose another --output, remove the directory, "
                f"or continue that run with 'resume {path}'"
            )
        _resume(config, path, console)
        return
    problem = _problem(config, start, console)
    with hosts.SharedEngine(lambda: make_engine(config.engine, path)) as engine:
        engine.check(problem.structure)
        directory.create(settings.dump(config))
        _work(problem, engine, directory, console)


def resume(config: RunConfig, path: Path, *, console: Console) -> None:
    """Continue a run from its newest intact checkpoint.

    Raises:
      ConfigError: if a setting has changed that makes it another run; see `changes.FREE`.
      RunDirectoryError: if there is no run, or another process works on it.
    """
    with hosts.run_directory(path) as own:
        _resume(config, own, _alone(console))


def _resume(config: RunConfig, path: Path, console: Console) -> None:
    directory = RunDirectory(path)
    before = configuration.load(directory.in_force) if directory.in_force.is_file() else config
    changed = check_changes(before, config)
    start = systems.initial_structure(config.structure, base=Path())
    problem = _problem(config, start, console)
    with hosts.SharedEngine(lambda: make_engine(config.engine, path)) as engine:
        engine.check(problem.structure)
        _work(problem, engine, directory, console, changed)


def check(config: RunConfig, *, base: Path, console: Console, label: bool) -> None:
    """Validate everything that can be validated without a run; optionally pay for one label."""
    start, console = systems.initial_structure(config.structure, base=base), _alone(console)
    problem = _problem(_with_absolute_paths(config, base), start, console)
    with hosts.SharedEngine(lambda: make_engine(config.engine)) as engine:
        engine.check(problem.structure)
        _introduce(problem, engine.description, console)
        spent = cost.measure(problem)
        _say_cost(config, spent, console)
        if label:
            result = engine.label(problem.structure)
            hours = spent.run_s(config, labels=config.max_labels, label_s=result.seconds) / 3600.0
            console.print(
                f"  one label: {result.seconds:.1f} s, energy {result.label.energy:.6f} eV; with all "
                f"{config.max_labels} labels that are allowed the run takes {hours:.2g} h",
                highlight=False,
                soft_wrap=True,
            )
    console.print("everything is ready to run")


def _say_cost(config: RunConfig, spent: Cost, console: Console) -> None:
    md_s = spent.run_s(config, labels=0, label_s=0.0)
    console.print(
        f"  cost       {1e3 * spent.step_s:.3g} ms a step of dynamics, {md_s / 60.0:.2g} min for all; "
        f"{spent.update_s:.2g} s an update of the chains; memory {spent.memory_bytes / GIB:.2g} GiB and "
        f"{spent.label_bytes / 2**20:.2g} MiB a label",
        highlight=False,
        soft_wrap=True,
    )


def status(path: Path, *, console: Console) -> None:
    """Print how far a run is."""
    config, structure = _stored(path)
    run = run_data.read(path)
    summary = run_data.summarise(run, config.threshold_ev(len(structure.numbers)))
    for name, value in summary._asdict().items():
        console.print(f"  {name.replace('_', ' ')}: {value}", highlight=False)
    _print_verdict(run, console)


def _print_verdict(run: RunData, console: Console) -> None:
    lines = [*verdict.rows(verdict.judge(run)), *((f"not believed, step {r.step}", r.reason) for r in run.refused)]
    for name, value in lines:
        console.print(f"  {name}: {value}", highlight=False, soft_wrap=True, markup=False)


def report(path: Path) -> Path:
    """Write report.html and return its path."""
    config, structure = _stored(path)
    title = f"On-the-fly run of {Path(config.structure.file).stem}"
    return reporting.write_report(path, threshold_ev=config.threshold_ev(len(structure.numbers)), title=title)


def export(path: Path, folder: Path, *, template: Path | None, trust: bool) -> list[Path]:
    """Write the chains of a run to files; see `exporting.export`."""
    return exporting.export(path, *_stored(path), folder, template=template, trust=trust)


def _stored(path: Path) -> tuple[RunConfig, Structure]:
    config = configuration.load(path / "config.yaml")
    return config, systems.initial_structure(config.structure, base=Path()).structure


def _problem(config: RunConfig, start: InitialStructure, console: Console) -> Problem:
    selfcheck.ensure(lambda line: console.print(line, highlight=False, soft_wrap=True))
    for remark in start.remarks:
        console.print(f"  structure  {remark}", highlight=False, soft_wrap=True, markup=False)
    potential = registry.for_atoms(registry.load(config.model), start.structure.numbers)
    return prepare(config, start.structure, potential, velocities=start.velocities)


def _with_absolute_paths(config: RunConfig, base: Path) -> RunConfig:
    """A run directory must be resumable from anywhere."""
    changes = {}
    if config.structure.file not in systems.STRUCTURES:
        where = str((base / config.structure.file).resolve())
        changes["structure"] = config.structure.model_copy(update={"file": where})
    if config.model not in registry.NAMES:
        changes["model"] = str((base / config.model).resolve())
    return config.model_copy(update=changes)


def _alone(console: Console) -> Console:
    """Of several processes the first alone speaks."""
    return console if hosts.first() else Console(quiet=True)


def _work(
    problem: Problem,
    engine: hosts.SharedEngine,
    directory: RunDirectory,
    console: Console,
    changed: tuple[Change, ...] = (),
) -> None:
    started = time.perf_counter()
    directory.open()
    try:
        directory.log("session_started")
        _introduce(problem, engine.description, console)
        _put_in_force(problem.config, changed, directory, console)
        with ConsoleObserver(console, problem.config) as observer:
            session = Session(problem, engine, directory, observer)
            observer.working("compiling, and labelling the first structure")
            state = session.finish(session.resume())
            path = hosts.shared(lambda: str(_conclude(problem, engine.own, directory, state, observer)))
    finally:
        directory.close()
    if not hosts.first():
        return
    run = run_data.read(directory.path)
    _print_verdict(run, console)
    console.print(
        f"finished in {(time.perf_counter() - started) / 60.0:.1f} min: {len(run.records)} labels; report: {path}",
        highlight=False,
        soft_wrap=True,
    )


def _conclude(
    problem: Problem, engine: Engine, directory: RunDirectory, state: RunState, observer: ConsoleObserver
) -> Path:
    """Look back at a run that has ended, and return the path of the report."""
    if problem.config.validation_frames > 0:
        validate(
            problem,
            engine,
            directory,
            state,
            lambda done, of: observer.working(f"reference energy of random frame {done} of {of}"),
        )
    return report(directory.path)


def _put_in_force(config: RunConfig, changed: tuple[Change, ...], directory: RunDirectory, console: Console) -> None:
    """Say and log which settings have changed since the run last went on."""
    for change in changed:
        directory.log("setting", **change._asdict())
        console.print(f"  changed    {change.key}: {change.before} -> {change.after}", highlight=False, soft_wrap=True)
    directory.put_in_force(settings.dump(config))


def _introduce(problem: Problem, engine: str, console: Console) -> None:
    config, dynamics = problem.config, problem.config.dynamics
    apart = config.min_steps_between_labels
    spacing = f", {apart} steps between them" if apart else ""
    validation = f", then {config.validation_frames} random frames" if config.validation_frames else ""
    console.print(
        f"{Path(config.structure.file).stem}: {len(problem.structure.numbers)} atoms, {dynamics.duration_ps:g} ps "
        f"({config.n_steps} steps) of {dynamics.ensemble} dynamics{_conditions(problem)}\n"
        f"  model      {config.model}, {config.sampler.chains} chains of {problem.prior.mean.shape[0]} weights, "
        f"{config.sampler.steps} steps of each after a label\n"
        f"  reference  {engine}\n"
        f"  threshold  {problem.threshold_ev * KCAL_MOL_PER_EV:.3g} kcal/mol with {config.confidence:.0%} confidence; "
        f"at most {config.max_labels} labels{spacing}{validation}",
        highlight=False,
        soft_wrap=True,
    )
    for word, text in problem.motion.remarks:
        console.print(f"  {word:<10} {text}", highlight=False, soft_wrap=True, markup=False)


def _conditions(problem: Problem) -> str:
    """Temperatures and, in npt, pressures of the run, in words."""
    config = problem.config
    if config.dynamics.ensemble == "nve":
        if problem.motion.momenta is not None:
            return ""
        return f" from {config.dynamics.initial_temperature_k:g} K"
    held = config.dynamics.conditions()

    def values(pairs: np.ndarray, unit: str) -> str:
        kept = pairs[held.begin_fs < config.dynamics.duration_ps * 1000.0].ravel()
        steps = [x for i, x in enumerate(kept) if i == 0 or x != kept[i - 1]]
        return f"{', '.join(f'{x:g}' for x in steps)} {unit}"

    pressure = f", {values(held.pressure_gpa, 'GPa')}" if config.dynamics.ensemble == "npt" else ""
    return f" at {values(held.temperature_k, 'K')}{pressure}"

"""The program `bayes-mlff`, with commands for runs, fine-tunings and their results.

Each command imports what it needs when it is called, so that help and error messages appear at once.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bayes_mlff.cli.analyse import analyse
from bayes_mlff.cli.campaign import campaign
from bayes_mlff.cli.export import export
from bayes_mlff.cli.finetune import finetune
from bayes_mlff.cli.models import models
from bayes_mlff.cli.produce import produce, refuse_production, resume_production, show, state_of
from bayes_mlff.core import durations
from bayes_mlff.core.command_line import make_console, override, run_app, write_new
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.otf import systems
from bayes_mlff.runs import replica_folders

if TYPE_CHECKING:
    from bayes_mlff.api.console import ConsoleObserver
    from bayes_mlff.otf.config import RunConfig

app = typer.Typer(
    help=(
        "Molecular dynamics with a Bayesian neural-network potential that calls a reference method when it is "
        "uncertain, and fine-tuning on existing labels. Without a command, --system runs a built-in system."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.command(no_args_is_help=True)(analyse)
app.command(no_args_is_help=True)(export)
app.command(no_args_is_help=True)(finetune)
app.command()(models)
app.command(no_args_is_help=True)(produce)

app.add_typer(campaign, name="campaign")

ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Run directory; by default runs/<name>.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key, e.g. --set dynamics.duration_ps=2; may be given several times."),
]
WallTime = Annotated[
    str | None,
    typer.Option(
        "--wall-time",
        help="Time limit, e.g. 2h, 30min, 90s, 1:30:00, 1-12:00:00 or a number of seconds. The run saves all and "
        "ends before it, and before a reference calculation that would take too long, with exit status 75; 'resume' "
        "continues it. The end of a SLURM job (SLURM_JOB_END_TIME) is also a limit.",
    ),
]


@app.callback(invoke_without_command=True)
def system(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--system", help=f"One of {', '.join(systems.SYSTEMS)}.")] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="demo (minutes on two cores; the default without an accelerator), large (lamno3 with 40 atoms, cazrs3 "
            "with 162; the default with one) or paper (as published: length, threshold and, for lamno3, "
            "mace-mp-0-medium)."
        ),
    ] = None,
    output: Output = None,
    overrides: Overrides = None,
    wall_time: WallTime = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Run a built-in system, or continue it if it was interrupted."""
    if version:
        make_console().print(importlib.metadata.version("bayes-mlff"))
        raise typer.Exit
    own = {"--system": name, "--profile": profile, "--output": output, "--set": overrides, "--wall-time": wall_time}
    if context.invoked_subcommand is not None:
        _refuse(own, f"options behind the command: bayes-mlff {context.invoked_subcommand} ...")
        return
    if name is None:
        _refuse(own, "this option with --system, or behind a command")
        return
    limit_s = _seconds(wall_time)
    config, profile = _built_in(name, profile, overrides)
    path = output or Path("runs") / (name if profile == "demo" else f"{name}-{profile}")
    make_console().print(systems.introduction(name, profile))
    _run(config, path, Path(), limit_s)


@app.command()
def init(path: ConfigPath = Path("config.yaml")) -> None:
    """Write a commented configuration with every key and its default."""
    from bayes_mlff.otf.config import template

    write_new(path, template(), "path")
    make_console().print(f"wrote {path}; edit it, then: bayes-mlff check {path}")


@app.command()
def check(
    path: Annotated[
        Path | None, typer.Argument(help="YAML configuration, unless --system names a built-in system.")
    ] = None,
    name: Annotated[str | None, typer.Option("--system", help=f"One of {', '.join(systems.SYSTEMS)}.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Profile of the built-in system: demo, large (crystals) or paper.")
    ] = None,
    label: Annotated[bool, typer.Option(help="Also pay for one reference calculation and time it.")] = False,
    forces: Annotated[
        bool,
        typer.Option(
            "--forces",
            help="Also compare energy and forces by two more reference calculations, and the stress by two more.",
        ),
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Validate a configuration, test model and engine and estimate the cost of a run, without running it."""
    from bayes_mlff.api import runner

    if (path is None) == (name is None):
        got = "neither" if path is None else f"{path} and --system {name}"
        raise ConfigError("check", got, "the path of a configuration or --system, one of them")
    if path is None:
        config, _ = _built_in(str(name), profile, overrides)
    else:
        _refuse({"--profile": profile}, "this option with --system")
        config = _with_overrides(_read(path), overrides)
        _start(config)
    base = Path() if path is None else path.parent
    with _observer(config) as observer:
        runner.check(config, base=base, observer=observer, label=label, forces=forces)


@app.command()
def run(path: ConfigPath, output: Output = None, overrides: Overrides = None, wall_time: WallTime = None) -> None:
    """Start a run from a configuration file, or continue it if it was interrupted.

    SIGTERM, SIGUSR1, SIGINT and the end of --wall-time end it within seconds.
    Everything is then saved, the exit status is 75, and the same command or
    'resume' goes on. A second signal ends it at once.
    """
    limit_s = _seconds(wall_time)
    config = _with_overrides(_read(path), overrides)
    _start(config)
    _run(config, output or Path("runs") / path.stem, path.parent, limit_s)


@app.command()
def resume(path: RunPath, wall_time: WallTime = None) -> None:
    """Continue an interrupted run or production from its last checkpoint.

    Only its directory is needed, which may have been moved:
    it holds structure and model.
    """
    from bayes_mlff.api import runner
    from bayes_mlff.otf import config as configuration
    from bayes_mlff.runs.interruption import process_age_s

    limit_s = _seconds(wall_time)
    if replica_folders.of(path) is not None:
        resume_production(path, limit_s)
        return
    config = configuration.load(path / "config.yaml")
    _start(config)
    with _observer(config) as observer:
        runner.resume(config, path, observer=observer, wall_time_s=limit_s, spent_s=process_age_s())


@app.command()
def status(
    path: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: numbers in eV, fs, K, GPa and s.")] = False,
) -> None:
    """Say what state a run is in, how far it is, how long it may still take, and how good it is so far.

    Of a production it prints the summary, or how far it is.
    """
    from bayes_mlff.report import run_log
    from bayes_mlff.report import status as screen

    if replica_folders.of(path) is not None:
        if as_json:
            sys.stdout.write(json.dumps(state_of(path), indent=2) + "\n")
        else:
            show(path)
        return
    run = run_log.read(path)
    if as_json:
        sys.stdout.write(json.dumps(screen.facts(path, run), indent=2) + "\n")
        return
    for name, value in screen.rows(path, run):
        make_console().print(f"  {name:{screen.WIDTH}} {value}".replace("\n", "\n" + " " * (screen.WIDTH + 3)))


@app.command()
def report(path: RunPath) -> None:
    """Write report.html, with figures and tables, into the directory of a run."""
    from bayes_mlff.api import runner

    refuse_production(path, "report")
    make_console().print(str(runner.report(path)))


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    from bayes_mlff.otf.config import RunConfig

    sys.stdout.write(json.dumps(RunConfig.model_json_schema(), indent=2) + "\n")


def _run(config: "RunConfig", path: Path, base: Path, limit_s: float | None) -> None:
    from bayes_mlff.api import runner
    from bayes_mlff.runs.interruption import process_age_s

    with _observer(config) as observer:
        runner.run(config, path, base=base, observer=observer, wall_time_s=limit_s, spent_s=process_age_s())


def _observer(config: "RunConfig") -> "ConsoleObserver":
    """Make the observer that prints, in the first of several processes only."""
    from bayes_mlff.api.console import ConsoleObserver
    from bayes_mlff.parallel import hosts

    return ConsoleObserver(make_console() if hosts.first() else Console(quiet=True), config)


def _built_in(name: str, profile: str | None, overrides: list[str] | None) -> "tuple[RunConfig, str]":
    """Settings and profile of a built-in system; starts JAX, since the default profile depends on the device."""
    import jax

    systems.check_system(name)
    config = _with_overrides(systems.settings(name, profile or "demo"), overrides)
    _start(config)
    if profile is None:
        profile = systems.default_profile(name, accelerator=jax.default_backend() != "cpu")
        config = _with_overrides(systems.settings(name, profile), overrides)
    return config, profile


def _refuse(options: dict[str, Any], allowed: str) -> None:
    """Refuse the first option that was given, which would have no effect."""
    for option, value in options.items():
        if value:
            raise ConfigError(option, value if isinstance(value, list) else str(value), allowed)


def _seconds(wall_time: str | None) -> float | None:
    return None if wall_time is None else durations.parse(wall_time, key="--wall-time")


def _start(config: "RunConfig") -> None:
    from bayes_mlff.core.jax_start import start_jax
    from bayes_mlff.parallel import hosts

    hosts.join()
    start_jax(config.side_by_side)


def _read(path: Path) -> dict[str, Any]:
    from bayes_mlff.otf import config as configuration

    config = configuration.load(path)
    unsaid = set() if "model" in config.model_fields_set else {"model"}  # that of an ensemble to start from
    return config.model_dump(mode="json", exclude=unsaid)


def _with_overrides(raw: dict[str, Any], overrides: list[str] | None) -> "RunConfig":
    from bayes_mlff.otf import config as configuration

    override(raw, overrides)
    return configuration.parse(raw)


def main() -> None:
    """Entry point."""
    run_app(app)

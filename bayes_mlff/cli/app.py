"""Command line: `python -m bayes_mlff.otf --system ethanol`, and sub-commands for runs of one's own."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from bayes_mlff.cli import runner
from bayes_mlff.cli.template import template
from bayes_mlff.core import durations
from bayes_mlff.core.command_line import make_console, override, run_app, start_jax, write_new
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf import systems
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.parallel import hosts

app = typer.Typer(
    help=(
        "Molecular dynamics with a Bayesian neural-network potential that asks a reference method where it is not "
        "sure. Without a sub-command, --system runs a built-in system."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Run directory; by default runs/<name>.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key, e.g. --set dynamics.duration_ps=2; repeatable."),
]
WallTime = Annotated[
    str | None,
    typer.Option(
        "--wall-time",
        help="End in order within this time, e.g. 2h, 30min, 90s, 1:30:00, 1-12:00:00 or a number of seconds, before "
        "a reference calculation that would not fit; exit status 75, then 'resume' goes on. The end of a SLURM job "
        "(SLURM_JOB_END_TIME) counts as well.",
    ),
]


@app.callback(invoke_without_command=True)
def system(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--system", help=f"One of {', '.join(systems.SYSTEMS)}.")] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="demo (minutes on two cores; the default without an accelerator), large (lamno3 with 40 atoms; the "
            "default with one) or paper (as published: length, threshold and, for lamno3, mace-mp-0-medium)."
        ),
    ] = None,
    output: Output = None,
    overrides: Overrides = None,
    wall_time: WallTime = None,
) -> None:
    """Run a built-in system, or continue it if it was interrupted."""
    if context.invoked_subcommand is not None or name is None:
        return
    limit_s = _seconds(wall_time)
    config, profile = _built_in(name, profile, overrides)
    path = output or Path("runs") / (name if profile == "demo" else f"{name}-{profile}")
    make_console().print(systems.introduction(name, profile))
    runner.run(config, path, base=Path(), console=make_console(), wall_time_s=limit_s)


@app.command()
def init(path: ConfigPath = Path("config.yaml")) -> None:
    """Write a commented configuration with every key and its default."""
    write_new(path, template(), "path")
    make_console().print(f"wrote {path}; edit it, then: bayes-mlff check {path}")


@app.command()
def check(
    path: Annotated[Path | None, typer.Argument(help="YAML configuration; or name a built-in system.")] = None,
    name: Annotated[str | None, typer.Option("--system", help=f"One of {', '.join(systems.SYSTEMS)}.")] = None,
    profile: Annotated[str | None, typer.Option(help="Of the built-in system.")] = None,
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
    """Validate a configuration, try model and engine and say what a run costs, without running."""
    if (path is None) == (name is None):
        raise ConfigError("check", str(path), "the path of a configuration or --system, one of them")
    if path is None:
        config, _ = _built_in(str(name), profile, overrides)
    else:
        config = _with_overrides(_read(path), overrides)
        _start(config)
    base = Path() if path is None else path.parent
    runner.check(config, base=base, console=make_console(), label=label, forces=forces)


@app.command()
def run(path: ConfigPath, output: Output = None, overrides: Overrides = None, wall_time: WallTime = None) -> None:
    """Start a run from a configuration file, or continue it if it was interrupted.

    SIGTERM, SIGUSR1, SIGINT and the end of --wall-time end it in order within seconds, with exit status 75: everything
    is saved, and the same command or 'resume' goes on. A second signal ends it at once.
    """
    limit_s = _seconds(wall_time)
    config = _with_overrides(_read(path), overrides)
    _start(config)
    where = output or Path("runs") / path.stem
    runner.run(config, where, base=path.parent, console=make_console(), wall_time_s=limit_s)


@app.command()
def resume(path: RunPath, wall_time: WallTime = None) -> None:
    """Continue an interrupted run from its last checkpoint.

    It needs nothing but its directory, which may have been moved: structure and model are kept there.
    """
    limit_s = _seconds(wall_time)
    config = configuration.load(path / "config.yaml")
    _start(config)
    runner.resume(config, path, console=make_console(), wall_time_s=limit_s)


@app.command()
def status(path: RunPath) -> None:
    """Say what a run does, how far it is, how long it may still take, and how well it did so far."""
    runner.status(path, console=make_console())


@app.command()
def report(path: RunPath) -> None:
    """Write report.html with figures and tables."""
    make_console().print(str(runner.report(path)))


@app.command()
def export(
    path: RunPath,
    output: Annotated[Path, typer.Argument(help="New or empty folder.")],
    what: Annotated[
        str | None,
        typer.Option(
            help="ensemble (one file for EnsembleCalculator), chains (of each a model to start from; the default) or "
            " model (of each chain a .model file of mace-torch; the default with --template)."
        ),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="The .model file that the run started from, for --what model.")
    ] = None,
    trust: Annotated[bool, typer.Option(help="Run the programs that the template contains.")] = False,
) -> None:
    """Write what a run has learnt at its last checkpoint: the ensemble in one file, or one file for each chain."""
    written = runner.export(path, output, what=what, template=template, trust=trust)
    make_console().print(f"wrote {', '.join(each.name for each in written)} to {output}")


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    sys.stdout.write(json.dumps(RunConfig.model_json_schema(), indent=2) + "\n")


def _built_in(name: str, profile: str | None, overrides: list[str] | None) -> tuple[RunConfig, str]:
    """Settings and profile of a built-in system, and start JAX, which tells what the default profile is."""
    systems.check_system(name)
    config = _with_overrides(systems.settings(name, profile or "demo"), overrides)
    _start(config)
    if profile is None:
        profile = systems.default_profile(name, accelerator=jax.default_backend() != "cpu")
        config = _with_overrides(systems.settings(name, profile), overrides)
    return config, profile


def _seconds(wall_time: str | None) -> float | None:
    return None if wall_time is None else durations.parse(wall_time, key="--wall-time")


def _start(config: RunConfig) -> None:
    hosts.join()
    start_jax(config.sampler.chains)


def _read(path: Path) -> dict[str, Any]:
    return configuration.load(path).model_dump(mode="json")


def _with_overrides(raw: dict[str, Any], overrides: list[str] | None) -> RunConfig:
    override(raw, overrides)
    return configuration.parse(raw)


def main() -> None:
    """Entry point."""
    run_app(app)

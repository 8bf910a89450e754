"""The commands of campaigns: many walkers that share one posterior."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bayes_mlff.core import durations
from bayes_mlff.core.command_line import make_console

if TYPE_CHECKING:
    from bayes_mlff.campaign.config import CampaignConfig

campaign = typer.Typer(
    help="Many walkers that share one posterior, one dataset and one calibration; labels are calculated beside them.",
    no_args_is_help=True,
)

_Config = Annotated[Path, typer.Argument(help="YAML configuration of a campaign.")]
_Folder = Annotated[Path, typer.Argument(help="Directory of a campaign.")]
_WallTime = Annotated[
    str | None, typer.Option("--wall-time", help="Time limit, e.g. 2h or 30min; 'campaign resume' goes on.")
]


@campaign.command()
def run(
    path: _Config,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory; by default campaigns/<name>.")
    ] = None,
    wall_time: _WallTime = None,
) -> None:
    """Start a campaign, or continue it if it was interrupted."""
    from bayes_mlff.api import campaigner
    from bayes_mlff.api.campaign_console import ConsoleObserver
    from bayes_mlff.campaign import config as configuration
    from bayes_mlff.runs.interruption import process_age_s

    limit_s = _seconds(wall_time)
    config = configuration.load(path)
    _start(config)
    where = output or Path("campaigns") / path.stem
    with ConsoleObserver(make_console()) as observer:
        campaigner.run(config, where, base=path.parent, observer=observer, wall_time_s=limit_s, spent_s=process_age_s())


@campaign.command()
def resume(path: _Folder, wall_time: _WallTime = None) -> None:
    """Continue an interrupted campaign from its last checkpoint; its directory is all that is needed."""
    from bayes_mlff.api import campaigner
    from bayes_mlff.api.campaign_console import ConsoleObserver
    from bayes_mlff.campaign import config as configuration
    from bayes_mlff.runs.interruption import process_age_s

    limit_s = _seconds(wall_time)
    campaigner.refuse_none(path)
    _start(configuration.load(path / "config.yaml"))
    with ConsoleObserver(make_console()) as observer:
        campaigner.resume(path, observer=observer, wall_time_s=limit_s, spent_s=process_age_s())


@campaign.command()
def check(path: _Config) -> None:
    """Validate a configuration with its structures, model and engine, without a campaign."""
    from bayes_mlff.api import campaigner
    from bayes_mlff.api.campaign_console import ConsoleObserver
    from bayes_mlff.campaign import config as configuration

    config = configuration.load(path)
    _start(config)
    with ConsoleObserver(make_console()) as observer:
        campaigner.check(config, base=path.parent, observer=observer)


@campaign.command()
def status(
    path: _Folder,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: numbers in eV, fs and s.")] = False,
) -> None:
    """Say how far a campaign and each of its walkers is, and how good it is so far."""
    from bayes_mlff.report import campaign as summary

    found = summary.read(path)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
        return
    for line in summary.lines(found):
        make_console().print(line, soft_wrap=True)


@campaign.command()
def report(path: _Folder) -> None:
    """Write report.html, with a table and figures of all walkers, into the directory of a campaign."""
    from bayes_mlff.report import campaign as summary

    make_console().print(str(summary.write_report(path)))


def _seconds(wall_time: str | None) -> float | None:
    return None if wall_time is None else durations.parse(wall_time, key="--wall-time")


def _start(config: "CampaignConfig") -> None:
    from bayes_mlff.campaign.config import of_all
    from bayes_mlff.core.jax_start import start_jax

    start_jax(of_all(config).side_by_side)

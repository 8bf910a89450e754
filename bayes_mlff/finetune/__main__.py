"""Command line: `python -m bayes_mlff.finetune CONFIG.yaml`, or with the paths of the data in place of a file."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bayes_mlff.core import settings
from bayes_mlff.core.command_line import (
    keep_compilations,
    make_console,
    one_device_per_core,
    override,
    printable,
    put,
    run_app,
    write_new,
)
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.paths import is_file
from bayes_mlff.finetune import config as configuration
from bayes_mlff.finetune.config import FinetuneConfig, ParallelSchedule
from bayes_mlff.finetune.console import ConsoleObserver, table
from bayes_mlff.finetune.run import fit
from bayes_mlff.models import selfcheck
from bayes_mlff.models.downloads import COMPILED, cache_folder

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

Data = Annotated[str | None, typer.Option(help="Labels: .npz of a molecule, .xyz or .extxyz of anything.")]


@app.command(no_args_is_help=True)
def finetune(
    path: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML configuration.")] = None,
    train: Data = None,
    validation: Data = None,
    test: Data = None,
    frames: Annotated[int | None, typer.Option(help="Training frames to use.")] = None,
    model: Annotated[str | None, typer.Option(help="Name or path of the pretrained model.")] = None,
    method: Annotated[str | None, typer.Option(help="sghmc, scratch, adam or deep-ensemble.")] = None,
    targets: Annotated[str | None, typer.Option(help="forces, energy+forces or energy+forces+stress.")] = None,
    schedule: Annotated[str | None, typer.Option(help="parallel or long.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is random.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Directory of the results.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Any key, e.g. --set schedule.steps=4000; repeatable.")
    ] = None,
    write_config: Annotated[
        Path | None, typer.Option(help="Write the configuration there, with comments, and stop.")
    ] = None,
) -> None:
    """Bayesian fine-tuning of a model on labelled structures; options go before what the configuration says.

    The output directory gets the samples, metrics and figures. An interrupted run is continued there.
    """
    raw = {} if path is None else settings.read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError("config", str(path), "a mapping of keys to values")
    base = Path() if path is None else path.parent
    # Paths in a file are relative to it, those on the command line to where it is given.
    raw = _absolute(raw, base)
    here = {"data.train": train, "data.validation": validation, "data.test": test, "output": output}
    given = {key: None if value is None else str(Path(value).absolute()) for key, value in here.items()}
    given |= {"data.frames": frames, "method": method, "targets": targets, "schedule.kind": schedule, "seed": seed}
    given |= {"model": str(Path(model).absolute()) if model is not None and is_file(Path(model)) else model}
    for key, value in given.items():
        if value is not None:
            put(raw, key, value)
    override(raw, overrides)
    config = configuration.parse(raw)
    if write_config is not None:
        write_new(write_config, configuration.commented(config), "--write-config")
        make_console().print(f"wrote {printable(str(write_config))}")
        return
    one_device_per_core(_side_by_side(config))
    keep_compilations(cache_folder() / COMPILED)
    console = make_console()
    selfcheck.ensure(console.print)
    with ConsoleObserver(console) as observer:
        fit(config, observer=observer)
    console.print(table(json.loads((Path(config.output) / "metrics.json").read_text())))
    console.print(f"results in {printable(config.output)}")


def _absolute(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """The same with the paths that a file gives resolved against its directory."""
    resolved = dict(raw)
    data = raw.get("data")
    if isinstance(data, dict):
        names = ("train", "validation", "test")
        paths = {k: str((base / v).absolute()) for k, v in data.items() if k in names and isinstance(v, str)}
        resolved["data"] = data | paths
    if isinstance(raw.get("output"), str):
        resolved["output"] = str((base / raw["output"]).absolute())
    if isinstance(raw.get("model"), str) and is_file(base / raw["model"]):
        resolved["model"] = str((base / raw["model"]).absolute())
    return resolved


def _side_by_side(config: FinetuneConfig) -> int:
    """Chains or members that are advanced together."""
    if config.optimises:
        return 1 if config.method == "adam" else config.optimizer.members
    return config.schedule.chains if isinstance(config.schedule, ParallelSchedule) else 1


def main() -> None:
    """Entry point."""
    run_app(app)


if __name__ == "__main__":
    main()

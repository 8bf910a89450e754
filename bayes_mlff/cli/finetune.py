"""The command `bayes-mlff finetune`, with a configuration file or with the paths of the data as options."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bayes_mlff.core import settings
from bayes_mlff.core.command_line import (
    make_console,
    override,
    printable,
    put,
    write_new,
)
from bayes_mlff.core.errors import ConfigError, RunStoppedError
from bayes_mlff.core.paths import is_file

if TYPE_CHECKING:
    from bayes_mlff.finetune.config import FinetuneConfig


def finetune(
    path: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML configuration.")] = None,
    train: Annotated[
        str | None,
        typer.Option(help="File of labelled structures to learn from: extended XYZ, .npz of MD17, or another of ASE."),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="File of labelled structures by which the predicted uncertainties are scaled.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="File of labelled structures that predictions are compared with.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Number of training frames to use; by default all.")] = None,
    model: Annotated[str | None, typer.Option(help="Name or path of the pretrained model.")] = None,
    head: Annotated[str | None, typer.Option(help="Head of the model, by name, where it has several.")] = None,
    method: Annotated[str | None, typer.Option(help="sghmc, scratch, adam, laplace or deep-ensemble.")] = None,
    targets: Annotated[str | None, typer.Option(help="energy, forces, energy+forces or energy+forces+stress.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Schedule of the chains: parallel (many short ones) or long (one).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    methods: Annotated[
        str | None, typer.Option("--compare", help="Fit several methods and compare them, e.g. sghmc,adam,laplace.")
    ] = None,
    sizes: Annotated[str | None, typer.Option(help="Compare numbers of training frames, e.g. 10,50.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Compare seeds, e.g. 0,1,2; the training frames are drawn anew with each.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Directory of the results.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key, e.g. --set sampler.steps=4000; may be given several times."),
    ] = None,
    write_config: Annotated[
        Path | None, typer.Option(help="Write the configuration, with comments, to this new file and stop.")
    ] = None,
    schedule: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Fine-tune a model on labelled structures; options override the configuration.

    Samples, metrics and figures are written to the output directory.
    A comparison gives each fit a directory of its own there.
    The same command continues what was interrupted.
    """
    from bayes_mlff.finetune import config as configuration

    if schedule is not None:
        raise ConfigError("--schedule", schedule, "--sampler, to which this option was renamed")
    several = _several(methods, sizes, seeds)
    _one_or_several({"--method": method, "--frames": frames, "--seed": seed}, several, overrides or [])
    if write_config is not None and any(several):
        raise ConfigError("--write-config", str(write_config), "one fine-tuning; no configuration says what to compare")
    # Paths in a file are relative to its folder, those on the command line to the working directory.
    raw = {} if path is None else _absolute(path)
    here = {"data.train": train, "data.validation": validation, "data.test": test, "output": output}
    given = {key: None if value is None else str(Path(value).absolute()) for key, value in here.items()}
    given |= {
        "data.frames": frames,
        "method": method,
        "targets": targets,
        "sampler.kind": sampler,
        "seed": seed,
        "head": head,
    }
    given |= {"model": str(Path(model).absolute()) if model is not None and is_file(Path(model)) else model}
    for key, value in given.items():
        if value is not None:
            put(raw, key, value)
    override(raw, overrides)
    config = configuration.parse(raw)
    if write_config is not None:
        write_new(write_config, configuration.template(config), "--write-config")
        make_console().print(f"wrote {printable(str(write_config))}")
        return
    _compute(config, several)


class Several(NamedTuple):
    """What to compare; None where the value of the configuration is used."""

    methods: list[str] | None
    sizes: list[int] | None
    seeds: list[int] | None


def _several(methods: str | None, sizes: str | None, seeds: str | None) -> Several:
    """Split the comma-separated values of the options."""
    return Several(
        None if methods is None else [part.strip() for part in methods.split(",")],
        _whole_numbers("--sizes", sizes),
        _whole_numbers("--seeds", seeds),
    )


def _whole_numbers(option: str, text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(option, text, "whole numbers with commas between them, e.g. 10,50") from error


def _one_or_several(single: dict[str, Any], several: Several, overrides: list[str]) -> None:
    """Refuse a single value together with a list for the same setting; `single` is in the order of `Several`."""
    lists: dict[str, Any] = dict(zip(("--compare", "--sizes", "--seeds"), several, strict=True))
    for (option, value), (other, entries) in zip(single.items(), lists.items(), strict=True):
        if value is not None and entries is not None:
            raise ConfigError(option, value, f"{option} or {other}, not both")
    decided = {"method": "--compare", "data.frames": "--sizes", "seed": "--seeds", "data.frames_seed": "--seeds"}
    for item in overrides:
        other = decided.get(item.partition("=")[0])
        if other is not None and lists[other] is not None:
            raise ConfigError("--set", item, f"this or {other}, not both")


def _compute(config: "FinetuneConfig", several: Several) -> None:
    """Fit once or several times, and print a table."""
    from bayes_mlff.api.finetune_console import ConsoleObserver, grid, table
    from bayes_mlff.core.jax_start import start_jax
    from bayes_mlff.finetune import comparison
    from bayes_mlff.finetune.comparison import compare
    from bayes_mlff.finetune.run import fit
    from bayes_mlff.models import selfcheck

    methods = several.methods or [config.method]
    start_jax(max(config.model_copy(update={"method": method}).side_by_side for method in methods))
    console = make_console()
    stopped = {}
    with ConsoleObserver(console) as observer:
        selfcheck.ensure(observer.say)
        if any(several):
            made = compare(config, **several._asdict(), observer=observer)
            stopped = made.stopped
            title = f"force components of {made.frames} {made.compared_on} frames, kcal/mol/Å"
            shown = grid(comparison.table(made), title)
        else:
            fit(config, observer=observer)
            shown = table(json.loads((Path(config.output) / "metrics.json").read_text()))
    console.print(shown)
    console.print(f"results in {printable(config.output)}")
    if stopped:
        raise RunStoppedError("; ".join(f"{name}: {why}" for name, why in stopped.items()))


def _absolute(path: Path) -> dict[str, Any]:
    """Contents of a YAML file; relative paths in it start from its directory."""
    raw, base = settings.read_yaml(path), path.parent
    if not isinstance(raw, dict):
        raise ConfigError("config", str(path), "a mapping of keys to values")
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

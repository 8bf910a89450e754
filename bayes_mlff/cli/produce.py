"""The command `bayes-mlff produce`: dynamics with a trained ensemble, without a reference method."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bayes_mlff.core import durations, settings
from bayes_mlff.core.command_line import make_console, override, put
from bayes_mlff.core.errors import ConfigError, RunDirectoryError
from bayes_mlff.runs import replica_folders


def produce(
    source: Annotated[
        Path,
        typer.Argument(help="Directory of a run or a fine-tuning, or file of an ensemble (ensemble.safetensors)."),
    ],
    config: Annotated[Path | None, typer.Option(help="YAML file with settings; options override it.")] = None,
    structure: Annotated[
        str | None,
        typer.Option(help="Structure of the same elements: a file, or 'start'; default: the run's last frame."),
    ] = None,
    supercell: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Copies along each cell vector, e.g. 2 2 2.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Number of trajectories, advanced together; default 3.")] = None,
    temperatures: Annotated[
        str | None, typer.Option(help="Temperature of each replica, K, e.g. 300,400,500; default: that of the run.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first replica; the others have the next ones.")] = None,
    model: Annotated[
        str | None, typer.Option(help="ensemble (default), or pretrained: the model before the run.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Format of trajectories: extxyz (default) or netcdf.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory; by default productions/<name of the source>.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set a key, e.g. --set dynamics.ensemble=nve; may be given several times."),
    ] = None,
    wall_time: Annotated[str | None, typer.Option("--wall-time", help="Time limit, e.g. 2h or 30min.")] = None,
) -> None:
    """Run dynamics with a trained ensemble, several replicas together.

    The uncertainty is watched at every step with the run's own calibration.
    Conditions are those of the run unless they are set. The same command
    or 'resume' continues what was interrupted, with the same bits.
    """
    from bayes_mlff.api import producer
    from bayes_mlff.api.producer_console import ConsoleObserver
    from bayes_mlff.core.jax_start import start_jax
    from bayes_mlff.ensemble import saved
    from bayes_mlff.runs.interruption import process_age_s

    limit_s = None if wall_time is None else durations.parse(wall_time, key="--wall-time")
    base = Path() if config is None or structure is not None else config.parent
    given = {
        "structure": structure,
        "supercell": None if supercell is None else list(supercell),
        "replicas": replicas,
        "temperatures_k": None if temperatures is None else _temperatures(temperatures),
        "seed": seed,
        "model": model,
        "format": format,
    }
    raw = _raw(config, given, overrides)
    start_jax(1 if raw.get("model") == "pretrained" else saved.sample_count(source))
    asked = producer.ask(source, raw, base=base)
    name = source.stem if source.suffix == ".safetensors" else source.resolve().name
    where = output or Path("productions") / name
    with ConsoleObserver(make_console()) as observer:
        producer.produce(asked, where, observer=observer, wall_time_s=limit_s, spent_s=process_age_s())


def _raw(config: Path | None, given: dict[str, Any], overrides: list[str] | None) -> dict[str, Any]:
    """Settings of a file, if there is one, with those of options over them."""
    raw = {} if config is None else settings.read_yaml(config)
    if not isinstance(raw, dict):
        raise ConfigError("config", str(config), "a mapping of keys to values")
    for key, value in given.items():
        if value is not None:
            put(raw, key, value)
    override(raw, overrides)
    return raw


def resume_production(path: Path, limit_s: float | None) -> None:
    """Continue a production from its directory."""
    from bayes_mlff.api import producer
    from bayes_mlff.api.producer_console import ConsoleObserver
    from bayes_mlff.core.jax_start import start_jax
    from bayes_mlff.ensemble import saved
    from bayes_mlff.runs.interruption import process_age_s

    start_jax(saved.sample_count(path / "start" / "ensemble.safetensors"))
    with ConsoleObserver(make_console()) as observer:
        producer.resume(path, observer=observer, wall_time_s=limit_s, spent_s=process_age_s())


def state_of(path: Path) -> dict[str, Any]:
    """What a production has found, or how far it is, as numbers.

    Raises:
      RunDirectoryError: if a file cannot be read.
    """
    from bayes_mlff.report.run_events import read_events

    try:
        return json.loads((path / "summary.json").read_bytes())
    except FileNotFoundError:
        chunks = [event for event in read_events(path / "events.jsonl") if event["event"] == "chunk"]
        last = chunks[-1] if chunks else {}
        return {"finished": False, "part": last.get("part"), "step": last.get("step", 0)}
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path / 'summary.json'}: not readable ({error})") from error


def show(path: Path) -> None:
    """Print the summary of a production, or how far it is."""
    console, found = make_console(), state_of(path)
    if "parts" in found:
        console.print((path / "summary.txt").read_text(encoding="utf-8").rstrip())
        return
    console.print(
        f"  not ended: step {found['step']} of the {found['part'] or 'first part'}; 'resume {path}' continues it"
    )


def refuse_production(path: Path, command: str) -> None:
    """Refuse a production where a run is needed.

    Raises:
      RunDirectoryError: saying where its results are.
    """
    if replica_folders.of(path) is not None:
        raise RunDirectoryError(
            f"{path}: a production; allowed: for {command}, the directory of a run (results of a production are in its "
            "summary.txt, and 'analyse' reads its trajectories)"
        )


def _temperatures(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError("--temperatures", text, "numbers in K with commas, e.g. 300,400,500") from error

"""Comparison of methods, numbers of training frames and seeds: the fits, a table and figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.errors import ConfigError, RunStoppedError
from bayes_mlff.finetune import config as configuration
from bayes_mlff.finetune import figures, frames, identity, sampling, tables
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.data_config import DataConfig
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.finetune.run import Silent, fit, read_model
from bayes_mlff.finetune.sampling import Observer
from bayes_mlff.finetune.tables import Columns, Observable
from bayes_mlff.models.registry import Potential
from bayes_mlff.runs.directory import RunDirectory


class Comparison(NamedTuple):
    """Errors of the same frames after fits that differ in method, training frames and seed."""

    compared_on: str  # test or validation
    frames: int
    observable: Observable
    large_error: float  # in the unit of the observable
    pretrained: dict[str, float]  # RMSE and MAE before fine-tuning, keys as of `tables.numbers`
    # method, m, seed, `tables.numbers`, coverage_95_consistent, sampling_seconds, mll_by_error, directory
    fits: list[dict[str, Any]]
    stopped: dict[str, str]  # errors that ended the other fits, by the names of their directories


class _Job(NamedTuple):
    """One fit of a comparison."""

    config: FinetuneConfig  # as stored in its directory
    metrics: dict[str, Any] | None  # contents of metrics.json if the fit is already complete


def compare(
    config: FinetuneConfig,
    *,
    methods: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    base: Path = Path(),
    observer: Observer | None = None,
) -> Comparison:
    """Fit every method with every number of training frames and every seed, and compare the results.

    Each fit writes its files to a subdirectory of the results directory, named like `sghmc-m10-s0`. A complete fit is
    skipped, an interrupted one continued. Then `comparison.md`, `comparison.json`, `comparison.png` and
    `likelihood_by_error.png` are written for the requested fits only, on the test set or else the validation set.

    Args:
      config: settings of all fits; its `method`, `data.frames` and `seed` are used if not given here.
      methods: names of methods.
      sizes: numbers of training frames.
      seeds: seeds of everything that is random, including the choice of training frames; if left out, these are
        chosen by the configuration.
      base: directory against which relative paths are resolved.
      observer: told about progress.

    Returns:
      The results; fits that stopped because a chain became non-finite are listed under `stopped`.

    Raises:
      ConfigError, DataError, WeightsError, RunDirectoryError: before anything is computed, if a fit cannot work, its
        directory holds another one, or an entry is given twice; for doubtful units, in the first fit concerned.
      RunStoppedError: if no fit was completed.
    """
    observer = observer or Silent()
    jobs = _jobs(config, methods, sizes, seeds, base)
    done: dict[str, dict[str, Any]] = {}
    stopped: dict[str, str] = {}
    for number, (name, job) in enumerate(jobs.items(), 1):
        observer.say(f"{number} of {len(jobs)}: {name}" + ("" if job.metrics is None else " is already complete"))
        if job.metrics is not None:
            done[name] = job.metrics
            continue
        try:
            fit(job.config, base=base, observer=observer)
            done[name] = json.loads((base / job.config.output / "metrics.json").read_text())
        except RunStoppedError as error:
            observer.say(f"{name} stopped: {error}")
            stopped[name] = str(error)
    if not done:
        raise RunStoppedError("; ".join(f"{name}: {why}" for name, why in stopped.items()))
    made = _gather(done, stopped)
    _write(made, base / config.output)
    return made


def _jobs(
    config: FinetuneConfig,
    methods: Sequence[str] | None,
    sizes: Sequence[int] | None,
    seeds: Sequence[int] | None,
    base: Path,
) -> dict[str, _Job]:
    """All fits by the names of their directories, checked."""
    for key, values in (("methods", methods), ("sizes", sizes), ("seeds", seeds)):
        if values is not None and (not values or len({str(value) for value in values}) < len(values)):
            raise ConfigError(key, list(values), "one or more entries, each once")
    data = config.data
    if not any((data.test, data.test_frames, data.validation, data.validation_frames)):
        raise ConfigError("data.test", None, "a set to compare on: data.test(_frames) or data.validation(_frames)")
    every = config.model_dump(mode="json")
    wanted = [
        configuration.parse(_changed(every, method, size, seed, draw=seeds is not None))
        for method in methods or (config.method,)
        for size in sizes or (data.frames,)
        for seed in seeds or (config.seed,)
    ]
    inputs: dict[DataConfig, tuple[DataSets, Potential, str]] = {}
    for one in wanted:
        if one.data not in inputs:
            sets = frames.read(one, base=base)
            potential = read_model(one, sets, base=base)
            inputs[one.data] = (sets, potential, identity.inputs_digest(sets, potential))
    jobs = {}
    for one in wanted:
        sets, potential, digest = inputs[one.data]
        name = f"{one.method}-m{sets.train.size}-s{one.seed}"
        named = one.model_copy(update={"output": str(Path(config.output) / name)})
        stated = identity.stated(named, potential, sets.train)
        identity.check_output(stated, base / stated.output)
        jobs[name] = _Job(stated, _done_before(stated, digest, base / stated.output))
        if jobs[name].metrics is None:
            learnt = identity.digest(sets, potential, with_weights=not stated.from_random_weights)
            sampling.check_digest(RunDirectory(base / stated.output).checkpoints, learnt)
    return jobs


def _changed(raw: dict[str, Any], method: str, size: int | None, seed: int, *, draw: bool) -> dict[str, Any]:
    """Settings of one fit; with `draw`, its seed also selects the training frames."""
    data = raw["data"] | {"frames": size} | ({"frames_seed": seed} if draw else {})
    return raw | {"data": data, "method": method, "seed": seed}


def _done_before(config: FinetuneConfig, inputs: str, path: Path) -> dict[str, Any] | None:
    """Contents of metrics.json if the fit is complete, with the same settings, labels and model; else None."""
    file = path / "metrics.json"
    if not file.is_file():
        return None
    metrics = json.loads(file.read_text())
    before = metrics.get("settings"), metrics.get("inputs")  # results of earlier versions lack them
    return metrics if before == (config.model_dump(mode="json"), inputs) else None


def _gather(done: dict[str, dict[str, Any]], stopped: dict[str, str]) -> Comparison:
    """Collect the contents of metrics.json by the names of directories."""
    first = next(iter(done.values()))
    shown = "test" if "test" in first else "validation"
    observable = tables.compared(first["settings"]["targets"])
    found = {name: metrics[shown]["fine_tuned"][observable.key] for name, metrics in done.items()}
    fits = [
        {
            "method": metrics["method"],
            "m": metrics["training_frames"],
            "seed": metrics["settings"]["seed"],
            **tables.numbers(found[name], observable),
            "coverage_95_consistent": tables.coverage_consistent(found[name]),
            "sampling_seconds": metrics["sampling_seconds"],
            "mll_by_error": found[name]["mll_by_error"],
            "directory": name,
        }
        for name, metrics in done.items()
    ]
    before = first[shown]["zero_shot"][observable.key]
    pretrained = {f"{name}_{observable.suffix}": before[name] for name in ("rmse", "mae")}
    limit = first["settings"][f"large_error_{observable.suffix}"]
    return Comparison(shown, first[shown]["frames"], observable, limit, pretrained, fits, stopped)


def columns(observable: Observable) -> Columns:
    """Columns of the table of a comparison."""
    return tables.columns(observable) | {"seconds": ("sampling_seconds", ".0f")}


def table(made: Comparison) -> list[list[str]]:
    """Cells of the comparison table: titles in the first row, the pretrained model in the second."""
    shown = columns(made.observable)
    titles, *others = tables.rows(made.fits, shown)
    return [titles, ["pretrained", "-", "-", *tables.cells([made.pretrained], shown)], *others]


def pooled(intervals: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """`mll_by_error` of the pooled components of several fits with the same intervals."""
    joined = []
    for rows_of_one in zip(*intervals, strict=True):
        count = sum(row["count"] for row in rows_of_one)
        total = sum(row["count"] * row["mll"] for row in rows_of_one if row["count"])
        joined.append(rows_of_one[0] | {"count": count, "mll": total / count if count else None})
    return joined


def _as_json(made: Comparison) -> dict[str, Any]:
    limit = {f"large_error_{made.observable.suffix}": made.large_error}
    kept = made._asdict()
    del kept["observable"], kept["large_error"]
    return limit | kept


def _write(made: Comparison, path: Path) -> None:
    most, of = max(e["m"] for e in made.fits), made.observable
    split: dict[str, list] = {}
    for entry in made.fits:
        if entry["m"] == most:
            split.setdefault(entry["method"], []).append(entry["mll_by_error"])
    by_error = {method: pooled(intervals) for method, intervals in split.items()}
    about = (
        f"{of.scalars.capitalize()} of the {made.frames} {made.compared_on} frames, {of.unit}; MLL in nats; AUC-ROC of "
        f"errors above {made.large_error:g}; ± standard deviation over seeds; seconds of sampling.\n"
    )
    parts = [about, tables.markdown(table(made)) + "\n"]
    parts += [f"{name} stopped: {why}\n" for name, why in made.stopped.items()]
    contents = {
        "comparison.png": figures.comparison(made.fits, made.pretrained[f"rmse_{of.suffix}"], of),
        "likelihood_by_error.png": figures.likelihood_by_error(by_error, f"{most} training frames", of),
        "comparison.md": "\n".join(parts).encode(),
        "comparison.json": (json.dumps(_as_json(made), indent=1, ensure_ascii=False) + "\n").encode(),
    }
    for name, content in contents.items():
        write_whole(path / name, content)

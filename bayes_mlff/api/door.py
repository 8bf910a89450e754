"""Functions for scripts and notebooks: `run`, `fine_tune`, `produce` and `load`."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar

from safetensors import SafetensorError, safe_open

from bayes_mlff.api import campaigner, producer, runner
from bayes_mlff.api.campaign_console import ConsoleObserver as CampaignConsole
from bayes_mlff.api.console import ConsoleObserver
from bayes_mlff.api.finetune_console import ConsoleObserver as FinetuneConsole
from bayes_mlff.api.observing import RunObserver, Silent
from bayes_mlff.api.producer_console import ConsoleObserver as ProductionConsole
from bayes_mlff.campaign import config as campaign_configuration
from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.campaign.layout import WALKERS
from bayes_mlff.campaign.state import Observer as CampaignObserver
from bayes_mlff.core import settings
from bayes_mlff.core.command_line import make_console
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.jax_start import start_jax
from bayes_mlff.core.paths import is_file
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.finetune import config as finetune_configuration
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.run import Silent as FinetuneSilent
from bayes_mlff.finetune.run import fit
from bayes_mlff.finetune.sampling import Observer as FinetuneObserver
from bayes_mlff.models import catalogue, registry, selfcheck
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.production.state import Observer as ProductionObserver
from bayes_mlff.report import campaign as campaign_summary
from bayes_mlff.report import run_log, status, verdict
from bayes_mlff.runs import replica_folders
from bayes_mlff.runs.directory import CONFIG
from bayes_mlff.runs.observing import Silent as SilentOfMany

T = TypeVar("T")


class RunResult(NamedTuple):
    """Result of a run."""

    path: Path
    finished: bool  # all steps are done
    labels: int
    trained: bool  # verdict of the report: the model is trained
    verdict: str  # the verdict in words, with reasons

    @property
    def report(self) -> Path:
        """Path of the report with figures and tables."""
        return self.path / "report.html"

    def status(self) -> dict[str, Any]:
        """The values that `bayes-mlff status --json` prints."""
        return status.facts(self.path, run_log.read(self.path))

    def calculator(self, **options: Any) -> EnsembleCalculator:
        """ASE calculator with uncertainties of what the run has learnt; options are those of `EnsembleCalculator`."""
        return EnsembleCalculator(self.path, **options)


class Campaign(NamedTuple):
    """Result of a campaign."""

    path: Path
    summary: dict[str, Any]  # what `bayes-mlff campaign status --json` prints

    @property
    def walkers(self) -> list[Path]:
        """Directory of each walker, which has the files of a run."""
        return [self.path / WALKERS / row["name"] for row in self.summary["walkers"]]

    def calculator(self, **options: Any) -> EnsembleCalculator:
        """ASE calculator with uncertainties of what all have learnt; options are those of `EnsembleCalculator`."""
        return EnsembleCalculator(self.path, **options)


class FineTuned(NamedTuple):
    """Result of a fine-tuning."""

    path: Path
    metrics: dict[str, Any]  # contents of metrics.json

    def calculator(self, **options: Any) -> EnsembleCalculator:
        """ASE calculator with uncertainties; options are those of `EnsembleCalculator`."""
        return EnsembleCalculator(self.path, **options)


class Production(NamedTuple):
    """Result of a production."""

    path: Path
    summary: dict[str, Any]  # contents of summary.json

    @property
    def replicas(self) -> list[Path]:
        """Folder of each replica, with its trajectory and thermo.csv."""
        return replica_folders.of(self.path) or []


def run(
    config: RunConfig | Mapping[str, Any] | Path | str,
    path: Path | str | None = None,
    *,
    observer: RunObserver | None = None,
    progress: bool = False,
    wall_time_s: float | None = None,
) -> RunResult:
    """Start an on-the-fly run, or continue it if it was interrupted.

    Args:
      config: a `RunConfig`, the same as a mapping, the path of a YAML file, or the directory of a run to continue.
        Relative paths in a file start from its folder, others from the working directory.
      path: directory of the run; by default `runs/` and the name of the file, or of the structure. Not given where
        `config` is the directory of a run.
      observer: told what happens; by default nobody is.
      progress: print what the program prints, where no observer is given.
      wall_time_s: end in order within this time, s.

    Raises:
      ConfigError, DataError, EngineError: before anything is written, if the run cannot work.
      RunDirectoryError: if `path` holds another run.
      RunStoppedError: if the run cannot continue without a decision of the user.
      RunInterruptedError: if a signal or the time limit ended it; the same call continues the run.
    """
    given = Path(config) if isinstance(config, Path | str) else None
    directory = given if given is not None and given.is_dir() else None
    if directory is not None:
        if path is not None and Path(path).resolve() != directory.resolve():
            raise ConfigError("path", str(path), f"none, since {directory} is the directory of a run to continue")
        parsed, base = configuration.load(directory / CONFIG), directory
    elif given is not None:
        parsed, base = configuration.load(given), given.parent
    else:
        parsed, base = config if isinstance(config, RunConfig) else configuration.parse(_plain(config)), Path()
    start_jax(parsed.side_by_side, running=True)
    told, context = _told(observer, ConsoleObserver(make_console(), parsed) if progress else None, Silent())
    name = given.stem if given is not None else Path(parsed.structure.file).stem
    where = directory or Path(path or Path("runs") / name)
    with context:
        if directory is not None:
            runner.resume(parsed, where, observer=told, wall_time_s=wall_time_s)
        else:
            runner.run(parsed, where, base=base, observer=told, wall_time_s=wall_time_s)
    found = run_log.read(where)
    judged = verdict.judge(found)
    return RunResult(where, found.all_steps, len(found.labels), judged.trained, verdict.sentence(judged))


def run_campaign(
    config: CampaignConfig | Mapping[str, Any] | Path | str,
    path: Path | str | None = None,
    *,
    observer: CampaignObserver | None = None,
    progress: bool = False,
    wall_time_s: float | None = None,
) -> Campaign:
    """Start a campaign, or continue it if it was interrupted.

    Args:
      config: a `CampaignConfig`, the same as a mapping, or the path of a YAML file. Relative paths in a file start from
        its folder, others from the working directory.
      path: directory of the campaign; by default `campaigns/` and the name of the file. Needed without a file.
      observer: receives reports about the progress; by default there is none.
      progress: if there is no observer, print the same output as the program.
      wall_time_s: end in order within this time, s.

    Raises:
      ConfigError, DataError, EngineError: before anything is written, if the campaign cannot work.
      RunDirectoryError: if the directory holds something else.
      RunInterruptedError, RunStoppedError: if it ended early; another call goes on.
    """
    given = Path(config) if isinstance(config, Path | str) else None
    if given is not None:
        parsed, base = campaign_configuration.load(given), given.parent
    else:
        ready = isinstance(config, CampaignConfig)
        parsed = config if ready else settings.validate(CampaignConfig, _plain(config))
        base = Path()
    if path is None and given is None:
        raise ConfigError("path", None, "the directory of the campaign, where its configuration is no file")
    where = Path(path) if path is not None else Path("campaigns") / str(given.stem if given is not None else "")
    start_jax(campaign_configuration.of_all(parsed).side_by_side, running=True)
    told, context = _told(observer, CampaignConsole(make_console()) if progress else None, SilentOfMany())
    with context:
        campaigner.run(parsed, where, base=base, observer=told, wall_time_s=wall_time_s)
    return Campaign(where, campaign_summary.read(where).to_json())


def fine_tune(
    config: FinetuneConfig | Mapping[str, Any] | Path | str,
    *,
    observer: FinetuneObserver | None = None,
    progress: bool = False,
) -> FineTuned:
    """Fine-tune a model on existing labels; an interrupted fine-tuning is continued.

    Args:
      config: a `FinetuneConfig`, the same as a mapping, or the path of a YAML file. Relative paths in a file start from
        its folder, others from the working directory.
      observer: receives reports about the progress; by default there is none.
      progress: if there is no observer, print the same output as the program.

    Raises:
      ConfigError, DataError, WeightsError: before anything is computed or written, if it cannot work.
      RunDirectoryError: if the output directory holds another fine-tuning, or is in use.
      RunStoppedError: if a chain is no longer finite.
    """
    base = Path()
    if isinstance(config, Path | str):
        base, config = Path(config).parent, finetune_configuration.load(Path(config))
    parsed = config if isinstance(config, FinetuneConfig) else finetune_configuration.parse(_plain(config))
    start_jax(parsed.side_by_side, running=True)
    told, context = _told(observer, FinetuneConsole(make_console()) if progress else None, FinetuneSilent())
    with context:
        selfcheck.ensure(told.say)
        fit(parsed, base=base, observer=told)
    where = base / parsed.output
    return FineTuned(where, json.loads((where / "metrics.json").read_text(encoding="utf-8")))


def produce(
    source: Path | str,
    path: Path | str,
    *,
    observer: ProductionObserver | None = None,
    progress: bool = False,
    wall_time_s: float | None = None,
    **settings: Any,
) -> Production:
    """Run dynamics with a trained ensemble without a reference method, or continue it if it was interrupted.

    Args:
      source: directory of a run or a fine-tuning, or file of an ensemble.
      path: directory of the production.
      observer: told what happens; by default nobody is.
      progress: print what the program prints, where no observer is given.
      wall_time_s: end in order within this time, s.
      settings: keys of `ProductionConfig`, such as `replicas=3` or `dynamics={"ensemble": "nve"}`; what is missing is
        as in the run. Relative paths start from the working directory.

    Raises:
      ConfigError, DataError, RunDirectoryError, WeightsError: before anything is written, if it cannot work.
      RunInterruptedError: if a signal or the time limit ended it; the same call continues it.
    """
    raw = _plain(settings)
    start_jax(1 if raw.get("model") == "pretrained" else saved.sample_count(Path(source)), running=True)
    told, context = _told(observer, ProductionConsole(make_console()) if progress else None, SilentOfMany())
    with context:
        asked = producer.ask(Path(source), raw, base=Path())
        found = producer.produce(asked, Path(path), observer=told, wall_time_s=wall_time_s)
    return Production(Path(path), found)


def load(path: Path | str, *, head: str | None = None) -> EnsembleCalculator | Potential:
    """Load a fine-tuned ensemble or a model.

    Args:
      path: directory of a run or of a fine-tuning, or file of an ensemble: returns an ASE calculator with
        uncertainties; or file or name of a model: returns the model.
      head: name of the head to take from the file of a model that has several.

    Raises:
      ConfigError: if nothing of this path or name exists, or a head must be named or does not exist.
      RunDirectoryError, WeightsError: if it exists, but cannot be used.
    """
    where = Path(path)
    if where.is_dir() or _holds_ensemble(where):
        if head is not None:
            raise ConfigError("head", head, f"none: {path} is an ensemble, which has no heads")
        return EnsembleCalculator(where)
    if str(path) not in catalogue.NAMES and not is_file(where):
        names = catalogue.allowed(str(path))
        allowed = f"the directory of a run or a fine-tuning, a file with an ensemble or a model, {names}"
        raise ConfigError("path", str(path), allowed)
    return registry.load(str(path), head=head, key="path")


def _holds_ensemble(path: Path) -> bool:
    """True for a file with several samples of the weights."""
    if not is_file(path) or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            return "samples" in file.keys()  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError):
        return False  # reading it as a model gives a suitable error


def _told(given: T | None, printing: Any, silent: T) -> tuple[T, AbstractContextManager[Any]]:
    """The observer to use, and the context manager that must be open during the work."""
    if given is not None:
        return given, nullcontext()
    return (silent, nullcontext()) if printing is None else (printing, printing)


def _plain(raw: Any) -> Any:
    """Values as YAML has them: mappings of any kind are dictionaries, and paths are text."""
    if isinstance(raw, Mapping):
        return {key: _plain(value) for key, value in raw.items()}
    if isinstance(raw, list | tuple):
        return [_plain(value) for value in raw]
    return str(raw) if isinstance(raw, PurePath) else raw

"""What is learnt from which starts: one YAML file, and the fine-tunings that it asks for."""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Section
from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune.config import FinetuneConfig
from benchmarks.starts import sets
from benchmarks.transfer.scenario import Series, merge


class Start(Section):
    """A pretrained model and how it learns."""

    name: str
    model: str = Field(description="Its name, or a path relative to the folder of the data.")
    settings: dict[str, Any] = Field(default={}, description="Keys of its fine-tunings that differ from the others'.")


class Scenario(Section):
    """Which starts are compared, by which methods."""

    scenario: str
    about: str = ""
    starts: tuple[Start, ...]
    settings: dict[str, Any] = Field(default={}, description="Keys of every fine-tuning.")
    series: tuple[Series, ...]


class Fit(NamedTuple):
    """One fine-tuning."""

    start: Start
    method: str
    frames: int
    seed: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"{self.start.name}-{self.method}-m{self.frames}-s{self.seed}"


def load(path: Path) -> Scenario:
    """Read and validate a scenario.

    Raises:
      ConfigError: if the file is missing or invalid, or a series names a start that is not there.
    """
    scenario = settings.validate(Scenario, settings.read_yaml(path))
    names = [start.name for start in scenario.starts]
    for series in scenario.series:
        for name in series.targets or ():
            if name not in names:
                raise ConfigError("series.targets", name, f"one of {names}")
    return scenario


def fits(scenario: Scenario) -> list[Fit]:
    """All fine-tunings in the order of the file: by series, seed, number of frames, start."""
    return [
        Fit(start, series.method, size, seed, merge(merge(scenario.settings, start.settings), series.settings))
        for series in scenario.series
        for seed in series.seeds
        for size in series.sizes
        for start in scenario.starts
        if series.targets is None or start.name in series.targets
    ]


def configuration(fit: Fit, folder: Path, data: Path) -> FinetuneConfig:
    """The configuration of one fine-tuning.

    Args:
      fit: what is wanted.
      folder: of the scenario's results; the labelled sets are written to `data` in it.
      data: folder with files of models.

    Raises:
      ConfigError: naming the key, if a setting is invalid.
    """
    pool, validation, test = sets.write_sets(folder / "data", fit.seed)
    file = data / fit.start.model
    fixed = {
        "data": {"train": str(pool), "validation": str(validation), "test": str(test), "frames": fit.frames},
        "model": str(file) if file.is_file() else fit.start.model,
        "method": fit.method,
        "seed": fit.seed,
        "output": str(folder / fit.name),
    }
    return finetuning.parse(merge(fit.settings, fixed))

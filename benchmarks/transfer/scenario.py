"""A scenario: labelled sets, methods, training-set sizes and seeds, as one YAML file, and the fits it asks for."""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import Field

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Count, Section, Seed
from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune.config import FinetuneConfig, Method

Merged = TypeVar("Merged", bound=dict[str, Any])


class Slice(Section):
    """Some frames of an npz file."""

    file: str = Field(description="Relative to the folder of the data.")
    split: str | None = Field(default=None, description="Array of the file with the indices of the frames to consider.")
    first: int = Field(default=0, ge=0, description="Frames of these to leave out at the front.")
    count: Count | None = Field(default=None, description="Frames to use after that; all without it.")


class Target(Section):
    """A molecule at the level of theory that is to be learnt."""

    name: str
    model: str = Field(
        description="Pretrained model: its name, or a path relative to the file of the scenario or to the data."
    )
    pool: Slice = Field(description="The m training frames are the first of this, put into the random order of a seed.")
    validation: Slice
    test: Slice
    numbers_key: str = "z"
    positions_key: str = "R"
    energies_key: str = "E"
    forces_key: str = "F"


class Series(Section):
    """One method at several sizes of the training set."""

    method: Method
    sizes: tuple[Count, ...]
    seeds: tuple[Seed, ...] = (0,)
    targets: tuple[str, ...] | None = Field(default=None, description="Names of targets; all without it.")
    settings: dict[str, Any] = Field(default={}, description="Keys of a fine-tuning that differ from the scenario's.")


class Scenario(Section):
    """What is compared with what."""

    scenario: str
    about: str = ""
    targets: tuple[Target, ...]
    settings: dict[str, Any] = Field(default={}, description="Keys of every fine-tuning.")
    series: tuple[Series, ...]


class Fit(NamedTuple):
    """One fine-tuning of a scenario."""

    target: Target
    method: str
    frames: int
    seed: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.target.name}-{self.method}-m{self.frames}-s{self.seed}"


def load(path: Path) -> Scenario:
    """Read and validate a scenario.

    Raises:
      ConfigError: if the file is missing or invalid, or a series names a target that is not there.
    """
    scenario = settings.validate(Scenario, settings.read_yaml(path))
    names = [target.name for target in scenario.targets]
    for series in scenario.series:
        for name in series.targets or ():
            if name not in names:
                raise ConfigError("series.targets", name, f"one of {names}")
    return scenario


def fits(scenario: Scenario) -> list[Fit]:
    """All fine-tunings: series after series, their targets, sizes and seeds in the order of the file."""
    return [
        Fit(target, series.method, size, seed, merge(scenario.settings, series.settings))
        for series in scenario.series
        for seed in series.seeds
        for target in scenario.targets
        if series.targets is None or target.name in series.targets
        for size in series.sizes
    ]


def configuration(fit: Fit, sets: Path, output: Path, *, folders: tuple[Path, ...]) -> FinetuneConfig:
    """The configuration of one fine-tuning.

    Args:
      fit: what is wanted.
      sets: folder with the prepared sets of the target.
      output: directory of the results.
      folders: where the file of the model may be, the first to be looked at first.

    Raises:
      ConfigError: naming the key, if a setting is invalid.
    """
    files = [folder / fit.target.model for folder in folders if (folder / fit.target.model).is_file()]
    fixed = {
        "data": {
            "train": str(sets / f"pool-s{fit.seed}.npz"),
            "validation": str(sets / "validation.npz"),
            "test": str(sets / "test.npz"),
            "frames": fit.frames,
        },
        "model": str(files[0]) if files else fit.target.model,
        "method": fit.method,
        "seed": fit.seed,
        "output": str(output),
    }
    return finetuning.parse(merge(fit.settings, fixed))


def resolved(wanted: FinetuneConfig, stored: FinetuneConfig) -> FinetuneConfig:
    """What is wanted, with what a fine-tuning has stored of keys that are left to architecture and labels."""
    update: dict[str, Section] = {}
    if wanted.prior.scale is None and wanted.prior.kind == stored.prior.kind:
        update["prior"] = stored.prior
    if wanted.likelihood.energy_zero is None:
        update["likelihood"] = wanted.likelihood.model_copy(update={"energy_zero": stored.likelihood.energy_zero})
    return wanted.model_copy(update=update)


def settings_of(config: FinetuneConfig) -> FinetuneConfig:
    """The same without its paths."""
    data = config.data.model_copy(update={"train": "", "validation": None, "test": None})
    return config.model_copy(update={"data": data, "model": "", "output": ""})


def merge(first: Merged, second: Merged) -> dict[str, Any]:
    """The keys of both, of the second where both have one; sections are merged key by key."""
    joined: dict[str, Any] = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(joined.get(key), dict)
        joined[key] = merge(joined[key], value) if both else value
    return joined

"""A scenario of molecules: labelled sets beside what `benchmarks.scenarios` has, and configurations of its fits."""

from pathlib import Path

from pydantic import Field

from bayes_mlff.core.settings import Count, Section
from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune.config import FinetuneConfig
from benchmarks import scenarios
from benchmarks.scenarios import Fit, fits

__all__ = ["Fit", "Scenario", "Slice", "Target", "configuration", "fits", "load", "resolved", "settings_of"]


class Slice(Section):
    """Some frames of an npz file."""

    file: str = Field(description="Relative to the folder of the data.")
    split: str | None = Field(default=None, description="Array of the file with the indices of the frames to consider.")
    first: int = Field(default=0, ge=0, description="Frames of these to leave out at the front.")
    count: Count | None = Field(default=None, description="Frames to use after that; all without it.")


class Target(scenarios.Target):
    """A molecule at the level of theory that is to be learnt; its model is beside the scenario or among the data."""

    pool: Slice = Field(description="The m training frames are the first of this, put into the random order of a seed.")
    validation: Slice
    test: Slice
    numbers_key: str = "z"
    positions_key: str = "R"
    energies_key: str = "E"
    forces_key: str = "F"


class Scenario(scenarios.Scenario):
    """What is compared with what."""

    targets: tuple[Target, ...]  # pyright: ignore[reportIncompatibleVariableOverride]  # immutable


def load(path: Path) -> Scenario:
    """Read and validate a scenario; see `scenarios.load`."""
    return scenarios.load(path, Scenario)


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
    return finetuning.parse(scenarios.merge(fit.settings, fixed))


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

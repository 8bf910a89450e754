"""A scenario of slabs: a metal and a pretrained network in the place of `benchmarks.scenarios`' model alone."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune.config import FinetuneConfig
from benchmarks import scenarios
from benchmarks.adsorbates import slabs
from benchmarks.scenarios import Fit


class Target(scenarios.Target):
    """A metal that the pretrained network has not seen; `model` is the name of what `pretrain` has made."""

    metal: Literal["Ag", "Ir"] = Field(description="Metal of the slabs.")


class Scenario(scenarios.Scenario):
    """What is compared with what."""

    targets: tuple[Target, ...]  # pyright: ignore[reportIncompatibleVariableOverride]  # immutable


def load(path: Path) -> Scenario:
    """Read and validate a scenario; see `scenarios.load`."""
    return scenarios.load(path, Scenario)


def configuration(fit: Fit, runs: Path) -> FinetuneConfig:
    """The configuration of one fine-tuning.

    Args:
      fit: what is wanted.
      runs: folder of the scenario, which has sets and models in `data` and a directory for each fine-tuning.
    """
    sets = runs / "data" / fit.target.metal
    fixed = {
        "data": {
            "train": str(sets / f"pool-s{fit.seed}.extxyz"),
            "validation": str(sets / "validation.extxyz"),
            "test": str(sets / "test.extxyz"),
            "frames": fit.frames,
            **slabs.LABELS,
        },
        "model": str(runs / "data" / f"{fit.target.model}.safetensors"),
        "targets": "energy",
        "method": fit.method,
        "seed": fit.seed,
        "output": str(runs / fit.name),
    }
    return finetuning.parse(scenarios.merge(fit.settings, fixed))

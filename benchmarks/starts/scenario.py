"""Scenarios of starts: pretrained models, and the configurations of their fine-tunings.

Targets without sets of their own learn the labels of LaMnO3 of `sets`; those with them are molecules, as in
`benchmarks.transfer`.
"""

from pathlib import Path

from bayes_mlff.core import settings
from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune.config import FinetuneConfig
from benchmarks import scenarios
from benchmarks.scenarios import Fit, Scenario, merge
from benchmarks.starts import sets
from benchmarks.transfer import run as molecules
from benchmarks.transfer import scenario as of_molecules


def load(path: Path) -> Scenario:
    """Read and validate a scenario of either kind; see `scenarios.load`."""
    raw = settings.read_yaml(path)
    own = isinstance(raw, dict) and any("pool" in target for target in raw.get("targets", ()))
    return scenarios.load(path, of_molecules.Scenario if own else Scenario)


def configuration(fit: Fit, folder: Path, data: Path) -> FinetuneConfig:
    """The configuration of one fine-tuning.

    Args:
      fit: what is wanted.
      folder: of the scenario's results; the labelled sets are written to `data` in it.
      data: folder with files of models and, for molecules, of labels.

    Raises:
      ConfigError: naming the key, if a setting is invalid.
    """
    if isinstance(fit.target, of_molecules.Target):
        molecules.prepare(fit, data, folder / "data")
        return of_molecules.configuration(fit, folder / "data", folder / fit.name, folders=(data,))
    pool, validation, test = sets.write_sets(folder / "data", fit.seed)
    file = data / fit.target.model
    fixed = {
        "data": {"train": str(pool), "validation": str(validation), "test": str(test), "frames": fit.frames},
        "model": str(file) if file.is_file() else fit.target.model,
        "method": fit.method,
        "seed": fit.seed,
        "output": str(folder / fit.name),
    }
    return finetuning.parse(merge(fit.settings, fixed))

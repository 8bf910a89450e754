"""The scenario of starts: pretrained models, and the configurations of their fine-tunings on labels of LaMnO3."""

from pathlib import Path

from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune.config import FinetuneConfig
from benchmarks.scenarios import Fit, merge
from benchmarks.starts import sets


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
    file = data / fit.target.model
    fixed = {
        "data": {"train": str(pool), "validation": str(validation), "test": str(test), "frames": fit.frames},
        "model": str(file) if file.is_file() else fit.target.model,
        "method": fit.method,
        "seed": fit.seed,
        "output": str(folder / fit.name),
    }
    return finetuning.parse(merge(fit.settings, fixed))

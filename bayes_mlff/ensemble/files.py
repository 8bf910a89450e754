"""Paths of the ensemble files of runs and fine-tunings."""

from pathlib import Path
from typing import Final

from bayes_mlff.core.errors import ConfigError

NAME: Final = "ensemble.safetensors"
"""File in the directory of a fine-tuning, and in that of a run after its end."""

CHECKPOINTS: Final = "checkpoints"
"""Folder of the checkpoints in a run directory."""

CHECKPOINT: Final = ".ckpt"
"""File extension of checkpoints, after the step."""

_BESIDE: Final = f".{NAME}"


def beside(checkpoint: Path) -> Path:
    """Path of the ensemble that belongs to a checkpoint."""
    return checkpoint.with_name(checkpoint.name.removesuffix(CHECKPOINT) + _BESIDE)


def checkpoint_of(ensemble: Path) -> Path:
    """Path of the checkpoint to which an ensemble belongs."""
    return ensemble.with_name(ensemble.name.removesuffix(_BESIDE) + CHECKPOINT)


def all_beside(folder: Path) -> list[Path]:
    """All ensembles in a folder of checkpoints by step; after a kill some may be without a checkpoint."""
    found = (p for p in folder.glob(f"*{_BESIDE}") if _step(p).isdecimal())
    return sorted(found, key=lambda p: int(_step(p)))


def kept(folder: Path) -> Path | None:
    """The ensemble of the newest checkpoint that has one; None if there is none."""
    whole = [path for path in all_beside(folder) if checkpoint_of(path).is_file()]
    return whole[-1] if whole else None


def find(path: Path) -> Path:
    """Find the newest ensemble.

    Args:
      path: a file, or the directory of a run or a fine-tuning. For a run the ensemble of the newest checkpoint is used,
        since `ensemble.safetensors` is older if a run was resumed and then killed.

    Raises:
      ConfigError: if there is none.
    """
    if path.is_file():
        return path
    if path.is_dir():
        found = kept(path / CHECKPOINTS) or path / NAME
        if found.is_file():
            return found
    raise ConfigError(
        "ensemble",
        str(path),
        f"the path of an {NAME}, or the directory of a fine-tuning or a run that has one (runs of earlier versions "
        "have none: bayes-mlff export RUN FOLDER --what ensemble writes it)",
    )


def _step(path: Path) -> str:
    return path.name.removesuffix(_BESIDE)

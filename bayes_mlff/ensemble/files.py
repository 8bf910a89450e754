"""Where the ensembles of runs and fine-tunings are on the disk."""

from pathlib import Path
from typing import Final

from bayes_mlff.core.errors import ConfigError

NAME: Final = "ensemble.safetensors"
"""In the directory of a fine-tuning, and in that of a run once it has ended."""

CHECKPOINTS: Final = "checkpoints"
"""Folder of a run directory."""

CHECKPOINT: Final = ".ckpt"
"""Ending of the name of a checkpoint, after its step."""

_BESIDE: Final = f".{NAME}"


def beside(checkpoint: Path) -> Path:
    """Where the ensemble of a checkpoint is."""
    return checkpoint.with_name(checkpoint.name.removesuffix(CHECKPOINT) + _BESIDE)


def checkpoint_of(ensemble: Path) -> Path:
    """The checkpoint that an ensemble lies beside."""
    return ensemble.with_name(ensemble.name.removesuffix(_BESIDE) + CHECKPOINT)


def all_beside(folder: Path) -> list[Path]:
    """Ensembles in a folder of checkpoints, those of which a kill has left no checkpoint among them, by their step."""
    found = (p for p in folder.glob(f"*{_BESIDE}") if _step(p).isdecimal())
    return sorted(found, key=lambda p: int(_step(p)))


def kept(folder: Path) -> Path | None:
    """The ensemble of the newest checkpoint that has one."""
    whole = [path for path in all_beside(folder) if checkpoint_of(path).is_file()]
    return whole[-1] if whole else None


def find(path: Path) -> Path:
    """The newest ensemble.

    Args:
      path: a file, or the directory of a run or a fine-tuning. Of a run the ensemble of its newest checkpoint is taken,
        since `ensemble.safetensors` is older where a run has gone on and was killed.

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

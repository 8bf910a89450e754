"""Checkpoints of SevenNet: found in the installed package `sevenn`, read without PyTorch, converted once.

Reading runs nothing that a checkpoint contains, see `torch_pickle`. The package itself is never imported.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.core.errors import ConfigError, WeightsError, shown
from bayes_mlff.models.config import Imported
from bayes_mlff.models.importers import torch_pickle
from bayes_mlff.models.importers.sevennet_weights import describe, from_sevennet


class Origin(NamedTuple):
    """Where a published model is found."""

    path: str  # below the folder of the package
    sha256: str  # of the checkpoint


CHECKPOINTS = {
    "sevennet-0": Origin(
        "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
        "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
    ),
    "sevennet-l3i5": Origin(
        "pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth",
        "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
    ),
}
"""Models by the name used in configurations."""


class Checkpoint(NamedTuple):
    """What a checkpoint says about its model."""

    settings: dict[str, Any]  # SevenNet's configuration
    state: dict[str, np.ndarray]  # its weights


def find(name: str, key: str) -> Path:
    """The checkpoint of a model of `CHECKPOINTS` in the installed package.

    Raises:
      ConfigError: naming `key`, if the package is not installed.
      WeightsError: if its checkpoint is not the one that this package was tested with.
    """
    spec = importlib.util.find_spec("sevenn")
    folders = list(spec.submodule_search_locations or []) if spec else []
    origin = CHECKPOINTS[name]
    found = [path for folder in folders if (path := Path(folder) / origin.path).is_file()]
    if not found:
        raise ConfigError(key, name, f"{name!r} once its weights are there: pip install 'bayes-mlff[sevennet]'")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != origin.sha256:
        raise WeightsError(f"{found[0]}: SHA-256 is {digest}; allowed: {origin.sha256}")
    return found[0]


def read(path: Path) -> Checkpoint:
    """Read a checkpoint without running anything it contains.

    Raises:
      WeightsError: if it is no checkpoint, holds something else than tensors, or names a program.
    """
    content = torch_pickle.read(path)
    missing = {"config", "model_state_dict"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise WeightsError(f"{path}: not a checkpoint of SevenNet: missing {sorted(missing)}")
    settings, state = content["config"], content["model_state_dict"]
    if not isinstance(settings, dict) or not isinstance(state, dict):
        raise WeightsError(f"{path}: not a checkpoint of SevenNet: config and model_state_dict must be dictionaries")
    others = sorted(str(k) for k, v in state.items() if not isinstance(k, str) or not isinstance(v, np.ndarray))
    if others:
        raise WeightsError(f"{path}: not a checkpoint of SevenNet: {shown(others)} are no tensors")
    return Checkpoint(dict(settings), dict(state))


def read_model(path: Path) -> Imported:
    """Read the model of a checkpoint, in float64.

    Raises:
      WeightsError: if it is no checkpoint, or one of a form that is not supported.
    """
    checkpoint = read(path)
    state = {k: v.astype(np.float64) for k, v in checkpoint.state.items()}
    description = describe(checkpoint.settings, state)
    return Imported(description.config, from_sevennet(state, description))

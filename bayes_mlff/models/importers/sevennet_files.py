"""Checkpoints of SevenNet, by path or from the installed package `sevenn`, read without PyTorch.

Reading runs nothing that a checkpoint contains, see `torch_pickle`. The package itself is never imported.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, ConfigError, WeightsError, shown
from bayes_mlff.models.config import Imported
from bayes_mlff.models.importers import torch_pickle
from bayes_mlff.models.importers.mace_heads import chosen
from bayes_mlff.models.importers.sevennet_history import current_names
from bayes_mlff.models.importers.sevennet_modalities import names_of
from bayes_mlff.models.importers.sevennet_weights import describe, from_sevennet


class Origin(NamedTuple):
    """Location of a published model."""

    path: str  # path relative to the folder of the package
    sha256: str  # of the checkpoint


CHECKPOINTS = {
    "sevennet-0": Origin(
        "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
        "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
    ),
    "sevennet-0-22may2024": Origin(
        "pretrained_potentials/SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
        "5d389fafd512e6ae2830d74d0b66ffc49a55d3832653ff8e7bf7f1343013c1d1",
    ),
    "sevennet-mf-0": Origin(
        "pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
        "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
    ),
    "sevennet-l3i5": Origin(
        "pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth",
        "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
    ),
}
"""Models by the name used in configurations."""


class Checkpoint(NamedTuple):
    """Content of a checkpoint."""

    settings: dict[str, Any]  # SevenNet's configuration
    state: dict[str, np.ndarray]  # its weights


def find(name: str, key: str) -> Path:
    """Find the checkpoint of a model of `CHECKPOINTS` in the installed package.

    Raises:
      ConfigError: naming `key`, if the package is not installed.
      WeightsError: if its checkpoint is not the one with which this package was tested.
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
    """Read a checkpoint without executing anything it contains.

    Raises:
      WeightsError: if it is not a checkpoint, contains other objects than tensors, or names a program.
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


def read_model(path: Path, head: str | None = None) -> Imported:
    """Read the model of a checkpoint, in float64.

    Args:
      path: a checkpoint.
      head: name of the modality to take; the others are dropped. None if the model has no modalities.

    Raises:
      ConfigError: listing the modalities, if the model has several and none, or another one, is named.
      WeightsError: if it is no checkpoint, or one of a form that is not supported.
    """
    settings, state = read(path)
    try:
        index = chosen(names_of(settings), head, str(path))
        state = {k: v.astype(np.float64) for k, v in current_names(state).items()}
        description = describe(settings, state, index)
        return Imported(description.config, from_sevennet(state, description))
    except READER_ERRORS as error:
        raise WeightsError(f"{path}: not a model of SevenNet: {type(error).__name__}: {error}") from error

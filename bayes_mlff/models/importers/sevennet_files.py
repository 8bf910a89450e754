"""Checkpoints of SevenNet, by path or from the installed package `sevenn`, read without PyTorch.

Reading runs nothing that a checkpoint contains, see `torch_pickle`. The package itself is never imported.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, ConfigError, WeightsError, shown
from bayes_mlff.models import catalogue
from bayes_mlff.models.config import Imported
from bayes_mlff.models.importers import torch_pickle
from bayes_mlff.models.importers.heads import chosen
from bayes_mlff.models.importers.sevennet_history import current_names
from bayes_mlff.models.importers.sevennet_modalities import names_of
from bayes_mlff.models.importers.sevennet_weights import describe, from_sevennet
from bayes_mlff.models.known.entry import InPackage


class Checkpoint(NamedTuple):
    """Content of a checkpoint."""

    settings: dict[str, Any]  # SevenNet's configuration
    state: dict[str, np.ndarray]  # its weights


def find(name: str, key: str, source: InPackage) -> Path:
    """Find the checkpoint of a model in the installed package.

    Raises:
      ConfigError: naming `key`, if the package is not installed.
      WeightsError: if its checkpoint is not the one with which this package was tested.
    """
    found = catalogue.in_package(source)
    if found is None:
        raise ConfigError(key, name, f"{name!r} once its weights are there: pip install 'bayes-mlff[{source.extra}]'")
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise WeightsError(f"{found}: SHA-256 is {digest}; allowed: {source.sha256}")
    return found


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

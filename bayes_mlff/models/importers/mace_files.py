"""Read and write MACE models in mace-torch's own files.

Reading needs neither PyTorch nor mace-torch and executes nothing that a file contains, see `torch_pickle`. A `.model`
file is a pickled module. To write one, PyTorch itself opens a template, which executes any program that the template
contains. Writing therefore needs `trust=True`, and mace-torch.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, ConfigError, WeightsError
from bayes_mlff.models.config import Imported, MACEConfig
from bayes_mlff.models.importers import mace_heads, torch_pickle
from bayes_mlff.models.importers.heads import chosen
from bayes_mlff.models.importers.mace_describe import describe
from bayes_mlff.models.importers.mace_torch import from_mace, to_mace
from bayes_mlff.models.importers.torch_pickle import Inert

REFUSED_PACKAGES: Final = ("les", "graph_longrange")
"""Packages of long-range interactions. Models that need them are read as far as their kind, which is then refused."""


def read_model(path: Path, head: str | None = None) -> Imported:
    """Read a `.model` file.

    Args:
      path: a pickled model of the class ScaleShiftMACE or MACE.
      head: name of the head to take; the others are dropped. None if the model has only one.

    Returns:
      The model for all its elements, in its dtype, with a σ head of zeros.

    Raises:
      ConfigError: listing the heads, if the model has several and none, or another one, is named.
      WeightsError: if there is no such file, if it is not a model, or has an unsupported form.
    """
    _check_file(path)
    module = torch_pickle.read(path, inert=(*torch_pickle.INERT, *REFUSED_PACKAGES))
    if not isinstance(module, Inert):
        raise WeightsError(f"{path}: holds a {type(module).__name__}; allowed: a model (see read_state for tensors)")
    try:
        heads = mace_heads.names_of(module)
        index = chosen(heads, head, str(path))
        config = describe(module, index)
        return Imported(config, from_mace(mace_heads.one_head(state_of(module), len(heads), index), config))
    except READER_ERRORS as error:
        raise WeightsError(f"{path}: not a model of MACE: {type(error).__name__}: {error}") from error


def read_state(path: Path, config: MACEConfig) -> Imported:
    """Read a file of tensors, as written by `torch.save(model.state_dict())` or in mace-torch's checkpoints.

    Args:
      path: a state dictionary, or a dictionary with one under the key 'model'.
      config: the architecture, which such a file does not state.
    """
    _check_file(path)
    found = torch_pickle.read(path)
    found = found.get("model", found) if isinstance(found, dict) else {}
    found = found if isinstance(found, dict) else {}
    state = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
    if not state:
        raise WeightsError(f"{path}: holds no tensors by name")
    return Imported(config, from_mace(state, config))


def write_models(
    config: MACEConfig, chains: Sequence[Any], template: Path, paths: Sequence[Path], *, trust: bool = False
) -> None:
    """Write fine-tuned weights as `.model` files, one for each chain.

    Args:
      config: the architecture, for all or some elements of the template; the weights of these are replaced.
      chains: the parameters of each chain; their σ heads are not written.
      template: the `.model` file from which the fine-tuning started.
      paths: output path of each chain.
      trust: allow that programs in the template are executed.

    Raises:
      ConfigError: without `trust`, if there is no template or if there is not one path for each chain.
      WeightsError: if the template is of another architecture, or does not have the head.
    """
    if len(paths) != len(chains):
        raise ValueError(f"paths: got {len(paths)}; allowed: one for each of the {len(chains)} chains")
    module = _load_module(template, trust)
    heads = mace_heads.names_of(module)
    if (config.head is not None or len(heads) > 1) and config.head not in heads:
        raise WeightsError(f"{template}: has the heads {', '.join(heads)}; allowed: one that is {config.head}")
    index = heads.index(config.head) if config.head is not None else 0
    before = state_of(module)
    single = mace_heads.one_head(before, len(heads), index)
    for params, path in zip(chains, paths, strict=True):
        state = mace_heads.put_back(to_mace(params, config, single), before, len(heads), index)
        module.load_state_dict({k: _torch().from_numpy(np.array(v)) for k, v in state.items()}, strict=True)
        _torch().save(module, path)


def state_of(module: Any) -> dict[str, np.ndarray]:
    """A module's state as numpy arrays."""
    if isinstance(module, Inert):
        return module.state()
    return {k: v.detach().cpu().numpy().copy() for k, v in module.state_dict().items()}


def _load_module(path: Path, trust: bool) -> Any:
    """Unpickle a module."""
    _check_file(path)
    if not trust:
        raise ConfigError(
            "--trust", trust, f"to be given if you trust {path}: a .model file may contain programs, which run"
        )
    return _torch().load(path, map_location="cpu", weights_only=False)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; allowed: a file written by mace-torch")


def _torch() -> Any:
    """Import PyTorch, set up by mace-torch if that is installed."""
    try:
        if importlib.util.find_spec("mace"):
            importlib.import_module("mace")
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise WeightsError("files of mace-torch need PyTorch: pip install torch mace-torch") from error

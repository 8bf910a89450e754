"""Checkpoints of EquiformerV2 (`.pt`) by the Open Catalyst Project and fairchem-core 1, read without PyTorch.

Reading runs nothing that a checkpoint contains, see `torch_pickle`. Two generations of files are known: in the first
the backbone and both heads are one network, in the second they are parts of a `hydra`. If the file has an exponential
moving average of the weights, that is taken, as fairchem does for predictions.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, WeightsError, shown
from bayes_mlff.models.config import Imported
from bayes_mlff.models.importers import torch_pickle
from bayes_mlff.models.importers.equiformer_v2_weights import CONSTANTS, Scales, describe, from_fairchem

SUFFIX: Final = ".pt"

INERT: Final = ("torch", "fairchem", "ocpmodels", "numpy", "pathlib")
"""Packages whose objects may be in the settings and in the state of the training, which are not used."""

NETWORKS: Final = ("equiformer_v2", "equiformer_v2_backbone")
"""Names of the network in settings."""


class Checkpoint(NamedTuple):
    """Content of a checkpoint."""

    settings: dict[str, Any]  # arguments of the network
    state: dict[str, np.ndarray]  # its weights and constants by the names of the first generation
    scales: Scales


def read_model(path: Path) -> Imported:
    """Read the model of a checkpoint, in float64.

    The constant that fairchem adds to the energy of a structure, of whatever size, is left out.

    Raises:
      WeightsError: if it is no checkpoint of EquiformerV2, or one of a form that is not supported.
    """
    content = read(path)
    try:
        config = describe(content.settings, content.state, content.scales)
        return Imported(config, from_fairchem(content.state, config))
    except READER_ERRORS as error:
        raise WeightsError(f"{path}: not a model of EquiformerV2: {type(error).__name__}: {error}") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def read(path: Path) -> Checkpoint:
    """Read a checkpoint without executing anything it contains.

    Raises:
      WeightsError: if it is not a checkpoint of EquiformerV2, or holds other objects than tensors as weights.
    """
    content = torch_pickle.read(path, inert=INERT)
    missing = {"config", "state_dict", "normalizers"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise WeightsError(f"{path}: not a checkpoint of fairchem: missing {sorted(missing)}")
    try:
        state = _state(content["state_dict"], content.get("ema"))
        return Checkpoint(_settings(content["config"]), state, _scales(content["normalizers"]))
    except READER_ERRORS as error:
        raise WeightsError(f"{path}: not a checkpoint of fairchem: {type(error).__name__}: {error}") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: not a checkpoint of EquiformerV2: {error}") from error


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the network."""
    model = config["model"]
    if isinstance(model, str):
        model = {"name": model, **config["model_attributes"]}
    model = dict(model)
    name = model.pop("name", None)
    if name == "hydra":
        model = dict(model["backbone"])
        name = model.pop("model", None)
    if name not in NETWORKS:
        raise WeightsError(f"config.model is {shown(name)}; allowed: {', '.join(NETWORKS)}")
    return model


def _state(state: Mapping[str, Any], average: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Weights and constants by the names of the first generation; of the average, if there is one."""
    others = [k for k, v in state.items() if not isinstance(k, str) or not isinstance(v, np.ndarray)]
    if others:
        raise WeightsError(f"{shown(others)} in state_dict are no tensors")
    named = [(plain(name), value) for name, value in state.items()]
    doubled = [name for name, times in Counter(name for name, _ in named).items() if times > 1]
    if doubled:
        raise WeightsError(f"state_dict has {shown(doubled)} more than once")
    found = dict(named)
    if average is None:
        return found
    weights, shadows = [name for name in found if not CONSTANTS.search(name)], list(average["shadow_params"])
    if len(weights) != len(shadows):
        raise WeightsError(f"ema has {len(shadows)} tensors for {len(weights)} weights")
    wrong = [k for k, v in zip(weights, shadows, strict=True) if np.shape(v) != found[k].shape]
    if wrong:
        raise WeightsError(f"ema has tensors of other shapes for {shown(wrong)}")
    return found | dict(zip(weights, shadows, strict=True))


def plain(name: str) -> str:
    """A name without the prefixes of parallel training and of the parts of a hydra."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    name = name.removeprefix("backbone.")
    if name.startswith("output_heads."):
        name = name.split(".", maxsplit=2)[2]
    return name


def _scales(normalizers: Mapping[str, Any]) -> Scales:
    """What outputs are multiplied by; one without a normalizer is in eV or eV/Å."""
    known = {"target", "energy", "grad_target", "forces"}
    if set(normalizers) - known:
        raise WeightsError(f"normalizers are {sorted(normalizers)}; allowed: {sorted(known)}")

    def scale(*names: str) -> tuple[float, float]:
        for name in names:
            if name in normalizers:
                entry = normalizers[name]
                return float(np.asarray(entry["mean"])), float(np.asarray(entry["std" if "std" in entry else "rmsd"]))
        return 0.0, 1.0

    (_, energy), (mean, force) = scale("energy", "target"), scale("forces", "grad_target")
    if mean != 0.0:
        raise WeightsError(f"normalizers.forces.mean is {mean}; allowed: 0")
    return Scales(energy, force)

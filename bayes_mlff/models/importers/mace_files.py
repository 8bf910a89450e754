"""Read and write MACE models in mace-torch's own files.

Reading needs neither PyTorch nor mace-torch and executes nothing that a file contains, see `torch_pickle`. A `.model`
file is a pickled module. To write one, PyTorch itself opens a template, which executes any program that the template
contains. Writing therefore needs `trust=True`, and mace-torch.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import e3nn_jax as e3nn
import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, ConfigError, WeightsError
from bayes_mlff.models.config import Imported, MACEConfig
from bayes_mlff.models.importers import torch_pickle
from bayes_mlff.models.importers.mace_torch import from_mace, to_mace
from bayes_mlff.models.importers.torch_pickle import Inert, irreps_of

FIRST: dict[str, Literal["plain", "residual"]] = {
    "RealAgnosticInteractionBlock": "plain",
    "RealAgnosticResidualInteractionBlock": "residual",
}
"""Kinds of first interactions by class name."""

DEFAULTS = {
    "apply_cutoff": True,
    "cueq_config": None,
    "edge_irreps": None,
    "oeq_config": None,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "use_so3": False,
}
"""Required attribute values of a model: others would change its form; old models lack these attributes."""


def read_model(path: Path) -> Imported:
    """Read a `.model` file.

    Args:
      path: a pickled ScaleShiftMACE.

    Returns:
      The model for all its elements, in its dtype, with a σ head of zeros.

    Raises:
      ConfigError: if there is no such file.
      WeightsError: if it is not a model, or has an unsupported form.
    """
    _check_file(path)
    module = torch_pickle.read(path, inert=torch_pickle.INERT)
    if not isinstance(module, Inert):
        raise WeightsError(f"{path}: holds a {type(module).__name__}; allowed: a model (see read_state for tensors)")
    try:
        config = describe(module)
        return Imported(config, from_mace(state_of(module), config))
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
      WeightsError: if the template is of another architecture.
    """
    if len(paths) != len(chains):
        raise ValueError(f"paths: got {len(paths)}; allowed: one for each of the {len(chains)} chains")
    module = _load_module(template, trust)
    before = state_of(module)
    for params, path in zip(chains, paths, strict=True):
        state = to_mace(params, config, before)
        module.load_state_dict({k: _torch().from_numpy(np.array(v)) for k, v in state.items()}, strict=True)
        _torch().save(module, path)


def state_of(module: Any) -> dict[str, np.ndarray]:
    """A module's state as numpy arrays."""
    if isinstance(module, Inert):
        return module.state()
    return {k: v.detach().cpu().numpy().copy() for k, v in module.state_dict().items()}


def describe(module: Any) -> MACEConfig:
    """The configuration of a mace-torch model, from its attributes.

    Raises:
      WeightsError: naming what is not supported: other classes of models, interactions or radial functions, several
        heads, another activation, pair repulsion, or options that change the form of the network.
    """
    problems = [f"{k} is {getattr(module, k)!r}" for k, v in DEFAULTS.items() if getattr(module, k, v) != v]
    blocks = [type(block).__name__ for block in module.interactions]
    radial = module.radial_embedding
    if type(module).__name__ != "ScaleShiftMACE":
        problems.append(f"model is a {type(module).__name__}")
    if blocks[0] not in FIRST or set(blocks[1:]) - {"RealAgnosticResidualInteractionBlock"}:
        problems.append(f"interactions are {blocks}")
    if type(radial.bessel_fn).__name__ != "BesselBasis":
        problems.append(f"radial functions are a {type(radial.bessel_fn).__name__}")
    if len(getattr(module, "heads", ["Default"])) != 1:
        problems.append(f"heads are {module.heads}")
    problems += [f"model has {name}" for name in ("pair_repulsion_fn", "joint_embedding") if hasattr(module, name)]
    problems += ["model has distance_transform"] if hasattr(radial, "distance_transform") else []
    last = module.readouts[-1]
    if len(blocks) > 1:
        kind = type(last).__name__
        gates = [_name(act) for act in getattr(getattr(last, "non_linearity", None), "acts", [])]
        if kind != "NonLinearReadoutBlock" or gates != ["silu"]:
            problems.append(f"last readout is a {kind} with {gates}")
    if problems:
        raise WeightsError("MACE model is not supported: " + "; ".join(problems))
    contraction = module.products[0].symmetric_contractions.contractions[0]
    hidden = str(_irreps(module.products[0].linear.irreps_out))
    config = MACEConfig(
        elements=tuple(int(z) for z in module.atomic_numbers),
        r_max=float(module.r_max),
        hidden_irreps=hidden,
        num_interactions=len(blocks),
        first_interaction=FIRST[blocks[0]],
        max_ell=_irreps(module.interactions[0].edge_attrs_irreps).lmax,
        correlation=len(contraction.weights) + 1,
        num_bessels=len(radial.bessel_fn.bessel_weights),
        cutoff_power=int(radial.cutoff_fn.p),
        radial_widths=tuple(int(h) for h in module.interactions[0].conv_tp_weights.hs[1:-1]),
        readout_width=_irreps(last.hidden_irreps).dim if len(blocks) > 1 else 1,
        average_neighbors=float(module.interactions[0].avg_num_neighbors),
        energy_scale=float(module.scale_shift.scale),
        energy_shift=float(module.scale_shift.shift),
        energy_shifts=tuple(float(e) for e in module.atomic_energies_fn.atomic_energies.reshape(-1)),
    )
    if config.hidden_irreps != hidden:
        raise WeightsError(f"hidden irreps: got {hidden}; allowed: ascending degrees, {config.hidden_irreps}")
    return config


def _irreps(irreps: Any) -> e3nn.Irreps:
    """Irreps of e3nn, or of inert objects."""
    if isinstance(irreps, Inert):
        return irreps_of(irreps)
    return e3nn.Irreps(str(irreps))


def _name(activation: Any) -> str:
    """Name of the activation that e3nn has normalised."""
    return str(getattr(getattr(activation, "f", activation), "__name__", activation))


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

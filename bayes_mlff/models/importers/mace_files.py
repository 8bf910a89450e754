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
from bayes_mlff.models.distance_transforms import Agnesi, Soft
from bayes_mlff.models.importers import mace_heads, torch_pickle
from bayes_mlff.models.importers.mace_torch import from_mace, to_mace
from bayes_mlff.models.importers.torch_pickle import Inert
from bayes_mlff.models.pair_repulsion import PairRepulsion, mace_zbl

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

REFUSED_PACKAGES = ("les", "graph_longrange")
"""Packages of long-range interactions. Models that need them are read as far as their kind, which is then refused."""


def read_model(path: Path, head: str | None = None) -> Imported:
    """Read a `.model` file.

    Args:
      path: a pickled ScaleShiftMACE.
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
        index = mace_heads.chosen(heads, head, str(path))
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


def describe(module: Any, head: int = 0) -> MACEConfig:
    """The configuration of a mace-torch model, from its attributes.

    Args:
      module: the model.
      head: position of the head among several.

    Raises:
      WeightsError: naming what is not supported: other classes of models, interactions or radial functions, another
        activation, joint embeddings, or options that change the form of the network.
    """
    if type(module).__name__ != "ScaleShiftMACE":
        # Others, which predict dipoles or have long-range interactions, lack attributes that are read below.
        raise WeightsError(f"MACE model is not supported: model is a {type(module).__name__}")
    heads = mace_heads.names_of(module)
    problems = [f"{k} is {getattr(module, k)!r}" for k, v in DEFAULTS.items() if getattr(module, k, v) != v]
    blocks = [type(block).__name__ for block in module.interactions]
    radial = module.radial_embedding
    if blocks[0] not in FIRST or set(blocks[1:]) - {"RealAgnosticResidualInteractionBlock"}:
        problems.append(f"interactions are {blocks}")
    if type(radial.bessel_fn).__name__ != "BesselBasis":
        problems.append(f"radial functions are a {type(radial.bessel_fn).__name__}")
    problems += ["model has joint_embedding"] if hasattr(module, "joint_embedding") else []
    problems += _unknown_pair_functions(module)
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
        readout_width=_irreps(last.hidden_irreps).dim // max(1, len(heads)) if len(blocks) > 1 else 1,
        average_neighbors=float(module.interactions[0].avg_num_neighbors),
        energy_scale=_of_head(module.scale_shift.scale, head),
        energy_shift=_of_head(module.scale_shift.shift, head),
        energy_shifts=_row(module.atomic_energies_fn.atomic_energies, head),
        distance_transform=_transform(radial),
        pair_repulsion=_repulsion(module),
        head=heads[head] if len(heads) > 1 else None,
    )
    if config.hidden_irreps != hidden:
        raise WeightsError(f"hidden irreps: got {hidden}; allowed: ascending degrees, {config.hidden_irreps}")
    return config


def _of_head(values: Any, head: int) -> float:
    """The number of one head; models with one head may have it without an axis."""
    return float(values.reshape(-1)[head])


def _row(energies: Any, head: int) -> tuple[float, ...]:
    """Energies of the isolated atoms of one head, [heads, elements] or [elements]."""
    return tuple(float(e) for e in energies.reshape(-1, energies.shape[-1])[head])


def _unknown_pair_functions(module: Any) -> list[str]:
    """What is unknown of the functions of the distance of two atoms."""
    problems = []
    repulsion, transform = _repulsion_of(module), _transform_of(module.radial_embedding)
    if repulsion is not None and type(repulsion).__name__ != "ZBLBasis":
        problems.append(f"pair_repulsion_fn is a {type(repulsion).__name__}")
    if (repulsion is None) != (not getattr(module, "pair_repulsion", False)):
        problems.append("one of pair_repulsion_fn and pair_repulsion is there without the other")
    # A SoftTransform of versions before 0.3.11 has another formula, with a and b.
    needed = {"AgnesiTransform": ("q", "p", "a"), "SoftTransform": ("alpha",)}.get(type(transform).__name__, ())
    if transform is not None and not (needed and all(hasattr(transform, name) for name in needed)):
        problems.append(f"distance_transform is a {type(transform).__name__} of unknown form")
    return problems


def _repulsion_of(module: Any) -> Any:
    return getattr(module, "pair_repulsion_fn", None)


def _transform_of(radial: Any) -> Any:
    return getattr(radial, "distance_transform", None)


def _repulsion(module: Any) -> PairRepulsion | None:
    """The pair repulsion with the numbers in the file, whether they were trained or not."""
    found = _repulsion_of(module)
    if found is None:
        return None
    first, second, third, fourth = (float(c) for c in found.c)
    return mace_zbl(
        int(found.p),
        exponent=float(found.a_exp),
        prefactor=float(found.a_prefactor),
        coefficients=(first, second, third, fourth),
    )


def _transform(radial: Any) -> Agnesi | Soft | None:
    """The distance transform with the numbers in the file, whether they were trained or not."""
    found = _transform_of(radial)
    if found is None:
        return None
    if type(found).__name__ == "SoftTransform":
        return Soft(steepness=float(found.alpha))
    return Agnesi(q=float(found.q), p=float(found.p), a=float(found.a))


def _irreps(irreps: Any) -> e3nn.Irreps:
    """Irreps of e3nn, or of inert objects: tuples of a multiplicity and a tuple of degree and parity."""
    if isinstance(irreps, Inert):
        terms = [item.args[0] for item in irreps.args[0]]
        return e3nn.Irreps([(int(mul), (int(ir.args[0][0]), int(ir.args[0][1]))) for mul, ir in terms])
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

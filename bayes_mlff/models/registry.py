"""Models by name or path: configuration, weights and the functions made of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree
from safetensors import safe_open
from safetensors.numpy import save_file

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models.config import MODEL_CONFIG, MACEConfig, NequIPConfig
from bayes_mlff.models.energetics import NodeOutput, Params
from bayes_mlff.models.mace import MACE
from bayes_mlff.models.nequip import NequIP
from bayes_mlff.models.sevennet_files import CHECKPOINTS, cached, find, read
from bayes_mlff.models.sevennet_weights import describe, from_sevennet

SHIPPED = {
    "nequip-md17-small": "nequip_md17_small.safetensors",
    "mace-perovskite-small": "mace_perovskite_small.safetensors",
}
"""Models that come with the package, by the name used in configurations."""

NAMES = (*SHIPPED, *CHECKPOINTS)
"""All models that are known by name; those of `CHECKPOINTS` come with other packages."""


@dataclass(frozen=True)
class Potential:
    """A network with its weights."""

    config: NequIPConfig | MACEConfig
    params: Params

    def node_fn(
        self,
        params: Params,
        vectors: jax.Array,
        species: jax.Array,
        neighbors: jax.Array,
        edge_mask: jax.Array,
        receivers: jax.Array | None = None,
    ) -> NodeOutput:
        """Evaluate the network with any weights of this architecture; see `NodeFn`."""
        return network(self.config).apply({"params": params}, vectors, species, neighbors, edge_mask, receivers)  # type: ignore[return-value]

    def flat(self) -> tuple[jax.Array, Callable[[jax.Array], Params]]:
        """The weights as one vector [p], and the way back."""
        return ravel_pytree(self.params)

    def isolated_energy(self, numbers: np.ndarray) -> float:
        """Sum of the energies of the isolated atoms, eV, in float64; the network's energy comes on top."""
        table = dict(zip(self.config.elements, self.config.energy_shifts, strict=True))
        return float(sum(table[int(z)] for z in numbers))


def network(config: NequIPConfig | MACEConfig) -> nn.Module:
    """The network that a configuration describes."""
    return MACE(config) if isinstance(config, MACEConfig) else NequIP(config)


def initialize(config: NequIPConfig | MACEConfig, seed: int, dtype: type = jnp.float32) -> Potential:
    """Random weights of unit variance, apart from MACE's products."""
    return Potential(config, jax.jit(_initializer(config, dtype))(jax.random.key(seed)))


def _initializer(config: NequIPConfig | MACEConfig, dtype: type) -> Callable[[jax.Array], Params]:
    def init(key: jax.Array) -> Params:
        indices = jnp.zeros((2, 1), jnp.int32)
        return network(config).init(key, jnp.ones((2, 1, 3), dtype), indices[:, 0], indices, indices == 0)["params"]

    return init


def restrict(potential: Potential, elements: tuple[int, ...]) -> Potential:
    """The same potential for fewer elements: identical energies, smaller tables and less work.

    Args:
      potential: network with its weights.
      elements: atomic numbers to keep, in any order.

    Raises:
      ConfigError: if the potential does not know one of them.
    """
    config = potential.config
    kept = tuple(sorted(set(elements)))
    if not kept or not set(kept) <= set(config.elements):
        raise ConfigError("elements", elements, f"some of the model's elements {list(config.elements)}")
    index = np.array([config.elements.index(z) for z in kept])
    tables = {"energy_shifts", "energy_scales"} & set(type(config).model_fields)
    update = {name: tuple(getattr(config, name)[i] for i in index) for name in tables}
    smaller = MODEL_CONFIG.validate_python(config.model_dump() | {"elements": kept} | update)
    flat = flatten_dict(potential.params, sep="/")
    axes = {k: _element_axis(config, k.split("/")) for k in flat}
    params = {k: v if axes[k] is None else jnp.take(jnp.asarray(v), index, axis=axes[k]) for k, v in flat.items()}
    return Potential(smaller, unflatten_dict(params, sep="/"))


def _element_axis(config: NequIPConfig | MACEConfig, path: list[str]) -> int | None:
    """Which axis of a parameter counts elements."""
    if path == ["embedding"]:
        return 0
    if isinstance(config, NequIPConfig):
        return 1 if "self_connection" in path and config.self_connection == "element" else None
    if "product" in path:
        return 0
    return 1 if {"self_connection", "element_messages"} & set(path) else None


def save(potential: Potential, path: Path, metadata: dict[str, str]) -> None:
    """Write weights and architecture to one safetensors file."""
    # Whatever their strides say, safetensors takes the memory of arrays to be in C order.
    flat = {k: np.asarray(v, order="C") for k, v in flatten_dict(potential.params, sep="/").items()}
    save_file(flat, path, metadata={"config": potential.config.model_dump_json(), **metadata})


def load(name_or_path: str, *, key: str = "model", dtype: type = jnp.float32) -> Potential:
    """Load a model by name, or any safetensors file written by `save`.

    The first time that a model of another package is loaded, its converted weights are put into the user's cache.

    Args:
      name_or_path: one of `NAMES` or a path to a file.
      key: dotted configuration key, for the error message.
      dtype: of the weights.

    Raises:
      ConfigError: if there is neither such a model nor such a file, or if the package that has it is missing.
      WeightsError: if the file does not fit the architecture that it states.
    """
    if name_or_path in SHIPPED:
        path = Path(str(resources.files("bayes_mlff.models") / "pretrained" / SHIPPED[name_or_path]))
    else:
        path = _converted(name_or_path, key) if name_or_path in CHECKPOINTS else Path(name_or_path)
    if not path.is_file():
        raise ConfigError(key, name_or_path, f"one of {sorted(NAMES)} or the path of a .safetensors file")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        stored = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    if "config" not in metadata:
        raise WeightsError(f"{path}: no model configuration in the file's metadata")
    config = MODEL_CONFIG.validate_json(metadata["config"])
    template = jax.eval_shape(_initializer(config, dtype), jax.random.key(0))
    return Potential(config, fill(template, stored, str(path)))


def _converted(name: str, key: str) -> Path:
    """The file with the weights of a model of `CHECKPOINTS`, which is written if it is not there."""
    path = cached(name)
    if not path.is_file():
        source = find(name, key)
        checkpoint = read(source)
        state = {k: v.astype(np.float64) for k, v in checkpoint.state.items()}
        description = describe(checkpoint.settings, state)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        potential = Potential(description.config, from_sevennet(state, description))
        save(potential, unfinished, {"provenance": f"{name}, SHA-256 of the checkpoint {CHECKPOINTS[name].sha256}"})
        unfinished.replace(path)
    return path


def fill(template: Params, stored: dict[str, np.ndarray], source: str) -> Params:
    """Put stored arrays in the places of a template, one to one.

    Raises:
      WeightsError: naming every entry that is missing, left over or of another shape.
    """
    wanted = cast(dict[str, jax.ShapeDtypeStruct], flatten_dict(template, sep="/"))  # annotated as nested
    problems = [f"missing {k}" for k in wanted if k not in stored]
    problems += [f"unused {k}" for k in stored if k not in wanted]
    problems += [
        f"{k} has shape {stored[k].shape}, expected {v.shape}"
        for k, v in wanted.items()
        if k in stored and stored[k].shape != v.shape
    ]
    if problems:
        raise WeightsError(f"{source}: " + "; ".join(problems))
    return unflatten_dict({k: jnp.asarray(stored[k], v.dtype) for k, v in wanted.items()}, sep="/")

"""Models by name or path: configuration, weights and the functions made of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree
from safetensors import safe_open
from safetensors.numpy import save_file

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.energetics import NodeOutput, Params
from bayes_mlff.models.nequip import NequIP

SHIPPED = {"nequip-md17-small": "nequip_md17_small.safetensors"}
"""Models that come with the package, by the name used in configurations."""


@dataclass(frozen=True)
class Potential:
    """A network with its weights."""

    config: NequIPConfig
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
        return NequIP(self.config).apply({"params": params}, vectors, species, neighbors, edge_mask, receivers)  # type: ignore[return-value]

    def flat(self) -> tuple[jax.Array, Callable[[jax.Array], Params]]:
        """The weights as one vector [p], and the way back."""
        return ravel_pytree(self.params)

    def isolated_energy(self, numbers: np.ndarray) -> float:
        """Sum of the energies of the isolated atoms, eV, in float64; the network's energy comes on top."""
        table = dict(zip(self.config.elements, self.config.energy_shifts, strict=True))
        return float(sum(table[int(z)] for z in numbers))


def initialize(config: NequIPConfig, seed: int, dtype: type = jnp.float32) -> Potential:
    """Random weights, every entry of unit variance."""
    return Potential(config, jax.jit(_initializer(config, dtype))(jax.random.key(seed)))


def _initializer(config: NequIPConfig, dtype: type) -> Callable[[jax.Array], Params]:
    def init(key: jax.Array) -> Params:
        indices = jnp.zeros((2, 1), jnp.int32)
        return NequIP(config).init(key, jnp.ones((2, 1, 3), dtype), indices[:, 0], indices, indices == 0)["params"]

    return init


def save(potential: Potential, path: Path, metadata: dict[str, str]) -> None:
    """Write weights and architecture to one safetensors file."""
    flat = {k: np.asarray(v) for k, v in flatten_dict(potential.params, sep="/").items()}
    save_file(flat, path, metadata={"config": potential.config.model_dump_json(), **metadata})


def load(name_or_path: str, *, key: str = "model", dtype: type = jnp.float32) -> Potential:
    """Load a shipped model by name, or any safetensors file written by `save`.

    Args:
      name_or_path: a name of `SHIPPED` or a path to a file.
      key: dotted configuration key, for the error message.
      dtype: of the weights.

    Raises:
      ConfigError: if there is neither such a model nor such a file.
      WeightsError: if the file does not fit the architecture that it states.
    """
    if name_or_path in SHIPPED:
        path = Path(str(resources.files("bayes_mlff.models") / "pretrained" / SHIPPED[name_or_path]))
    else:
        path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(key, name_or_path, f"one of {sorted(SHIPPED)} or the path of a .safetensors file")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        stored = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    if "config" not in metadata:
        raise WeightsError(f"{path}: no model configuration in the file's metadata")
    config = NequIPConfig.model_validate(json.loads(metadata["config"]))
    template = jax.eval_shape(_initializer(config, dtype), jax.random.key(0))
    return Potential(config, fill(template, stored, str(path)))


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

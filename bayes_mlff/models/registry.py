"""Models by name or path: configuration, weights and the functions made of them."""

import math
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from pydantic import ValidationError
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from safetensors.numpy import save_file

from bayes_mlff.core.errors import READER_ERRORS, ConfigError, WeightsError, brief, shown
from bayes_mlff.core.paths import cache_folder, is_file
from bayes_mlff.data.neighbors import species_index
from bayes_mlff.models.config import MODEL_CONFIG, MACEConfig, NequIPConfig
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.importers.downloads import DOWNLOADS, fetch
from bayes_mlff.models.importers.mace_files import read_model
from bayes_mlff.models.importers.sevennet_files import CHECKPOINTS, find, read
from bayes_mlff.models.importers.sevennet_weights import describe, from_sevennet
from bayes_mlff.models.potential import Potential, network

LAYOUT = 1
"""Of converted files; to be raised when a conversion changes, so that older ones are not found any more."""

RADIAL_STD = 4.0
"""Of the first radial weights in `widened`."""

SHIPPED = {
    "nequip-md17-small": "nequip_md17_small.safetensors",
    "mace-perovskite-small": "mace_perovskite_small.safetensors",
}
"""Models that come with the package, by the name used in configurations."""

NAMES = (*SHIPPED, *CHECKPOINTS, *DOWNLOADS)
"""All models that are known by name; `CHECKPOINTS` come with other packages, `DOWNLOADS` are on the internet."""


def initialize(config: NequIPConfig | MACEConfig, seed: int, dtype: type = jnp.float32) -> Potential:
    """Random weights of unit variance, apart from MACE's products."""
    return Potential(config, jax.jit(_initializer(config, dtype))(jax.random.key(seed)))


def widened(potential: Potential) -> Potential:
    """NequIP with larger first radial weights; other networks as they are.

    Bessel functions times envelope have an rms of about 0.2 on the edges of molecules. With unit weights each block
    would add a hundredth of the one before, which training takes long to make up for.
    """
    if not isinstance(potential.config, NequIPConfig):
        return potential
    flat = cast(dict[str, jax.Array], flatten_dict(potential.params, sep="/"))  # annotated as nested
    wide = {k: v * RADIAL_STD if k.endswith("radial/dense_0/weight") else v for k, v in flat.items()}
    return Potential(potential.config, unflatten_dict(wide, sep="/"))


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
      ValueError: if the potential does not know one of them.
    """
    config = potential.config
    kept = tuple(sorted(set(elements)))
    if not kept or not set(kept) <= set(config.elements):
        raise ValueError(f"elements: got {elements}; allowed: some of the model's elements {list(config.elements)}")
    index = np.array([config.elements.index(z) for z in kept])
    tables = {"energy_shifts", "energy_scales"} & set(type(config).model_fields)
    update = {name: tuple(getattr(config, name)[i] for i in index) for name in tables}
    smaller = MODEL_CONFIG.validate_python(config.model_dump() | {"elements": kept} | update)
    flat = flatten_dict(potential.params, sep="/")
    axes = {k: _element_axis(config, k.split("/")) for k in flat}
    params = {k: v if axes[k] is None else jnp.take(jnp.asarray(v), index, axis=axes[k]) for k, v in flat.items()}
    return Potential(smaller, unflatten_dict(params, sep="/"))


def for_atoms(potential: Potential, numbers: np.ndarray) -> Potential:
    """The same potential for the elements of these atoms: absent ones would be sampled from the prior for nothing.

    Raises:
      DataError: if the potential does not know one of them.
    """
    species_index(numbers, potential.config.elements)
    return restrict(potential, tuple(int(z) for z in np.unique(numbers)))


def per_element(potential: Potential) -> Potential:
    """The same NequIP with one self-connection matrix of each element in place of those linear in the embedding.

    Energies are identical; where the embedding is wider than there are elements there are fewer weights to sample.
    """
    config = potential.config
    if not isinstance(config, NequIPConfig) or config.self_connection != "embedding":
        return potential
    flat = cast(dict[str, jax.Array], flatten_dict(potential.params, sep="/"))  # annotated as nested
    table = flat["embedding"]
    if config.one_hot_embedding:
        table = table / math.sqrt(config.declared_elements)
    scale = math.sqrt(config.declared_elements / config.embedding_features)
    for name, weight in flat.items():
        if "/self_connection/" in name:
            flat[name] = scale * jnp.einsum("uvw,sv->usw", weight, table, precision="highest")
    return Potential(config.model_copy(update={"self_connection": "element"}), unflatten_dict(flat, sep="/"))


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
    save_file(_arrays(potential), path, metadata={"config": potential.config.model_dump_json(), **metadata})


def serialised(potential: Potential, metadata: dict[str, str]) -> bytes:
    """What `save` writes."""
    return to_bytes(_arrays(potential), metadata={"config": potential.config.model_dump_json(), **metadata})


def _arrays(potential: Potential) -> dict[str, np.ndarray]:
    """Weights by name. Whatever their strides say, safetensors takes the memory of arrays to be in C order."""
    return {k: np.asarray(v, order="C") for k, v in flatten_dict(potential.params, sep="/").items()}


def load(name_or_path: str, *, key: str = "model", dtype: type = jnp.float32) -> Potential:
    """Load a model by name, any safetensors file written by `save`, or a `.model` file of mace-torch.

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
        known = name_or_path in CHECKPOINTS or name_or_path in DOWNLOADS
        path = _converted(name_or_path, key) if known else Path(name_or_path)
    if not is_file(path):
        raise ConfigError(key, name_or_path, f"one of {sorted(NAMES)} or the path of a .safetensors or .model file")
    if path.suffix == ".model":
        return _cast(read_model(path), dtype)
    return _read(path, dtype)


def _read(path: Path, dtype: type) -> Potential:
    """What `save` wrote."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            stored = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, *READER_ERRORS) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error
    if "config" not in metadata:
        raise WeightsError(f"{path}: no model configuration in the file's metadata")
    try:
        config = MODEL_CONFIG.validate_json(metadata["config"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "config"
        raise WeightsError(
            f"{path}: {key} in the metadata: got {shown(first['input'])}; {brief(first['msg'])}"
        ) from error
    # Before anything is built: every block and every layer has an array of its own.
    depth = config.num_layers if isinstance(config, NequIPConfig) else config.num_interactions
    layers = (config.radial_depth, config.readout_depth) if isinstance(config, NequIPConfig) else ()
    if max(depth, *layers, 0) > len(stored):
        raise WeightsError(f"{path}: the metadata claim {max(depth, *layers)} blocks or layers in {len(stored)} arrays")
    template = jax.eval_shape(_initializer(config, dtype), jax.random.key(0))
    return Potential(config, fill(template, stored, str(path)))


def _cast(potential: Potential, dtype: type) -> Potential:
    return Potential(potential.config, jax.tree.map(lambda x: jnp.asarray(x, dtype), potential.params))


def _original(name: str, key: str) -> tuple[str, Callable[[], Potential]]:
    """SHA-256 and reader of the file in which another package's model is published."""
    if name in CHECKPOINTS:
        path, digest = find(name, key), CHECKPOINTS[name].sha256
        return digest, lambda: _sevennet(path)
    path, digest = fetch(name, key, say=_say)
    return digest, lambda: read_model(path)


def _sevennet(path: Path) -> Potential:
    checkpoint = read(path)
    state = {k: v.astype(np.float64) for k, v in checkpoint.state.items()}
    description = describe(checkpoint.settings, state)
    return Potential(description.config, from_sevennet(state, description))


def _say(line: str) -> None:
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)


def _converted(name: str, key: str) -> Path:
    """The file with the weights of a model of `CHECKPOINTS` or `DOWNLOADS`, which is written if it is not there."""
    # What was converted before is found without the package that it came from, unless it could have changed.
    if name in CHECKPOINTS and cached(name, CHECKPOINTS[name].sha256).is_file():
        return cached(name, CHECKPOINTS[name].sha256)
    digest, original = _original(name, key)
    path = cached(name, digest)
    if not path.is_file():
        potential = original()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        save(potential, unfinished, {"provenance": f"{name}, SHA-256 of the original {digest}"})
        unfinished.replace(path)
    return path


def cached(name: str, digest: str) -> Path:
    """Where the converted weights of another package's model are kept; the name tells the original and the layout."""
    return cache_folder() / f"{name}-{digest}-v{LAYOUT}.safetensors"


def fill(template: Params, stored: dict[str, np.ndarray], source: str) -> Params:
    """Put stored arrays in the places of a template, one to one.

    Raises:
      WeightsError: naming every entry that is missing, left over, of another shape or not made of finite numbers.
    """
    wanted = cast(dict[str, jax.ShapeDtypeStruct], flatten_dict(template, sep="/"))  # annotated as nested
    problems = [f"missing {k}" for k in wanted if k not in stored]
    problems += [f"unused {k}" for k in stored if k not in wanted]
    problems += [
        f"{k} has shape {stored[k].shape}, expected {v.shape}"
        for k, v in wanted.items()
        if k in stored and stored[k].shape != v.shape
    ]
    problems += [f"{k} has type {v.dtype}, expected real numbers" for k, v in stored.items() if v.dtype.kind != "f"]
    problems += [f"{k} is not finite" for k, v in stored.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
    if problems:
        raise WeightsError(f"{source}: " + "; ".join(problems))
    return unflatten_dict({k: jnp.asarray(stored[k], v.dtype) for k, v in wanted.items()}, sep="/")

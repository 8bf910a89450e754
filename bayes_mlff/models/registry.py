"""Loading, saving and changing models, which are given by name or path."""

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from safetensors.numpy import save_file

from bayes_mlff.core.errors import READER_ERRORS, ConfigError, WeightsError, first_problem
from bayes_mlff.core.paths import is_file
from bayes_mlff.data.neighbors import species_index
from bayes_mlff.models import architectures, catalogue
from bayes_mlff.models import origin as origins
from bayes_mlff.models.architectures import FileFormat, Published
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.importers.telling import Listener, OnStderr
from bayes_mlff.models.known.entry import Shipped
from bayes_mlff.models.origin import Origin
from bayes_mlff.models.potential import Potential, network


def initialize(config: ArchitectureConfig, seed: int, dtype: type = jnp.float32) -> Potential:
    """Make a potential with random weights; they have unit variance, as for the prior N(0, 1)."""
    return Potential(config, jax.jit(_initializer(config, dtype))(jax.random.key(seed)))


def widened(potential: Potential) -> Potential:
    """Change random weights so that training can start from them; see `nequip.widened`."""
    return Potential(potential.config, architectures.of(potential.config).widened(potential.params))


@functools.lru_cache(maxsize=8)  # the same function is compiled once in a process
def _initializer(config: ArchitectureConfig, dtype: type) -> Callable[[jax.Array], Params]:
    def init(key: jax.Array) -> Params:
        indices = jnp.zeros((2, 1), jnp.int32)
        return network(config).init(key, jnp.ones((2, 1, 3), dtype), indices[:, 0], indices, indices == 0)["params"]

    return init


def restrict(potential: Potential, elements: tuple[int, ...]) -> Potential:
    """Restrict a potential to fewer elements: energies are identical, tables smaller and evaluation cheaper.

    Args:
      potential: network with its weights.
      elements: atomic numbers to keep, in any order.

    Raises:
      ValueError: if the potential does not have one of them.
    """
    config = potential.config
    kept = tuple(sorted(set(elements)))
    if not kept or not set(kept) <= set(config.elements):
        raise ValueError(f"elements: got {elements}; allowed: some of the model's elements {list(config.elements)}")
    places = tuple(config.elements.index(z) for z in kept)
    index, axis_of = np.array(places), architectures.of(config).element_axis
    flat = flatten_dict(potential.params)
    axes = {path: axis_of(config, path) for path in flat}
    params = {k: v if axes[k] is None else jnp.take(jnp.asarray(v), index, axis=axes[k]) for k, v in flat.items()}
    return replace(potential, config=config.restricted(places), params=unflatten_dict(params))


def for_atoms(potential: Potential, numbers: np.ndarray) -> Potential:
    """Restrict a potential to the elements of these atoms; weights of absent elements need not be sampled.

    Raises:
      DataError: if the potential does not have one of them.
    """
    species_index(numbers, potential.config.elements)
    return restrict(potential, tuple(int(z) for z in np.unique(numbers)))


def per_element(potential: Potential) -> Potential:
    """Replace weights on an element embedding by weights for each element; see `nequip.per_element`."""
    config, params = architectures.of(potential.config).per_element(potential.config, potential.params)
    return potential if config is potential.config else replace(potential, config=config, params=params)


def save(potential: Potential, path: Path, metadata: dict[str, str]) -> None:
    """Write weights and architecture to one safetensors file."""
    save_file(_arrays(potential), path, metadata=_metadata(potential) | metadata)


def serialised(potential: Potential, metadata: dict[str, str]) -> bytes:
    """The content of the file that `save` writes."""
    return to_bytes(_arrays(potential), metadata=_metadata(potential) | metadata)


def _metadata(potential: Potential) -> dict[str, str]:
    return {"config": potential.config.model_dump_json()} | potential.origin.metadata()


def _arrays(potential: Potential) -> dict[str, np.ndarray]:
    """Weights by name, in C order, since safetensors ignores the strides of arrays."""
    return {k: np.asarray(v, order="C") for k, v in flatten_dict(potential.params, sep="/").items()}


def load(
    name_or_path: str,
    *,
    head: str | None = None,
    key: str = "model",
    dtype: type = jnp.float32,
    listener: Listener | None = None,
) -> Potential:
    """Load a model by name, from a safetensors file written by `save`, or from a file of another program (mace-torch).

    When a model of another package is loaded for the first time, its converted weights are stored in the user's cache.

    Args:
      name_or_path: a name of the catalogue, or a path to a file.
      head: name of the head to take from a file of several; the others are dropped.
      key: dotted configuration key, for the error message.
      dtype: floating-point type of the weights.
      listener: told about a download; by default the standard error stream is.

    Raises:
      ConfigError: if neither a model nor a file of this name exists, if the package of the model is missing, or if a
        head must be named, does not exist, or is named for a model without heads.
      WeightsError: if the weights in the file do not fit the architecture that it states.
    """
    known, published = catalogue.ENTRIES.get(name_or_path), architectures.published().get(name_or_path)
    if known is not None and isinstance(known.source, Shipped):
        path = catalogue.shipped(known.source)
    elif published is not None:
        path = _converted(name_or_path, key, published, head, listener or OnStderr())
    else:
        path = Path(name_or_path)
    if not is_file(path):
        kinds = " or ".join((".safetensors", *(form.suffix for form in architectures.formats())))
        raise ConfigError(key, name_or_path, f"{catalogue.allowed(name_or_path)}, or the path of a {kinds} file")
    form = architectures.format_of(path)
    if form is not None:
        same = catalogue.by_content(path)
        origin = Origin("" if same is None else same.name, head or "")
        return _cast(_imported(form, path, name_or_path, head, origin), dtype)
    found = _read(path, dtype)
    if published is None:
        _check_head(found, name_or_path, head)
    return found if known is None else replace(found, origin=Origin(known.name, head or ""))


def _imported(form: FileFormat, path: Path, name: str, head: str | None, origin: Origin) -> Potential:
    """Read a file of another program.

    Raises:
      ConfigError: if a head is named, and files of this kind have none.
    """
    if form.heads:
        return Potential(*form.read(path, head=head), origin)
    if head is not None:
        raise ConfigError("head", head, f"none: {name} has no heads")
    return Potential(*form.read(path), origin)


def _check_head(potential: Potential, name: str, head: str | None) -> None:
    """Refuse a head other than the one that a file of this package was made from."""
    own = getattr(potential.config, "head", None)
    if head is not None and head != own:
        raise ConfigError("head", head, f"none: {name} has no heads" if own is None else f"{own}, which {name} holds")


def _read(path: Path, dtype: type) -> Potential:
    """Read a file that `save` wrote."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            stored = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, *READER_ERRORS) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error
    if "config" not in metadata:
        raise WeightsError(f"{path}: no model configuration in the file's metadata")
    try:
        config = architectures.read_config(metadata["config"])
    except ValidationError as error:
        place, value, message = first_problem(error, "config")
        raise WeightsError(f"{path}: {place} in the metadata: got {value}; {message}") from error
    # Checked before the network is built: every block and every layer has at least one array.
    claimed = architectures.of(config).most_layers(config)
    if claimed > len(stored):
        raise WeightsError(f"{path}: the metadata claim {claimed} blocks or layers in {len(stored)} arrays")
    template = jax.eval_shape(_initializer(config, dtype), jax.random.key(0))
    return Potential(config, fill(template, stored, str(path)), origins.read(metadata))


def _cast(potential: Potential, dtype: type) -> Potential:
    return replace(potential, params=jax.tree.map(lambda x: jnp.asarray(x, dtype), potential.params))


def _converted(name: str, key: str, source: Published, head: str | None, listener: Listener) -> Path:
    """Path of the converted weights of another project's model; the model is converted if necessary."""
    # An earlier conversion is used without the original package, unless the original could have changed.
    if source.digest is not None and catalogue.cached(name, source.digest, head).is_file():
        return catalogue.cached(name, source.digest, head)
    found, digest = source.find(name, key, listener)
    path = catalogue.cached(name, digest, head)
    if not path.is_file():
        potential = _imported(source.form, found, name, head, Origin(name, head or ""))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        of = "" if head is None else f", head {head}"
        save(potential, unfinished, {"provenance": f"{name}{of}, SHA-256 of the original {digest}"})
        unfinished.replace(path)
    return path


def fill(template: Params, stored: dict[str, np.ndarray], source: str) -> Params:
    """Put stored arrays into the structure of a template; names and shapes must match exactly.

    Raises:
      WeightsError: naming every entry that is missing, superfluous, of another shape or not finite.
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

"""Checkpoints: one file each (SHA-256 and a safetensors body), written whole or not at all, the last two kept."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bayes_mlff.core.errors import RunDirectoryError

FORMAT = 1
Tree = TypeVar("Tree")


def write(folder: Path, step: int, tree: Any, metadata: dict[str, Any]) -> Path:
    """Save a pytree of arrays and JSON metadata durably, then drop all but the two newest checkpoints.

    Args:
      folder: existing directory.
      step: MD step, for the file name.
      tree: pytree of arrays; random keys are stored as their data.
      metadata: JSON-serialisable; floats survive exactly.

    Returns:
      Path of the file.
    """
    arrays = {jax.tree_util.keystr(path): _to_numpy(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    body = save(arrays, metadata={"state": json.dumps({"format": FORMAT, "step": step, **metadata})})
    target = folder / f"{step:09d}.ckpt"
    temporary = folder / "writing"
    with temporary.open("wb") as file:
        file.write(hashlib.sha256(body).digest() + body)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for old in sorted(folder.glob("*.ckpt"))[:-2]:
        old.unlink()
    return target


def newest(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]]:
    """Read the newest checkpoint that is intact.

    Returns:
      Arrays by key path, metadata, and a line for each newer checkpoint that had to be passed over.

    Raises:
      RunDirectoryError: if there is none, or it was written in a newer format.
    """
    remarks = []
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        data = path.read_bytes()
        body = data[32:]
        if hashlib.sha256(body).digest() != data[:32]:
            remarks.append(f"{path.name}: damaged (checksum), falling back to the checkpoint before it")
            continue
        try:
            arrays = load(body)
        except SafetensorError as error:
            remarks.append(f"{path.name}: unreadable ({error}), falling back to the checkpoint before it")
            continue
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        metadata = json.loads(header["__metadata__"]["state"])
        if metadata["format"] > FORMAT:
            raise RunDirectoryError(f"{path}: format {metadata['format']}; this version reads up to {FORMAT}")
        return arrays, metadata, remarks
    raise RunDirectoryError(f"{folder}: no intact checkpoint; " + "; ".join(remarks))


def restore(template: Tree, arrays: dict[str, np.ndarray]) -> Tree:
    """Put stored arrays into a pytree of the same structure; shapes may differ from the template's.

    Raises:
      RunDirectoryError: if an array is missing or left over.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(template)
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    wrong = set(names) ^ set(arrays)
    if wrong:
        raise RunDirectoryError(f"checkpoint: arrays do not match this version: {sorted(wrong)[:5]}")
    leaves = [_from_numpy(arrays[name], leaf) for name, (_, leaf) in zip(names, paths, strict=True)]
    return jax.tree_util.tree_unflatten(treedef, leaves)


def _to_numpy(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf, order="C")


def _from_numpy(array: np.ndarray, leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return array
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array))
    return jnp.asarray(array)

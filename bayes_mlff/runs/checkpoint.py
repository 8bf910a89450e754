"""Checkpoints: one file each (SHA-256 and a safetensors body), written atomically; the last two are kept.

Next to the checkpoint of a step is the ensemble of the run at that step, see `ensemble.files`; it is written before
the checkpoint and removed with it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bayes_mlff.core import durable
from bayes_mlff.core.errors import RunDirectoryError, shown
from bayes_mlff.ensemble import files

FORMAT = 5
Tree = TypeVar("Tree")


def write(folder: Path, step: int, tree: Any, metadata: dict[str, Any]) -> Path:
    """Save a pytree of arrays and JSON metadata durably, then remove all but the two newest checkpoints.

    Args:
      folder: existing directory of the checkpoints.
      step: MD step, for the file name.
      tree: pytree of arrays; random keys are stored as their data.
      metadata: JSON-serialisable; floats are stored exactly.

    Returns:
      Path of the file.

    Raises:
      RunDirectoryError: if the file cannot be written; the earlier checkpoints are then unchanged.
    """
    arrays = {jax.tree_util.keystr(path): _to_numpy(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    body = save(arrays, metadata={"state": json.dumps({"format": FORMAT, "step": step, **metadata})})
    target = at(folder, step)
    try:
        durable.write_whole(target, hashlib.sha256(body).digest() + body)
        here = _all(folder)
        alone = [path for path in files.all_beside(folder) if files.checkpoint_of(path) not in here[-2:]]
        for old in [*here[:-2], *alone, *folder.glob("*.tmp")]:
            old.unlink()
    except OSError as error:
        raise RunDirectoryError(
            f"{target}: cannot be written ({error.strerror}); the checkpoints before it are intact: "
            "resume when this is fixed"
        ) from error
    return target


def at(folder: Path, step: int) -> Path:
    """Path of the checkpoint of a step."""
    return folder / f"{step:09d}{files.CHECKPOINT}"


def newest(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]]:
    """Read the newest checkpoint that is not damaged.

    Returns:
      Arrays by key path, metadata, and one line for each newer checkpoint that was skipped.

    Raises:
      RunDirectoryError: if there is no intact checkpoint, or it was written in another format.
    """
    remarks = []
    for path in reversed(_all(folder)):
        try:
            arrays, metadata = _read(path)
        except _UnreadableError as error:
            remarks.append(f"{path.name}: {error}, falling back to the checkpoint before it")
            continue
        if metadata["format"] != FORMAT:
            raise RunDirectoryError(
                f"{path}: format {metadata['format']}; allowed: {FORMAT}, which this version reads and writes (finish "
                "the run with the version that began it, or start a new one)"
            )
        return arrays, metadata, remarks
    raise RunDirectoryError(
        f"{folder}: no intact checkpoint; {'; '.join(remarks) or 'none at all'}; remove the folder and start or resume "
        "the run: it begins again, with the labels that are already paid for"
    )


class _UnreadableError(Exception):
    """A file is not a readable checkpoint; the message says why."""


def _all(folder: Path) -> list[Path]:
    """Checkpoints in the order of their steps; other files in the folder are ignored."""
    return sorted((p for p in folder.glob(f"*{files.CHECKPOINT}") if p.stem.isdecimal()), key=lambda p: int(p.stem))


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _UnreadableError(f"unreadable ({error.strerror})") from error
    body = data[32:]
    if hashlib.sha256(body).digest() != data[:32]:
        raise _UnreadableError("damaged (checksum)")
    try:
        arrays = load(body)
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        metadata = json.loads(header["__metadata__"]["state"])
        if type(metadata["format"]) is not int:
            raise TypeError(f"format {shown(metadata['format'])}")
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise _UnreadableError(f"unreadable ({type(error).__name__}: {error})") from error
    return arrays, metadata


def restore(template: Tree, arrays: dict[str, np.ndarray]) -> Tree:
    """Put stored arrays into a pytree of the same structure; shapes may differ from the template's.

    Raises:
      RunDirectoryError: if an array is missing or superfluous.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(template)
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    wrong = set(names) ^ set(arrays)
    if wrong:
        raise RunDirectoryError(f"checkpoint: arrays do not match this version: {sorted(wrong)[:5]}")
    try:
        leaves = [_from_numpy(arrays[name], leaf) for name, (_, leaf) in zip(names, paths, strict=True)]
    except (TypeError, ValueError) as error:
        raise RunDirectoryError(f"checkpoint: arrays do not match this version: {error}") from error
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

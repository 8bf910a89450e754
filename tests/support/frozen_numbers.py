"""Numbers of reference implementations, as the `make_*reference.py` files beside the parity tests froze them."""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from bayes_mlff.data.structure import GEOMETRY, Structure

OBSERVABLES: Final = ("energy", "forces", "virial")
"""What is compared, in the order in which reference implementations are evaluated."""


def observables(prefix: str, found: Iterable) -> dict[str, Any]:
    """Arrays of one structure by their names in a file."""
    return {f"{prefix}/{name}": value for name, value in zip(OBSERVABLES, found, strict=True)}


def write(
    path: Path, manifest: Mapping[str, Any], arrays: Mapping[str, Any], structures: Mapping[str, Structure]
) -> None:
    """Write a file, with the structures that were evaluated."""
    geometries = {f"structures/{label}/{k}": getattr(s, k) for label, s in structures.items() for k in GEOMETRY}
    np.savez_compressed(path, manifest=json.dumps(manifest), **arrays, **geometries)


@functools.cache
def frozen(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Manifest and arrays of a file."""
    with np.load(path) as file:
        return json.loads(str(file["manifest"])), {k: file[k] for k in file.files if k != "manifest"}


def frozen_structure(path: Path, label: str) -> Structure:
    """A structure of a file."""
    return Structure(*(frozen(path)[1][f"structures/{label}/{field}"] for field in GEOMETRY))

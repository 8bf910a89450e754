"""Numbers of reference implementations, as the `make_*reference.py` files beside the parity tests froze them."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from bayes_mlff.data.structure import GEOMETRY, Structure


@functools.cache
def frozen(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Manifest and arrays of a file."""
    with np.load(path) as file:
        return json.loads(str(file["manifest"])), {k: file[k] for k in file.files if k != "manifest"}


def frozen_structure(path: Path, label: str) -> Structure:
    """A structure of a file."""
    return Structure(*(frozen(path)[1][f"structures/{label}/{field}"] for field in GEOMETRY))

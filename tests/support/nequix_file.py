"""Small files of Nequix, made without nequix."""

import io
import json
from typing import Any, Final

import numpy as np

from bayes_mlff.models.importers.nequix_weights import describe, layout

HEADER: Final[dict[str, Any]] = {
    "atomic_numbers": [1, 8],
    "hidden_irreps": "2x0e + 3x1o",
    "lmax": 1,
    "cutoff": 3.0,
    "n_layers": 2,
    "radial_basis_size": 2,
    "radial_mlp_size": 3,
    "radial_mlp_layers": 1,
    "radial_polynomial_p": 6.0,
    "mlp_init_scale": 4.0,
    "index_weights": False,
    "layer_norm": True,
    "shift": -0.5,
    "scale": 1.5,
    "avg_n_neighbors": 7.5,
    "train_path": "somewhere",
    "atom_energies": {"1": -13.6, "8": -2041.25},
}


def random_leaves(header: dict[str, Any]) -> list[np.ndarray]:
    """Arrays of the shapes that a header asks for, float32."""
    rng = np.random.default_rng(0)
    some = [np.zeros(len(header["atomic_numbers"]))] * 20
    return [rng.normal(size=leaf.shape).astype(np.float32) for leaf in layout(describe(header, some))]


def content(header: Any, leaves: list[np.ndarray], end: bytes = b"") -> bytes:
    """A file; `end` is what follows the arrays."""
    return json.dumps(header).encode() + b"\n" + b"".join(map(npy, leaves)) + end


def npy(array: Any) -> bytes:
    """An array as a file has it."""
    stream = io.BytesIO()
    np.save(stream, np.asarray(array))
    return stream.getvalue()


def claim(shape: tuple[int, ...]) -> bytes:
    """Eight bytes that call themselves an array of float32 of a shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(8)

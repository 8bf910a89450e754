"""Evaluate nequix 0.4.5 (JAX, equinox, e3nn-jax) on known weights and structures and freeze what it says.

    python tests/parity/make_nequix_reference.py

needs an environment with this package and `pip install nequix==0.4.5`, and rewrites `nequix_reference.npz` beside this
file. The file holds no weights: they follow from the names and shapes of the model's leaves and a bit stream that numpy
guarantees not to change. The test of the frozen numbers uses this module without nequix, hence the imports inside
functions.
"""

from __future__ import annotations

import io
import json
import pathlib
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.geometry import complete_cell

from bayes_mlff.data.structure import Structure
from bayes_mlff.testing.structures import ethanol, slab, triclinic
from tests.support import frozen_numbers

PATH = pathlib.Path(__file__).with_name("nequix_reference.npz")
RADIAL_GAIN = 2.0
"""Standard deviation of what a radial layer makes of inputs of unit variance."""

STRUCTURES = {"ethanol": ethanol(), "triclinic": triclinic(), "slab": slab()}


def headers() -> dict[str, dict[str, Any]]:
    """The headers of the models to compare, with every setting away from its default."""
    elements = (1, 6, 7, 8, 57)
    common = {
        "atomic_numbers": list(elements),
        "atom_energies": {str(z): -0.3 * i for i, z in enumerate(elements)},
        "hidden_irreps": "6x0e + 5x1o + 4x2e + 3x3o",
        "lmax": 3,
        "cutoff": 4.0,
        "n_layers": 3,
        "radial_basis_size": 5,
        "radial_mlp_size": 9,
        "radial_mlp_layers": 2,
        "radial_polynomial_p": 5.0,
        "mlp_init_scale": 4.0,
        "index_weights": False,
        "layer_norm": True,
        "shift": -0.7,
        "scale": 1.3,
        "avg_n_neighbors": 11.3,
        "optimizer": "muon",
    }
    return {
        "published": common,
        "indexed": common
        | {"hidden_irreps": "5x0e + 4x1o", "lmax": 2, "index_weights": True, "layer_norm": False, "n_layers": 4},
        "scalars": common | {"hidden_irreps": "7x0e", "lmax": 0, "radial_mlp_layers": 1, "index_weights": True},
    }


def build(header: dict[str, Any]) -> Any:
    """The network of nequix with random weights."""
    from nequix.model import Nequix

    given = {k: v for k, v in header.items() if k not in ("atomic_numbers", "optimizer", "atom_energies")}
    energies = [header["atom_energies"][str(z)] for z in header["atomic_numbers"]]
    return Nequix(jax.random.key(0), len(header["atomic_numbers"]), atom_energies=energies, **given)


def shapes_of(model: Any) -> list[tuple[str, list[int]]]:
    """Names and shapes of the leaves of a network, in the order in which a file has them."""
    import equinox

    leaves = jax.tree_util.tree_leaves_with_path(equinox.filter(model, equinox.is_array))
    return [(jax.tree_util.keystr(path), list(leaf.shape)) for path, leaf in leaves]


def known_leaves(shapes: list[tuple[str, list[int]]]) -> list[np.ndarray]:
    """Leaves of unit variance, with radial ones normalised for their inputs, from PCG64's raw bits."""
    leaves = []
    for i, (name, shape) in enumerate(shapes):
        raw = np.random.PCG64(5000 + i).random_raw(int(np.prod(shape)))
        unit = np.sqrt(3.0) * (2.0 * (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 1.0)
        scale = RADIAL_GAIN / np.sqrt(shape[0]) if "radial_mlp" in name else 1.0
        leaves.append(unit.reshape(shape) * scale)
    return leaves


def content(header: dict[str, Any], leaves: list[np.ndarray], end: bytes = b"") -> bytes:
    """A file of nequix in double precision, without equinox; `end` is what follows the weights."""
    stream = io.BytesIO()
    stream.write(json.dumps(header).encode() + b"\n")
    for leaf in leaves:
        np.save(stream, leaf)
    return stream.getvalue() + end


def filled(model: Any, leaves: list[np.ndarray]) -> Any:
    """The network with other leaves."""
    import equinox

    arrays, rest = equinox.partition(model, equinox.is_array)
    tree = jax.tree.unflatten(jax.tree.structure(arrays), [jnp.asarray(leaf) for leaf in leaves])
    return equinox.combine(tree, rest)


def in_double(model: Any) -> Any:
    """The network in double precision."""
    import equinox

    return jax.tree.map(lambda x: x.astype(jnp.float64) if equinox.is_array(x) else x, model)


def evaluate(
    model: Any, elements: list[int], cutoff: float, structure: Structure
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy in eV, forces [n, 3] in eV/Å and virial V·S [3, 3] in eV, in double precision.

    The package leaves the images of atoms out where a structure is not periodic in all directions, and rounds positions
    to single precision; here it gets a completed cell and all digits.
    """
    import equinox
    import jraph
    from nequix.data import atomic_numbers_to_indices, dict_to_graphstuple, preprocess_graph

    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    found = preprocess_graph(atoms, atomic_numbers_to_indices(elements), cutoff, False)
    cell = np.asarray(complete_cell(atoms.cell))
    found |= {"positions": atoms.positions, "shifts": found["shifts"].astype(np.float64), "cell": cell}
    graph = dict_to_graphstuple(found)
    graph = jraph.pad_with_graphs(graph, n_node=len(atoms) + 1, n_edge=len(found["senders"]) + 1, n_graph=2)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        energy, forces, stress = equinox.filter_jit(model)(graph)
    assert forces.dtype == np.float64
    return float(energy[0]), np.asarray(forces)[: len(atoms)], np.asarray(stress[0]) * abs(np.linalg.det(cell))


def main() -> None:
    """Write the frozen reference."""
    from importlib.metadata import version

    jax.config.update("jax_enable_x64", True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("nequix", "jax", "equinox", "e3nn-jax", "numpy"))
    manifest: dict[str, Any] = {
        "provenance": f"{packages}, Python {platform.python_version()}, float64, tests/parity/make_nequix_reference.py",
        "cases": {},
    }
    arrays: dict[str, Any] = {}
    for name, header in headers().items():
        model = build(header)
        shapes = shapes_of(model)
        manifest["cases"][name] = {"header": header, "shapes": shapes}
        model = filled(model, known_leaves(shapes))
        for label, structure in STRUCTURES.items():
            said = evaluate(model, header["atomic_numbers"], header["cutoff"], structure)
            arrays |= frozen_numbers.observables(f"{name}/{label}", said)
    frozen_numbers.write(PATH, manifest, arrays, STRUCTURES)


if __name__ == "__main__":
    main()

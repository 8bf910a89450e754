"""Evaluate EquiformerV2 of fairchem-core 1.10.0 on known weights and structures and freeze what it says.

    python -m tests.parity.make_equiformer_v2_reference

needs an environment with this package, PyTorch, `pip install --no-deps fairchem-core==1.10.0 e3nn`, torch-geometric and
the other packages that fairchem imports (lmdb, huggingface_hub, opt-einsum-fx, tqdm), and rewrites beside this file
`equiformer_v2_reference.npz` and two checkpoints of a tiny network, one of each generation. The first holds no weights:
they follow from the names and shapes of the model's parameters and a bit stream that numpy guarantees not to change.
The test of the frozen numbers uses this module without fairchem, hence the imports inside functions.

In fairchem the frame of an edge has a random angle about it, and the activation on the grid depends on that a little.
Here it gets the frames of this package, computed with numpy. It computes lattice translations in single precision: the
cells are multiples of 1/64 Å, so that these are exact.
"""

from __future__ import annotations

import contextlib
import copy
import pathlib
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase.geometry import complete_cell

from bayes_mlff.data.structure import Structure
from bayes_mlff.testing.structures import ethanol, slab, triclinic
from tests.support import fairchem_stand_ins, frozen_numbers

PATH = pathlib.Path(__file__).with_name("equiformer_v2_reference.npz")
CHECKPOINTS = {name: pathlib.Path(__file__).with_name(f"equiformer_v2_{name}.pt") for name in ("hydra", "single")}
"""Checkpoints by generation."""
ELEMENTS = (1, 6, 8)
AXIS = np.array([1.0, np.sqrt(2.0), 2.0 * np.sqrt(2.0)]) / np.sqrt(11.0)
POLE = np.array([0.0, 1.0, 0.0])
BUFFERS = ("SO3_rotation", "SO3_grid", "mappingReduced", "distance_expansion", "expand_index", "balance_degree_weight")
"""Parts of the names of entries of a state that are constants."""

SMALL: dict[str, Any] = {
    "max_neighbors": 500,
    "max_radius": 3.5,
    "max_num_elements": 10,
    "num_layers": 2,
    "sphere_channels": 8,
    "attn_hidden_channels": 6,
    "num_heads": 2,
    "attn_alpha_channels": 5,
    "attn_value_channels": 3,
    "ffn_hidden_channels": 7,
    "norm_type": "layer_norm_sh",
    "lmax_list": [2],
    "mmax_list": [1],
    "grid_resolution": 6,
    "edge_channels": 9,
    "use_grid_mlp": True,
    "avg_num_nodes": 5.0,
    "avg_degree": 3.0,
}
"""Arguments of the backbone of the smallest network."""

TINY: dict[str, Any] = SMALL | {
    "num_layers": 1,
    "sphere_channels": 4,
    "attn_hidden_channels": 3,
    "attn_alpha_channels": 2,
    "attn_value_channels": 2,
    "ffn_hidden_channels": 4,
    "edge_channels": 4,
}
"""Arguments of the backbone of the checkpoints."""

HEADS = {"energy": {"module": "equiformerV2_scalar_head"}, "forces": {"module": "equiformerV2_vector_head"}}
"""Heads of a hydra."""

SCALES = {"energy": 2.5, "forces": 1.5}
"""Standard deviations by which outputs of the checkpoints are multiplied."""

PUBLISHED: dict[str, Any] = {
    "max_neighbors": 20,
    "max_radius": 12.0,
    "max_num_elements": 90,
    "num_layers": 8,
    "sphere_channels": 128,
    "attn_hidden_channels": 64,
    "num_heads": 8,
    "attn_alpha_channels": 64,
    "attn_value_channels": 16,
    "ffn_hidden_channels": 128,
    "norm_type": "layer_norm_sh",
    "lmax_list": [4],
    "mmax_list": [2],
    "grid_resolution": 18,
    "edge_channels": 128,
    "use_grid_mlp": True,
}
"""Arguments of the backbone of the published network of 31 M weights."""


def in_binary(structure: Structure) -> Structure:
    """A structure whose cell vectors are multiples of 1/64 Å, and complete."""
    cell = np.asarray(complete_cell(structure.cell))
    return structure._replace(cell=np.round(cell * 64.0) / 64.0)


STRUCTURES = {"ethanol": ethanol(), "triclinic": in_binary(triclinic()), "slab": in_binary(slab())}


def cases() -> dict[str, dict[str, Any]]:
    """Arguments of the backbones to compare."""
    return {
        "small": SMALL,
        "gates": SMALL
        | {"use_grid_mlp": False, "use_gate_act": True, "lmax_list": [3], "mmax_list": [2], "grid_resolution": 10},
        "grids": SMALL
        | {"use_grid_mlp": False, "lmax_list": [3], "mmax_list": [3], "grid_resolution": 8, "max_neighbors": 7},
        "published": PUBLISHED,
    }


def build(settings: Mapping[str, Any]) -> Any:
    """Backbone with energy and force head, in double precision."""
    import torch

    fairchem_stand_ins.install()
    from fairchem.core.models.base import HydraModel
    from fairchem.core.models.equiformer_v2 import equiformer_v2  # noqa: F401  # registers

    torch.set_default_dtype(torch.float64)
    backbone = {"model": "equiformer_v2_backbone", "use_pbc": True, "regress_forces": True, **settings}
    return HydraModel(backbone=backbone, heads=HEADS, pass_through_head_outputs=True).double().eval()


def shapes_of(model: Any) -> list[tuple[str, list[int]]]:
    """Names and shapes of the parameters of a network."""
    return [(name, list(value.shape)) for name, value in model.named_parameters()]


def known_state(shapes: list[tuple[str, list[int]]]) -> dict[str, np.ndarray]:
    """Parameters from PCG64's raw bits: matrices of unit variance per input, factors of norms about one."""
    state = {}
    for i, (name, shape) in enumerate(shapes):
        raw = np.random.PCG64(7000 + i).random_raw(int(np.prod(shape)))
        unit = np.sqrt(3.0) * (2.0 * (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 1.0)
        if "affine_weight" in name or ("norm" in name and name.endswith("weight")) or _is_norm_of_radial(name, shape):
            values = 1.0 + 0.3 * unit
        elif "embedding.weight" in name:
            values = unit
        else:
            values = unit * (0.3 if len(shape) == 1 else 1.0 / np.sqrt(shape[-1]))
        state[name] = values.reshape(shape)
    return state


def _is_norm_of_radial(name: str, shape: list[int]) -> bool:
    return "rad_func.net" in name and name.endswith("weight") and len(shape) == 1


def load(model: Any, state: Mapping[str, np.ndarray]) -> None:
    """Give a network these parameters."""
    import torch

    missing, unexpected = model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=False)
    assert not unexpected and all(any(part in name for part in BUFFERS) for name in missing), (missing, unexpected)


def half_turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The half turn [..., 3, 3] about the bisector of unit vectors."""
    bisector = start + end
    outer = bisector[..., :, None] * bisector[..., None, :]
    return 2.0 * outer / np.sum(bisector**2, axis=-1)[..., None, None] - np.eye(3)


@contextlib.contextmanager
def fixed_frames() -> Iterator[None]:
    """fairchem with the frames of this package in the place of random ones."""
    import torch
    from fairchem.core.models.equiformer_v2 import equiformer_v2, equiformer_v2_deprecated

    def frames(vectors: Any) -> Any:
        unit = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=1, keepdims=True)
        return torch.tensor(half_turn(AXIS, POLE) @ half_turn(unit, AXIS))

    before = equiformer_v2.init_edge_rot_mat
    for module in (equiformer_v2, equiformer_v2_deprecated):
        module.init_edge_rot_mat = frames
    yield
    for module in (equiformer_v2, equiformer_v2_deprecated):
        module.init_edge_rot_mat = before


def evaluate(model: Any, structure: Structure) -> tuple[float, np.ndarray]:
    """Energy and forces [n, 3] in the units of the network's outputs, in double precision."""
    import torch
    from torch_geometric.data import Batch, Data

    cell = np.asarray(complete_cell(structure.cell)) if structure.pbc.any() else np.eye(3)
    data = Data(
        pos=torch.tensor(structure.positions),
        atomic_numbers=torch.tensor(structure.numbers),
        cell=torch.tensor(cell[None], dtype=torch.float32),
        natoms=torch.tensor([len(structure.numbers)]),
        pbc=torch.tensor(structure.pbc[None]),
    )
    with fixed_frames(), torch.no_grad():
        out = model(Batch.from_data_list([data]))
    return float(out["energy"][0].detach()), out["forces"].detach().numpy()


def write_checkpoints() -> dict[str, Any]:
    """Write a checkpoint of each generation, with weights that only the elements of the structures have trained.

    They are in single precision. The newer one has a moving average of the weights, too. What the networks with the
    weights that count say in double precision is returned.
    """
    import torch
    from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
    from fairchem.core.modules.normalization.normalizer import Normalizer

    arrays: dict[str, Any] = {}
    for generation, path in CHECKPOINTS.items():
        model, exact = _tiny(generation), _tiny(generation)
        load(model, _trained(known_state(shapes_of(model))))
        model = model.float()
        state = {f"module.{k}": v for k, v in copy.deepcopy(model).state_dict().items()}
        normalizers = {k: Normalizer(0.25 if k == "energy" else 0.0, v).state_dict() for k, v in SCALES.items()}
        content = {"epoch": 1.0, "step": 7, "state_dict": state, "amp": None, "val_metrics": {"mae": {"metric": 0.1}}}
        if generation == "hydra":
            average = ExponentialMovingAverage(model.parameters(), 0.5)
            with torch.no_grad():
                for value in model.parameters():
                    value.mul_(0.5)
            average.update()
            average.copy_to()
            model_config = {"name": "hydra", "backbone": {"model": "equiformer_v2_backbone", **TINY}, "heads": HEADS}
            content |= {"ema": average.state_dict(), "normalizers": normalizers, "config": {"model": model_config}}
        else:
            old = {"target": normalizers["energy"], "grad_target": normalizers["forces"]}
            content["normalizers"] = {k: {"mean": v["mean"], "std": v["rmsd"]} for k, v in old.items()}
            content["config"] = {"model": "equiformer_v2", "model_attributes": TINY}
        torch.save(content, path)
        load(exact, {k: v.detach().double().numpy() for k, v in model.named_parameters()})
        for label, structure in STRUCTURES.items():
            energy, forces = evaluate(exact, structure)
            numbers = {"energy": SCALES["energy"] * energy, "forces": SCALES["forces"] * forces}
            arrays |= {f"{generation}/{label}/{k}": v for k, v in numbers.items()}
    return arrays


def _tiny(generation: str) -> Any:
    """The network of a checkpoint, in double precision."""
    if generation == "hydra":
        return build(TINY)
    from fairchem.core.models.equiformer_v2.equiformer_v2_deprecated import EquiformerV2

    return EquiformerV2(**TINY, use_pbc=True).double().eval()


def _trained(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state whose embeddings of edges are nearly zero for elements that no structure has."""
    others = [z for z in range(TINY["max_num_elements"]) if z not in ELEMENTS]
    for name, value in state.items():
        if name.endswith(("source_embedding.weight", "target_embedding.weight")):
            value[others] *= 5e-4
    return state


def main() -> None:
    """Write the frozen reference."""
    from importlib.metadata import version

    packages = ", ".join(f"{name} {version(name)}" for name in ("fairchem-core", "torch", "e3nn", "numpy"))
    manifest: dict[str, Any] = {
        "provenance": f"{packages}, Python {platform.python_version()}, float64, "
        "tests/parity/make_equiformer_v2_reference.py",
        "cases": {},
    }
    arrays: dict[str, Any] = {}
    for name, settings in cases().items():
        model = build(settings)
        shapes = shapes_of(model)
        manifest["cases"][name] = {"settings": settings, "shapes": shapes}
        load(model, known_state(shapes))
        for label, structure in STRUCTURES.items():
            energy, forces = evaluate(model, structure)
            arrays |= {f"{name}/{label}/energy": energy, f"{name}/{label}/forces": forces}
    arrays |= write_checkpoints()
    frozen_numbers.write(PATH, manifest, arrays, STRUCTURES)


if __name__ == "__main__":
    main()

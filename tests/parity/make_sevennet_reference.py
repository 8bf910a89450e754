"""Evaluate SevenNet 0.13.0 (PyTorch) on known weights and structures and freeze what it says.

    python tests/parity/make_sevennet_reference.py

needs the extra `parity` and rewrites `sevennet_reference.npz` beside this file. The file holds no weights: they
follow from the names and shapes of the model's state and a bit stream that numpy guarantees not to change.
The test of the frozen numbers uses this module without PyTorch, hence the imports inside functions.
"""

from __future__ import annotations

import itertools
import pathlib
import platform
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from bayes_mlff.data.structure import Structure
from bayes_mlff.models.importers.sevennet_history import OLD_NAMES
from bayes_mlff.models.importers.sevennet_weights import NOT_WEIGHTS
from tests.support import frozen_numbers

if TYPE_CHECKING:
    import torch

PATH = pathlib.Path(__file__).with_name("sevennet_reference.npz")
RADIAL_GAIN = 2.5
"""Factor on radial weights, lest the later blocks add too little to be seen."""

SYMBOLS = ("O", "Mn", "La", "H", "S", "Ca", "Zr", "C")
"""Elements in the order of SevenNet's types, on purpose not ascending."""

QUANTITIES = ("energy", "forces", "virial")

FLIPPED = ("_w3j_1_1_1", "_w3j_2_1_2")
"""Coupling coefficients to which the old checkpoint gives the other sign."""


def structures() -> dict[str, Structure]:
    """Two perovskites of 20 atoms out of equilibrium, a cell of less than twice the cutoff, a molecule and a slab."""
    rng = np.random.default_rng(7)
    lamno3 = perovskite(
        {
            "La": [(0.9922, 0.0490, 0.25)],
            "Mn": [(0.5, 0.0, 0.0)],
            "O": [(0.0745, 0.4874, 0.25), (0.7256, 0.3066, 0.0384)],
        },
        (5.5367, 5.7473, 7.6929),
    )
    cazrs3 = perovskite(
        {"Ca": [(0.99, 0.05, 0.25)], "Zr": [(0.5, 0.0, 0.0)], "S": [(0.1, 0.46, 0.25), (0.7, 0.3, 0.05)]},
        (6.574, 7.068, 9.638),
    )
    cao = Atoms("CaO", [(0.0, 0.0, 0.0), (2.4, 0.1, 0.0)], cell=2.4 * (1.0 - np.eye(3)), pbc=True)
    positions = [(0, 0, 0), (1.4, 0.1, 0), (-0.5, 0.9, 0.2), (-0.4, -0.6, 0.8), (-0.3, -0.5, -0.9), (1.7, -0.8, 0.2)]
    molecule = Atoms("COHHHH", positions)
    layer = [(0.0, 0.0, 0.1), (1.7, 1.6, 0.0), (1.7, 0.1, 2.2), (0.1, 1.7, 2.5)]
    slab = Atoms("CaCaOO", layer, cell=[[3.4, 0.0, 0.0], [0.3, 3.3, 0.0], [0.0, 0.0, 15.0]], pbc=(True, True, False))
    return {
        "LaMnO3": _distorted(lamno3, rng),
        "CaZrS3": _distorted(cazrs3, rng),
        "CaO": _distorted(cao, rng),
        "methanol": _structure(molecule),
        "slab": _structure(slab),
    }


def perovskite(sites: dict[str, list[tuple[float, float, float]]], cell: tuple[float, float, float]) -> Atoms:
    """A crystal of space group Pbnm from the fractional coordinates of its sites."""
    operations = [
        (np.array([1, 1, 1]), np.zeros(3)),
        (np.array([-1, -1, 1]), np.array([0.0, 0.0, 0.5])),
        (np.array([1, -1, -1]), np.array([0.5, 0.5, 0.0])),
        (np.array([-1, 1, -1]), np.array([0.5, 0.5, 0.5])),
    ]
    symbols, fractional = [], []
    for symbol, positions in sites.items():
        for position in positions:
            images = [sign * (turn * position + shift) for turn, shift in operations for sign in (1, -1)]
            distinct = np.unique(np.round(np.mod(images, 1.0), 6) % 1.0, axis=0)
            symbols += [symbol] * len(distinct)
            fractional.append(distinct)
    return Atoms(symbols, scaled_positions=np.vstack(fractional), cell=cell, pbc=True)


def _distorted(atoms: Atoms, rng: np.random.Generator) -> Structure:
    """Rattled by 0.05 Å and strained by 2 %."""
    atoms = atoms.copy()
    atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    strain = rng.normal(0.0, 0.02, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    return _structure(atoms)


def _structure(atoms: Atoms) -> Structure:
    return Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def cases() -> dict[str, dict[str, Any]]:
    """SevenNet's settings of each model, complete."""
    common = {
        "version": "0.13.0",
        "_model_type": "E3_equivariant_model",
        "chemical_species": list(SYMBOLS),
        "_number_of_species": len(SYMBOLS),
        "_type_map": {str(atomic_numbers[symbol]): i for i, symbol in enumerate(SYMBOLS)},
        "_normalize_sph": True,
        "act_gate": {"e": "silu", "o": "tanh"},
        "act_radial": "silu",
        "act_scalar": {"e": "silu", "o": "tanh"},
        "channel": 4,
        "cutoff": 4.0,
        "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 5},
        "interaction_type": "nequip",
        "irreps_manual": False,
        "is_parity": True,
        "lmax": 2,
        "lmax_edge": -1,
        "lmax_node": -1,
        "num_convolution_layer": 3,
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
        "readout_as_fcn": False,
        "self_connection_type": "linear",
        "train_denominator": False,
        "train_shift_scale": False,
        "use_bias_in_linear": False,
        "weight_nn_hidden_neurons": [7, 7],
        "conv_denominator": [3.1, 2.7, 3.5],
        "shift": [-0.5 + 0.3 * i for i in range(len(SYMBOLS))],
        "scale": [1.7 - 0.1 * i for i in range(len(SYMBOLS))],
    }
    hidden = "6x0e+4x1e+3x2e"
    short = common | {"is_parity": False, "lmax": 1, "num_convolution_layer": 2, "conv_denominator": [3.1, 2.7]}
    return {
        # As SevenNet-0: an old version, no parity, XPLOR, linear self-connections.
        "zero": common
        | {
            "version": "0.9.1",
            "channel": 6,
            "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 3.2, "poly_cut_p_value": 6},
            "irreps_manual": ["5x0e", hidden, hidden, "6x0e"],
            "is_parity": False,
        },
        "both parities": common
        | {
            "conv_denominator": 2.9,
            "lmax_node": 1,
            "num_convolution_layer": 4,
            "scale": 1.3,
            "self_connection_type": "nequip",
            "shift": -0.7,
            "weight_nn_hidden_neurons": [6],
        },
        "high degree": common | {"is_parity": False, "lmax": 3, "lmax_edge": 2, "channel": 3, "version": "0.11.0"},
        # Before settings said how harmonics are normalised; old names in the state.
        "first": {k: v for k, v in short.items() if k != "_normalize_sph"} | {"version": "0.9.1"},
        "modalities": short
        | {
            "lmax": 2,
            "irreps_manual": ["4x0e", "4x0e+2x2e+3x1e", "4x0e"],  # the order matters for gates and their biases
            "use_modality": True,
            "_number_of_modalities": 2,
            "_modal_map": {"PBE": 1, "R2SCAN": 0},
            "use_modal_node_embedding": True,
            "use_modal_self_inter_intro": True,
            "use_modal_self_inter_outro": True,
            "use_modal_output_block": True,
            "use_modal_wise_shift": True,
            "use_modal_wise_scale": True,
            "use_bias_in_linear": True,
            "shift": [[0.2 * j - 0.5 + 0.3 * i for i in range(len(SYMBOLS))] for j in range(2)],
            "scale": [[1.7 - 0.1 * i + 0.3 * j for i in range(len(SYMBOLS))] for j in range(2)],
        },
    }


def heads(settings: dict[str, Any]) -> list[str | None]:
    """The modalities of a case; None for a model without."""
    return list(settings.get("_modal_map", [None]))


def build(settings: dict[str, Any]) -> torch.nn.Module:
    """The PyTorch model of a case, in double precision."""
    import torch
    from sevenn._const import model_defaults
    from sevenn.model_build import build_E3_equivariant_model
    from sevenn.scripts.backward_compatibility import patch_old_config

    given = {k: v for k, v in settings.items() if k != "poly_cut_p_value"}
    defaults = {k: v for k, v in model_defaults(given).items() if k != "_normalize_sph"}  # of today
    complete = patch_old_config(defaults | given)
    complete["_type_map"] = {int(z): i for z, i in settings["_type_map"].items()}
    if complete["cutoff_function"]["cutoff_function_name"] == "XPLOR":
        complete["cutoff_function"] = {k: v for k, v in complete["cutoff_function"].items() if "poly" not in k}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn keeps its coupling coefficients in this
    try:
        return in_double(build_E3_equivariant_model(complete))
    finally:
        torch.set_default_dtype(before)


def in_double(model: torch.nn.Module) -> torch.nn.Module:
    """A SevenNet model for one structure at a time, whose one-hot elements are in double precision too."""

    def cast(_module: torch.nn.Module, _args: object, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**data, "x": data["x"].double(), "node_attr": data["node_attr"].double()}

    model = model.double().eval()
    model.set_is_batch_data(False)
    model.get_submodule("onehot_idx_to_onehot").register_forward_hook(cast)
    return model


def known_state(shapes: dict[str, tuple[int, ...]], settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights of unit variance (radial ones of RADIAL_GAIN²) from PCG64's raw bits; constants from the settings.

    Args:
      shapes: of the entries of the model's state that are not covered by `NOT_WEIGHTS`.
      settings: supply the constants.
    """
    state = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        raw = np.random.PCG64(3000 + i).random_raw(int(np.prod(shape)))
        unit = np.sqrt(3.0) * (2.0 * (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 1.0)
        state[name] = unit.reshape(shape) * (RADIAL_GAIN if "weight_nn" in name else 1.0)
    denominators = np.broadcast_to(settings["conv_denominator"], settings["num_convolution_layer"])
    for i, value in enumerate(denominators):
        state[f"{i}_convolution.denominator"] = np.array([value])
    for kind in ("shift", "scale"):
        name = f"rescale_atomic_energy.{kind}"
        state[name] = np.broadcast_to(np.array(settings[kind]), shapes[name]).copy()
    bessels = state["edge_embedding.basis_function.coeffs"]
    roots = np.arange(1.0, len(bessels) + 1.0) + 0.1 * bessels
    state["edge_embedding.basis_function.coeffs"] = roots * np.pi / settings["cutoff"]
    return state


def as_stored(state: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The state under the names that a checkpoint of its version has."""
    if "_normalize_sph" in settings:
        return state
    parts = {new: old for old, new in OLD_NAMES.items()} | {"rescale_atomic_energy": "rescale atomic energy"}
    for i in range(settings["num_convolution_layer"]):
        for part in ("self_connection_intro", "convolution", "self_interaction_2", "equivariant_gate"):
            parts[f"{i}_{part}"] = f"{i} {part.replace('_', ' ')}"
    stored = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        stored[f"{parts.get(part, part)}.{rest.replace('denominator', 'denumerator')}"] = value
    return stored


def load_known(model: torch.nn.Module, settings: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Put known weights into a model, by way of SevenNet's conversion of old checkpoints where they are old.

    Returns:
      The complete state as the checkpoint would hold it, and the shapes of the entries that were made up.
    """
    import torch
    from sevenn.scripts.backward_compatibility import patch_state_dict_if_old

    full = {k: v.detach().clone() for k, v in model.state_dict().items()}
    shapes = {
        k: tuple(v.shape) for k, v in full.items() if not NOT_WEIGHTS.fullmatch(k) or (k.endswith("bias") and len(v))
    }
    full |= {k: torch.tensor(v) for k, v in known_state(shapes, settings).items()}
    if settings["version"] == "0.9.1":
        full = {k: -v if k.endswith(FLIPPED) else v for k, v in full.items()}
    full = as_stored(full, settings)
    state = {k: v.numpy().copy() for k, v in full.items()}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model.load_state_dict(patch_state_dict_if_old(full, settings, model), strict=True)
    finally:
        torch.set_default_dtype(before)
    return state, shapes


def evaluate(
    model: torch.nn.Module, cutoff: float, structure: Structure, head: str | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy in eV, forces [n, 3] in eV/Å and virial V·S [3, 3] in eV; `head` is the modality, if there are several."""
    import torch
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    if head is not None:
        model.prepare_modal_deploy(head)  # pyright: ignore[reportCallIssue]  # a method
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    graph = unlabeled_atoms_to_graph(atoms, cutoff)
    data = {k: torch.tensor(np.asarray(v)) for k, v in graph.items() if k != "data_info"}
    data["edge_length"] = torch.linalg.norm(data["edge_vec"], dim=-1)
    out = model(data)
    xx, yy, zz, xy, yz, zx = -out["inferred_stress"].detach().numpy().reshape(6)
    stress = np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
    return (
        float(out["inferred_total_energy"].detach()),
        out["inferred_force"].detach().numpy(),
        stress * max(atoms.cell.volume, 1e-3),
    )


def place(name: str, head: str | None, label: str, quantity: str) -> str:
    """Name of an array of the file."""
    return "/".join((name, *([] if head is None else [head]), label, quantity))


def main() -> None:
    """Write the frozen reference."""
    import sevenn
    import torch

    manifest: dict[str, Any] = {
        "provenance": f"sevenn {sevenn.__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, float64, tests/parity/make_sevennet_reference.py",
        "cases": {},
    }
    arrays: dict[str, Any] = {}
    samples = structures()
    for name, settings in cases().items():
        model = build(settings)
        state, shapes = load_known(model, settings)
        manifest["cases"][name] = {"settings": settings, "shapes": shapes}
        arrays |= {f"{name}/state/{k}": v for k, v in state.items() if "_w3j_" in k}
        for head, (label, structure) in itertools.product(heads(settings), samples.items()):
            found = evaluate(model, settings["cutoff"], structure, head)
            arrays |= {place(name, head, label, k): v for k, v in zip(QUANTITIES, found, strict=True)}
    frozen_numbers.write(PATH, manifest, arrays, samples)


if __name__ == "__main__":
    main()

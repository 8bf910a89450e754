"""Evaluate mace-torch on known weights and structures and freeze what it says.

    python tests/parity/make_mace_reference.py

needs mace-torch, which pins an e3nn of its own and so lives in an environment of its own, and rewrites
`mace_reference.npz`, `mace_scalars.model` and `mace_nonlinear.model` beside this file. The first holds no weights: they
follow from the names and shapes of the model's state and a bit stream that numpy guarantees not to change. The test of
the frozen numbers uses this module without PyTorch, hence the imports inside functions.
"""

from __future__ import annotations

import io
import pathlib
import platform
import re
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from bayes_mlff.data.structure import Structure
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.importers.mace_describe import KINDS, LAST_READOUTS
from bayes_mlff.models.importers.mace_torch import NOT_WEIGHTS
from bayes_mlff.models.mace_product import generalized_coupling
from bayes_mlff.testing.structures import ethanol, slab, triclinic
from tests.support import frozen_numbers

if TYPE_CHECKING:
    import torch

PATH = pathlib.Path(__file__).with_name("mace_reference.npz")
MODEL_PATH = PATH.with_name("mace_scalars.model")
MODEL_PATHS = {"scalars": MODEL_PATH, "nonlinear": PATH.with_name("mace_nonlinear.model")}
"""Cases as mace-torch stores models."""

RADIAL_GAIN = 2.0
"""Factor on radial weights. With unit variance messages are small, and so are products of several of them."""

STRUCTURES = {"ethanol": ethanol(), "triclinic": triclinic(), "slab": slab()}
MEDIUM_ELEMENTS = (*range(1, 84), *range(89, 95))
"""Elements of the published model mace-mp-0, whose medium size is the last case."""


def config(hidden: str, **settings: object) -> MACEConfig:
    """A configuration for H, C, O with every setting away from its default."""
    common = {
        "elements": (1, 6, 8),
        "r_max": 4.0,
        "num_interactions": 2,
        "max_ell": 2,
        "correlation": 3,
        "num_bessels": 5,
        "cutoff_power": 6,
        "radial_widths": (9, 7),
        "readout_width": 6,
        "average_neighbors": 3.3,
        "energy_scale": 0.7,
        "energy_shift": -0.4,
        "energy_shifts": (-0.4, 2.3, 0.9),
    }
    return MACEConfig(hidden_irreps=hidden, **(common | settings))


def cases() -> dict[str, MACEConfig]:
    """The architectures to compare."""
    plain = {"first_interaction": "plain"}
    nonlinear = {"first_interaction": "nonlinear", "interaction": "nonlinear", "apply_cutoff": False}
    return {
        "residual": config("5x0e+5x1o"),
        "plain": config("5x0e+5x1o", **plain),
        "scalars": config("8x0e", correlation=2, max_ell=1, radial_widths=(6,)),
        "one": config("6x0e", num_interactions=1, max_ell=3, readout_width=1),
        "three": config("3x0e+3x1o+3x2e", num_interactions=3, max_ell=3, cutoff_power=5),
        "pairs": config("4x0e+4x1o", max_ell=3, correlation=2),
        "beyond": config("4x0e+4x1o+4x2e", num_interactions=3, max_ell=1, **plain),
        "linear": config("4x0e+4x1o+4x2e", num_interactions=3, correlation=1, **plain),
        "density": config("4x0e+4x1o", correlation=2, first_interaction="density", interaction="density_residual"),
        "unscaled": config(
            "4x0e+4x1o",
            first_interaction="density_residual",
            interaction="density",
            max_ell=1,
            correlation=2,
            edge_irreps="3x0e+3x1o",
            apply_cutoff=False,
            readout_bias=True,
            energy_scale=1.0,
            energy_shift=0.0,
        ),
        "nonlinear": config(
            "5x0e+5x1o",
            correlation=2,
            edge_irreps="3x0e+3x1o",
            edge_irreps_first=True,
            agnostic_product=True,
            **nonlinear,
        ),
        "bias": config(
            "4x0e+4x1o",
            max_ell=1,
            correlation=2,
            edge_irreps="2x0e",
            readout_bias=True,
            last_readout_only=True,
            **nonlinear,
        ),
        "medium": config(
            "128x0e+128x1o",
            elements=MEDIUM_ELEMENTS,
            r_max=6.0,
            max_ell=3,
            num_bessels=10,
            cutoff_power=5,
            radial_widths=(64, 64, 64),
            readout_width=16,
            average_neighbors=61.0,
            energy_scale=0.8,
            energy_shift=0.16,
            energy_shifts=tuple(-0.1 * z for z in MEDIUM_ELEMENTS),
        ),
    }


def unscaled(settings: MACEConfig) -> bool:
    """Whether the model is of the class MACE, without scale and shift."""
    return (settings.energy_scale, settings.energy_shift) == (1.0, 0.0)


def build(settings: MACEConfig, **more: object) -> torch.nn.Module:
    """The PyTorch model of a case, in double precision; `more` are further arguments of its class."""
    import mace  # noqa: F401 (must come before e3nn)
    import torch
    from e3nn import o3
    from mace.modules import MACE, ScaleShiftMACE, interaction_classes, readout_classes

    names = {kind: name for name, kind in KINDS.items()}
    readouts = {bias: name for name, bias in LAST_READOUTS.items()}
    scale = {"atomic_inter_scale": settings.energy_scale, "atomic_inter_shift": settings.energy_shift}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    arguments = {
        "r_max": settings.r_max,
        "num_bessel": settings.num_bessels,
        "num_polynomial_cutoff": settings.cutoff_power,
        "max_ell": settings.max_ell,
        "interaction_cls": interaction_classes[names[settings.interaction]],
        "interaction_cls_first": interaction_classes[names[settings.first_interaction]],
        "num_interactions": settings.num_interactions,
        "num_elements": len(settings.elements),
        "hidden_irreps": o3.Irreps(settings.hidden_irreps),
        "MLP_irreps": o3.Irreps(f"{settings.readout_width}x0e"),
        "atomic_energies": np.array(settings.energy_shifts),
        "avg_num_neighbors": settings.average_neighbors,
        "atomic_numbers": list(settings.elements),
        "correlation": settings.correlation,
        "gate": torch.nn.functional.silu,
        "radial_MLP": list(settings.radial_widths),
        "apply_cutoff": settings.apply_cutoff,
        "edge_irreps": o3.Irreps(settings.edge_irreps) if settings.edge_irreps else None,
        "use_edge_irreps_first": settings.edge_irreps_first,
        "use_agnostic_product": settings.agnostic_product,
        "use_last_readout_only": settings.last_readout_only,
        "readout_cls": readout_classes[readouts[settings.readout_bias]],
    }
    arguments |= more if unscaled(settings) else scale | more
    model = (MACE if unscaled(settings) else ScaleShiftMACE)(**arguments)
    torch.set_default_dtype(before)
    return model


def constants(settings: MACEConfig) -> dict[str, np.ndarray]:
    """Entries of the state that follow from the configuration, without the couplings."""
    r_max = np.array(settings.r_max)
    scale = {"scale_shift.scale": settings.energy_scale, "scale_shift.shift": settings.energy_shift}
    return {
        "atomic_numbers": np.array(settings.elements),
        "r_max": r_max,
        "num_interactions": np.array(settings.num_interactions),
        "radial_embedding.bessel_fn.bessel_weights": np.pi / r_max * np.arange(1.0, settings.num_bessels + 1.0),
        "radial_embedding.bessel_fn.r_max": r_max,
        "radial_embedding.bessel_fn.prefactor": np.sqrt(2.0 / r_max),
        "radial_embedding.cutoff_fn.p": np.array(settings.cutoff_power),
        "radial_embedding.cutoff_fn.r_max": r_max,
        "atomic_energies_fn.atomic_energies": np.array(settings.energy_shifts),
        **({} if unscaled(settings) else {k: np.array(v) for k, v in scale.items()}),
    }


def known_state(shapes: dict[str, tuple[int, ...]], settings: MACEConfig) -> dict[str, np.ndarray]:
    """Weights from PCG64's raw bits, see `enlarged`, constants, and couplings of our own.

    Args:
      shapes: of the entries of the model's state that are neither constants nor covered by `NOT_WEIGHTS`.
      settings: supplies the constants.
    """
    state = constants(settings)
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        raw = np.random.PCG64(2000 + i).random_raw(int(np.prod(shape)))
        unit = np.sqrt(3.0) * (2.0 * (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 1.0)
        state[name] = enlarged(name, unit.reshape(shape))
    return state | couplings(list(shapes), settings)


def enlarged(name: str, unit: np.ndarray) -> np.ndarray:
    """Weights of a size at which every part of the network has an influence, from numbers of unit variance."""
    if name.endswith(".alpha"):
        return 4.0 + unit
    if name.endswith(".beta"):
        return 0.5 + 0.2 * unit
    if ".net." not in name:
        return RADIAL_GAIN * unit if "conv_tp_weights" in name else unit
    if unit.ndim == 2:
        return RADIAL_GAIN * unit / np.sqrt(unit.shape[1])  # PyTorch's linear layers do not scale their weights
    layer_norm = name.endswith("weight")
    return 1.0 + 0.4 * unit if layer_norm else 0.4 * unit


def couplings(names: list[str], settings: MACEConfig) -> dict[str, np.ndarray]:
    """The couplings that go with the contractions among the names, zeros where a degree is out of reach."""
    found = {}
    for name in names:
        match = re.fullmatch(r"(products\.\d\.symmetric_contractions\.contractions\.(\d)\.)weights_max", name)
        for order in range(1, settings.correlation + 1) if match else ():
            u = generalized_coupling(settings.max_ell, int(match[2]), order)
            u = u if u.shape[-1] else np.zeros((*u.shape[:-1], 1))
            found[f"{match[1]}U_matrix_{order}"] = u[0] if match[2] == "0" else u
    return found


def load_known(model: torch.nn.Module, settings: MACEConfig) -> tuple[dict[str, np.ndarray], dict[str, tuple]]:
    """Put known weights into a model; return its complete state and the shapes that make them."""
    import torch

    full = {k: v.detach().clone() for k, v in model.state_dict().items()}
    fixed = constants(settings)
    biases = {k for k, v in full.items() if k.endswith(".bias") and v.numel()}
    names = {k for k in full if k in biases or not NOT_WEIGHTS.fullmatch(k)} - set(fixed)
    shapes = {k: tuple(full[k].shape) for k in full if k in names}
    known = known_state(shapes, settings)
    full |= {k: torch.tensor(known[k]).to(full[k].dtype) for k in shapes}
    model.load_state_dict(full, strict=True)
    return {k: v.numpy() for k, v in full.items()}, shapes


def evaluate(
    model: torch.nn.Module, settings: MACEConfig, structure: Structure, head: int = 0
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy in eV, forces [n, 3] in eV/Å and virial V·S [3, 3] in eV, without padding or cell conventions."""
    import torch
    from mace.data.neighborhood import get_neighborhood

    index, shifts, unit_shifts, cell = get_neighborhood(
        structure.positions, settings.r_max, tuple(bool(p) for p in structure.pbc), np.array(structure.cell)
    )
    species = np.array([settings.elements.index(int(z)) for z in structure.numbers])
    n = len(species)
    data = {
        "positions": torch.tensor(structure.positions),
        "node_attrs": torch.eye(len(settings.elements), dtype=torch.float64)[torch.tensor(species)],
        "edge_index": torch.tensor(index).long(),
        "shifts": torch.tensor(shifts),
        "unit_shifts": torch.tensor(unit_shifts).double(),
        "cell": torch.tensor(cell),
        "batch": torch.zeros(n, dtype=torch.int64),
        "ptr": torch.tensor([0, n]),
        "head": torch.full((1,), head),
    }
    out = model(data, compute_virials=True)
    virial = -out["virials"].detach().numpy().reshape(3, 3)
    return float(out["energy"].detach()), out["forces"].detach().numpy(), virial


def write_model(model: torch.nn.Module, path: pathlib.Path) -> None:
    """Store a model as mace-torch does, in a compressed archive."""
    import torch

    stored = io.BytesIO()
    torch.save(model, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))


def main() -> None:
    """Write the frozen reference."""
    import mace
    import torch

    manifest = {
        "provenance": f"mace-torch {mace.__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, float64, tests/parity/make_mace_reference.py",
        "cases": {},
    }
    arrays = {}
    for name, settings in cases().items():
        model = build(settings)
        _, shapes = load_known(model, settings)
        if name in MODEL_PATHS:
            write_model(model, MODEL_PATHS[name])
        manifest["cases"][name] = {"config": settings.model_dump(mode="json"), "shapes": shapes}
        for label, structure in STRUCTURES.items():
            found = evaluate(model, settings, structure)
            arrays |= frozen_numbers.observables(f"{name}/{label}", found)
    frozen_numbers.write(PATH, manifest, arrays, STRUCTURES)


if __name__ == "__main__":
    main()

"""Evaluate NequIP 0.19.1 (PyTorch) on known weights and structures and freeze what it says.

    python tests/parity/make_reference.py

needs the extra `parity` and rewrites `nequip_reference.npz` beside this file. The file holds no weights: they
follow from the names and shapes of the model's state and a bit stream that numpy guarantees not to change.
The test of the frozen numbers uses this module without PyTorch, hence the imports inside functions.
"""

from __future__ import annotations

import pathlib
import platform
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.data.structure import Structure
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.importers.torch_weights import NOT_WEIGHTS, PREFIX, Source, declared
from bayes_mlff.testing.structures import ethanol, slab, triclinic
from tests.support import frozen_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

PATH = pathlib.Path(__file__).with_name("nequip_reference.npz")
RADIAL_GAIN = 2.5
"""Factor on radial weights. With unit variance each block adds a hundredth of the last one, and an error in the
features that need several blocks (1e, 0o) would hide below any tolerance."""

STRUCTURES = {"ethanol": ethanol(), "triclinic": triclinic(), "slab": slab()}


class Case(NamedTuple):
    """One architecture and the way in which the PyTorch model is declared."""

    config: NequIPConfig
    source: Source
    trainable_bessels: bool = False


def config(hidden: str, **settings: object) -> NequIPConfig:
    """A configuration for H, C, O with every setting away from its default."""
    common = {
        "elements": (1, 6, 8),
        "r_max": 4.0,
        "num_layers": 3,
        "edge_l_max": 2,
        "embedding_features": 7,
        "radial_depth": 2,
        "radial_width": 9,
        "num_bessels": 5,
        "cutoff_power": 5,
        "average_neighbors": 11.3,
        "energy_scales": (1.1, 0.7, 1.9),
        "energy_shifts": (-0.4, 2.3, 0.9),
    }
    return NequIPConfig(hidden_irreps=hidden, **(common | settings))


def cases() -> dict[str, Case]:
    """The architectures to compare.

    Odd scalars are first made in the third block, and reach the energy in the sixth; features such as 1e are
    made in the second and reach it in the fourth. Fewer blocks would leave their weights untested.
    """
    both = config("5x0e+3x0o+4x1e+6x1o+2x2e+3x2o", num_layers=4)
    natural = config(
        "6x0e+5x1o+4x2e+3x3o", edge_l_max=3, radial_depth=1, readout_depth=1, readout_width=8, num_layers=2
    )
    scalars = config("8x0e", edge_l_max=0, num_layers=2, radial_depth=1, readout_depth=2, readout_width=6)
    shuffled = config("5x0e+4x0o+3x1o+3x1e+2x2e", edge_l_max=1, num_layers=6, readout_depth=1)
    paper = "64x0e+64x0o+64x1e+64x1o+64x2e+64x2o"
    wide = {"embedding_features": 64, "radial_width": 64, "num_bessels": 8, "cutoff_power": 6}
    four, five = (config(paper, num_layers=n, **wide) for n in (4, 5))
    return {
        "both parities": Case(both, declared(both), trainable_bessels=True),
        "natural parity": Case(natural, Source(("O", "H", "C"), "6x0e+5x1o+4x2e+3x3o")),
        "scalars": Case(scalars, declared(scalars)),
        "shuffled": Case(shuffled, Source(("C", "O", "H"), "3x1o+4x0o+2x2e+5x0e+3x1e"), trainable_bessels=True),
        "four blocks": Case(four, declared(four)),
        "five blocks": Case(five, declared(five)),
    }


def build(case: Case) -> torch.nn.Module:
    """The PyTorch model of a case, in double precision."""
    from nequip.model import FullNequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    settings, layers = case.config, case.config.num_layers
    symbols = declared(settings).type_names
    scalars = next(g for g in case.source.hidden_irreps.split("+") if g.endswith("x0e"))
    return FullNequIPGNNModel(
        seed=0,
        model_dtype="float64",
        r_max=settings.r_max,
        type_names=list(case.source.type_names),
        radial_mlp_depth=[settings.radial_depth] * layers,
        radial_mlp_width=[settings.radial_width] * layers,
        feature_irreps_hidden=[case.source.hidden_irreps] * (layers - 1) + [scalars],
        irreps_edge_sh="+".join(f"1x{l}{'eo'[l % 2]}" for l in range(settings.edge_l_max + 1)),
        type_embed_num_features=settings.embedding_features,
        readout_mlp_hidden_layers_depth=settings.readout_depth,
        readout_mlp_hidden_layers_width=settings.readout_width,
        num_bessels=settings.num_bessels,
        bessel_trainable=case.trainable_bessels,
        polynomial_cutoff_p=settings.cutoff_power,
        avg_num_neighbors=settings.average_neighbors,
        per_type_energy_scales=dict(zip(symbols, settings.energy_scales, strict=True)),
        per_type_energy_shifts=dict(zip(symbols, settings.energy_shifts, strict=True)),
    )


def known_state(shapes: dict[str, tuple[int, ...]], case: Case) -> dict[str, np.ndarray]:
    """Weights of unit variance (radial ones of RADIAL_GAIN²) from PCG64's raw bits; constants from the configuration.

    Args:
      shapes: of the entries of the model's state that are not covered by `NOT_WEIGHTS`.
      case: supplies the constants.
    """
    state = {}
    table = declared(case.config).type_names
    order = [table.index(name) for name in case.source.type_names]
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        raw = np.random.PCG64(1000 + i).random_raw(int(np.prod(shape)))
        unit = np.sqrt(3.0) * (2.0 * (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 1.0)
        state[name] = unit.reshape(shape) * (RADIAL_GAIN if "edge_mlp" in name else 1.0)
    bessels = state[f"{PREFIX}bessel_encode.bessel_weights"]
    roots = np.arange(1.0, case.config.num_bessels + 1.0)[None, :]
    state[f"{PREFIX}bessel_encode.bessel_weights"] = roots + 0.1 * bessels * case.trainable_bessels
    state[f"{PREFIX}edge_norm._rmax_recip"] = np.array(1.0 / case.config.r_max)
    for kind in ("scales", "shifts"):
        values = np.array(getattr(case.config, f"energy_{kind}"))[order]
        state[f"{PREFIX}per_type_energy_scale_shift.{kind}"] = values[:, None]
    return state


def evaluate(
    model: torch.nn.Module, type_names: Sequence[str], r_max: float, structure: Structure
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy in eV, forces [n, 3] in eV/Å and virial V·S [3, 3] in eV."""
    import torch
    from nequip.data import AtomicDataDict, compute_neighborlist_, from_dict

    types = np.array([type_names.index(chemical_symbols[int(z)]) for z in structure.numbers])
    cell = np.where(np.any(structure.cell, axis=1, keepdims=True), structure.cell, 10.0 * np.eye(3))
    data = from_dict(
        {
            "pos": structure.positions,
            "cell": cell,
            "pbc": torch.tensor(structure.pbc)[None, :],
            "atom_types": types,
        }
    )
    data = compute_neighborlist_(AtomicDataDict.with_batch_(data), r_max)
    out = model(data)
    stress = out["stress"].detach().numpy().reshape(3, 3)
    return (
        float(out["total_energy"].detach()),
        out["forces"].detach().numpy(),
        stress * abs(np.linalg.det(cell)),
    )


def load_known(model: torch.nn.Module, case: Case) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Put known weights into a model; return its complete state and the shapes that make them."""
    import torch

    full = {k: v.detach().clone() for k, v in model.state_dict().items()}
    shapes = {k: tuple(v.shape) for k, v in full.items() if not NOT_WEIGHTS.fullmatch(k)}
    full |= {k: torch.tensor(v).to(full[k].dtype) for k, v in known_state(shapes, case).items()}
    model.load_state_dict(full, strict=True)
    return {k: v.numpy() for k, v in full.items()}, shapes


def main() -> None:
    """Write the frozen reference."""
    import nequip
    import torch

    manifest = {
        "provenance": f"nequip {nequip.__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, float64, tests/parity/make_reference.py",
        "cases": {},
    }
    arrays = {}
    for name, case in cases().items():
        model = build(case)
        _, shapes = load_known(model, case)
        manifest["cases"][name] = {
            "config": case.config.model_dump(mode="json"),
            "source": case.source._asdict(),
            "trainable_bessels": case.trainable_bessels,
            "shapes": shapes,
        }
        for label, structure in STRUCTURES.items():
            found = evaluate(model, case.source.type_names, case.config.r_max, structure)
            arrays |= frozen_numbers.observables(f"{name}/{label}", found)
    frozen_numbers.write(PATH, manifest, arrays, STRUCTURES)


if __name__ == "__main__":
    main()

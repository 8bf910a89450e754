"""Evaluate mace-torch with functions of pairs of atoms and with several heads, and freeze what it says.

    python tests/parity/make_mace_pairs_reference.py

needs mace-torch, see `make_mace_reference`, and rewrites `mace_pairs_reference.npz` and `mace_heads.model` beside this
file. Weights follow from their names and shapes; what distinguishes heads and pairs is stored as the model has it.
"""

from __future__ import annotations

import pathlib
import platform
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayes_mlff.data.structure import Structure
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.distance_transforms import Agnesi, Soft
from bayes_mlff.models.importers.mace_torch import NOT_WEIGHTS
from bayes_mlff.models.pair_repulsion import mace_zbl
from bayes_mlff.testing.structures import ethanol, slab, triclinic
from tests.parity import make_mace_reference as single
from tests.support import frozen_numbers

if TYPE_CHECKING:
    import torch

PATH = pathlib.Path(__file__).with_name("mace_pairs_reference.npz")
MODEL_PATH = pathlib.Path(__file__).with_name("mace_heads.model")
"""The case with two heads as mace-torch stores models."""

PAIRS = ("pair_repulsion_fn.", "radial_embedding.distance_transform.")
"""Prefixes of the entries of a state that functions of pairs of atoms have."""

SHORT = (0.3, 0.4, 0.6)
"""Distances between O and H, Å."""


def dimer(distance: float) -> Structure:
    """O and H at a distance in Å, in a direction without symmetry."""
    direction = np.array([0.36, 0.48, 0.8])
    positions = np.stack([np.zeros(3), distance * direction])
    return Structure(np.array([8, 1]), positions, np.zeros((3, 3)), np.zeros(3, bool))


STRUCTURES = {
    "ethanol": ethanol(),
    "triclinic": triclinic(),
    "slab": slab(),
    **{f"dimer-{distance}": dimer(distance) for distance in SHORT},
}


class Case(NamedTuple):
    """A model to compare."""

    heads: tuple[str, ...]
    settings: tuple[MACEConfig, ...]  # for each head


def cases() -> dict[str, Case]:
    """The models, with every constant away from its default."""
    small = {"correlation": 2, "max_ell": 1, "radial_widths": (6,), "num_bessels": 4}
    agnesi, soft = Agnesi(q=0.9, p=4.2, a=1.3), Soft(steepness=3.1)
    zbl = mace_zbl(4, exponent=0.28, prefactor=0.5, coefficients=(0.2, 0.5, 0.25, 0.03))
    both = single.config("4x0e", **small, cutoff_power=4, distance_transform=agnesi, pair_repulsion=zbl, head="pbe")
    other = {"head": "r2scan", "energy_scale": 1.9, "energy_shift": 0.3, "energy_shifts": (-7.0, 1.5, 4.5)}
    biased = single.config(
        "3x0e+3x1o", **small, cutoff_power=4, distance_transform=soft, pair_repulsion=zbl, readout_bias=True, head="pt"
    )
    return {
        "soft": Case(("pt", "r2scan"), (biased, biased.model_copy(update=other))),
        "heads": Case(("pbe", "r2scan"), (both, both.model_copy(update=other))),
    }


def build(case: Case) -> torch.nn.Module:
    """The PyTorch model of a case, in double precision."""
    import torch

    settings = case.settings[0]
    transform, repulsion = settings.distance_transform, settings.pair_repulsion
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    several = {
        "heads": list(case.heads),
        "atomic_energies": np.array([each.energy_shifts for each in case.settings]),
        "atomic_inter_scale": [each.energy_scale for each in case.settings],
        "atomic_inter_shift": [each.energy_shift for each in case.settings],
    }
    model = single.build(
        settings,
        **(several if len(case.heads) > 1 else {}),
        distance_transform="None" if transform is None else transform.kind.capitalize(),
        pair_repulsion=repulsion is not None,
    )
    torch.set_default_dtype(before)
    numbers = {}
    if isinstance(transform, Soft):
        numbers[PAIRS[1] + "alpha"] = transform.steepness
    elif transform is not None:
        numbers |= {PAIRS[1] + k: v for k, v in transform.model_dump(exclude={"kind"}).items()}
    if repulsion is not None:
        numbers |= {
            PAIRS[0] + "a_exp": repulsion.screening_exponent,
            PAIRS[0] + "a_prefactor": 0.5,
            PAIRS[0] + "c": repulsion.coefficients,
        }
    state = model.state_dict()
    model.load_state_dict(state | {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()})
    return model


def load_known(model: torch.nn.Module, case: Case) -> tuple[dict[str, np.ndarray], dict[str, tuple]]:
    """Put known weights into a model; return its complete state and the shapes that make them."""
    import torch

    full = {k: v.detach().clone() for k, v in model.state_dict().items()}
    fixed = single.constants(case.settings[0])
    biases = {k for k, v in full.items() if k.endswith(".bias") and v.numel()}
    names = {k for k in full if k in biases or not NOT_WEIGHTS.fullmatch(k)} - set(fixed)
    shapes = {k: tuple(full[k].shape) for k in full if k in names and not k.startswith(PAIRS)}
    known = single.known_state(shapes, case.settings[0])
    full |= {k: torch.tensor(known[k]).to(full[k].dtype) for k in shapes}
    model.load_state_dict(full, strict=True)
    return {k: v.numpy() for k, v in full.items()}, shapes


def evaluate(
    model: torch.nn.Module, settings: MACEConfig, structure: Structure, head: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """As in `make_mace_reference`; powers of atomic numbers are in the default precision, which calculators set."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    found = single.evaluate(model, settings, structure, head)
    torch.set_default_dtype(before)
    return found


def stored(state: dict[str, np.ndarray], case: Case) -> dict[str, np.ndarray]:
    """The entries of a state that neither its shapes nor the settings of one head determine."""
    names = ("atomic_energies_fn.atomic_energies", "scale_shift.scale", "scale_shift.shift")
    several = names if len(case.heads) > 1 else ()
    return {k: v for k, v in state.items() if k.startswith(PAIRS) or k in several}


def main() -> None:
    """Write the frozen reference."""
    import mace
    import torch

    manifest = {
        "provenance": f"mace-torch {mace.__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, float64, tests/parity/make_mace_pairs_reference.py",
        "cases": {},
    }
    arrays = {}
    for name, case in cases().items():
        model = build(case)
        state, shapes = load_known(model, case)
        if name == "heads":
            single.write_model(model, MODEL_PATH)
        settings = [each.model_dump(mode="json") for each in case.settings]
        manifest["cases"][name] = {"heads": case.heads, "settings": settings, "shapes": shapes}
        arrays |= {f"{name}/state/{k}": v for k, v in stored(state, case).items()}
        for head, each in enumerate(case.settings):
            for label, structure in STRUCTURES.items():
                found = evaluate(model, each, structure, head)
                arrays |= frozen_numbers.observables(f"{name}/{head}/{label}", found)
    frozen_numbers.write(PATH, manifest, arrays, STRUCTURES)


if __name__ == "__main__":
    main()

"""The same work in PyTorch, one chain after the other, as the published code does it; runs in the peer's environment.

    python -m benchmarks.speed.peer nequip sghmc ethanol

prints one line of JSON when it is ready, then does the work once for every line that it reads and prints the seconds.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.speed.cases import (
    BATCH,
    CHAINS,
    ENERGY_SIGMA,
    FORCE_SIGMA,
    FRICTION,
    STEP_SIZE,
    STRESS_SIGMA,
    Case,
    find,
    rattled,
)

MD_STEPS = {"ethanol": 3, "lamno3-40": 1}


def nequip_model(case: Case) -> tuple[Any, str]:
    """A model of nequip 0.6.1, the version that the published run used, and its version."""
    import nequip
    import torch
    from nequip.model import model_from_config

    c = case.config
    settings = {
        "model_builders": ["SimpleIrrepsConfig", "EnergyModel", "ForceOutput"],
        "r_max": c.r_max,
        "num_layers": c.num_layers,
        "l_max": c.edge_l_max,
        "parity": c.parity,
        "num_features": c.embedding_features,
        "num_basis": c.num_bessels,
        "BesselBasis_trainable": False,
        "PolynomialCutoff_p": c.cutoff_power,
        "invariant_layers": c.radial_depth,
        "invariant_neurons": c.radial_width,
        "avg_num_neighbors": c.average_neighbors,
        "use_sc": True,
        "chemical_symbol_to_type": {"H": 0, "C": 1, "O": 2},
        "model_dtype": "float32",
        "default_dtype": "float32",
    }
    return model_from_config(settings, initialize=True), f"nequip {nequip.__version__}, torch {torch.__version__}"


def nequip_batch(case: Case, structures: list[Any]) -> dict[str, Any]:
    """Several structures as one graph."""
    import torch
    from nequip.data import AtomicData
    from nequip.utils.torch_geometric import Batch

    types = torch.tensor([{1: 0, 6: 1, 8: 2}[int(z)] for z in case.structure.numbers])
    frames = [
        AtomicData.from_points(pos=torch.tensor(s.positions).float(), r_max=case.config.r_max, atom_types=types)
        for s in structures
    ]
    return AtomicData.to_AtomicDataDict(Batch.from_data_list(frames))


def nequip_observables(model: Any, data: dict[str, Any], _: bool) -> tuple[Any, ...]:
    """Energies, forces, no stress."""
    out = model(dict(data))
    return out["total_energy"][:, 0], out["forces"], None


def mace_model(case: Case) -> tuple[Any, str]:
    """A model of mace-torch and its version."""
    import mace
    import torch
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, interaction_classes

    c = case.config
    kind = interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = ScaleShiftMACE(
        r_max=c.r_max,
        num_bessel=c.num_bessels,
        num_polynomial_cutoff=c.cutoff_power,
        max_ell=c.max_ell,
        interaction_cls=kind,
        interaction_cls_first=kind,
        num_interactions=c.num_interactions,
        num_elements=len(c.elements),
        hidden_irreps=o3.Irreps(c.hidden_irreps),
        MLP_irreps=o3.Irreps(f"{c.readout_width}x0e"),
        atomic_energies=np.zeros(len(c.elements)),
        avg_num_neighbors=c.average_neighbors,
        atomic_numbers=list(c.elements),
        correlation=c.correlation,
        gate=torch.nn.functional.silu,
        radial_MLP=list(c.radial_widths),
        atomic_inter_scale=c.energy_scale,
        atomic_inter_shift=c.energy_shift,
    )
    return model.float(), f"mace-torch {mace.__version__}, torch {torch.__version__}"


def mace_batch(case: Case, structures: list[Any]) -> dict[str, Any]:
    """Several structures as one graph."""
    import torch
    from mace.data.neighborhood import get_neighborhood

    first, parts = 0, []
    for i, s in enumerate(structures):
        index, shifts, units, cell = get_neighborhood(s.positions, case.config.r_max, (True,) * 3, np.array(s.cell))
        species = np.array([case.config.elements.index(int(z)) for z in s.numbers])
        parts.append((s.positions, index + first, shifts, units, cell, species, np.full(len(species), i)))
        first += len(species)
    position, index, shifts, units, cell, species, batch = (
        np.concatenate(x, axis=-1 if k == 1 else 0) for k, x in enumerate(zip(*parts, strict=True))
    )
    n = len(structures[0].numbers)
    return {
        "positions": torch.tensor(position).float(),
        "node_attrs": torch.eye(len(case.config.elements))[torch.tensor(species)],
        "edge_index": torch.tensor(index).long(),
        "shifts": torch.tensor(shifts).float(),
        "unit_shifts": torch.tensor(units).float(),
        "cell": torch.tensor(cell).float(),
        "batch": torch.tensor(batch),
        "ptr": torch.arange(0, first + 1, n),
        "head": torch.zeros(len(structures), dtype=torch.int64),
    }


def mace_observables(model: Any, data: dict[str, Any], training: bool) -> tuple[Any, ...]:
    """Energies, forces, stress."""
    out = model(dict(data), training=training, compute_stress=True)
    return out["energy"], out["forces"], out["stress"]


def fairchem_model(case: Case) -> tuple[Any, str]:
    """The published EquiformerV2 of fairchem-core with energy and force head, and its version."""
    import importlib.metadata

    import torch

    from tests.parity.make_equiformer_v2_reference import PUBLISHED, build

    model = build(PUBLISHED).float()
    torch.set_default_dtype(torch.float32)
    return model, f"fairchem-core {importlib.metadata.version('fairchem-core')}, torch {torch.__version__}"


def fairchem_batch(case: Case, structures: list[Any]) -> dict[str, Any]:
    """Several structures as one graph, whose neighbours the model finds itself."""
    import torch
    from torch_geometric.data import Batch, Data

    frames = [
        Data(
            pos=torch.tensor(s.positions).float(),
            atomic_numbers=torch.tensor(s.numbers),
            cell=torch.tensor(s.cell[None]).float(),
            natoms=torch.tensor([len(s.numbers)]),
            pbc=torch.tensor(s.pbc[None]),
        )
        for s in structures
    ]
    return {"batch": Batch.from_data_list(frames)}


def fairchem_observables(model: Any, data: dict[str, Any], _: bool) -> tuple[Any, ...]:
    """Energies, forces of the network's head, no stress."""
    out = model(data["batch"])
    return out["energy"].reshape(-1), out["forces"], None


KINDS = {
    "nequip": (nequip_model, nequip_batch, nequip_observables),
    "mace": (mace_model, mace_batch, mace_observables),
    "fairchem": (fairchem_model, fairchem_batch, fairchem_observables),
}


def device() -> str:
    """Where PyTorch computes."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def placed(data: dict[str, Any]) -> dict[str, Any]:
    """Tensors on that device."""
    return {k: v.to(device()) if hasattr(v, "to") else v for k, v in data.items()}


def sghmc(kind: str, case: Case) -> tuple[Callable[[], None], str, int]:
    """One SGHMC step with AMSGrad mass of one chain; the other chains are the same work again."""
    import torch

    make, collate, observe = KINDS[kind]
    model, version = make(case)
    model.to(device()).train()
    batch = placed(collate(case, rattled(case.structure, BATCH)))
    weights = [w for w in model.parameters() if w.requires_grad]
    prior = [w.detach().clone() for w in weights]
    momentum, mean, largest = ([torch.zeros_like(w) for w in weights] for _ in range(3))

    def once() -> None:
        energy, forces, stress = observe(model, batch, True)
        loss = 0.5 * ((energy - 1.0) / ENERGY_SIGMA).square().sum() + 0.5 * (forces / FORCE_SIGMA).square().sum()
        if stress is not None:
            loss = loss + 0.5 * (stress / STRESS_SIGMA).square().sum()
        loss = loss / BATCH + sum(0.5 * ((w - p) / 0.2).square().sum() for w, p in zip(weights, prior, strict=True))
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        with torch.no_grad():
            for w, g, v, m, top in zip(weights, gradients, momentum, mean, largest, strict=True):
                if g is None:
                    continue
                m.mul_(0.999).addcmul_(g, g, value=0.001)
                torch.maximum(top, m, out=top)
                inverse = 1.0 / (top.sqrt() + 1e-4)
                noise = torch.randn_like(w) * (2.0 * FRICTION * STEP_SIZE) ** 0.5 * inverse.sqrt()
                v.mul_(1.0 - FRICTION).sub_(STEP_SIZE * inverse * g).add_(noise)
                w.add_(1e-6 * v)  # small, so that random weights do not run away; the work is the same
            if device() == "cuda":
                torch.cuda.synchronize()

    return once, version, CHAINS


def dynamics(kind: str, case: Case) -> tuple[Callable[[], None], str, float]:
    """ASE Langevin with the mean force of all models, evaluated one after the other."""
    import torch
    from ase import Atoms, units
    from ase.calculators.calculator import Calculator, all_changes
    from ase.md.langevin import Langevin

    make, collate, observe = KINDS[kind]
    models = [make(case) for _ in range(CHAINS)]
    version = models[0][1]
    for model, _ in models:
        model.to(device()).eval()

    class Committee(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as ASE has it)

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            structure = case.structure._replace(positions=atoms.get_positions())
            data = placed(collate(case, [structure]))
            results = [observe(model, data, False) for model, _ in models]
            forces = torch.stack([r[1].detach() for r in results])
            energies = torch.stack([r[0].detach().sum() for r in results])
            self.results = {
                "energy": float(energies.mean()),
                "forces": 1e-3 * forces.mean(0).cpu().numpy(),  # of random weights; the work is the same
                "sigma": float(energies.std()),
            }

    s = case.structure
    atoms = Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc, calculator=Committee())
    md = Langevin(atoms, 0.5 * units.fs, temperature_K=300.0, friction=0.01 / units.fs, rng=np.random.default_rng(0))
    steps = MD_STEPS.get(case.name, 1)
    return lambda: md.run(steps), version, 1.0 / steps


Work = tuple[Callable[[], None], str, float]
"""What does the work once, who does it, and what its seconds are multiplied with."""


def serve(prepare: Callable[[str, str, Case], Work]) -> None:
    """Say who is ready, then work once for every line of standard input and print the seconds."""
    kind, task, name = sys.argv[1:4]
    once, version, factor = prepare(kind, task, find(name))
    once()
    print(json.dumps({"version": version, "factor": factor}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        once()
        seconds = factor * (time.perf_counter() - start)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "gib": used}), flush=True)


if __name__ == "__main__":
    serve(lambda kind, task, case: {"sghmc": sghmc, "md": dynamics}[task](kind, case))

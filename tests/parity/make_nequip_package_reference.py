"""Evaluate packages of nequip 0.19.1 (PyTorch) with random weights and freeze them with what nequip says.

    python tests/parity/make_nequip_package_reference.py

needs the extra `parity` and rewrites `nequip_package_reference.npz` beside this file. The file holds the packages
themselves without the Python code in them, which is not read. The test of the frozen numbers uses this module without
PyTorch, hence the imports inside functions.
"""

from __future__ import annotations

import io
import pathlib
import platform
import tempfile
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_mlff.data.structure import Structure
from bayes_mlff.testing.structures import ethanol, slab, triclinic
from tests.parity.make_reference import RADIAL_GAIN, evaluate
from tests.support import frozen_numbers

if TYPE_CHECKING:
    import torch

PATH = pathlib.Path(__file__).with_name("nequip_package_reference.npz")


def close() -> Structure:
    """Ethanol with two atoms 0.5 Å apart."""
    structure = ethanol()
    positions = structure.positions.copy()
    bond = positions[1] - positions[0]
    positions[1] = positions[0] + 0.5 * bond / np.linalg.norm(bond)
    return structure._replace(positions=positions)


STRUCTURES = {"ethanol": ethanol(), "triclinic": triclinic(), "slab": slab(), "close": close()}

ZBL = "nequip.nn.pair_potential.ZBL"


def cases() -> dict[str, dict[str, Any]]:
    """Arguments of `NequIPGNNModel`."""
    common = {"r_max": 4.0, "avg_num_neighbors": 11.3, "radial_mlp_width": 6, "num_bessels": 5, "num_layers": 3}
    few, many = ["C", "O", "H"], ["Si", "O", "H", "Al", "C"]
    return {
        "l = 1, one parity": common
        | {"type_names": few, "l_max": 1, "parity": False, "num_features": [5, 4], "num_layers": 2},
        "l = 2, both parities": common
        | {
            "type_names": few,
            "l_max": 2,
            "parity": True,
            "num_features": [3, 2, 2],
            "type_embed_num_features": 4,
            "radial_mlp_depth": 2,
            "bessel_trainable": True,
            "polynomial_cutoff_p": 5,
            "per_type_energy_scales": {"H": 1.1, "C": 0.7, "O": 1.9},
            "per_type_energy_shifts": {"H": -0.4, "C": 2.3, "O": 0.9},
            "pair_potential": {"_target_": ZBL, "units": "metal", "chemical_species": few},
        },
        "l = 3, five elements": common
        | {
            "type_names": many,
            "l_max": 3,
            "parity": False,
            "num_features": [5, 3, 2, 2],
            "num_layers": 2,
            "readout_mlp_hidden_layers_depth": 1,
            "readout_mlp_hidden_layers_width": 4,
            "per_type_energy_scales": {"Si": 0.3, "H": 1.1, "C": 0.7, "O": 1.9, "Al": 0.2},
            "per_type_energy_shifts": -3.5,
            "pair_potential": {"_target_": ZBL, "units": "metal", "chemical_species": many, "polynomial_cutoff_p": 4},
        },
        "by elements": common
        | {
            "type_names": many,
            "l_max": 1,
            "parity": True,
            "num_features": 3,
            "per_edge_type_cutoff": {"H": 2.5, "O": {"H": 3.0, "C": 3.7}},
            "avg_num_neighbors": {"Si": 20.0, "H": 9.0, "C": 12.0, "O": 15.0, "Al": 11.0},
            "readout_mlp_hidden_layers_depth": 2,
            "readout_mlp_nonlinearity": None,
            "per_type_energy_scales": 2.5,
            "learnable_shift": True,
            "pair_potential": {"_target_": ZBL, "units": "metal", "chemical_species": many},
        },
    }


def build(arguments: dict[str, Any]) -> torch.nn.Module:
    """The PyTorch model of a case, in double precision, with larger random weights in the radial networks."""
    import torch
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    model = NequIPGNNModel(seed=3, model_dtype="float64", **arguments)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "edge_mlp" in name:
                weights.mul_(RADIAL_GAIN)
            elif "bessel" in name:
                weights.add_(0.1 * torch.randn_like(weights))
    return model


def package(model: Any, path: pathlib.Path, type_names: list[str], **metadata: Any) -> None:
    """Write models as `nequip-package build` does, which starts from a checkpoint instead."""
    import nequip
    import torch
    import yaml
    from nequip.model.saved_models.package import _suppress_package_importer_exporter_warnings
    from nequip.scripts._package_utils import _EXTERNAL_MODULES, _INTERNAL_MODULES, _MOCK_MODULES

    facts = {
        "versions": {"nequip": nequip.__version__, "torch": str(torch.__version__)},
        "package_version_id": 2,
        "available_models": ["eager"],
        "atom_types": dict(enumerate(type_names)),
    }
    importers = (torch.package.importer.sys_importer,)
    with (
        _suppress_package_importer_exporter_warnings(),
        torch.package.PackageExporter(str(path), importer=importers) as exporter,
    ):
        exporter.mock([f"{name}.**" for name in _MOCK_MODULES])
        exporter.extern([f"{name}.**" for name in _EXTERNAL_MODULES])
        exporter.intern([f"{name}.**" for name in _INTERNAL_MODULES])
        exporter.save_text("model", "package_metadata.txt", yaml.dump(facts | metadata))
        if not isinstance(model, torch.nn.ModuleDict):
            model = torch.nn.ModuleDict({"sole_model": model})
        exporter.save_pickle("model", "eager_model.pkl", model, dependencies=True)


def without_code(path: pathlib.Path) -> bytes:
    """A package without its Python code."""
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as full, zipfile.ZipFile(stream, "w") as short:
        for info in full.infolist():
            if not info.filename.endswith(".py"):
                short.writestr(zipfile.ZipInfo(info.filename), full.read(info))
    return stream.getvalue()


def main() -> None:
    """Write the frozen reference."""
    import nequip
    import torch

    manifest = {
        "provenance": f"nequip {nequip.__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, float64, tests/parity/make_nequip_package_reference.py",
        "cases": list(cases()),
    }
    arrays: dict[str, Any] = {}
    for name, arguments in cases().items():
        model = build(arguments)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.nequip.zip"
            package(model, path, arguments["type_names"])
            arrays[f"{name}/package"] = np.frombuffer(without_code(path), np.uint8)
        for label, structure in STRUCTURES.items():
            said = evaluate(model, arguments["type_names"], arguments["r_max"], structure)
            arrays |= frozen_numbers.observables(f"{name}/{label}", said)
    frozen_numbers.write(PATH, manifest, arrays, STRUCTURES)


if __name__ == "__main__":
    main()

"""The full configurations of published MACE models: their sizes, and live against mace-torch 0.3.16 where it is there.

Weights are random. The networks compared with mace-torch have the elements of the structures alone.
"""

import jax
import numpy as np
import pytest
from ase import Atoms

from bayes_mlff.models.importers.mace_describe import describe
from bayes_mlff.models.importers.mace_files import read_model, write_models
from bayes_mlff.models.importers.torch_weights import template
from bayes_mlff.models.mace import MACE
from bayes_mlff.models.registry import Potential, restrict
from bayes_mlff.testing.model_battery import Evaluator, Model
from tests.parity import make_mace_reference as reference
from tests.parity.mace_published import PUBLISHED

TOLERANCE = 1e-7
"""Relative. Forces of ethanol are below 1e-3 eV/Å here, and rounding in the cut-off of the repulsion, which nearly
cancels at the bond of its carbons, leaves 6e-12 eV/Å."""

READOUT_GAIN = 1e-4
"""Factor on the weights of readouts where messages are large: mace-torch sets a stress above 1e10 eV/Å³ to zero."""


@pytest.mark.parametrize("name", [name for name, model in PUBLISHED.items() if model.million_weights])
def test_sizes_are_those_of_the_files(name):
    published = PUBLISHED[name]
    config, more = published.config, len(published.heads) - 1
    shapes = template(MACE(config))
    weights = sum(int(np.prod(v.shape)) for k, v in shapes.items() if not k.startswith("sigma/"))
    # Other heads have their own linear readouts and hidden scalars; the last matrix has every pair of both.
    hidden, heads = config.readout_width, more + 1
    weights += more * config.width * (1 + hidden) + hidden * (heads**2 - 1)
    assert round(weights / 1e6, 2) == published.million_weights


def build(name):
    """The PyTorch model with random weights of unit variance, radial ones enlarged."""
    import torch

    published = PUBLISHED[name]
    settings, count = published.config, len(published.heads)
    several = {
        "heads": list(published.heads),
        "atomic_energies": np.array([settings.energy_shifts] * count),
        "atomic_inter_scale": [settings.energy_scale] * count,
        "atomic_inter_shift": [settings.energy_shift] * count,
    }
    model = reference.build(
        settings,
        distance_transform="Agnesi" if settings.distance_transform else "None",
        pair_repulsion=settings.pair_repulsion is not None,
        **(several if count > 1 else {}),
    )
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.numel():
                small = READOUT_GAIN if settings.first_interaction == "density" and "readouts" in key else 1.0
                drawn = small * reference.enlarged(key, rng.uniform(-1.0, 1.0, tuple(parameter.shape)) * np.sqrt(3.0))
                parameter.copy_(torch.tensor(drawn))
    return model, published.heads.index(settings.head or "Default")


def evaluate(potential, structures):
    """Total energy, forces and virial of each structure; one compilation for all."""
    evaluator = Evaluator(Model(potential.node_fn, potential.params, potential.config.elements, potential.config.r_max))
    return [
        (out.energy + potential.isolated_energy(structure.numbers), out.forces, out.virial)
        for structure, out in zip(structures, evaluator(structures), strict=True)
    ]


def differences(got, expected):
    """Largest difference of energy, forces and virial, relative to the largest number of each."""
    return [float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in zip(got, expected, strict=True)]


def compare(name, folder):
    """Relative differences of energy, forces and virial: of what is read, and of what is written with other weights."""
    import torch
    from mace.calculators import MACECalculator

    published, (model, head) = PUBLISHED[name], build(name)
    assert describe(model, head) == published.config
    torch.save(model, folder / "before.model")
    whole = Potential(*read_model(folder / "before.model", published.config.head))
    assert whole.config == published.config
    potential = restrict(whole, (1, 6, 8))
    structures = reference.STRUCTURES
    read = {}
    for (label, structure), got in zip(structures.items(), evaluate(potential, list(structures.values())), strict=True):
        read[label] = differences(got, reference.evaluate(model, published.config, structure, head))

    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: x * (1.0 + 0.1 * rng.normal(size=x.shape)), potential.params)
    params = dict(params) | {"sigma": potential.params["sigma"]}
    write_models(potential.config, [params], folder / "before.model", [folder / "after.model"], trust=True)
    structure = structures["triclinic"]
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)
    paths, arguments = (
        [str(folder / "after.model")],
        {"head": published.config.head} if len(published.heads) > 1 else {},
    )
    atoms.calc = MACECalculator(model_paths=paths, device="cpu", default_dtype="float64", **arguments)
    stress = atoms.get_stress(voigt=False) * atoms.get_volume()
    expected = (atoms.get_potential_energy(), atoms.get_forces(), stress)
    written = differences(evaluate(Potential(potential.config, params), [structure])[0], expected)
    return read | {"written": written}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_live_at_full_size_and_back(name, tmp_path):
    pytest.importorskip("mace")
    for label, found in compare(name, tmp_path).items():
        assert max(found) < TOLERANCE, (label, found)

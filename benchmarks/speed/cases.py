"""What is timed: architectures of the published runs, and structures; the same for this package and its peers."""

from dataclasses import dataclass
from pathlib import Path

import ase
import ase.io
import numpy as np

from bayes_mlff.data.structure import Structure
from bayes_mlff.models.config import ArchitectureConfig, MACEConfig, NequIPConfig
from bayes_mlff.models.equiformer_v2_config import published
from bayes_mlff.otf import systems

CHAINS, BATCH, LABELS = 8, 5, 8
FORCE_SIGMA, ENERGY_SIGMA, STRESS_SIGMA = 0.05, 0.02, 0.01
STEP_SIZE, FRICTION = 1e-4, 0.1


@dataclass(frozen=True)
class Case:
    """One system."""

    name: str
    structure: Structure
    config: ArchitectureConfig
    l_max: int  # of the harmonics on edges
    with_stress: bool


def ethanol() -> Case:
    """NequIP with five blocks, as published for ethanol."""
    elements = (1, 6, 8)
    config = NequIPConfig(
        elements=elements,
        r_max=4.0,
        hidden_irreps="64x0e+64x0o+64x1e+64x1o+64x2e+64x2o",
        edge_l_max=2,
        num_layers=5,
        embedding_features=64,
        one_hot_embedding=True,
        self_connection="element",
        first_self_connection=True,
        readout_depth=1,
        readout_width=32,
        readout_activation=False,
        radial_width=64,
        num_bessels=8,
        cutoff_power=6,
        average_neighbors=7.8,
        energy_scales=(1.0,) * 3,
        energy_shifts=(0.0,) * 3,
    )
    return Case("ethanol", systems.structure("ethanol", base=Path()), config, 2, False)


def lamno3() -> Case:
    """MACE of the size of mace-mp-0 medium, for the elements present, and LaMnO3 with 40 atoms."""
    config = MACEConfig(
        elements=(8, 25, 57),
        declared_elements=89,
        r_max=6.0,
        hidden_irreps="128x0e+128x1o",
        num_interactions=2,
        max_ell=3,
        correlation=3,
        num_bessels=10,
        cutoff_power=5,
        readout_width=16,
        average_neighbors=61.0,
        energy_scale=0.8,
        energy_shifts=(0.0,) * 3,
    )
    return Case("lamno3-40", systems.structure("lamno3-40", base=Path()), config, 3, True)


CASES = {"ethanol": ethanol, "lamno3-40": lamno3}

SLAB = "slab:"
"""Beginning of the name of a slab, before the path of a file whose first structure it is."""


def find(name: str) -> Case:
    """A case by name, or the published EquiformerV2 of 31 M weights and a slab.

    The forces are the network's own; elements that the slab does not have are left out.
    """
    if not name.startswith(SLAB):
        return CASES[name]()
    atoms = ase.io.read(name.removeprefix(SLAB), 0)
    assert isinstance(atoms, ase.Atoms)
    structure = Structure(np.array(atoms.numbers), atoms.positions, atoms.cell.array, np.array(atoms.pbc))
    elements = tuple(int(z) for z in np.unique(atoms.numbers))
    config = published(elements, energy_shifts=(0.0,) * len(elements))
    return Case("slab", structure, config, config.l_max, False)


def rattled(structure: Structure, count: int) -> list[Structure]:
    """Copies with atoms displaced by 0.05 Å."""
    rng = np.random.default_rng(0)
    moved = [structure.positions + 0.05 * rng.normal(size=structure.positions.shape) for _ in range(count)]
    return [structure._replace(positions=positions) for positions in moved]


def supercell(structure: Structure, repeat: int) -> Structure:
    """The cell repeated in three directions."""
    shifts = np.stack(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ structure.cell
    positions = (structure.positions[None] + shifts[:, None]).reshape(-1, 3)
    return structure._replace(
        numbers=np.tile(structure.numbers, repeat**3), positions=positions, cell=repeat * structure.cell
    )

"""Statistics beside that of the total energy: the energy per atom, and the forces on the atoms of a region.

σ² of the force on an atom is the trace of its predicted covariance, which is that of the components between the chains
plus the predicted noise; the error is the norm of the difference of the predicted force from the reference.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.neighbors import NeighborSpec
from bayes_mlff.data.readings import Reading, columns
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import energy_scale
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.triggers import Spread, Statistic

THINNEST: Final = 0.5
"""Fraction of its first heights down to which a cell may become thin until it cannot be told what a region contains."""


class Region(NamedTuple):
    """Some atoms of a structure, or those near to some that move with them; hashable."""

    said: str  # in words, after 'the force on'
    atoms: tuple[int, ...]  # that may belong to it
    centres: tuple[int, ...] = ()  # only atoms within the radius of one of these belong to it; none: all atoms do
    radius: float = 0.0  # Å
    images: tuple[int, int, int] = (0, 0, 0)  # as in `NeighborSpec`, for the radius

    def mask(self, graph: Graph) -> jax.Array:
        """Which atoms [n] of a structure belong to the region now, bool, under jit."""
        n = graph.positions.shape[0]
        inside = np.zeros(n, bool)
        inside[list(self.atoms)] = True
        found = jnp.asarray(inside) & graph.node_mask
        if not self.centres:
            return found
        spec = NeighborSpec(self.radius, 0.0, 0, self.images)
        # Not "within the radius": if the cell has become too thin to tell, which is nan, all of them are watched.
        return found & ~(neighbors.nearest(graph, np.array(self.centres), spec) > self.radius)


def around(said: str, structure: Structure, atoms: np.ndarray, centres: tuple[int, ...], radius: float) -> Region:
    """The atoms out of some [m], by index, within a radius, Å, of the centres or of one of their periodic images."""
    cell = neighbors.complete_cell(structure.cell, structure.pbc)
    images = neighbors.image_range(cell, structure.pbc, radius / THINNEST)
    return Region(said, tuple(atoms.tolist()), centres, radius, images)


@dataclass(frozen=True)
class ForceSpread:
    """σ of the force on each atom of a region, eV/Å; equal for equal regions, so that nothing is compiled twice."""

    region: Region

    def __call__(self, predictive: Predictive, graph: Graph) -> Spread:
        """Candidates [n], 0 outside of the region."""
        sigma = jnp.sqrt(jnp.sum(jnp.square(predictive.forces_sigma[0]), axis=-1))
        return Spread(jnp.where(self.region.mask(graph), sigma, 0.0), predictive.forces_dof[0])


def force_error(record: LabelRecord, reading: Reading) -> float:
    """Norm of the error of the force on the atom of a reading, eV/Å.

    Raises:
      DataError: if the label has no predicted forces, or no such atom.
    """
    predicted, atom = record.predicted_forces_mean, reading.atom
    if predicted is None or atom is None or atom >= len(predicted):
        raise DataError(f"dataset: the label of step {record.step} has no predicted force for trigger {reading.name}")
    return float(np.linalg.norm(predicted[atom] - record.label.forces[atom]))


def on_forces(name: str, region: Region, *, shown: tuple[str, float] | None = None) -> Statistic:
    """The statistic of the forces in a region.

    Args:
      name: of the trigger, lower-case letters, digits and underscores.
      region: whose atoms are watched.
      shown: unit that users see, and what 1 eV/Å is in it.
    """
    said = f"σ of the force on {region.said}"
    return Statistic(name, said, "eV/Å", columns(name, "eV/Å"), ForceSpread(region), force_error, True, shown)


def _per_atom_sigma(predictive: Predictive, graph: Graph) -> Spread:
    sigma = predictive.energy_sigma / jnp.sum(graph.node_mask).astype(predictive.energy_sigma.dtype)
    return Spread(sigma, jnp.ones_like(sigma))


def per_atom_error(record: LabelRecord, reading: Reading) -> float:
    """Predicted minus reference energy per atom, eV/atom."""
    del reading
    return energy_scale.error(record) / len(record.structure.numbers)


def on_energy_per_atom(name: str, *, shown: tuple[str, float] | None = None) -> Statistic:
    """The statistic of the energy per atom, eV/atom; arguments as for `on_forces`."""
    said, unit = "σ of the energy per atom", "eV/atom"
    return Statistic(name, said, unit, columns(name, unit), _per_atom_sigma, per_atom_error, False, shown)

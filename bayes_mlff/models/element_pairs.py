"""Numbers that depend on the elements at the two ends of an edge."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import data

from bayes_mlff.models.slots import Slots


def covalent_radii(elements: tuple[int, ...]) -> np.ndarray:
    """Covalent radius of each element, Å (Cordero et al. 2008, Dalton Trans. 2832), as ASE has it."""
    return data.covalent_radii[list(elements)]


class ElementPairs(NamedTuple):
    """The elements at the two ends of every edge."""

    species: jax.Array  # [n] index of the element
    slots: Slots

    def ends(self, table: np.ndarray, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """The entries of a table [elements] for the atom of each row [r, 1] and its neighbours [r, k]."""
        atoms = jnp.asarray(table, dtype)[self.species]
        return self.slots.of_receivers(atoms), atoms[self.slots.neighbors]

    def entries(self, table: np.ndarray, dtype: jnp.dtype) -> jax.Array:
        """The entries of a table [elements, elements] for each atom (first index) and its neighbours [r, k]."""
        return jnp.asarray(table, dtype)[self.slots.of_receivers(self.species), self.species[self.slots.neighbors]]

    def to_atoms(self, edges: jax.Array) -> jax.Array:
        """Sum numbers of the edges [r, k] for each atom: [n]."""
        return self.slots.summed(jnp.sum(edges, axis=1), self.species.shape[0])

"""Numbers that depend on the elements at the two ends of an edge."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import data


def covalent_radii(elements: tuple[int, ...]) -> np.ndarray:
    """Covalent radius of each element, Å (Cordero et al. 2008, Dalton Trans. 2832), as ASE has it."""
    return data.covalent_radii[list(elements)]


class ElementPairs(NamedTuple):
    """The elements at the two ends of every edge."""

    species: jax.Array  # [n] index of the element
    neighbors: jax.Array  # [r, k]
    receivers: jax.Array | None  # [r] the atom of each row; None: row i belongs to atom i

    def ends(self, table: np.ndarray, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """The entries of a table [elements] for the atom of each row [r, 1] and its neighbours [r, k]."""
        atoms = jnp.asarray(table, dtype)[self.species]
        rows = atoms if self.receivers is None else atoms[self.receivers]
        return rows[:, None], atoms[self.neighbors]

    def entries(self, table: np.ndarray, dtype: jnp.dtype) -> jax.Array:
        """The entries of a table [elements, elements] for each atom (first index) and its neighbours [r, k]."""
        own = self.species if self.receivers is None else self.species[self.receivers]
        return jnp.asarray(table, dtype)[own[:, None], self.species[self.neighbors]]

    def to_atoms(self, edges: jax.Array) -> jax.Array:
        """Sum numbers of the edges [r, k] for each atom: [n]."""
        rows = jnp.sum(edges, axis=1)
        if self.receivers is None:
            return rows
        return jax.ops.segment_sum(rows, self.receivers, num_segments=self.species.shape[0], indices_are_sorted=True)

"""The screened Coulomb repulsion of nuclei that networks can have in addition to what they learn.

It is the potential of Ziegler, Biersack and Littmark (1985, The Stopping and Range of Ions in Solids), ZBL,

    E_ij = q Z_i Z_j / r · Σ_k c_k exp(-d_k r / a_ij),   a_ij = a / (Z_i^e + Z_j^e),

times a polynomial cutoff. Each atom of a pair has half of its energy. MACE and NequIP round the constants differently
and cut the potential off at different distances.
"""

from typing import Annotated, Final, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import BaseModel, Field

from bayes_mlff.models.element_pairs import ElementPairs, covalent_radii
from bayes_mlff.models.equivariant import polynomial_cutoff

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Four = tuple[Positive, Positive, Positive, Positive]

BOHR_OF_MACE: Final = 0.529
"""The Bohr radius as MACE rounds it in its screening length, Å."""


class PairRepulsion(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Constants of the ZBL potential; none of them is a weight."""

    strength: Positive
    """q, the squared charge of a proton over 4πε0, eV·Å."""
    screening_length: Positive
    """a, Å."""
    screening_exponent: Positive
    """e."""
    coefficients: Four
    """c_k."""
    decays: Four
    """d_k."""
    cutoff: Literal["covalent_radii", "r_max"]
    """Distance at which the potential of a pair ends: the sum of the covalent radii, or the network's cutoff."""
    cutoff_power: Annotated[int, Field(ge=1, le=65536)]
    """Exponent p of the polynomial cutoff (Gasteiger et al. 2020)."""

    def energies(
        self,
        elements: tuple[int, ...],
        r_max: jax.Array | float,
        distances: jax.Array,
        edge_mask: jax.Array,
        pairs: ElementPairs,
    ) -> jax.Array:
        """Half of the repulsion between each atom and its neighbours.

        Args:
          elements: atomic numbers, in the order of the species index.
          r_max: cutoff radius of the network, Å; one number, or one for each edge [r, k].
          distances: [r, k] Å, in whose dtype the result is; any positive number on padding.
          edge_mask: [r, k] True on real edges.
          pairs: elements at the ends of the edges.

        Returns:
          [n] eV.
        """
        dtype, charges = distances.dtype, np.array(elements, float)
        own, other = pairs.ends(charges, dtype)
        own_power, other_power = pairs.ends(charges**self.screening_exponent, dtype)
        # On padding neither the number nor its derivatives may overflow, although they are not used.
        r = jnp.where(edge_mask, distances, 1.0)
        scaled = r * (own_power + other_power) / self.screening_length
        terms = [c * jnp.exp(-d * scaled) for c, d in zip(self.coefficients, self.decays, strict=True)]
        energy = 0.5 * self.strength * own * other / r * sum(terms[1:], terms[0])
        energy = energy * polynomial_cutoff(r / self._end(elements, r_max, pairs, dtype), self.cutoff_power)
        return pairs.to_atoms(jnp.where(edge_mask, energy, 0.0))

    def _end(
        self, elements: tuple[int, ...], r_max: jax.Array | float, pairs: ElementPairs, dtype: jnp.dtype
    ) -> jax.Array | float:
        """Distance at which the potential of each pair ends, Å."""
        if self.cutoff == "r_max":
            return r_max
        own, other = pairs.ends(covalent_radii(elements), dtype)
        return own + other


def mace_zbl(
    cutoff_power: int,
    *,
    exponent: float = 0.3,
    prefactor: float = 0.4543,
    coefficients: Four = (0.1818, 0.5099, 0.2802, 0.02817),
) -> PairRepulsion:
    """The potential as MACE has it, with the constants that its files state."""
    return PairRepulsion(
        strength=14.3996,
        screening_length=prefactor * BOHR_OF_MACE,
        screening_exponent=exponent,
        coefficients=coefficients,
        decays=(3.2, 0.9423, 0.4028, 0.2016),
        cutoff="covalent_radii",
        cutoff_power=cutoff_power,
    )


def nequip_zbl(cutoff_power: int = 6, *, strength: float = 14.399645) -> PairRepulsion:
    """The potential as NequIP has it, with the constants of LAMMPS.

    Args:
      cutoff_power: exponent of its polynomial cutoff, which ends at the network's cutoff radius.
      strength: eV·Å; twice the number `_qqr2exesquare` of its files, which give each atom of a pair one half.
    """
    return PairRepulsion(
        strength=strength,
        screening_length=0.46850,
        screening_exponent=0.23,
        coefficients=(0.18175, 0.50986, 0.28022, 0.02817),
        decays=(3.19980, 0.94229, 0.40290, 0.20162),
        cutoff="r_max",
        cutoff_power=cutoff_power,
    )

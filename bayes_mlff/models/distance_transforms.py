"""Functions of the distance that MACE's radial functions can have as their argument, in place of the distance itself.

Both widen the range of short distances, in units of the covalent radii of the two atoms. The envelope that ends the
radial functions depends on the distance itself. The constants are those of the file, and no weights.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from pydantic import BaseModel, Field

from bayes_mlff.models.element_pairs import ElementPairs, covalent_radii

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Agnesi(BaseModel, frozen=True, extra="forbid"):
    """1 / (1 + a s^q / (1 + s^(q-p))) with s = r over the mean covalent radius (Witt et al. 2023, JCP 159, 164101)."""

    kind: Literal["agnesi"] = "agnesi"
    q: Finite = 0.9183
    p: Finite = 4.5791
    a: Finite = 1.0805

    def of(self, distances: jax.Array, elements: tuple[int, ...], pairs: ElementPairs) -> jax.Array:
        """Numbers between 0 and 1 for distances [r, k] in Å between atoms of the elements of the pairs."""
        own, other = pairs.ends(covalent_radii(elements), distances.dtype)
        s = distances / (0.5 * (own + other))
        # s^(q-p), as it stands in the formula, would overflow in single precision at short distances.
        return 1.0 / (1.0 + self.a * s**self.p / (s ** (self.p - self.q) + 1.0))


class Soft(BaseModel, frozen=True, extra="forbid"):
    """Passes smoothly from 3/4 of the sum of the covalent radii to the distance itself, around their sum."""

    kind: Literal["soft"] = "soft"
    steepness: Finite = 4.0
    """Of the hyperbolic tangent, over the range from 3/4 to 4/3 of the sum of the radii."""

    def of(self, distances: jax.Array, elements: tuple[int, ...], pairs: ElementPairs) -> jax.Array:
        """Å, for distances [r, k] in Å between atoms of the elements of the pairs."""
        own, other = pairs.ends(covalent_radii(elements), distances.dtype)
        low, high = 0.75 * (own + other), 4.0 / 3.0 * (own + other)
        share = 0.5 * (1.0 + jnp.tanh(self.steepness * (distances - 0.5 * (low + high)) / (high - low)))
        return low + (distances - low) * share


DistanceTransform = Annotated[Agnesi | Soft, Field(discriminator="kind")]

"""An architecture that the package does not have: a sum over pairs of atoms, as its author would add it.

One module with configuration and network, and one row, which `registered` puts into the table.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from bayes_mlff.models.architectures import ARCHITECTURES, Architecture
from bayes_mlff.models.config import ArchitectureConfig, PositiveInt
from bayes_mlff.models.energetics import NodeOutput
from bayes_mlff.models.equivariant import ScaledDense, bessel_basis, polynomial_cutoff
from bayes_mlff.models.force_sigma import force_sigma
from bayes_mlff.models.known.entry import Preset


class PairConfig(ArchitectureConfig, frozen=True):
    """A pair potential whose weights are products of features of the two elements."""

    tables = ("energy_shifts", "hardness")

    architecture: Literal["pair"] = "pair"
    width: PositiveInt
    sigma_widths: tuple[PositiveInt, ...] = (3,)
    hardness: tuple[float, ...]
    """Factor of each element."""


class PairNetwork(nn.Module):
    """Radial functions of each pair, weighted by the elements."""

    config: PairConfig

    @nn.compact
    def __call__(
        self,
        vectors: jax.Array,
        species: jax.Array,
        neighbors: jax.Array,
        edge_mask: jax.Array,
        receivers: jax.Array | None = None,
    ) -> NodeOutput:
        config, dtype = self.config, vectors.dtype
        shape = (config.width, len(config.elements))
        table = self.param("features_of_elements", nn.initializers.normal(1.0), shape, dtype).T
        table = table * jnp.asarray(config.hardness, dtype)[:, None]
        x = jnp.linalg.norm(vectors, axis=-1) / config.r_max
        envelope = jnp.where(edge_mask, polynomial_cutoff(x, 6), 0.0)
        frequencies = jnp.arange(1, config.width + 1, dtype=dtype).reshape(1, 1, -1)
        own = species if receivers is None else species[receivers]
        pairs = table[own][:, None, :] * table[species[neighbors]] * bessel_basis(x, frequencies) * envelope[..., None]
        summed = jnp.sum(pairs, axis=1)
        if receivers is not None:
            summed = jax.ops.segment_sum(summed, receivers, num_segments=species.shape[0])
        energy = ScaledDense(1, name="total")(summed)[:, 0]
        return NodeOutput(energy, force_sigma(config, summed))


ROW = Architecture(
    config=PairConfig,
    network=PairNetwork,
    element_axis=lambda config, path: 1 if path == ("features_of_elements",) else None,
    most_layers=lambda config: 1,
    last_layer=lambda config: ("total", "weight"),
    preset=Preset(0.3, 2e-3, cold_steps=300, batch_size=4),
    widened=lambda params: params,
    per_element=lambda config, params: (config, params),
)

PAIR = PairConfig(
    elements=(1, 6, 8),
    r_max=3.0,
    width=4,
    hardness=(0.5, 0.7, 0.9),
    energy_shifts=(-1.0, -2.0, -3.0),
)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """The table with this architecture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, ROW.name, ROW)
        yield

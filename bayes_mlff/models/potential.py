"""A network and its weights."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from bayes_mlff.models import architectures
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.models.energetics import NodeOutput, Params
from bayes_mlff.models.origin import NOWHERE, Origin


def network(config: ArchitectureConfig) -> nn.Module:
    """Build the network of a configuration."""
    return architectures.of(config).network(config)


@dataclass(frozen=True)
class Potential:
    """A network with its weights."""

    config: ArchitectureConfig
    params: Params
    origin: Origin = NOWHERE
    """From which published model the weights come."""

    def node_fn(
        self,
        params: Params,
        vectors: jax.Array,
        species: jax.Array,
        neighbors: jax.Array,
        edge_mask: jax.Array,
        receivers: jax.Array | None = None,
    ) -> NodeOutput:
        """Evaluate the network with any weights of this architecture; see `NodeFn`."""
        return network(self.config).apply({"params": params}, vectors, species, neighbors, edge_mask, receivers)  # type: ignore[return-value]

    def flat(self) -> tuple[jax.Array, Callable[[jax.Array], Params]]:
        """The weights as one vector [p], and the function that converts such a vector back."""
        return ravel_pytree(self.params)

    def isolated_energy(self, numbers: np.ndarray) -> float:
        """Sum of the energies of the isolated atoms, eV, in float64; total energy = this + the network's energy."""
        table = dict(zip(self.config.elements, self.config.energy_shifts, strict=True))
        return float(sum(table[int(z)] for z in numbers))

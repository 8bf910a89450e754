"""MACE (Batatia et al. 2022, arXiv:2206.07697) as a pure function, with an additional output for the force σ.

The network has the scale-shift form of the published foundation models; a scale of 1 and a shift of 0 give the form
without it. Their edge vectors point from the sender
to the receiver, those of this package in the opposite direction: features of odd parity differ in sign, energies do
not.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.element_pairs import ElementPairs
from bayes_mlff.models.energetics import NodeOutput
from bayes_mlff.models.equivariant import (
    MLP,
    SILU_NORM,
    Features,
    ScaledDense,
    bessel_basis,
    polynomial_cutoff,
    spherical_harmonics,
)
from bayes_mlff.models.force_sigma import force_sigma
from bayes_mlff.models.mace_interaction import Edges, Interaction
from bayes_mlff.models.slots import Slots


class MACE(nn.Module):
    """Energies and force uncertainties of the atoms of one (possibly disjoint) graph."""

    config: MACEConfig

    @nn.compact
    def __call__(
        self,
        vectors: jax.Array,
        species: jax.Array,
        neighbors: jax.Array,
        edge_mask: jax.Array,
        receivers: jax.Array | None = None,
    ) -> NodeOutput:
        """Evaluate the network.

        Args:
          vectors: [n, k, 3] Å from each atom to its neighbours; any non-zero vector on padding.
          species: [n] index into `config.elements`.
          neighbors: [n, k] index of the neighbour.
          edge_mask: [n, k] True on real edges.
          receivers: [rows], in ascending order, the atom of each row. If given, the first axis of vectors, neighbors
            and edge_mask is over rows instead of atoms.

        Returns:
          Atomic energies without those of the isolated atoms, eV, and σ of force components, eV/Å.
        """
        config, dtype = self.config, vectors.dtype
        elements = len(config.elements)
        shape = (elements, config.width)
        table = self.param("embedding", nn.initializers.normal(1.0), shape, dtype)
        table = table / math.sqrt(config.declared_elements)
        one_hot = jax.nn.one_hot(species, elements, dtype=dtype)
        distances = jnp.linalg.norm(vectors, axis=-1)
        slots = Slots(neighbors, receivers)
        pairs = ElementPairs(species, slots)
        edges = Edges(*self._edges(vectors, distances, edge_mask, pairs), slots)

        features: Features = {"0e": (one_hot @ table)[:, None, :]}
        invariants, energies = [], []
        for i in range(config.num_interactions):
            features = Interaction(config, i, name=f"interaction_{i}")(features, table, one_hot, edges)
            scalars = features["0e"][:, 0, :]
            invariants.append(scalars)
            if readout := self._readout(i):
                energies.append(readout(scalars)[:, 0])
        if config.pair_repulsion is not None:
            repulsion = config.pair_repulsion.energies(config.elements, config.r_max, distances, edge_mask, pairs)
            energies.append(repulsion)
        energy = config.energy_scale * sum(energies[1:], energies[0]) + config.energy_shift
        return NodeOutput(energy, force_sigma(config, jnp.concatenate(invariants, axis=-1)))

    def _readout(self, i: int) -> nn.Module | None:
        """The network from the scalars after interaction i to an energy; None if there is none."""
        config, name = self.config, f"readout_{i}"
        if i == config.num_interactions - 1 > 0:
            if config.readout_bias:
                return BiasReadout(config.readout_width, name=name)
            return MLP((config.readout_width, 1), gain=SILU_NORM, name=name)
        return None if config.last_readout_only else ScaledDense(1, name=name)

    def _edges(
        self, vectors: jax.Array, distances: jax.Array, edge_mask: jax.Array, pairs: ElementPairs
    ) -> tuple[Features, jax.Array, jax.Array | None]:
        """Spherical harmonics, radial functions and cutoff of the edges; see `Edges`."""
        config = self.config
        envelope = jnp.where(edge_mask, polynomial_cutoff(distances / config.r_max, config.cutoff_power), 0.0)
        if config.distance_transform is not None:
            distances = config.distance_transform.of(distances, config.elements, pairs)
        x = distances / config.r_max
        frequencies = jnp.arange(1, config.num_bessels + 1, dtype=vectors.dtype).reshape(1, 1, -1)
        radial = bessel_basis(x, frequencies) * (math.pi / config.r_max * math.sqrt(2.0 / config.r_max))
        harmonics = spherical_harmonics(vectors, config.max_ell)
        if config.apply_cutoff:
            return harmonics, radial * envelope[..., None], None
        return harmonics, radial, envelope


class BiasReadout(nn.Module):
    """Three linear layers with SiLU between them; the last two have a bias."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map scalars [n, channels] to [n, 1]."""
        x = nn.silu(ScaledDense(self.width, name="dense_0")(x))
        x = nn.silu(ScaledDense(self.width, SILU_NORM, use_bias=True, name="dense_1")(x))
        return ScaledDense(1, SILU_NORM, use_bias=True, name="dense_2")(x)


def element_axis(config: MACEConfig, path: tuple[str, ...]) -> int | None:
    """Axis of a parameter that is indexed by element; None if there is none."""
    if path[-1] in ("embedding", "source_embedding", "target_embedding"):
        return 0
    if "product" in path:
        return None if config.agnostic_product else 0
    if "element_messages" in path:
        return 1
    if "self_connection" in path:
        # One matrix for all elements in the kind `nonlinear`.
        return None if config.kind(int(path[0].removeprefix("interaction_"))) == "nonlinear" else 1
    return None


def last_layer(config: MACEConfig) -> tuple[str, ...]:
    """Path of the weights of the last linear layer of the last energy readout."""
    last = config.num_interactions - 1
    if last == 0:
        return ("readout_0", "weight")
    return (f"readout_{last}", "dense_2" if config.readout_bias else "dense_1", "weight")

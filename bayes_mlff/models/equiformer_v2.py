"""EquiformerV2 (Liao et al. 2024, arXiv:2306.12059) as a pure function, with an additional output for the force σ.

The network is that of fairchem-core 1.10.0, without its dropout. Rotations commute with it within the error of the
grid, see `equiformer_v2_grid`. It has no parity: energies of mirror images differ in principle.
"""

from typing import Final

import flax.linen as nn
import jax
import jax.numpy as jnp

from bayes_mlff.models.energetics import NodeOutput
from bayes_mlff.models.equiformer_v2_attention import Attention, DegreeEmbedding
from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config
from bayes_mlff.models.equiformer_v2_grid import gated, grid
from bayes_mlff.models.equiformer_v2_layers import DegreeLinear, Edges, EquivariantNorm, degrees_of
from bayes_mlff.models.equiformer_v2_rotations import into_frames
from bayes_mlff.models.equivariant import MLP, ScaledDense, polynomial_cutoff
from bayes_mlff.models.force_sigma import force_sigma
from bayes_mlff.models.slots import Slots

GAUSSIAN_WIDTH: Final = 2.0
"""Standard deviation of the Gaussians in units of their spacing."""


class FeedForward(nn.Module):
    """Network of the features of each atom: linear, activation on the sphere or with gates, linear."""

    config: EquiformerV2Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [n, (l_max+1)², channels] to the same."""
        config, width = self.config, self.config.ffn_channels
        l_max, gate = config.l_max, config.feed_forward == "gate"
        degrees = tuple(degrees_of(l_max).tolist())
        scalars = ScaledDense(width * l_max if gate else width, use_bias=True, name="scalars")(x[:, 0])
        y = DegreeLinear(width, degrees, name="linear_0")(x)
        if gate:
            y = gated(y, scalars, degrees)
        else:
            on = grid(
                l_max, l_max, config.grid_resolution, tuple((l, m) for l in range(l_max + 1) for m in range(-l, l + 1))
            )
            values = on.values(y)
            mixed = MLP((width,) * 3, name="grid_mlp")(values) if config.feed_forward == "grid_mlp" else nn.silu(values)
            y = jnp.concatenate([nn.silu(scalars)[:, None], on.coefficients(mixed)[:, 1:]], axis=1)
        return DegreeLinear(x.shape[-1], degrees, name="linear_1")(y)


class Block(nn.Module):
    """Attention and feed-forward network, each after a norm and added to its input."""

    config: EquiformerV2Config

    @nn.compact
    def __call__(self, x: jax.Array, edges: Edges) -> jax.Array:
        """Map [n, (l_max+1)², channels] to the same."""
        config = self.config
        normed = EquivariantNorm(config.l_max, name="norm_0")(x)
        x = x + Attention(config, config.channels, name="attention")(normed, edges)
        return x + FeedForward(config, name="feed_forward")(EquivariantNorm(config.l_max, name="norm_1")(x))


class EquiformerV2(nn.Module):
    """Energies and force uncertainties of the atoms of one (possibly disjoint) graph; with direct forces those, too."""

    config: EquiformerV2Config

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
          Atomic energies without those of the isolated atoms, eV, σ of force components, eV/Å, and with `forces:
          direct` forces, eV/Å.

        Raises:
          ValueError: if neighbours are limited and receivers are given.
        """
        config, dtype = self.config, vectors.dtype
        if config.max_neighbors is not None:
            if receivers is not None:
                raise ValueError("receivers: got rows of edges; allowed: None where max_neighbors limits neighbours")
            vectors, neighbors, edge_mask = nearest(config.max_neighbors, vectors, neighbors, edge_mask)
        edges = self._edges(vectors, edge_mask, species, Slots(neighbors, receivers))
        shape = (len(config.elements), config.channels)
        table = self.param("embedding", nn.initializers.normal(1.0), shape, dtype)
        x = DegreeEmbedding(config, name="degree_embedding")(edges)
        x = jnp.concatenate([x[:, :1] + table[species][:, None], x[:, 1:]], axis=1)
        for i in range(config.num_layers):
            x = Block(config, name=f"block_{i}")(x, edges)
        x = EquivariantNorm(config.l_max, name="norm")(x)
        invariants = x[:, 0]
        energy = MLP((config.ffn_channels, 1), use_bias=True, name="energy")(invariants)[:, 0] * config.energy_scale
        forces = None
        if config.forces == "direct":
            forces = Attention(config, 1, first=1, last=1, name="forces")(x, edges)[..., 0] * config.force_scale
        return NodeOutput(energy, force_sigma(config, invariants), forces)

    def _edges(self, vectors: jax.Array, mask: jax.Array, species: jax.Array, slots: Slots) -> Edges:
        """What the layers need to know about edges."""
        config, dtype = self.config, vectors.dtype
        distances = jnp.linalg.norm(vectors, axis=-1)
        centres = jnp.linspace(0.0, config.r_max, config.num_gaussians, dtype=dtype)
        width = GAUSSIAN_WIDTH * config.r_max / (config.num_gaussians - 1)
        gaussians = jnp.exp(-0.5 * ((distances[..., None] - centres.reshape(1, 1, -1)) / width) ** 2)
        envelope = jnp.ones_like(distances)
        if config.forces == "gradient":
            envelope = polynomial_cutoff(distances / config.r_max, config.envelope_power)
        envelope = jnp.where(mask, envelope, 0.0)
        into = into_frames(vectors, config.l_max, config.m_max)
        return Edges(gaussians, into, envelope, mask, species, slots)


def nearest(
    count: int, vectors: jax.Array, neighbors: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The nearest neighbours of each atom: vectors [n, count, 3], neighbours and mask [n, count].

    Of neighbours at the same distance any may be taken. If there are no more slots than `count`, all are kept.
    """
    if mask.shape[1] <= count:
        return vectors, neighbors, mask
    squares = jnp.where(mask, jnp.sum(jax.lax.stop_gradient(vectors) ** 2, axis=-1), jnp.inf)
    _, places = jax.lax.top_k(-squares, count)
    return (
        jnp.take_along_axis(vectors, places[..., None], axis=1),
        jnp.take_along_axis(neighbors, places, axis=1),
        jnp.take_along_axis(mask, places, axis=1),
    )


def element_axis(config: EquiformerV2Config, path: tuple[str, ...]) -> int | None:
    """Axis of a parameter that is indexed by element; None if there is none."""
    return 0 if path[-1] in ("embedding", "sender", "receiver") else None


def last_layer(config: EquiformerV2Config) -> tuple[str, ...]:
    """Path of the weights of the last linear layer of the energy head."""
    return ("energy", "dense_1", "weight")

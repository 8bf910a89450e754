"""NequIP (Batzner et al. 2022, Nat. Commun. 13, 2453) as a pure function, with a head for the force σ."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from bayes_mlff.core.units import KCAL_MOL
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.energetics import NodeOutput
from bayes_mlff.models.equivariant import (
    MLP,
    Convolution,
    EquivariantLinear,
    Features,
    Gate,
    SelfConnection,
    bessel_basis,
    channels,
    paths,
    polynomial_cutoff,
    spherical_harmonics,
)

SIGMA_UNIT = 0.1 * KCAL_MOL
"""Force σ where the σ head returns zero, eV/Å."""


class Interaction(nn.Module):
    """One block: linear, convolution over neighbours, linear, self-connection, gate."""

    config: NequIPConfig
    is_first: bool
    is_last: bool

    @nn.compact
    def __call__(
        self,
        x: Features,
        embedding: jax.Array,
        harmonics: Features,
        radial: jax.Array,
        species: jax.Array,
        neighbors: jax.Array,
        receivers: jax.Array | None,
    ) -> Features:
        """Map `{irrep: [n, 2l+1, channels]}` to the next features; harmonics [n, k, 2l+1], radial [n, k, bessels]."""
        config = self.config
        hidden = channels(config.hidden_irreps)
        wanted = {"0e": hidden["0e"]} if self.is_last else hidden
        reachable = {p.out for p in paths(tuple(x), config.edge_l_max, tuple(hidden))}
        scalars = tuple((ir, w) for ir, w in wanted.items() if ir[0] == "0" and ir in reachable)
        gated = tuple((ir, w) for ir, w in wanted.items() if ir[0] != "0" and ir in reachable)
        before_gate = dict(scalars) | dict(gated)
        before_gate["0e"] += sum(w for _, w in gated)
        out = tuple(before_gate.items())

        connection = None
        if not self.is_first:
            connection = SelfConnection(out, name="self_connection")(x, embedding, species)
        x = EquivariantLinear(tuple((ir, v.shape[-1]) for ir, v in x.items()), name="linear_in")(x)
        x = {ir: v / math.sqrt(config.average_neighbors) for ir, v in x.items()}
        routes = paths(tuple(x), config.edge_l_max, tuple(before_gate))
        widths = (config.radial_width,) * config.radial_depth
        x = Convolution(routes, widths, name="convolution")(x, harmonics, radial, neighbors, receivers)
        x = EquivariantLinear(out, name="linear_out")(x)
        if connection is not None:
            x = {ir: v + connection[ir] if ir in connection else v for ir, v in x.items()}
        return Gate(scalars, gated, name="gate")(x)


class NequIP(nn.Module):
    """Energies and force uncertainties of the atoms of one (possibly disjoint) graph."""

    config: NequIPConfig

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
          receivers: with it the first axis of vectors, neighbors and edge_mask counts rows of slots rather than
            atoms, and this [rows], ascending, says whose slots they are.

        Returns:
          Energies without the shifts of isolated atoms, eV, and σ of force components, eV/Å.
        """
        config, dtype = self.config, vectors.dtype
        table = self.param(
            "embedding", nn.initializers.normal(1.0), (len(config.elements), config.embedding_features), dtype
        )
        frequencies = self.param("bessel_frequencies", lambda *_: jnp.arange(1, config.num_bessels + 1, dtype=dtype))
        x = jnp.linalg.norm(vectors, axis=-1) / config.r_max
        envelope = jnp.where(edge_mask, polynomial_cutoff(x, config.cutoff_power), 0.0)
        radial = bessel_basis(x, frequencies.reshape(1, 1, -1)) * envelope[..., None]
        radial = radial * (2.0 * math.pi / config.r_max**2)
        harmonics = spherical_harmonics(vectors, config.edge_l_max)

        features: Features = {"0e": table[species][:, None, :]}
        for i in range(config.num_layers):
            block = Interaction(config, i == 0, i == config.num_layers - 1, name=f"interaction_{i}")
            features = block(features, table, harmonics, radial, species, neighbors, receivers)
        invariants = features["0e"][:, 0, :]

        widths = (config.readout_width,) * config.readout_depth + (1,)
        scales = jnp.asarray(config.energy_scales, dtype)
        energy = MLP(widths, name="readout")(invariants)[:, 0] * scales[species]
        log_sigma = MLP((*config.sigma_widths, 1), use_bias=True, name="sigma")(invariants)[:, 0]
        return NodeOutput(energy, SIGMA_UNIT * jnp.exp(log_sigma))

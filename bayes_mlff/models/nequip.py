"""NequIP (Batzner et al. 2022, Nat. Commun. 13, 2453) as a pure function, with an additional output for the force σ.

With certain settings it is the network of SevenNet (Park et al. 2024, J. Chem. Theory Comput. 20, 4857) or of Nequix
(Koker, Kotak and Smidt 2025, arXiv:2508.16067).
"""

import math
from typing import Final, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.element_pairs import ElementPairs
from bayes_mlff.models.energetics import NodeOutput, Params
from bayes_mlff.models.equivariant import (
    ACTIVATION_NORMS,
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
    xplor_cutoff,
)
from bayes_mlff.models.force_sigma import force_sigma
from bayes_mlff.models.slots import Slots

RADIAL_STD: Final = 4.0
"""Standard deviation of the first radial weights after `widened`."""

RMS_FLOOR: Final = 1e-12
"""Added to the mean square in `RMSNorm`, lest zero be divided by zero."""


class RMSNorm(nn.Module):
    """Division by the root mean square of all features of an atom, then a factor on each channel.

    As in Nequix the mean square is that of each irrep, weighted by its number of channels over that of its components.
    """

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Map `{irrep: [n, 2l+1, channels]}` to the same."""
        shares = {ir: v.shape[-1] / v.shape[-2] for ir, v in x.items()}
        total = sum(shares.values())
        squares = [jnp.mean(v**2, axis=(-2, -1), keepdims=True) * (shares[ir] / total) for ir, v in x.items()]
        # The source adds its constant to a sum that is not divided by the shares.
        scale = jax.lax.rsqrt(sum(squares[1:], squares[0]) + RMS_FLOOR * len(x) / total)
        normed = {}
        for ir, v in x.items():
            factor = self.param(f"weight_{ir}", nn.initializers.normal(1.0), v.shape[-1:], v.dtype)
            normed[ir] = v * scale * factor.reshape(1, 1, -1)
        return normed


class ElementTable(nn.Module):
    """Even scalars of each element: a linear map of the one-hot element."""

    width: int
    elements: int
    declared: int  # number of elements that it is normalised for

    @nn.compact
    def __call__(self, x: Features, species: jax.Array) -> Features:
        """The rows of the elements `species` [n]; the features x give the type of numbers alone."""
        dtype = x["0e"].dtype
        table = self.param("weight", nn.initializers.normal(1.0), (self.elements, self.width), dtype)
        return {"0e": (table / math.sqrt(self.declared))[species][:, None, :]}


class Interaction(nn.Module):
    """One block: linear, convolution over neighbours, linear, self-connection, gate."""

    config: NequIPConfig
    index: int

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
        config, parity = self.config, self.config.parity
        hidden = channels(config.hidden_irreps)
        wanted = {"0e": hidden["0e"]} if self.index == config.num_layers - 1 else hidden
        reachable = {p.out for p in paths(tuple(x), config.edge_l_max, tuple(hidden), with_parity=parity)}
        scalars = tuple((ir, w) for ir, w in wanted.items() if ir[0] == "0" and ir in reachable)
        gated = tuple((ir, w) for ir, w in wanted.items() if ir[0] != "0" and ir in reachable)
        before_gate = dict(scalars) | dict(gated)
        before_gate["0e"] += sum(w for _, w in gated)
        out = tuple(before_gate.items())

        connection: Features = {}
        if self.index > 0 or config.first_self_connection:
            connection = self._connection(out, x, embedding, species)
        if self.index > 0 or not config.one_hot_input:
            kept = tuple((ir, v.shape[-1]) for ir, v in x.items())
            x = EquivariantLinear(kept, config.scalar_biases, name="linear_in")(x)
        scale = self._neighbors(species, embedding.dtype)
        x = {ir: v / scale for ir, v in x.items()}
        routes = paths(tuple(x), config.edge_l_max, tuple(before_gate), with_parity=parity)
        widths = (config.radial_width,) * config.radial_depth
        convolution = Convolution(routes, widths, config.radial_gain, name="convolution")
        x = convolution(x, harmonics, radial, neighbors, receivers)
        x = EquivariantLinear(out, config.scalar_biases, name="linear_out")(x)
        x = {ir: v + connection[ir] if ir in connection else v for ir, v in x.items()}
        if config.layer_norm:
            x = RMSNorm(name="layer_norm")(x)
        return Gate(scalars, gated, ACTIVATION_NORMS[config.activation_norm], name="gate")(x)

    def _neighbors(self, species: jax.Array, dtype: jnp.dtype) -> jax.Array | float:
        """The number by which the messages of each atom are divided."""
        config = self.config
        if not config.element_neighbors:
            return math.sqrt(config.neighbors_of(self.index))
        return jnp.sqrt(jnp.asarray(config.element_neighbors, dtype))[species][:, None, None]

    def _connection(
        self, out: tuple[tuple[str, int], ...], x: Features, embedding: jax.Array, species: jax.Array
    ) -> Features:
        """The part of the block's input that is added before the gate."""
        config, name = self.config, "self_connection"
        kind = config.self_connection
        if self.index == 0 and config.one_hot_input:
            return ElementTable(dict(out)["0e"], len(config.elements), config.declared_elements, name=name)(x, species)
        if kind == "linear":
            return EquivariantLinear(out, name=name)(x)
        if kind == "embedding":
            return SelfConnection(out, name=name)(x, embedding, species)
        width = 1 if kind == "indexed" else config.declared_elements
        return SelfConnection(out, width, name=name)(x, len(config.elements), species)


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
          receivers: [rows], in ascending order, the atom of each row. If given, the first axis of vectors, neighbors
            and edge_mask is over rows instead of atoms.

        Returns:
          Atomic energies without the shifts of isolated atoms, eV, and σ of force components, eV/Å.
        """
        config, dtype = self.config, vectors.dtype
        table = self.param(
            "embedding", nn.initializers.normal(1.0), (len(config.elements), config.embedding_features), dtype
        )
        frequencies = jnp.arange(1, config.num_bessels + 1, dtype=dtype)
        if config.trainable_bessels:
            whole = frequencies
            frequencies = self.param("bessel_frequencies", lambda *_: whole)
        distances = jnp.linalg.norm(vectors, axis=-1)
        pairs = ElementPairs(species, Slots(neighbors, receivers))
        ends = config.r_max if not config.pair_cutoffs else pairs.entries(np.array(config.pair_cutoffs), dtype)
        x = distances / ends
        envelope = jnp.where(edge_mask, self._envelope(x), 0.0)
        radial = bessel_basis(x, frequencies.reshape(1, 1, -1)) * envelope[..., None]
        radial = radial * (2.0 * math.pi / config.r_max**2)
        solid = config.solid_harmonics
        harmonics = spherical_harmonics(vectors, config.edge_l_max, with_parity=config.parity, solid=solid)

        if config.one_hot_embedding:
            table = table / math.sqrt(config.declared_elements)
        features: Features = {"0e": table[species][:, None, :]}
        for i in range(config.num_layers):
            block = Interaction(config, i, name=f"interaction_{i}")
            features = block(features, table, harmonics, radial, species, neighbors, receivers)
        invariants = features["0e"][:, 0, :]

        widths = (config.readout_width,) * config.readout_depth + (1,)
        scales = jnp.asarray(config.energy_scales, dtype)
        readout = MLP(widths, activation=config.readout_activation, name="readout")
        energy = readout(invariants)[:, 0] * scales[species]
        if config.pair_repulsion is not None:
            energy = energy + config.pair_repulsion.energies(config.elements, ends, distances, edge_mask, pairs)
        return NodeOutput(energy, force_sigma(config, invariants))

    def _envelope(self, x: jax.Array) -> jax.Array:
        """Factor that makes the radial functions zero at x = r/r_max = 1."""
        config = self.config
        if config.switch_on is None:
            return polynomial_cutoff(x, config.cutoff_power)
        return xplor_cutoff(x, config.switch_on / config.r_max)


def element_axis(config: NequIPConfig, path: tuple[str, ...]) -> int | None:
    """Axis of a parameter that is indexed by element; None if there is none."""
    if path == ("embedding",):
        return 0
    if "self_connection" not in path:
        return None
    if config.one_hot_input and path[0] == "interaction_0":
        return 0
    return 1 if config.self_connection in ("element", "indexed") else None


def most_layers(config: NequIPConfig) -> int:
    """The largest of the numbers of blocks and layers, each of which has its own array."""
    return max(config.num_layers, config.radial_depth, config.readout_depth)


def last_layer(config: NequIPConfig) -> tuple[str, ...]:
    """Path of the weights of the last linear layer of the energy readout."""
    return ("readout", f"dense_{config.readout_depth}", "weight")


def widened(params: Params) -> Params:
    """Random weights with larger first radial weights.

    Bessel functions times envelope have an rms of about 0.2 on the edges of molecules. With unit weights each block
    would contribute a hundredth of the block before, which training corrects only slowly.
    """
    flat = _flat(params)
    wide = {k: v * RADIAL_STD if k.endswith("radial/dense_0/weight") else v for k, v in flat.items()}
    return unflatten_dict(wide, sep="/")


def per_element(config: NequIPConfig, params: Params) -> tuple[NequIPConfig, Params]:
    """Replace self-connection matrices that are linear in the embedding by one matrix for each element.

    Energies are identical; if the embedding is wider than the number of elements, there are fewer weights to sample.
    """
    if config.self_connection != "embedding":
        return config, params
    flat = _flat(params)
    table = flat["embedding"]
    if config.one_hot_embedding:
        table = table / math.sqrt(config.declared_elements)
    scale = math.sqrt(config.declared_elements / config.embedding_features)
    for name, weight in flat.items():
        if "/self_connection/" in name:
            flat[name] = scale * jnp.einsum("uvw,sv->usw", weight, table, precision="highest")
    return config.model_copy(update={"self_connection": "element"}), unflatten_dict(flat, sep="/")


def _flat(params: Params) -> dict[str, jax.Array]:
    return cast(dict[str, jax.Array], flatten_dict(params, sep="/"))  # annotated as nested

"""Building blocks of equivariant networks with channels as the last axis: `{irrep: [n, 2l+1, channels]}`.

With channels last every contraction is a small dense matrix product over contiguous memory. The
algebra (Clebsch-Gordan coefficients, spherical harmonics, irreps) comes from e3nn-jax; normalisations are
those of e3nn (Geiger and Smidt 2022, arXiv:2207.09453), so that its weights can be used unchanged.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.slots import Slots

Features = dict[str, jax.Array]  # irrep name -> [n, 2l+1, channels]

SILU_NORM = 1.6791767923989418
TANH_NORM = 1.5937334472592695
"""Factors that give silu and tanh a unit second moment for standard normal input, as e3nn estimates them."""

ACTIVATION_NORMS = {"e3nn": (SILU_NORM, TANH_NORM), "e3nn-jax": (1.6765620560798837, 1.5925386426301726)}
"""The same scales by who estimated them: e3nn from a random sample, e3nn-jax from quantiles."""


def channels(irreps: str) -> dict[str, int]:
    """Number of channels of each irrep, in canonical order: `{'0e': 16, '1o': 16}`."""
    return {str(ir): mul for mul, ir in e3nn.Irreps(irreps).regroup() if mul > 0}


def parity(irrep: str) -> int:
    """+1 for 'e', -1 for 'o'."""
    return _irrep(irrep).p


def degree(irrep: str) -> int:
    """Degree l of an irrep name such as '1o'."""
    return _irrep(irrep).l


def _irrep(name: str) -> e3nn.Irrep:
    return e3nn.Irrep(name)  # pyright: ignore[reportArgumentType]  # names are documented, but not annotated


@lru_cache
def coupling(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real Clebsch-Gordan coefficients [2l1+1, 2l2+1, 2l3+1] scaled by sqrt(2l3+1) (component normalisation)."""
    return np.asarray(e3nn.clebsch_gordan(l1, l2, l3)) * np.sqrt(2 * l3 + 1)


class Path(NamedTuple):
    """One way of combining a node irrep with an edge irrep into an output irrep."""

    node: str
    edge: str
    out: str


def edge_irrep(l: int, with_parity: bool = True) -> str:
    """Irrep of the edge harmonics of degree l; even for any l if parity is not distinguished."""
    return f"{l}{'o' if l % 2 and with_parity else 'e'}"


def paths(
    node: Sequence[str], edge_l_max: int, allowed: Sequence[str], *, with_parity: bool = True
) -> tuple[Path, ...]:
    """All symmetry-allowed paths from node irreps and edge harmonics to the allowed outputs."""
    found = []
    for ir in node:
        for l in range(edge_l_max + 1):
            edge = edge_irrep(l, with_parity)
            for out in _irrep(ir) * _irrep(edge):
                if str(out) in allowed:
                    found.append(Path(ir, edge, str(out)))
    return tuple(found)


def spherical_harmonics(vectors: jax.Array, l_max: int, *, with_parity: bool = True, solid: bool = False) -> Features:
    """Component-normalised real harmonics of the directions of vectors [..., 3] Å: `{irrep: [..., 2l+1]}`.

    Solid harmonics are those times the l-th power of the vector's length in Å.
    """
    unit = vectors if solid else vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    out = {}
    for l in range(l_max + 1):
        irrep = edge_irrep(l, with_parity)
        if l == 0:
            out[irrep] = jnp.ones_like(unit[..., :1])
        else:
            out[irrep] = e3nn.spherical_harmonics(
                e3nn.Irreps(edge_irrep(l)), e3nn.IrrepsArray("1o", unit), normalize=False, normalization="component"
            ).array
    return out


def bessel_basis(x: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Radial functions w·sin(πwx)/(πwx) of scaled distances x = r/r_max in (0, 1]: [..., len(w)]."""
    return jnp.sin(jnp.pi * x[..., None] * frequencies) / (jnp.pi * x[..., None])


def polynomial_cutoff(x: jax.Array, p: int) -> jax.Array:
    """Envelope that is 1 at 0 and 0 with two derivatives at x >= 1 (Gasteiger et al. 2020, eq. 8)."""
    inside = jnp.where(x < 1.0, x, 1.0)
    value = (
        1.0
        - (p + 1.0) * (p + 2.0) / 2.0 * inside**p
        + p * (p + 2.0) * inside ** (p + 1)
        - p * (p + 1.0) / 2.0 * inside ** (p + 2)
    )
    return jnp.where(x < 1.0, value, 0.0)


def xplor_cutoff(x: jax.Array, start: float) -> jax.Array:
    """Envelope that is 1 up to `start` < 1 and 0 with one derivative at x >= 1 (Brooks et al. 1983, eq. 12)."""
    inside = jnp.clip(x, start, 1.0) ** 2
    return (1.0 - inside) ** 2 * (1.0 + 2.0 * inside - 3.0 * start**2) / (1.0 - start**2) ** 3


class ScaledDense(nn.Module):
    """Linear layer with unit-variance weights, scaled by gain/sqrt(inputs), so that one prior width fits all layers."""

    features: int
    gain: float = 1.0
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., inputs] to [..., features]."""
        fan_in = x.shape[-1]
        weight = self.param("weight", nn.initializers.normal(1.0), (fan_in, self.features), x.dtype)
        y = x @ (weight * (self.gain / math.sqrt(fan_in)))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), x.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + (self.features,))
        return y


class MLP(nn.Module):
    """Dense layers with SiLU between them; the gain compensates for the nonlinearity."""

    widths: tuple[int, ...]
    use_bias: bool = False
    gain: float = math.sqrt(2.0)
    activation: bool = True  # if False, the layers follow each other directly, with a gain of 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., inputs] to [..., widths[-1]]."""
        for i, width in enumerate(self.widths):
            if i > 0 and self.activation:
                x = nn.silu(x)
            gain = self.gain if i > 0 and self.activation else 1.0
            x = ScaledDense(width, gain, self.use_bias, name=f"dense_{i}")(x)
        return x


class EquivariantLinear(nn.Module):
    """Mix the channels of each irrep separately; irreps without an input are dropped from the output."""

    out: tuple[tuple[str, int], ...]
    use_bias: bool = False  # of the even scalars

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Map `{irrep: [n, 2l+1, channels]}` to `{irrep: [n, 2l+1, width]}`."""
        mixed = {}
        for irrep, width in self.out:
            if irrep in x:
                biased = self.use_bias and irrep == "0e"
                mixed[irrep] = ScaledDense(width, use_bias=biased, name=f"linear_{irrep}")(x[irrep])
        return mixed


class SelfConnection(nn.Module):
    """Mix the channels of each irrep with weights that are linear in the element embedding."""

    out: tuple[tuple[str, int], ...]
    declared_width: int | None = None  # embedding width used for the normalisation; None: the actual one

    @nn.compact
    def __call__(self, x: Features, embedding: jax.Array | int, species: jax.Array) -> Features:
        """Map `{irrep: [n, 2l+1, channels]}` to `{irrep: [n, 2l+1, width]}`.

        The embedding is [s, v], or the number s of elements, each of which has weights of its own; species [n].
        """
        mixed = {}
        width_a = embedding if isinstance(embedding, int) else embedding.shape[1]
        for irrep, width in self.out:
            if irrep not in x:
                continue
            fan_in = x[irrep].shape[-1]
            weight = self.param(
                f"weight_{irrep}", nn.initializers.normal(1.0), (fan_in, width_a, width), x[irrep].dtype
            )
            if isinstance(embedding, int):
                per_element = jnp.swapaxes(weight, 0, 1)
            else:
                per_element = jnp.einsum("uvw,sv->suw", weight, embedding)
            scale = math.sqrt(fan_in * (self.declared_width or width_a))
            mixed[irrep] = _by_species(x[irrep] / scale, per_element, species)
        return mixed


def _by_species(x: jax.Array, weights: jax.Array, species: jax.Array) -> jax.Array:
    """x [n, m, u] times the matrix [u, w] of each atom's element, as one dense product over (element, u)."""
    n, m, u = x.shape
    elements, _, width = weights.shape
    one_hot = jax.nn.one_hot(species, elements, dtype=x.dtype)
    spread = one_hot[:, None, :, None] * x[:, :, None, :]
    product = spread.reshape(n * m, elements * u) @ weights.reshape(elements * u, width)
    return product.reshape(n, m, width)


class Convolution(nn.Module):
    """Sum over neighbours of node features times edge harmonics, weighted by a radial network per path."""

    paths: tuple[Path, ...]
    radial_widths: tuple[int, ...]
    radial_gain: float = math.sqrt(2.0)

    @nn.compact
    def __call__(
        self,
        x: Features,
        harmonics: Features,
        radial: jax.Array,
        neighbors: jax.Array,
        receivers: jax.Array | None = None,
    ) -> Features:
        """Pass messages along the edges.

        Args:
          x: [n, 2l+1, channels] of each irrep.
          harmonics: [r, k, 2l+1] of each irrep.
          radial: [r, k, bessels].
          neighbors: [r, k] sender of each slot.
          receivers: [r] ascending, atom index of each row of slots; None: row i belongs to atom i.

        Returns:
          `{irrep: [n, 2l+1, channels]}` with the channels of all paths to this irrep.
        """
        widths = [x[p.node].shape[-1] for p in self.paths]
        layers = (*self.radial_widths, sum(widths))
        weights = MLP(layers, gain=self.radial_gain, name="radial")(radial)
        split = jnp.split(weights, np.cumsum(widths)[:-1].tolist(), axis=-1)
        senders = {ir: x[ir][neighbors] for ir in {p.node for p in self.paths}}
        messages: dict[str, list[jax.Array]] = {}
        for path, weight in zip(self.paths, split, strict=True):
            message = combine(path, senders[path.node], harmonics[path.edge], weight)
            messages.setdefault(path.out, []).append(message)
        joined = {ir: jnp.concatenate(parts, axis=-1) for ir, parts in messages.items()}
        atoms = x[self.paths[0].node].shape[0]
        return {ir: Slots(neighbors, receivers).summed(rows, atoms) for ir, rows in joined.items()}


def combine(path: Path, sender: jax.Array, harmonic: jax.Array, weight: jax.Array) -> jax.Array:
    """Message of one path summed over neighbours.

    If one of the three degrees is zero, the coupling is a multiple of the identity, which saves a product.

    Args:
      path: which irreps are combined.
      sender: [n, k, 2l1+1, u] features of the neighbours.
      harmonic: [n, k, 2l2+1] edge harmonics; for l2 = 0 they are one by normalisation and are not read.
      weight: [n, k, u] radial weights, zero on padded slots.

    Returns:
      [n, 2l3+1, u].
    """
    c = coupling(degree(path.node), degree(path.edge), degree(path.out))
    n, k, components, u = sender.shape
    scaled = sender * weight[:, :, None, :]
    if degree(path.edge) == 0:
        return jnp.sum(scaled, axis=1) * float(c[0, 0, 0])
    if degree(path.node) == 0 or degree(path.out) == 0:
        edge = harmonic * float(c[0, 0, 0])
    else:
        edge = harmonic @ jnp.asarray(c.swapaxes(0, 1).reshape(c.shape[1], -1), harmonic.dtype)
    edge = edge.reshape(n, k * components, c.shape[2])
    return jnp.einsum("nac,nau->ncu", edge, scaled.reshape(n, k * components, u))


class Gate(nn.Module):
    """Activation of scalars; other irreps are multiplied by an activated even scalar (Weiler et al. 2018)."""

    scalars: tuple[tuple[str, int], ...]
    gated: tuple[tuple[str, int], ...]
    norms: tuple[float, float] = ACTIVATION_NORMS["e3nn"]  # of silu and of tanh

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Map `{irrep: [n, 2l+1, channels]}` to the same without the `0e` channels used as gates."""
        out: Features = {}
        for irrep, width in self.scalars:
            out[irrep] = activate(x[irrep][..., :width], parity(irrep), self.norms)
        start = dict(self.scalars).get("0e", 0)
        for irrep, width in self.gated:
            gate = activate(x["0e"][..., start : start + width], 1, self.norms)
            out[irrep] = x[irrep] * gate
            start += width
        return out


def activate(x: jax.Array, parity_sign: int, norms: tuple[float, float]) -> jax.Array:
    """Normalised SiLU for even scalars, normalised tanh for odd ones."""
    return norms[0] * nn.silu(x) if parity_sign > 0 else norms[1] * jnp.tanh(x)

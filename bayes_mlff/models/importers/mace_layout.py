"""Where the weights of this package's MACE are in the state of a mace-torch model.

e3nn stores the matrices of a layer one after the other in a flat vector; the self-connection holds its element axis in
the middle. PyTorch's linear layers are transposed and do not scale their weights. For several heads see `mace_heads`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.equivariant import degree
from bayes_mlff.models.mace_interaction import NORMALISER, outputs, senders, targets
from bayes_mlff.models.mace_parts import message_paths
from bayes_mlff.models.mace_product import generalized_coupling
from bayes_mlff.models.mace_radial import DENSITY_WIDTHS


class Entry(NamedTuple):
    """A part of one source array that is one array of the target: (part - offset) * scale."""

    source: str
    start: int
    shape: tuple[int, ...]  # of the contiguous stretch in the source
    target: str
    axis: int | None = None  # of the elements
    transposed: bool = False
    scale: float = 1.0
    offset: float = 0.0

    def part(self, array: np.ndarray) -> np.ndarray:
        """The part of a contiguous source array, as a view."""
        stretch = array.reshape(-1)[self.start : self.start + math.prod(self.shape)].reshape(self.shape)
        return stretch.T if self.transposed else stretch

    def ours(self, part: np.ndarray) -> np.ndarray:
        """Convert the source's numbers to those of this package."""
        return part if self.scale == 1.0 and self.offset == 0.0 else (part - self.offset) * self.scale

    def theirs(self, weights: np.ndarray) -> np.ndarray:
        """The inverse of `ours`."""
        return weights if self.scale == 1.0 and self.offset == 0.0 else weights / self.scale + self.offset


class Product(NamedTuple):
    """Weights [elements, p, channels] of the products of one order, and the corresponding couplings."""

    source: str
    coupling: str
    target: str
    degree: int
    order: int


def entries(config: MACEConfig) -> list[Entry]:
    """Map parts of the entries of the state to parameters, except for the products."""
    shape = (config.declared_elements, config.width)
    found = [Entry("node_embedding.linear.weight", 0, shape, "embedding", 0)]
    inputs: tuple[str, ...] = ("0e",)
    for i in range(config.num_interactions):
        found += _interaction(config, i, inputs)
        inputs = outputs(config, i)
        last = [(f"linear_products/linear_{ir}/weight", (config.width, config.width), None) for ir in inputs]
        found += _stack(f"products.{i}.linear.weight", f"interaction_{i}/", last)
    return found + _readouts(config)


def _interaction(config: MACEConfig, i: int, inputs: tuple[str, ...]) -> list[Entry]:
    """The weights of one interaction, whose features have the irreps `inputs`."""
    source, target, kind = f"interactions.{i}.", f"interaction_{i}/", config.kind(i)
    width, elements, irreps = config.width, config.declared_elements, targets(config)
    sent, sent_width = senders(config, i)
    paths = message_paths(sent, config.max_ell, irreps)
    fan_in = {ir: sent_width * sum(p.out == ir for p in paths) for ir in irreps}
    before = {ir: width * len(irreps) if kind == "nonlinear" and ir == "0e" else width for ir in irreps}
    kept = [ir for ir in inputs if ir in outputs(config, i)]
    if kind in ("plain", "density"):
        skip = [(f"element_messages/weight_{ir}", (width, elements, width), 1) for ir in irreps]
    elif kind == "nonlinear":
        skip = [(f"self_connection/linear_{ir}/weight", (width, width), None) for ir in kept]
    else:
        skip = [(f"self_connection/weight_{ir}", (width, elements, width), 1) for ir in kept]
    up = [(f"linear_up/linear_{ir}/weight", (width, sent_width), None) for ir in sent]
    down = [(f"linear_messages/linear_{ir}/weight", (fan_in[ir], before[ir]), None) for ir in irreps]
    found = _stack(f"{source}linear_up.weight", target, up) + _stack(f"{source}skip_tp.weight", target, skip)
    columns, density = sent_width * len(paths), kind in ("density", "density_residual")
    if kind != "nonlinear":
        found += _stack(f"{source}linear.weight", target, down)
        found += _radial(f"{source}conv_tp_weights.", f"{target}messages/radial/", config, columns)
        name, shape = f"{source}density_fn.layer0.weight", (config.num_bessels, 1)
        return found + ([Entry(name, 0, shape, f"{target}density/radial/weight")] if density else [])
    found += _stack(f"{source}linear_1.weight", target, down)
    found += _gated(config, i, before)
    radial, hidden = f"{source}conv_tp_weights.net.", config.radial_widths
    found += _species_radial(radial, f"{target}messages/radial/", config, (*hidden, columns))
    radial = f"{source}density_fn.net."
    return found + _species_radial(radial, f"{target}density/radial/", config, (*DENSITY_WIDTHS, 1))


def _gated(config: MACEConfig, i: int, before: dict[str, int]) -> list[Entry]:
    """What only the kind `nonlinear` has, without its radial networks."""
    source, target, width = f"interactions.{i}.", f"interaction_{i}/", config.width
    sent, sent_width = senders(config, i)
    own = [(f"linear_own/linear_{ir}/weight", (sent_width, before[ir]), None) for ir in sent]
    gated = [(f"linear_gated/linear_{ir}/weight", (width, width), None) for ir in before]
    found = _stack(f"{source}linear_res.weight", target, own) + _stack(f"{source}linear_2.weight", target, gated)
    for end in ("source_embedding", "target_embedding"):
        found.append(Entry(f"{source}{end}.weight", 0, (config.declared_elements, width), f"{target}{end}", 0))
    found.append(Entry(f"{source}alpha", 0, (), f"{target}normaliser", offset=NORMALISER))
    return [*found, Entry(f"{source}beta", 0, (), f"{target}normaliser_density", scale=NORMALISER)]


def _radial(source: str, target: str, config: MACEConfig, columns: int) -> list[Entry]:
    """The radial network that sees distances only."""
    layers = list(pairwise((config.num_bessels, *config.radial_widths, columns)))
    names = [*(f"hidden/dense_{k}/weight" for k in range(len(layers) - 1)), "weight"]
    return [
        Entry(f"{source}layer{k}.weight", 0, pair, target + name)
        for k, (name, pair) in enumerate(zip(names, layers, strict=True))
    ]


def _species_radial(source: str, target: str, config: MACEConfig, widths: tuple[int, ...]) -> list[Entry]:
    """The radial network that sees the elements: linear layers 0, 3, 6, ..., each but the last with a layer norm."""
    found: list[Entry] = []
    last = len(widths) - 1
    for k, (inputs, size) in enumerate(pairwise((config.num_bessels + 2 * config.width, *widths))):
        names = {0: ("first", "first_bias"), last: ("weight", "bias")}
        weight, bias = names.get(k, (f"dense_{k}/weight", f"dense_{k}/bias"))
        linear, scale = f"{source}{3 * k}.", math.sqrt(inputs)
        found.append(Entry(f"{linear}weight", 0, (size, inputs), target + weight, transposed=True, scale=scale))
        found.append(Entry(f"{linear}bias", 0, (size,), target + bias))
        if k < last:
            for theirs, ours in (("weight", "factor"), ("bias", "offset")):
                found.append(Entry(f"{source}{3 * k + 1}.{theirs}", 0, (size,), f"{target}norm_{k}/{ours}"))
    return found


def _readouts(config: MACEConfig) -> list[Entry]:
    """The readouts; of the last one, hidden layers have a bias from the second on."""
    width, hidden, last = config.width, config.readout_width, config.num_interactions - 1
    found = []
    for i in range(config.num_interactions):
        source, target = f"readouts.{0 if config.last_readout_only else i}.", f"readout_{i}/"
        if 0 < i == last:
            names = ("linear_1", "linear_mid", "linear_2") if config.readout_bias else ("linear_1", "linear_2")
            widths = (width, hidden, hidden, 1) if config.readout_bias else (width, hidden, 1)
            for k, (name, pair) in enumerate(zip(names, pairwise(widths), strict=True)):
                found.append(Entry(f"{source}{name}.weight", 0, pair, f"{target}dense_{k}/weight"))
                if config.readout_bias and k > 0:
                    found.append(Entry(f"{source}{name}.bias", 0, pair[1:], f"{target}dense_{k}/bias"))
        elif not config.last_readout_only:
            found.append(Entry(f"{source}linear.weight", 0, (width, 1), f"{target}weight"))
    return found


def products(config: MACEConfig) -> list[Product]:
    """The weights of products; orders that cannot give a degree have none."""
    found = []
    for i in range(config.num_interactions):
        for j, ir in enumerate(outputs(config, i)):
            prefix = f"products.{i}.symmetric_contractions.contractions.{j}."
            for order in range(1, config.correlation + 1):
                if generalized_coupling(config.max_ell, degree(ir), order).shape[-1]:
                    source = _product_weight(prefix, order, config.correlation)
                    target = f"interaction_{i}/product/weight_{ir}_{order}"
                    found.append(Product(source, f"{prefix}U_matrix_{order}", target, degree(ir), order))
    return found


def without_effect(config: MACEConfig) -> set[str]:
    """Weights that multiply zero couplings: mace-torch has entries for orders that cannot give a degree."""
    used = {product.source for product in products(config)}
    every = {
        _product_weight(f"products.{i}.symmetric_contractions.contractions.{j}.", order, config.correlation)
        for i in range(config.num_interactions)
        for j in range(len(outputs(config, i)))
        for order in range(1, config.correlation + 1)
    }
    return every - used


def _product_weight(prefix: str, order: int, correlation: int) -> str:
    """Name of the weights of one order: the highest apart, the others descending."""
    return f"{prefix}weights_max" if order == correlation else f"{prefix}weights.{correlation - 1 - order}"


def _stack(source: str, prefix: str, parts: Sequence[tuple[str, tuple[int, ...], int | None]]) -> list[Entry]:
    """Matrices that are stored one after the other in one flat entry."""
    start, found = 0, []
    for target, shape, axis in parts:
        found.append(Entry(source, start, shape, prefix + target, axis))
        start += math.prod(shape)
    return found

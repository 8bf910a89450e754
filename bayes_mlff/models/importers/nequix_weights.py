"""Weights of Nequix (JAX, e3nn-jax) in the layout of this package.

Nequix (Koker, Kotak and Smidt 2025, arXiv:2508.16067) is a NequIP network with other choices: the first block's input
is the one-hot element, every block has a self-connection and a layer norm, radial networks have no gain, the
frequencies of the Bessel functions are constants, and the readout is linear. Its layout differs in these ways:

- arrays have no names but an order: atomic energies, then of each block the radial network, the linear maps before and
  after the convolution, the self-connection and the layer norm, irrep by irrep, then the readout;
- weights of radial networks and layer norms contain the factors by which they are normalised here;
- the columns of a radial network are sorted by the output irrep of their path;
- a self-connection of each element has the element as its first axis.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Final, NamedTuple

import e3nn_jax as e3nn
import numpy as np
from flax.traverse_util import unflatten_dict
from pydantic import BaseModel, Field, ValidationError

from bayes_mlff.core.errors import READER_ERRORS, WeightsError, brief, first_problem, shown
from bayes_mlff.models.config import NequIPConfig, PositiveFloat, PositiveInt
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.equivariant import channels, degree, paths
from bayes_mlff.models.force_sigma import HEAD
from bayes_mlff.models.importers.torch_weights import template
from bayes_mlff.models.nequip import NequIP

FOREIGN: Final = ("architecture", "format", "version")
"""Keys that no release up to 0.4.5 writes: with one of them a file is of a form that is not known here."""


class Header(BaseModel, frozen=True, strict=True, extra="ignore", allow_inf_nan=False):
    """What of a file's header makes the network; the rest is about its training."""

    atomic_numbers: Annotated[list[int], Field(min_length=1, max_length=118)]
    hidden_irreps: Annotated[str, Field(max_length=500)]
    lmax: Annotated[int, Field(ge=0, le=4)]
    cutoff: PositiveFloat
    n_layers: PositiveInt
    radial_basis_size: PositiveInt
    radial_mlp_size: PositiveInt
    radial_mlp_layers: PositiveInt
    radial_polynomial_p: PositiveFloat
    index_weights: bool
    layer_norm: bool
    scale: float
    shift: float
    avg_n_neighbors: PositiveFloat


class Leaf(NamedTuple):
    """An array of the file and what becomes of it."""

    shape: tuple[int, ...]
    target: str | None  # name of the parameter, None for what is part of the configuration
    factor: float = 1.0
    columns: np.ndarray | None = None  # target[..., i] = factor * leaf[..., columns[i]]


def describe(header: Mapping[str, Any], leaves: Sequence[np.ndarray]) -> NequIPConfig:
    """The architecture of a file.

    Args:
      header: the line of JSON.
      leaves: the arrays; the energies of isolated atoms are taken from them.

    Raises:
      WeightsError: naming what is missing, of another kind or not supported.
    """
    foreign = [f"{key} is {shown(header[key])}" for key in FOREIGN if key in header]
    missing = sorted(set(Header.model_fields) - set(header))
    if foreign or missing:
        problems = foreign + [f"missing {key}" for key in missing]
        raise WeightsError(f"Nequix model is not supported: {'; '.join(problems)}")
    try:
        parsed = Header.model_validate(dict(header))
        return _config(parsed, leaves)
    except ValidationError as error:
        place, value, message = first_problem(error, "header")
        raise WeightsError(f"Nequix model is not supported: {place} is {value}; {message}") from error


def _config(header: Header, leaves: Sequence[np.ndarray]) -> NequIPConfig:
    elements, power = tuple(header.atomic_numbers), header.radial_polynomial_p
    problems = _unsupported_irreps(header)
    if power != round(power):
        problems.append(f"radial_polynomial_p is {power}; allowed: whole numbers")
    # Before anything is built: every layer has an array of its own.
    if header.n_layers + header.radial_mlp_layers > len(leaves):
        claimed = f"{header.n_layers} blocks with {header.radial_mlp_layers} radial layers"
        problems.append(f"the header claims {claimed} in {len(leaves)} arrays")
    elif leaves[0].shape != (len(elements),):
        problems.append(f"energies of atoms have the shape {leaves[0].shape} for {len(elements)} elements")
    if problems:
        raise WeightsError(f"Nequix model is not supported: {'; '.join(problems)}")
    return NequIPConfig(
        elements=elements,
        r_max=header.cutoff,
        hidden_irreps=header.hidden_irreps,
        num_layers=header.n_layers,
        edge_l_max=header.lmax,
        embedding_features=len(elements),
        one_hot_embedding=True,
        one_hot_input=True,
        self_connection="indexed" if header.index_weights else "linear",
        first_self_connection=True,
        layer_norm=header.layer_norm,
        activation_norm="e3nn-jax",
        radial_depth=header.radial_mlp_layers,
        radial_width=header.radial_mlp_size,
        num_bessels=header.radial_basis_size,
        trainable_bessels=False,
        cutoff_power=round(power),
        average_neighbors=header.avg_n_neighbors,
        energy_scales=(header.scale,) * len(elements),
        energy_shifts=tuple(float(e) + header.shift for e in leaves[0]),
    )


def _unsupported_irreps(header: Header) -> list[str]:
    """What is wrong with the hidden irreps: those that spherical harmonics cannot make of scalars are not supported."""
    try:
        irreps = e3nn.Irreps(header.hidden_irreps)
    except READER_ERRORS as error:
        return [f"hidden_irreps is {header.hidden_irreps!r} ({brief(str(error))})"]
    natural = all(ir.p == (-1) ** ir.l and ir.l <= header.lmax and mul > 0 for mul, ir in irreps)
    if natural and [ir.l for _, ir in irreps] == sorted({ir.l for _, ir in irreps}) and "0e" in irreps:
        return []
    return [f"hidden_irreps is {header.hidden_irreps!r}; allowed: of 0e, 1o, 2e, ... up to lmax, in this order"]


def from_nequix(leaves: Sequence[np.ndarray], config: NequIPConfig) -> Params:
    """Take over the weights of a file.

    The source has no head for the force σ: those weights become zero, so that every σ is `force_sigma.SIGMA_UNIT`.

    Args:
      leaves: the arrays of the file, float64.
      config: the architecture by `describe`.

    Returns:
      Parameters for `NequIP(config)` as numpy arrays in float64.

    Raises:
      WeightsError: naming the first array that is missing, left over, of another shape or not made of finite numbers.
    """
    filled, read = {}, 0
    # One by one, so that what a header claims is worked out only as far as there are arrays for it.
    for i, leaf in enumerate(layout(config)):
        name = f"array {i} ({leaf.target or 'energies of atoms'})"
        if i >= len(leaves):
            raise WeightsError(f"Nequix weights do not fit their header: {name} is missing")
        if leaves[i].shape != leaf.shape:
            raise WeightsError(
                f"Nequix weights do not fit their header: {name} has the shape {leaves[i].shape}, expected {leaf.shape}"
            )
        if not np.isfinite(leaves[i]).all():
            raise WeightsError(f"Nequix weights: {name} is not finite")
        if leaf.target is not None:
            filled[leaf.target] = leaf.factor * _turned(leaf, leaves[i], config)
        read = i + 1
    if read < len(leaves):
        raise WeightsError(f"Nequix weights do not fit their header: {len(leaves)} arrays, expected {read}")
    shapes = template(NequIP(config))
    filled |= {k: np.zeros(v.shape) for k, v in shapes.items() if k.startswith(f"{HEAD}/")}
    return unflatten_dict({k: filled[k] for k in shapes}, sep="/")


def _turned(leaf: Leaf, values: np.ndarray, config: NequIPConfig) -> np.ndarray:
    """An array with its axes as they are here."""
    if leaf.columns is not None:
        return values[..., leaf.columns]
    if config.self_connection != "indexed" or "self_connection" not in str(leaf.target):
        return values
    # Of the first block's input, the one-hot element, each element's matrix has one row that counts.
    each = np.arange(len(config.elements))
    return values[each, each] if str(leaf.target).startswith("interaction_0/") else values.swapaxes(0, 1)


def layout(config: NequIPConfig) -> Iterator[Leaf]:
    """The arrays of a file in their order."""
    count, hidden = len(config.elements), channels(config.hidden_irreps)
    yield Leaf((count,), None)
    inputs = {"0e": count}
    for i in range(config.num_layers):
        outputs = hidden if i < config.num_layers - 1 else {"0e": hidden["0e"]}
        yield from _block(config, i, inputs, outputs)
        inputs = outputs
    yield Leaf((inputs["0e"], 1), "readout/dense_0/weight")


def _block(config: NequIPConfig, index: int, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> list[Leaf]:
    """The arrays of one block."""
    prefix, indexed = f"interaction_{index}/", config.self_connection == "indexed"
    before_gate = dict(outputs) | {"0e": outputs["0e"] + sum(w for ir, w in outputs.items() if ir != "0e")}
    ours = paths(tuple(inputs), config.edge_l_max, tuple(before_gate))
    found = _radial(config, f"{prefix}convolution/radial/", [(degree(p.out), inputs[p.node]) for p in ours])
    for ir, width in inputs.items():
        target = "embedding" if index == 0 else f"{prefix}linear_in/linear_{ir}/weight"
        found.append(Leaf((width, width), target))
    for ir, width in before_gate.items():
        arriving = sum(inputs[p.node] for p in ours if p.out == ir)
        found.append(Leaf((arriving, width), f"{prefix}linear_out/linear_{ir}/weight"))
    form = "weight" if index == 0 else "weight_{}" if indexed else "linear_{}/weight"
    elements = (len(config.elements),) if indexed else ()
    for ir in (ir for ir in before_gate if ir in inputs):
        found.append(Leaf((*elements, inputs[ir], before_gate[ir]), f"{prefix}self_connection/{form.format(ir)}"))
    if config.layer_norm:
        mean = sum(width / (2 * degree(ir) + 1) for ir, width in before_gate.items()) / len(before_gate)
        names = {ir: f"{prefix}layer_norm/weight_{ir}" for ir in before_gate}
        found += [Leaf((width,), names[ir], 1.0 / math.sqrt(mean)) for ir, width in before_gate.items()]
    return found


def _radial(config: NequIPConfig, prefix: str, parts: Sequence[tuple[int, int]]) -> list[Leaf]:
    """The layers of a radial network; parts are degree of the output and width of each path, in the order here."""
    starts = np.cumsum([0, *(width for _, width in parts)])
    own = [np.arange(a, b) for a, b in pairwise(starts)]
    theirs = np.concatenate([own[i] for i in sorted(range(len(parts)), key=lambda i: parts[i][0])])
    widths = (config.num_bessels, *(config.radial_width,) * config.radial_depth, len(theirs))
    last = len(widths) - 2
    return [
        Leaf(
            widths[i : i + 2],
            f"{prefix}dense_{i}/weight",
            math.sqrt(widths[i]) / (config.radial_gain if i else 1.0),
            np.argsort(theirs) if i == last else None,
        )
        for i in range(last + 1)
    ]

"""Weights of EquiformerV2 of fairchem (PyTorch) in the layout of this package.

Both hold the same numbers. They differ in these ways:

- matrices of PyTorch map from their last axis, and contain the factors by which they are normalised here;
- factors of norms are differences from one here;
- embeddings of elements have a row for each atomic number up to the largest, here for the elements of the model;
- what reaches no output is not here: of the last maps of the heads all degrees but those of energy and forces, and of
  the energy head everything that makes higher degrees.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict
from pydantic import BaseModel, Field, ValidationError

from bayes_mlff.core.errors import WeightsError, first_problem, shown
from bayes_mlff.models.config import PositiveFloat, PositiveInt
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.equiformer_v2 import EquiformerV2
from bayes_mlff.models.equiformer_v2_config import OC20_ATOMS, OC20_DEGREE, EquiformerV2Config
from bayes_mlff.models.force_sigma import HEAD
from bayes_mlff.models.importers.torch_weights import template

State = Mapping[str, np.ndarray]

CONSTANTS: Final = re.compile(
    r"SO3_rotation|SO3_grid|mappingReduced|distance_expansion|expand_index$|balance_degree_weight$"
)
"""Parts of the names of entries that hold no weights; all follow from the settings."""

UNTRAINED: Final = 1.001e-3
"""Embeddings of both elements of an edge begin within ±0.001, and shrink where no structure has the element."""

GAIN: Final = math.sqrt(2.0)
"""Gain of layers after an activation in `equivariant.MLP`."""


class Scales(NamedTuple):
    """What outputs are multiplied by."""

    energy: float  # eV
    force: float  # eV/Å


class Settings(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Arguments of the network of fairchem, with its defaults; those that are not supported have one value."""

    max_neighbors: PositiveInt = 500
    max_radius: PositiveFloat = 5.0
    max_num_elements: Annotated[int, Field(ge=2, le=119)] = 90
    num_layers: PositiveInt = 12
    sphere_channels: PositiveInt = 128
    attn_hidden_channels: PositiveInt = 128
    num_heads: PositiveInt = 8
    attn_alpha_channels: PositiveInt = 32
    attn_value_channels: PositiveInt = 16
    ffn_hidden_channels: PositiveInt = 512
    norm_type: Literal["layer_norm_sh"]
    lmax_list: Annotated[list[int], Field(min_length=1, max_length=1)] = [6]
    mmax_list: Annotated[list[int], Field(min_length=1, max_length=1)] = [2]
    grid_resolution: int
    edge_channels: PositiveInt = 128
    use_atom_edge_embedding: Literal[True] = True
    share_atom_edge_embedding: Literal[False] = False
    use_m_share_rad: Literal[False] = False
    distance_function: Literal["gaussian"] = "gaussian"
    use_s2_act_attn: Literal[False] = False
    use_attn_renorm: Literal[True] = True
    use_gate_act: bool = False
    use_grid_mlp: bool = False
    use_sep_s2_act: Literal[True] = True
    enforce_max_neighbors_strictly: Literal[True] = True
    avg_num_nodes: PositiveFloat | None = None
    avg_degree: PositiveFloat | None = None
    use_energy_lin_ref: Literal[False] | None = False
    load_energy_lin_ref: Literal[False] | None = False
    regress_forces: Literal[True] = True
    # Without influence on what the network computes for a graph.
    use_pbc: Any = None
    use_pbc_single: Any = None
    otf_graph: Any = None
    num_sphere_samples: Any = None
    num_distance_basis: Any = None
    attn_activation: Any = None
    ffn_activation: Any = None
    alpha_drop: Any = None
    drop_path_rate: Any = None
    proj_drop: Any = None
    weight_init: Any = None
    activation_checkpoint: Any = None


class Leaf(NamedTuple):
    """A parameter and how it is made of entries of a state."""

    target: str
    source: str
    shape: tuple[int, ...]  # of the source
    make: Callable[[np.ndarray], np.ndarray]


def describe(settings: Mapping[str, Any], state: State, scales: Scales) -> EquiformerV2Config:
    """The architecture of a checkpoint.

    Its elements are those that were in the training data, which the embeddings of edges show.

    Raises:
      WeightsError: naming what is missing, unknown or not supported.
    """
    try:
        parsed = Settings.model_validate(dict(settings))
        return _config(parsed, state, scales)
    except ValidationError as error:
        place, value, message = first_problem(error, "the settings")
        raise WeightsError(f"EquiformerV2 is not supported: {place} is {value}; {message}") from error


def _config(settings: Settings, state: State, scales: Scales) -> EquiformerV2Config:
    # Before anything is built: every block has arrays of its own.
    if settings.num_layers > len(state):
        raise WeightsError(f"the settings claim {settings.num_layers} layers in {len(state)} arrays")
    tables = [v for k, v in state.items() if k.endswith(("source_embedding.weight", "target_embedding.weight"))]
    wrong = [v.shape for v in tables if v.ndim != 2 or len(v) != settings.max_num_elements]
    if not tables or wrong:
        raise WeightsError(f"embeddings of edges have the shapes {shown(wrong)} for {settings.max_num_elements} rows")
    trained = np.max([np.abs(table).max(axis=1) for table in tables], axis=0) > UNTRAINED
    elements = tuple(int(z) for z in np.flatnonzero(trained) if z > 0)
    gate = settings.use_gate_act
    return EquiformerV2Config(
        elements=elements,
        r_max=settings.max_radius,
        forces="direct",
        max_neighbors=settings.max_neighbors,
        num_layers=settings.num_layers,
        l_max=settings.lmax_list[0],
        m_max=settings.mmax_list[0],
        channels=settings.sphere_channels,
        hidden_channels=settings.attn_hidden_channels,
        heads=settings.num_heads,
        alpha_channels=settings.attn_alpha_channels,
        value_channels=settings.attn_value_channels,
        ffn_channels=settings.ffn_hidden_channels,
        edge_channels=settings.edge_channels,
        grid_resolution=settings.grid_resolution,
        attention_activation="gate" if gate else "s2",
        feed_forward="grid_mlp" if settings.use_grid_mlp else "gate" if gate else "s2",
        average_degree=settings.avg_degree or OC20_DEGREE,
        energy_scale=scales.energy / (settings.avg_num_nodes or OC20_ATOMS),
        force_scale=scales.force,
        energy_shifts=(0.0,) * len(elements),
    )


def from_fairchem(state: State, config: EquiformerV2Config) -> Params:
    """Take over the weights of a state.

    The source has no head for the force σ: those weights become zero, so that every σ is `force_sigma.SIGMA_UNIT`.

    Args:
      state: arrays by the names of the first generation of checkpoints.
      config: the architecture by `describe`.

    Returns:
      Parameters for `EquiformerV2(config)` as numpy arrays in float64.

    Raises:
      WeightsError: naming every entry that is missing, unknown, of another shape or not finite.
    """
    table = next((v for k, v in state.items() if k == "sphere_embedding.weight"), np.zeros((0, 0)))
    leaves = list(layout(config, len(table)))
    shapes = {leaf.source: leaf.shape for leaf in leaves} | dict(unused(config))
    problems = [f"missing {k}" for k in shapes if k not in state]
    for name, value in state.items():
        if name in shapes and value.shape != shapes[name]:
            problems.append(f"{name} has the shape {value.shape}, expected {shapes[name]}")
        elif name in shapes and not np.isfinite(value).all():
            problems.append(f"{name} is not finite")
        elif name not in shapes and not CONSTANTS.search(name):
            problems.append(f"unused {name}")
    if problems:
        raise WeightsError(f"weights do not fit the settings: {shown('; '.join(problems))}")
    made = {leaf.target: leaf.make(np.asarray(state[leaf.source], np.float64)) for leaf in leaves}
    wanted = template(EquiformerV2(config))
    made |= {k: np.zeros(v.shape) for k, v in wanted.items() if k.startswith(f"{HEAD}/")}
    return unflatten_dict({k: made[k].reshape(v.shape) for k, v in wanted.items()}, sep="/")


def layout(config: EquiformerV2Config, rows: int) -> Iterator[Leaf]:
    """All parameters but those of the σ head.

    Args:
      config: the architecture.
      rows: rows of the embeddings of elements.
    """
    elements = np.array(config.elements)
    yield Leaf("embedding", "sphere_embedding.weight", (rows, config.channels), lambda x: x[elements])
    degrees = config.l_max + 1
    yield from _radial(config, "edge_degree_embedding", "degree_embedding/radial", degrees * config.channels, rows)
    for i in range(config.num_layers):
        source, target = f"blocks.{i}", f"block_{i}"
        yield from _norm(config, f"{source}.norm_1", f"{target}/norm_0")
        yield from _attention(config, f"{source}.ga", f"{target}/attention", config.channels, rows, slice(None))
        yield from _norm(config, f"{source}.norm_2", f"{target}/norm_1")
        yield from _feed_forward(config, f"{source}.ffn", f"{target}/feed_forward")
    yield from _norm(config, "norm", "norm")
    yield from _energy(config)
    yield from _attention(config, "force_block", "forces", 1, rows, slice(1, 2))


def unused(config: EquiformerV2Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of weights that reach neither energy nor forces."""
    width, degrees = config.ffn_channels, config.l_max + 1
    yield "force_block.proj.bias", (1,)
    if config.feed_forward == "gate":
        yield "energy_block.gating_linear.weight", (config.l_max * width, config.channels)
        yield "energy_block.gating_linear.bias", (config.l_max * width,)
        return
    yield "energy_block.so3_linear_1.weight", (degrees, width, config.channels)
    yield "energy_block.so3_linear_1.bias", (width,)
    if config.feed_forward == "grid_mlp":
        for i in (0, 2, 4):
            yield f"energy_block.grid_mlp.{i}.weight", (width, width)


def _matrix(source: str, target: str, inputs: int, outputs: int, gain: float = 1.0) -> Leaf:
    """A linear map."""
    factor = math.sqrt(inputs) / gain
    return Leaf(target, f"{source}.weight", (outputs, inputs), lambda x: x.T * factor)


def _vector(source: str, target: str, size: int, above: float = 0.0) -> Leaf:
    """A vector, as its difference from a number."""
    return Leaf(target, source, (size,), lambda x: x - above)


def _dense(source: str, target: str, inputs: int, outputs: int, gain: float = 1.0) -> Iterator[Leaf]:
    """A linear map with bias."""
    yield _matrix(source, f"{target}/weight", inputs, outputs, gain)
    yield _vector(f"{source}.bias", f"{target}/bias", outputs)


def _layer_norm(source: str, target: str, size: int) -> Iterator[Leaf]:
    yield _vector(f"{source}.weight", f"{target}/scale", size, 1.0)
    yield _vector(f"{source}.bias", f"{target}/bias", size)


def _norm(config: EquiformerV2Config, source: str, target: str) -> Iterator[Leaf]:
    """A norm of features."""
    yield from _layer_norm(f"{source}.norm_l0", f"{target}/scalars", config.channels)
    shape = (config.l_max, config.channels)
    yield Leaf(f"{target}/scale", f"{source}.affine_weight", shape, lambda x: x - 1.0)


def _by_degree(
    config: EquiformerV2Config, source: str, target: str, inputs: int, outputs: int, kept: slice
) -> Iterator[Leaf]:
    """A linear map for each degree, of which some are kept."""
    factor = math.sqrt(inputs)
    shape = (config.l_max + 1, outputs, inputs)
    yield Leaf(f"{target}/weight", f"{source}.weight", shape, lambda x: x[kept].swapaxes(1, 2) * factor)
    if not kept.start:
        yield _vector(f"{source}.bias", f"{target}/bias", outputs)


def _radial(config: EquiformerV2Config, source: str, target: str, outputs: int, rows: int) -> Iterator[Leaf]:
    """A radial network with its embeddings of elements."""
    width, elements = config.edge_channels, np.array(config.elements)
    # The embeddings belong to the attention, the network to its first convolution.
    owner = source.removesuffix(".so2_conv_1")
    factor = math.sqrt(width)
    for theirs, ours in (("source", "sender"), ("target", "receiver")):
        name = f"{owner}.{theirs}_embedding.weight"
        yield Leaf(f"{target}/{ours}", name, (rows, width), lambda x: x[elements] * factor)
    net = f"{source}.rad_func.net"
    yield _matrix(f"{net}.0", f"{target}/dense_0", config.num_gaussians + 2 * width, width)
    yield _vector(f"{net}.0.bias", f"{target}/bias_0", width)
    yield from _layer_norm(f"{net}.1", f"{target}/norm_0", width)
    yield from _dense(f"{net}.3", f"{target}/dense_1", width, width)
    yield from _layer_norm(f"{net}.4", f"{target}/norm_1", width)
    yield from _dense(f"{net}.6", f"{target}/dense_2", width, outputs)


def _convolution(
    config: EquiformerV2Config, source: str, target: str, inputs: int, outputs: int, extra: int = 0
) -> Iterator[Leaf]:
    """A convolution in the frames of edges."""
    degrees = config.l_max + 1
    yield from _dense(f"{source}.fc_m0", f"{target}/order_0", degrees * inputs, extra + degrees * outputs)
    for m in range(1, config.m_max + 1):
        count = degrees - m
        name = f"{source}.so2_m_conv.{m - 1}.fc"
        yield _matrix(name, f"{target}/order_{m}/weight", count * inputs, 2 * count * outputs, 1.0 / GAIN)


def _attention(
    config: EquiformerV2Config, source: str, target: str, outputs: int, rows: int, kept: slice
) -> Iterator[Leaf]:
    """An attention, of whose output some degrees are kept."""
    pair, hidden, alpha = 2 * config.channels, config.hidden_channels, config.alpha_channels
    orders = range(config.m_max + 1)
    functions = sum((config.l_max - m + 1) * pair for m in orders)
    yield from _radial(config, f"{source}.so2_conv_1", f"{target}/radial", functions, rows)
    gates = hidden * (config.l_max if config.attention_activation == "gate" else 1)
    extra = config.heads * alpha + gates
    yield from _convolution(config, f"{source}.so2_conv_1", f"{target}/convolution_0", pair, hidden, extra)
    yield from _layer_norm(f"{source}.alpha_norm", f"{target}/alpha_norm", alpha)
    yield Leaf(f"{target}/alpha", f"{source}.alpha_dot", (config.heads, alpha), lambda x: x * math.sqrt(alpha))
    values = config.heads * config.value_channels
    yield from _convolution(config, f"{source}.so2_conv_2", f"{target}/convolution_1", hidden, values)
    yield from _by_degree(config, f"{source}.proj", f"{target}/projection", values, outputs, kept)


def _scalars(config: EquiformerV2Config) -> str:
    """Name of the map to scalars or gates in a feed-forward network."""
    return "scalar_mlp.0" if config.feed_forward == "grid_mlp" else "gating_linear"


def _feed_forward(config: EquiformerV2Config, source: str, target: str) -> Iterator[Leaf]:
    """A feed-forward network."""
    channels, width = config.channels, config.ffn_channels
    gates = width * (config.l_max if config.feed_forward == "gate" else 1)
    yield from _dense(f"{source}.{_scalars(config)}", f"{target}/scalars", channels, gates)
    yield from _by_degree(config, f"{source}.so3_linear_1", f"{target}/linear_0", channels, width, slice(None))
    if config.feed_forward == "grid_mlp":
        for i in range(3):
            name = f"{target}/grid_mlp/dense_{i}/weight"
            yield _matrix(f"{source}.grid_mlp.{2 * i}", name, width, width, GAIN if i else 1.0)
    yield from _by_degree(config, f"{source}.so3_linear_2", f"{target}/linear_1", width, channels, slice(None))


def _energy(config: EquiformerV2Config) -> Iterator[Leaf]:
    """The energy head, a feed-forward network of whose output degree 0 counts."""
    channels, width, degrees = config.channels, config.ffn_channels, config.l_max + 1
    first, target = math.sqrt(channels), "energy/dense_0"
    if config.feed_forward == "gate":
        shape = (degrees, width, channels)
        yield Leaf(f"{target}/weight", "energy_block.so3_linear_1.weight", shape, lambda x: x[0].T * first)
        yield _vector("energy_block.so3_linear_1.bias", f"{target}/bias", width)
    else:
        yield from _dense(f"energy_block.{_scalars(config)}", target, channels, width)
    factor = math.sqrt(width) / GAIN
    name = "energy_block.so3_linear_2"
    yield Leaf("energy/dense_1/weight", f"{name}.weight", (degrees, 1, width), lambda x: x[0].T * factor)
    yield _vector(f"{name}.bias", "energy/dense_1/bias", 1)

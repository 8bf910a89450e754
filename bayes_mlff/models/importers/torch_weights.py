"""Weights of NequIP 0.19 (PyTorch, e3nn) in the layout of this package, and the way back.

Both layouts hold the same numbers under the same normalisation; they differ in three ways:

- e3nn keeps the matrices of a linear layer in one flat vector, in the order of its irreps; here every irrep
  has its own matrix.
- e3nn keeps the irreps of hidden features in the order in which the model was declared and sorts by (l, p)
  before the gate; here they are always in the order 0e, 0o, 1o, 1e, 2e, ... The order decides which columns
  of the radial network serve which tensor-product path, which rows of the linear layer after the convolution
  belong to it, and which even scalars gate which irrep.
- e3nn knows an element by its place in `type_names`; here elements ascend.

Neither PyTorch nor NequIP is needed: a state is a mapping from names to numpy arrays,
`{k: v.numpy() for k, v in model.state_dict().items()}`.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from flax.traverse_util import flatten_dict, unflatten_dict

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.equivariant import Path, channels, degree, parity, paths
from bayes_mlff.models.force_sigma import HEAD
from bayes_mlff.models.nequip import NequIP

State = Mapping[str, np.ndarray]

PREFIX = "model.func."
"""Prefix of the network in `NequIPGNNModel` and `FullNequIPGNNModel`."""

BESSELS = f"{PREFIX}bessel_encode.bessel_weights"
"""Frequencies of the Bessel functions."""

NOT_WEIGHTS = re.compile(
    r"model\._empty"
    r"|.*\.output_mask"
    r"|.*\.bias"
    r"|.*\.equivariant_nonlin\.mul\.weight"
    r"|.*\.conv\.(tp_scatter\.)?tp\.weight"
    r"|.*\._w3j_\d_\d_\d"
)
"""Entries of a state that hold no weights: masks, coupling coefficients, and biases and weights of size 0."""


class Source(NamedTuple):
    """Declaration of the PyTorch model, as far as its state does not contain it."""

    type_names: tuple[str, ...]  # chemical symbols in the order of its types
    hidden_irreps: str  # `feature_irreps_hidden` of all blocks but the last, in the declared order


class Names(NamedTuple):
    """Names of the entries of one interaction block in the source."""

    radial: tuple[str, ...]  # weights of the radial network, layer by layer
    linear_in: str
    linear_out: str
    connection: str
    bias_in: str = ""  # of the even scalars, where the configuration has biases
    bias_out: str = ""


class Block(NamedTuple):
    """A contiguous part of one source array that fills one array of the target."""

    source: str
    start: int
    shape: tuple[int, ...]
    target: str
    rows: np.ndarray  # target[i] = block[rows[i]]
    columns: np.ndarray  # target[..., i] = block[..., columns[i]]


def declared(config: NequIPConfig) -> Source:
    """Describe a model built by `NequIPGNNModel` with `type_names` that ascend in atomic number.

    That builder declares hidden irreps by degree, even before odd.
    """
    symbols = tuple(chemical_symbols[z] for z in config.elements)
    widths = sorted(channels(config.hidden_irreps).items(), key=lambda item: (item[0][:-1], item[0][-1]))
    return Source(symbols, "+".join(f"{width}x{irrep}" for irrep, width in widths))


def from_nequip(state: State, config: NequIPConfig, source: Source) -> Params:
    """Take over the weights of a NequIP 0.19 model.

    The source has no head for the force σ: those weights become zero, the mean of their prior, so that every
    σ is `force_sigma.SIGMA_UNIT`.

    Args:
      state: the state dictionary as float numpy arrays.
      config: the architecture; energy scales and shifts are part of it and must be those of the state.
      source: how the PyTorch model was declared.

    Returns:
      Parameters for `NequIP(config)` as numpy arrays in the dtype of the state's weights. JAX would reduce float64 to
      float32 unless 64-bit numbers are enabled.

    Raises:
      WeightsError: naming every entry of the state without a place, every parameter without a source, every
        shape that differs and every constant of the model that differs from the configuration.
    """
    blocks = layout(config, source)
    wanted = template(NequIP(config))
    problems = _unfitting(state, blocks, config, source)
    filled: dict[str, np.ndarray] = {}
    if not problems:
        filled = {block.target: cut(state, block) for block in blocks}
        dtype = filled["embedding"].dtype
        filled |= {k: np.zeros(v.shape, dtype) for k, v in wanted.items() if k.startswith(f"{HEAD}/")}
        if config.trainable_bessels:
            filled["bessel_frequencies"] = filled["bessel_frequencies"].reshape(-1).astype(dtype)
        problems = [f"parameter {k} has no source" for k in wanted if k not in filled]
        problems += [f"{k} has shape {v.shape}" for k, v in filled.items() if v.shape != wanted[k].shape]
    if problems:
        raise WeightsError("NequIP weights do not fit the configuration: " + "; ".join(problems))
    return unflatten_dict({k: filled[k] for k in wanted}, sep="/")


def to_nequip(params: Params, config: NequIPConfig, source: Source, state: State) -> dict[str, np.ndarray]:
    """Put weights into the state of a NequIP 0.19 model, the inverse of `from_nequip`.

    Args:
      params: parameters of `NequIP(config)`; the σ head has no place in the target and is dropped.
      config: the architecture.
      source: how the PyTorch model was declared.
      state: the target's present state; its constants are kept, its weights replaced.

    Returns:
      A complete state of the same names, shapes and dtypes.

    Raises:
      WeightsError: if the state does not belong to this architecture.
    """
    blocks = layout(config, source)
    problems = _unfitting(state, blocks, config, source)
    if problems:
        raise WeightsError("NequIP state does not fit the configuration: " + "; ".join(problems))
    weights = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
    result = {k: np.array(v) for k, v in state.items()}
    for block in blocks:
        part = np.empty(block.shape, result[block.source].dtype)
        part[np.ix_(block.rows, *map(np.arange, block.shape[1:-1]), block.columns)] = weights[block.target].reshape(
            block.shape
        )
        result[block.source].reshape(-1)[block.start : block.start + part.size] = part.reshape(-1)
    return result


def layout(config: NequIPConfig, source: Source) -> list[Block]:
    """Map parts of the entries of the state to parameters.

    Raises:
      WeightsError: if elements or hidden irreps of source and configuration differ.
    """
    order = declared_order(config, source)
    types = np.array([source.type_names.index(chemical_symbols[z]) for z in config.elements])
    shape = (len(types), config.embedding_features)
    name = f"{PREFIX}type_embed.embed_module.weight"
    blocks = [Block(name, 0, shape, "embedding", types, np.arange(shape[1]))]
    if config.trainable_bessels:
        blocks.append(whole(BESSELS, (1, config.num_bessels), "bessel_frequencies"))
    inputs = {"0e": config.embedding_features}
    for i in range(config.num_layers):
        layer = Layer(config, inputs, order if i < config.num_layers - 1 else {"0e": order["0e"]})
        prefix = f"{PREFIX}layer{i}_convnet.conv."
        radial = _dense(f"{prefix}edge_mlp.mlp", config.radial_depth + 1)
        names = Names(radial, f"{prefix}linear_1.weight", f"{prefix}linear_2.weight", f"{prefix}sc.weight")
        connected = i > 0 or config.first_self_connection
        blocks += layer.blocks(names, f"interaction_{i}/", connected=connected)
        inputs = layer.outputs
    widths = (inputs["0e"], *(config.readout_width,) * config.readout_depth, 1)
    blocks += mlp(_dense(f"{PREFIX}per_atom_energy_readout.mlp_module.mlp", len(widths) - 1), "readout", widths)
    return blocks


def cut(state: State, block: Block) -> np.ndarray:
    """The parameter, or part of a parameter, of a block."""
    size = int(np.prod(block.shape))
    part = np.asarray(state[block.source]).reshape(-1)[block.start : block.start + size]
    return part.reshape(block.shape)[block.rows][..., block.columns]


class Layer:
    """Irreps of one interaction block as e3nn orders them."""

    def __init__(
        self, config: NequIPConfig, inputs: dict[str, int], wanted: dict[str, int], *, by_output: bool = False
    ):
        """Work out the irreps.

        Args:
          config: the architecture.
          inputs: irreps of the node features in the source's order.
          wanted: output irreps of the block, in the source's order.
          by_output: whether the columns of the radial network are sorted by the output irrep of their path.
        """
        self.config, self.inputs = config, inputs
        reachable = {p.out for p in self._paths(tuple(inputs), tuple(wanted))}
        scalars = {ir: w for ir, w in wanted.items() if degree(ir) == 0 and ir in reachable}
        gated = {ir: w for ir, w in wanted.items() if degree(ir) > 0 and ir in reachable}
        self.outputs = scalars | gated
        self.scalars, self.gated = scalars, gated
        self.before_gate = dict(sorted(self.outputs.items(), key=lambda item: (degree(item[0]), parity(item[0]))))
        self.before_gate["0e"] += sum(gated.values())
        self.routes = list(self._paths(tuple(inputs), tuple(self.before_gate)))
        """Paths in the order of the radial network's columns; each has one column per channel of its node irrep."""
        if by_output:
            self.routes.sort(key=lambda p: (degree(p.out), parity(p.out)))

    def _paths(self, node: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[Path, ...]:
        return paths(node, self.config.edge_l_max, allowed, with_parity=self.config.parity)

    def blocks(self, names: Names, target: str, *, connected: bool) -> list[Block]:
        """All blocks of this interaction, with a self-connection if `connected`; `target` is their prefix."""
        config, routes = self.config, self.routes
        ours = self._paths(_canonical(self.inputs), tuple(self.before_gate))
        columns = _reorder([(p, self.inputs[p.node]) for p in routes], ours)
        widths = (config.num_bessels, *(config.radial_width,) * config.radial_depth, len(columns))
        found = mlp(names.radial, f"{target}convolution/radial", widths, columns)
        found += _stack(
            names.linear_in,
            [(f"{target}linear_in/linear_{ir}/weight", (w, w), None, None) for ir, w in self.inputs.items()],
        )
        middle = []
        for ir, width in self.before_gate.items():
            parts = [(p, self.inputs[p.node]) for p in routes if p.out == ir]
            rows = _reorder(parts, [p for p in ours if p.out == ir])
            middle.append((f"{target}linear_out/linear_{ir}/weight", (len(rows), width), rows, self._gates(ir)))
        found += _stack(names.linear_out, middle)
        if config.scalar_biases:
            found.append(_vector(names.bias_in, self.inputs["0e"], f"{target}linear_in/linear_0e/bias"))
            width = self.before_gate["0e"]
            found.append(_vector(names.bias_out, width, f"{target}linear_out/linear_0e/bias", self._gates("0e")))
        if connected:
            form, between = {
                "embedding": ("weight_{}", (config.embedding_features,)),
                "element": ("weight_{}", (config.declared_elements,)),
                "linear": ("linear_{}/weight", ()),
            }[config.self_connection]
            connection = [
                (
                    f"{target}self_connection/{form.format(ir)}",
                    (w, *between, self.before_gate[ir]),
                    None,
                    self._gates(ir),
                )
                for ir, w in self.inputs.items()
                if ir in self.before_gate
            ]
            found += _stack(names.connection, connection)
        return found

    def _gates(self, irrep: str) -> np.ndarray | None:
        """Order of the even scalars: features first, then the gates of each irrep."""
        if irrep != "0e":
            return None
        parts = [("0e", self.scalars["0e"]), *self.gated.items()]
        return _reorder(parts, ["0e", *_canonical(self.gated)])


def _canonical(irreps: Mapping[str, int]) -> tuple[str, ...]:
    """The irreps in the order of this package."""
    return tuple(str(ir) for _, ir in e3nn.Irreps("+".join(irreps)).sort().irreps)


def _reorder(parts: list, order: Sequence) -> np.ndarray:
    """Indices that bring consecutive parts (key, width) into the order of the keys given."""
    start, index = 0, {}
    for key, width in parts:
        index[key] = np.arange(start, start + width)
        start += width
    return np.concatenate([index[key] for key in order])


def whole(source: str, shape: tuple[int, int], target: str, columns: np.ndarray | None = None) -> Block:
    """A matrix that is a separate entry."""
    return Block(source, 0, shape, target, np.arange(shape[0]), np.arange(shape[1]) if columns is None else columns)


def _vector(source: str, width: int, target: str, order: np.ndarray | None = None) -> Block:
    """A block that is the whole of a vector; target[i] = source[order[i]]."""
    return Block(source, 0, (width,), target, np.arange(width) if order is None else order, np.arange(width))


def _dense(prefix: str, layers: int) -> tuple[str, ...]:
    """Entries of NequIP's dense networks; activations take every second number."""
    return tuple(f"{prefix}.{2 * i}.weight" for i in range(layers))


def mlp(sources: Sequence[str], target: str, widths: tuple[int, ...], columns: np.ndarray | None = None) -> list[Block]:
    """The layers of a dense network; `columns` are those of the last."""
    last = len(widths) - 2
    return [
        whole(source, pair, f"{target}/dense_{i}/weight", columns if i == last else None)
        for i, (source, pair) in enumerate(zip(sources, pairwise(widths), strict=True))
    ]


def _stack(
    source: str, parts: Sequence[tuple[str, tuple[int, ...], np.ndarray | None, np.ndarray | None]]
) -> list[Block]:
    """Matrices that are stored one after the other in one flat entry."""
    start, blocks = 0, []
    for target, shape, rows, columns in parts:
        every_row, every_column = np.arange(shape[0]), np.arange(shape[-1])
        blocks.append(
            Block(
                source,
                start,
                shape,
                target,
                every_row if rows is None else rows,
                every_column if columns is None else columns,
            )
        )
        start += int(np.prod(shape))
    return blocks


def declared_order(config: NequIPConfig, source: Source) -> dict[str, int]:
    """Check that the hidden irreps are those of the configuration; return them in the source's order."""
    hidden = [(str(ir), mul) for mul, ir in e3nn.Irreps(source.hidden_irreps)]
    symbols = [chemical_symbols[z] for z in config.elements]
    if sorted(source.type_names) != sorted(symbols):
        raise WeightsError(f"type_names: got {list(source.type_names)}; allowed: {symbols} in any order")
    if len(dict(hidden)) != len(hidden) or dict(hidden) != channels(config.hidden_irreps):
        raise WeightsError(f"hidden_irreps: got {source.hidden_irreps!r}; allowed: {config.hidden_irreps} in any order")
    return dict(hidden)


def _unfitting(state: State, blocks: list[Block], config: NequIPConfig, source: Source) -> list[str]:
    """All differences between a state and a configuration."""
    return misfits(state, sizes_of(blocks), _constants(config, source), NOT_WEIGHTS)


def sizes_of(blocks: list[Block]) -> dict[str, int]:
    """Number of values of each entry of the source."""
    return {block.source: block.start + int(np.prod(block.shape)) for block in blocks}


def misfits(
    state: State, sizes: Mapping[str, int], constants: Mapping[str, np.ndarray], ignored: re.Pattern[str]
) -> list[str]:
    """Every entry of a state that is missing, unknown, of another size or a different constant.

    Args:
      state: the state dictionary.
      sizes: number of values of each entry of weights.
      constants: entries that must have the given values.
      ignored: names of other entries that may be there; those named weight or bias must then be empty.
    """
    problems = [f"missing {k}" for k in (*sizes, *constants) if k not in state]
    for name, value in state.items():
        if name in sizes:
            if np.size(value) != sizes[name]:
                problems.append(f"{name} has {np.size(value)} numbers, expected {sizes[name]}")
        elif name in constants:
            expected = constants[name]
            if np.size(value) != expected.size or not np.allclose(np.ravel(value), expected, rtol=1e-6, atol=0.0):
                problems.append(f"{name} is {np.ravel(value).tolist()}, configured {expected.tolist()}")
        elif not ignored.fullmatch(name) or (name.endswith(("bias", "weight")) and np.size(value)):
            problems.append(f"unused {name}")
    return problems


def _constants(config: NequIPConfig, source: Source) -> dict[str, np.ndarray]:
    """Constants of a state that must agree with the configuration."""
    position = [config.elements.index(chemical_symbols.index(name)) for name in source.type_names]
    cutoffs = np.array(config.pair_cutoffs)[np.ix_(position, position)] if config.pair_cutoffs else config.r_max
    frequencies = {} if config.trainable_bessels else {BESSELS: np.arange(1.0, config.num_bessels + 1.0)}
    return frequencies | {
        f"{PREFIX}edge_norm._rmax_recip": 1.0 / np.ravel(cutoffs),
        f"{PREFIX}per_type_energy_scale_shift.scales": np.array(config.energy_scales)[position],
        f"{PREFIX}per_type_energy_scale_shift.shifts": np.array(config.energy_shifts)[position],
    }


def template(network: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of all parameters of a network."""
    vectors = jax.ShapeDtypeStruct((2, 1, 3), jnp.float32)
    indices = jax.ShapeDtypeStruct((2, 1), jnp.int32)
    species = jax.ShapeDtypeStruct((2,), jnp.int32)
    mask = jax.ShapeDtypeStruct((2, 1), jnp.bool_)
    shapes = jax.eval_shape(network.init, jax.random.key(0), vectors, species, indices, mask)
    return dict(flatten_dict(shapes["params"], sep="/"))  # type: ignore[arg-type]

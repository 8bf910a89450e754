"""NequIP models of nequip 0.7 to 0.19 (PyTorch, e3nn) in the terms of this package.

A package holds the model as pickled modules. What they state is checked here: that they are the modules of a NequIP
network, that these have no options that change the energy and are not supported, and what the settings are. Weights
are then taken over by `torch_weights`. The versions differ in three ways that matter here:

- the number of neighbours is an attribute of a block, in later versions a module, possibly with one number for each
  element;
- the tensor product of a block has another name;
- the repulsion of nuclei has the cutoff function of the Bessel functions, in later versions one of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import e3nn_jax as e3nn
import numpy as np
from ase.data import chemical_symbols
from pydantic import ValidationError

from bayes_mlff.core.errors import WeightsError, brief, shown
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.equivariant import SILU_NORM, TANH_NORM
from bayes_mlff.models.importers.torch_pickle import Inert, irreps_of
from bayes_mlff.models.importers.torch_weights import PREFIX, Source
from bayes_mlff.models.pair_repulsion import nequip_zbl

KINDS: Final = {
    "type_embed": "NodeTypeEmbed",
    "type_embed.embed_module": "Embedding",
    "spharm": "SphericalHarmonicEdgeAttrs",
    "spharm.sh": "SphericalHarmonics",
    "edge_norm": "EdgeLengthNormalizer",
    "bessel_encode": "BesselEdgeLengthEncoding",
    "bessel_encode.cutoff": "PolynomialCutoff",
    "factor": "ApplyFactor",
    "per_atom_energy_readout": "ScalarMLP",
    "per_atom_energy_readout.mlp_module": "ScalarMLPFunction",
    "per_type_energy_scale_shift": "PerTypeScaleShift",
    "total_energy_sum": "AtomwiseReduce",
}
"""Modules of a network besides its blocks, and their classes."""

BLOCK_KINDS: Final = {
    "equivariant_nonlin": "Gate",
    "equivariant_nonlin.act_scalars": "Activation",
    "equivariant_nonlin.act_gates": "Activation",
    "conv": "InteractionBlock",
    "conv.linear_1": "Linear",
    "conv.linear_2": "Linear",
    "conv.edge_mlp": "ScalarMLPFunction",
}
"""Modules of a block and their classes."""

SOME_VERSIONS: Final = {
    "avg_num_neighbors_norm": "AvgNumNeighborsNorm",
    "tp": "TensorProduct",
    "tp_scatter": "TensorProductScatter",
    "sc": "FullyConnectedTensorProduct",
    "ghost_exchange": "NoOpGhostExchangeModule",
}
"""Modules that a convolution can have."""

SETTINGS: Final = {
    "type_embed.set_features": True,
    "type_embed.do_categorical_graph_field_embed": False,
    "type_embed.embed_module.max_norm": None,
    "spharm.sh.normalize": True,
    "spharm.sh.normalization": "component",
    "total_energy_sum.reduce": "sum",
    "total_energy_sum.constant": 1.0,
}
"""Values that attributes must have; early versions lack some of them."""

ACTIVATIONS: Final = {"silu": SILU_NORM, "tanh": TANH_NORM}
"""Activations of a gate and the factors that normalise them."""

METAL_STRENGTH: Final = 14.399645
"""Squared charge of a proton over 4πε0 as nequip has it, eV·Å, for models in eV."""


class Description(NamedTuple):
    """A NequIP model in the terms of this package."""

    config: NequIPConfig
    source: Source
    state: dict[str, np.ndarray]  # as `torch_weights.from_nequip` expects it


def describe(network: Inert, type_names: Sequence[str]) -> Description:
    """The architecture of a network and its weights, with elements in ascending order.

    Args:
      network: the `SequentialGraphNetwork` of a NequIP model.
      type_names: its types; they must be chemical symbols.

    Raises:
      WeightsError: naming everything that is not supported.
    """
    problems = _unknown_types(type_names) + _unsupported(network)
    if problems:
        raise WeightsError(f"NequIP model is not supported: {brief('; '.join(problems))}")
    try:
        config, hidden = _config(network, type_names)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the model"
        raise WeightsError(
            f"NequIP model is not supported: {place} is {shown(first['input'])}; {brief(first['msg'])}"
        ) from error
    return Description(config, Source(tuple(type_names), hidden), _state(network, len(type_names)))


def _unknown_types(type_names: Sequence[str]) -> list[str]:
    others = [name for name in type_names if name not in chemical_symbols[1:]]
    if not type_names or len(set(type_names)) < len(type_names):
        return [f"type_names are {shown(list(type_names))}; allowed: chemical symbols, each once"]
    return [f"type_names has {shown(others)}; allowed: chemical symbols"] if others else []


def _unsupported(network: Inert) -> list[str]:
    """What of a network is not supported."""
    blocks = _blocks(network)
    known = {*KINDS, *blocks, "pair_potential"}
    problems = [f"it has {name}" for name in _children(network) if name not in known]
    problems += _of_other_kinds(network, KINDS)
    if not blocks:
        problems.append("it has no layer0_convnet")
    for name, block in blocks.items():
        problems += [f"{name}.{problem}" for problem in _unsupported_block(block)]
    if problems:
        return problems
    problems += [
        f"{path} is {shown(found)}" for path, value in SETTINGS.items() if (found := _at(network, path, value)) != value
    ]
    problems += [f"per_atom_energy_readout: {problem}" for problem in _unsupported_mlp(_readout(network))]
    return problems + _unsupported_numbers(network) + _unsupported_repulsion(network) + _uneven(blocks)


def _unsupported_block(block: Any) -> list[str]:
    problems = [] if type(block).__name__ == "ConvNetLayer" else [f"module is a {type(block).__name__}"]
    problems += _of_other_kinds(block, BLOCK_KINDS)
    if problems:
        return problems
    inside = {*SOME_VERSIONS, *(name.removeprefix("conv.") for name in BLOCK_KINDS if name.startswith("conv."))}
    problems += [f"conv has {name}" for name in _children(block.conv) if name not in inside]
    some = {name: kind for name, kind in SOME_VERSIONS.items() if _at(block.conv, name, None) is not None}
    problems += _of_other_kinds(block.conv, some)
    if block.resnet is not False:
        problems.append(f"resnet is {shown(block.resnet)}")
    problems += [f"conv.edge_mlp: {problem}" for problem in _unsupported_mlp(block.conv.edge_mlp)]
    if not block.conv.edge_mlp.is_nonlinear:
        problems.append("conv.edge_mlp has no activation")
    return problems + _unsupported_gate(block.equivariant_nonlin)


def _unsupported_gate(gate: Inert) -> list[str]:
    """Even scalars and gates have a SiLU, odd scalars a tanh."""
    wanted = ["silu" if ir.p > 0 else "tanh" for _, ir in irreps_of(gate.irreps_scalars)]
    gates = irreps_of(gate.irreps_gates)
    problems = [f"equivariant_nonlin.irreps_gates are {gates}"] if any(ir != "0e" for _, ir in gates) else []
    for name, kinds in (("act_scalars", wanted), ("act_gates", ["silu"] * len(list(gate.act_gates.acts)))):
        acts = list(getattr(gate, name).acts)
        got = [str(getattr(getattr(act, "f", act), "__name__", act)) for act in acts]
        if got != kinds:
            problems.append(f"equivariant_nonlin.{name} are {shown(got)}; allowed: {kinds}")
        elif not np.allclose([float(act.cst) for act in acts], [ACTIVATIONS[kind] for kind in kinds], rtol=1e-7):
            problems.append(f"equivariant_nonlin.{name} are normalised by {shown([act.cst for act in acts])}")
    return problems


def _unsupported_mlp(mlp: Inert) -> list[str]:
    """Layers without bias, with a gain that preserves the variance forward, and with SiLU or nothing between them."""
    dims, body = [int(n) for n in mlp.dims], mlp.mlp
    if mlp.bias is not False or min(dims) < 1 or len(set(dims[1:-1])) > 1:
        return [f"layers of {shown(dims)} with bias {shown(mlp.bias)}; allowed: hidden layers of one width, no bias"]
    gains = [1.0 if i == 0 or not mlp.is_nonlinear else math.sqrt(2.0) for i in range(len(dims) - 1)]
    alphas = [gain / math.sqrt(n) for gain, n in zip(gains, dims, strict=False)]
    if type(body).__name__ == "DeepLinearMLP":
        found, kinds, alphas = [body.alpha], set[str](), [math.prod(alphas)]
    else:
        layers = list(body)
        found = [getattr(layer, "alpha", math.nan) for layer in layers[::2]]
        kinds = {type(layer).__name__ for layer in layers[1::2]}
        if any({"parametrizations", "bias"} & set(_children(layer)) for layer in layers):
            return ["its weights are parametrised"]
    if kinds - {"SiLU"}:
        return [f"its activations are {shown(sorted(kinds))}; allowed: SiLU"]
    if len(found) != len(alphas) or not np.allclose([float(np.ravel(a)[0]) for a in found], alphas, rtol=1e-5):
        return [f"its layers are multiplied by {shown(found)}; allowed: {alphas}"]
    return []


def _unsupported_numbers(network: Inert) -> list[str]:
    """The factor on the radial functions, and exponents that are whole numbers."""
    wanted, got = 2.0 * math.pi / _r_max(network) ** 2, _number(network.factor.factor)
    problems = [] if math.isclose(got, wanted, rel_tol=1e-5) else [f"factor is {got}; allowed: {wanted}"]
    power = _power(network.bessel_encode)
    return problems + ([] if power == round(power) else [f"bessel_encode.cutoff.p is {power}; allowed: whole numbers"])


def _unsupported_repulsion(network: Inert) -> list[str]:
    pair = _at(network, "pair_potential", None)
    if pair is None:
        return []
    if type(pair).__name__ != "ZBL":
        return [f"pair_potential is a {type(pair).__name__}; allowed: ZBL"]
    names = [str(name) for name in network.per_type_energy_scale_shift.type_names]
    numbers, strength = np.ravel(pair.atomic_numbers), 2.0 * _number(pair._qqr2exesquare)
    problems = []
    if [chemical_symbols[int(z)] for z in numbers] != names:
        problems.append(f"pair_potential.atomic_numbers are {shown(numbers.tolist())} for the types {shown(names)}")
    if not math.isclose(strength, METAL_STRENGTH, rel_tol=1e-6):
        problems.append(
            f"pair_potential._qqr2exesquare is {strength / 2}; allowed: {METAL_STRENGTH / 2}, that is, energies in eV"
        )
    power = _power(pair if _at(pair, "cutoff", None) is not None else network.bessel_encode)
    return problems + ([] if power == round(power) else [f"pair_potential.cutoff.p is {power}; allowed: whole numbers"])


def _uneven(blocks: Mapping[str, Inert]) -> list[str]:
    """What differs from block to block, which a configuration here cannot say."""
    problems, each = [], list(blocks.values())
    hidden = [str(irreps_of(block.feature_irreps_hidden)) for block in each]
    if len(set(hidden[:-1])) > 1:
        problems.append(f"features are {shown(hidden)}; allowed: the same in all blocks but the last")
    scalars = sum(mul for mul, ir in e3nn.Irreps(hidden[0]) if ir == e3nn.Irrep(0, 1))
    if hidden[-1] != f"{scalars}x0e":
        problems.append(f"features of the last block are {hidden[-1]}; allowed: {scalars}x0e, as in the others")
    radial = {tuple(int(n) for n in block.conv.edge_mlp.dims[:-1]) for block in each}
    if len(radial) > 1:
        problems.append(f"radial networks have the layers {shown(sorted(radial))}; allowed: the same in all blocks")
    connected = [_at(block.conv, "sc", None) is not None for block in each]
    if not all(connected[1:]):
        problems.append(f"conv.sc is there in the blocks {[i for i, c in enumerate(connected) if c]}; allowed: all")
    if len({tuple(_neighbors(block.conv)) for block in each}) > 1 and any(len(_neighbors(b.conv)) > 1 for b in each):
        problems.append("avg_num_neighbors is one number for each element and differs from block to block")
    return problems


def _config(network: Inert, type_names: Sequence[str]) -> tuple[NequIPConfig, str]:
    """The configuration, and the hidden irreps in the model's order."""
    blocks, order = list(_blocks(network).values()), _order(type_names)
    hidden, edges = str(irreps_of(blocks[0].feature_irreps_hidden)), irreps_of(network.spharm.irreps_edge_sh)
    with_parity = [(mul, ir.l, ir.p) for mul, ir in edges] == [(1, l, (-1) ** l) for l in range(len(edges))]
    if not with_parity and [(mul, ir.l, ir.p) for mul, ir in edges] != [(1, l, 1) for l in range(len(edges))]:
        raise WeightsError(f"NequIP model is not supported: spherical harmonics are {edges}; allowed: 1x0e+1x1o+...")
    radial, readout = [[int(n) for n in mlp.dims] for mlp in (blocks[0].conv.edge_mlp, _readout(network))]
    neighbors = [_neighbors(block.conv) for block in blocks]
    each = [values[0] for values in neighbors]
    recip = np.ravel(network.edge_norm._rmax_recip).astype(np.float64)
    table = network.per_type_energy_scale_shift
    config = NequIPConfig(
        elements=tuple(chemical_symbols.index(type_names[i]) for i in order),
        r_max=_r_max(network),
        hidden_irreps=hidden,
        num_layers=len(blocks),
        edge_l_max=len(edges) - 1,
        parity=with_parity,
        embedding_features=int(network.type_embed.embed_module.weight.shape[1]),
        first_self_connection=_at(blocks[0].conv, "sc", None) is not None,
        radial_depth=len(radial) - 2,
        radial_width=radial[1],
        num_bessels=radial[0],
        trainable_bessels="bessel_weights" in network.bessel_encode._parameters,
        cutoff_power=round(_power(network.bessel_encode)),
        average_neighbors=each[0] if len(set(each)) == 1 else tuple(each),
        element_neighbors=tuple(neighbors[0][i] for i in order) if len(neighbors[0]) > 1 else (),
        pair_cutoffs=_pair_cutoffs(recip, order),
        readout_depth=len(readout) - 2,
        readout_width=readout[1] if len(readout) > 2 else 1,
        readout_activation=bool(_readout(network).is_nonlinear) or len(readout) == 2,
        energy_scales=tuple(float(_each(table.scales, 1.0, len(order))[i]) for i in order),
        energy_shifts=tuple(float(_each(table.shifts, 0.0, len(order))[i]) for i in order),
        pair_repulsion=_repulsion(network),
    )
    return config, hidden


def _repulsion(network: Inert) -> Any:
    pair = _at(network, "pair_potential", None)
    if pair is None:
        return None
    own = _at(pair, "cutoff", None) is not None
    return nequip_zbl(round(_power(pair if own else network.bessel_encode)), strength=2.0 * _number(pair._qqr2exesquare))


def _pair_cutoffs(reciprocal: np.ndarray, order: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    if reciprocal.size == 1:
        return ()
    table = (1.0 / reciprocal).reshape(len(order), len(order))
    return tuple(tuple(float(table[i, j]) for j in order) for i in order)


def _state(network: Inert, types: int) -> dict[str, np.ndarray]:
    """The state in float64, in which scales and shifts are those of all types."""
    state = {k: v.astype(np.float64) for k, v in network.state(PREFIX).items() if v.dtype.kind == "f"}
    for kind, empty in (("scales", 1.0), ("shifts", 0.0)):
        name = f"{PREFIX}per_type_energy_scale_shift.{kind}"
        state[name] = _each(state[name], empty, types)[:, None]
    # Without activations the layers of the readout are numbered one by one.
    linear = f"{PREFIX}per_atom_energy_readout.mlp_module.mlp.weights."
    renamed = {k: f"{linear.removesuffix('weights.')}{2 * int(k.removeprefix(linear))}.weight" for k in state if k.startswith(linear)}
    state = {renamed.get(k, k): v for k, v in state.items()}
    return {k: v for k, v in state.items() if not k.startswith(f"{PREFIX}pair_potential.")}


def _order(type_names: Sequence[str]) -> list[int]:
    """Places of the types in ascending order of their atomic numbers."""
    return sorted(range(len(type_names)), key=lambda i: chemical_symbols.index(type_names[i]))


def _neighbors(conv: Inert) -> list[float]:
    """Average numbers of neighbours: one, or one for each type."""
    norm = _at(conv, "avg_num_neighbors_norm", None)
    if norm is not None:
        return [1.0 / float(c) ** 2 for c in np.ravel(norm.norm_const)]
    factor = _at(conv, "scatter_norm_factor", None)
    if factor is not None:
        return [1.0 / _number(factor) ** 2]
    number = _at(conv, "avg_num_neighbors", None)
    return [1.0 if number is None else _number(number)]


def _each(values: Any, empty: float, types: int) -> np.ndarray:
    """One number for each type [types], from as many, one, or none."""
    found = np.ravel(values).astype(np.float64)
    if found.size not in (0, 1, types):
        raise WeightsError(f"NequIP model: {found.size} energy scales or shifts for {types} types")
    return np.full(types, empty if found.size == 0 else found[0]) if found.size < types else found


def _blocks(network: Inert) -> dict[str, Any]:
    """The interaction blocks in their order."""
    children = _children(network)
    return dict(_numbered(children))


def _numbered(children: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    i = 0
    while (name := f"layer{i}_convnet") in children:
        yield name, children[name]
        i += 1


def _children(module: Any) -> dict[str, Any]:
    return dict(getattr(module, "__dict__", {}).get("_modules") or {})


def _at(module: Any, path: str, missing: Any) -> Any:
    """An attribute of a module or of a module in it."""
    for name in path.split("."):
        module = getattr(module, name, missing)
    return module


def _of_other_kinds(module: Any, kinds: Mapping[str, str]) -> list[str]:
    found = {path: type(_at(module, path, None)).__name__ for path in kinds}
    return [
        f"{path} is {'missing' if found[path] == 'NoneType' else f'a {found[path]}'}; allowed: {kind}"
        for path, kind in kinds.items()
        if found[path] != kind
    ]


def _readout(network: Inert) -> Inert:
    return network.per_atom_energy_readout.mlp_module


def _power(module: Any) -> float:
    return _number(module.cutoff.p)


def _r_max(network: Inert) -> float:
    return _number(network.edge_norm.r_max)


def _number(value: Any) -> float:
    return float(np.ravel(value)[0])

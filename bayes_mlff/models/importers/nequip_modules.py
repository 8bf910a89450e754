"""The pickled modules of a NequIP network (nequip 0.7 to 0.19, PyTorch): whether they are supported.

They must be the modules of a NequIP network without options that change the energy and are not supported. The versions
differ in three ways that matter:

- the number of neighbours is an attribute of a block, in later versions a module, possibly with one number for each
  element;
- the tensor product of a block has another name;
- the repulsion of nuclei has the cutoff function of the Bessel functions, in later versions one of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import e3nn_jax as e3nn
import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core.errors import shown
from bayes_mlff.models.equivariant import SILU_NORM, TANH_NORM
from bayes_mlff.models.importers.torch_pickle import Inert, activation_name, irreps_of

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
    "per_atom_energy_readout.field": "node_features",
    "per_atom_energy_readout.out_field": "atomic_energy",
    "per_type_energy_scale_shift.field": "atomic_energy",
    "per_type_energy_scale_shift.out_field": "atomic_energy",
    "total_energy_sum.field": "atomic_energy",
    "total_energy_sum.out_field": "total_energy",
    "total_energy_sum.reduce": "sum",
    "total_energy_sum.constant": 1.0,
}
"""Values that attributes must have; early versions lack some of them."""

ACTIVATIONS: Final = {"silu": SILU_NORM, "tanh": TANH_NORM}
"""Activations of a gate and the factors that normalise them."""

MOST_LAYERS: Final = 100
"""Blocks, and layers of a dense network; each is built before it is known whether there are weights for it."""

METAL_STRENGTH: Final = 14.399645
"""Squared charge of a proton over 4πε0 as nequip has it, eV·Å, for models in eV."""


def unsupported(network: Inert, type_names: Sequence[str]) -> list[str]:
    """Everything of a network that is not supported.

    Args:
      network: the `SequentialGraphNetwork` of a model.
      type_names: its types.
    """
    return _unknown_types(type_names) + (_unsupported_modules(network) or _unsupported_settings(network))


def _unknown_types(type_names: Sequence[str]) -> list[str]:
    others = [name for name in type_names if name not in chemical_symbols[1:]]
    if not type_names or len(set(type_names)) < len(type_names):
        return [f"type_names are {shown(list(type_names))}; allowed: chemical symbols, each once"]
    return [f"type_names has {shown(others)}; allowed: chemical symbols"] if others else []


def _unsupported_modules(network: Inert) -> list[str]:
    blocks = blocks_of(network)
    known = {*KINDS, *blocks, "pair_potential"}
    problems = [f"it has {name}" for name in _children(network) if name not in known]
    problems += _of_other_kinds(network, KINDS)
    if not 1 <= len(blocks) <= MOST_LAYERS:
        return [*problems, f"it has {len(blocks)} blocks layer0_convnet, ...; allowed: 1 to {MOST_LAYERS}"]
    for name, block in blocks.items():
        problems += [f"{name}.{problem}" for problem in _unsupported_block(block)]
    return problems


def _unsupported_settings(network: Inert) -> list[str]:
    problems = [
        f"{path} is {shown(found)}" for path, value in SETTINGS.items() if (found := at(network, path, value)) != value
    ]
    problems += [f"per_atom_energy_readout: {problem}" for problem in _unsupported_mlp(readout_of(network))]
    if list(_children(network))[-1] != "total_energy_sum":
        problems.append(f"its last module is {list(_children(network))[-1]}; allowed: total_energy_sum")
    edges = irreps_of(network.spharm.irreps_edge_sh)
    if not any([(mul, ir.l, ir.p) for mul, ir in edges] == [(1, l, p**l) for l in range(len(edges))] for p in (1, -1)):
        problems.append(f"spharm.irreps_edge_sh is {edges}; allowed: 1x0e+1x1o+... or 1x0e+1x1e+...")
    return problems + _unsupported_numbers(network) + _unsupported_repulsion(network) + _uneven(blocks_of(network))


def _unsupported_block(block: Any) -> list[str]:
    problems = [] if type(block).__name__ == "ConvNetLayer" else [f"module is a {type(block).__name__}"]
    problems += _of_other_kinds(block, BLOCK_KINDS)
    if problems:
        return problems
    inside = {*SOME_VERSIONS, *(name.removeprefix("conv.") for name in BLOCK_KINDS if name.startswith("conv."))}
    problems += [f"conv has {name}" for name in _children(block.conv) if name not in inside]
    some = {name: kind for name, kind in SOME_VERSIONS.items() if at(block.conv, name, None) is not None}
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
        got = [activation_name(act) for act in acts]
        if got != kinds:
            problems.append(f"equivariant_nonlin.{name} are {shown(got)}; allowed: {kinds}")
        elif not np.allclose([float(act.cst) for act in acts], [ACTIVATIONS[kind] for kind in kinds], rtol=1e-7):
            problems.append(f"equivariant_nonlin.{name} are normalised by {shown([act.cst for act in acts])}")
    return problems


def _unsupported_mlp(mlp: Inert) -> list[str]:
    """Layers without bias, with a gain that preserves the variance forward, and with SiLU or nothing between them."""
    dims, body = [int(n) for n in mlp.dims], mlp.mlp
    if mlp.bias is not False or min(dims) < 1 or len(set(dims[1:-1])) > 1 or not 2 <= len(dims) <= MOST_LAYERS:
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
    wanted, got = 2.0 * math.pi / r_max(network) ** 2, number(network.factor.factor)
    problems = [] if math.isclose(got, wanted, rel_tol=1e-5) else [f"factor is {got}; allowed: {wanted}"]
    p = power(network.bessel_encode)
    return problems + ([] if p == round(p) else [f"bessel_encode.cutoff.p is {p}; allowed: whole numbers"])


def _unsupported_repulsion(network: Inert) -> list[str]:
    pair = at(network, "pair_potential", None)
    if pair is None:
        return []
    if type(pair).__name__ != "ZBL":
        return [f"pair_potential is a {type(pair).__name__}; allowed: ZBL"]
    names = [str(name) for name in network.per_type_energy_scale_shift.type_names]
    numbers, strength = np.ravel(pair.atomic_numbers), 2.0 * number(pair._qqr2exesquare)
    problems = []
    if [chemical_symbols[int(z)] for z in numbers] != names:
        problems.append(f"pair_potential.atomic_numbers are {shown(numbers.tolist())} for the types {shown(names)}")
    if not math.isclose(strength, METAL_STRENGTH, rel_tol=1e-6):
        problems.append(
            f"pair_potential._qqr2exesquare is {strength / 2}; allowed: {METAL_STRENGTH / 2}, that is, energies in eV"
        )
    if at(pair, "per_atom_energy_field", "atomic_energy") != "atomic_energy":
        problems.append(f"pair_potential.per_atom_energy_field is {shown(pair.per_atom_energy_field)}")
    p = power(pair) if at(pair, "cutoff", None) is not None else 0.0
    return problems + ([] if p == round(p) else [f"pair_potential.cutoff.p is {p}; allowed: whole numbers"])


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
    connected = [at(block.conv, "sc", None) is not None for block in each]
    if not all(connected[1:]):
        problems.append(f"conv.sc is there in the blocks {[i for i, c in enumerate(connected) if c]}; allowed: all")
    neighbors = {tuple(neighbors_of(block.conv)) for block in each}
    if len(neighbors) > 1 and max(map(len, neighbors)) > 1:
        problems.append("avg_num_neighbors is one number for each element and differs from block to block")
    return problems


def neighbors_of(conv: Inert) -> list[float]:
    """Average numbers of neighbours of a convolution: one, or one for each type."""
    norm = at(conv, "avg_num_neighbors_norm", None)
    if norm is not None:
        return [1.0 / float(c) ** 2 for c in np.ravel(norm.norm_const)]
    factor = at(conv, "scatter_norm_factor", None)
    if factor is not None:
        return [1.0 / number(factor) ** 2]
    count = at(conv, "avg_num_neighbors", None)
    return [1.0 if count is None else number(count)]


def blocks_of(network: Inert) -> dict[str, Any]:
    """The interaction blocks in their order."""
    return dict(_numbered(_children(network)))


def _numbered(children: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    i = 0
    while (name := f"layer{i}_convnet") in children:
        yield name, children[name]
        i += 1


def _children(module: Any) -> dict[str, Any]:
    return dict(getattr(module, "__dict__", {}).get("_modules") or {})


def at(module: Any, path: str, missing: Any) -> Any:
    """An attribute of a module or of a module in it."""
    for name in path.split("."):
        module = getattr(module, name, missing)
    return module


def _of_other_kinds(module: Any, kinds: Mapping[str, str]) -> list[str]:
    found = {path: type(at(module, path, None)).__name__ for path in kinds}
    return [
        f"{path} is {'missing' if found[path] == 'NoneType' else f'a {found[path]}'}; allowed: {kind}"
        for path, kind in kinds.items()
        if found[path] != kind
    ]


def readout_of(network: Inert) -> Inert:
    """The dense network from invariant features to the energy of an atom."""
    return network.per_atom_energy_readout.mlp_module


def power(module: Any) -> float:
    """Exponent of the polynomial cutoff of a module."""
    return number(module.cutoff.p)


def r_max(network: Inert) -> float:
    """Largest cutoff, Å."""
    return number(network.edge_norm.r_max)


def number(value: Any) -> float:
    """A number that may be an array of one."""
    return float(np.ravel(value)[0])

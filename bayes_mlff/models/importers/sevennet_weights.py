"""Weights of SevenNet (PyTorch, e3nn) in the layout of this package.

SevenNet (Park et al. 2024, J. Chem. Theory Comput. 20, 4857) is a NequIP network with other choices: the element
embedding is a linear map of the one-hot element, every block has a self-connection, radial networks have e3nn's
gain, the readout is linear, and parity need not be distinguished. Besides the differences listed in `torch_weights`,

- Bessel frequencies are stored in 1/Å;
- a model may have several modalities, of which one is taken, see `sevennet_modalities`;
- since version 0.11 the columns of a radial network are sorted by the output irrep of their path; before, they follow
  the node irreps;
- the stored coupling coefficients of old versions of e3nn may have the opposite sign, which is then applied to
  the columns of their paths.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from flax.traverse_util import unflatten_dict

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.equivariant import SILU_NORM, coupling, degree
from bayes_mlff.models.force_sigma import HEAD
from bayes_mlff.models.importers.sevennet_history import solid_harmonics, version
from bayes_mlff.models.importers.sevennet_modalities import RESCALE, Modality, modality, one_modality
from bayes_mlff.models.importers.torch_weights import (
    Block,
    Layer,
    Names,
    Source,
    State,
    cut,
    declared_order,
    misfits,
    mlp,
    sizes_of,
    template,
    whole,
)
from bayes_mlff.models.nequip import NequIP

NOT_WEIGHTS = re.compile(
    r".*\.output_mask"
    r"|.*\.linear\.bias"
    r"|\d+_convolution\.convolution\.weight"
    r"|\d+_equivariant_gate\.gate\.mul\.weight"
    r"|.*\._w3j_\d_\d_\d"
)
"""Entries of a state that hold no weights: masks, coupling coefficients, and biases and weights of size 0."""

REQUIRED = {
    "_model_type": "E3_equivariant_model",
    "act_gate": {"e": "silu", "o": "tanh"},
    "act_radial": "silu",
    "act_scalar": {"e": "silu", "o": "tanh"},
    "interaction_type": "nequip",
    "optimize_by_reduce": True,
    "readout_as_fcn": False,
}
"""Settings of SevenNet that must have these values if they are given. Those of faster programs for the same network
(`cuequivariance_config`, `use_flash_tp`, `use_oeq`) may have any."""

CONNECTIONS = {"nequip": "element", "linear": "linear"}
"""Kinds of self-connections by SevenNet's name."""


class Description(NamedTuple):
    """A SevenNet model in the terms of this package."""

    config: NequIPConfig
    source: Source
    by_output: bool  # whether the columns of radial networks are sorted by the output irrep of their path
    modality: Modality


def describe(settings: Mapping[str, Any], state: State, index: int = 0) -> Description:
    """The architecture of a checkpoint, with elements in ascending order.

    Args:
      settings: SevenNet's configuration, complete as in a checkpoint.
      state: the weights under the names of today; scales, shifts and denominators are taken from them.
      index: number of the modality to take, in a model that has several.

    Raises:
      WeightsError: naming every setting that is not supported.
    """
    problems = [f"{k} is {settings[k]!r}" for k, v in REQUIRED.items() if settings.get(k, v) != v]
    solid = solid_harmonics(settings)
    if solid is None:
        problems.append("_normalize_sph is missing")
    connection, layers = settings["self_connection_type"], settings["num_convolution_layer"]
    if not isinstance(layers, int) or layers > len(state):
        raise WeightsError(f"SevenNet model is not supported: num_convolution_layer is {layers!r}")
    kinds = {connection} if isinstance(connection, str) else set(connection)
    if len(kinds) != 1 or not kinds <= set(CONNECTIONS):
        problems.append(f"self_connection_type is {connection!r}")
    cutoff, basis = settings["cutoff_function"], settings["radial_basis"]
    if cutoff["cutoff_function_name"] not in ("poly_cut", "XPLOR"):
        problems.append(f"cutoff_function is {cutoff!r}")
    if basis["radial_basis_name"] != "bessel":
        problems.append(f"radial_basis is {basis!r}")
    radial = list(settings["weight_nn_hidden_neurons"])
    if len(set(radial)) != 1:
        problems.append(f"weight_nn_hidden_neurons is {radial}")
    names = {f"{i}_convolution.denominator" for i in range(layers)}
    problems += [f"missing {k}" for k in sorted(names | {f"{RESCALE}.shift", f"{RESCALE}.scale"}) if k not in state]
    first, hidden, problem = _irreps(settings)
    problems += problem
    if problems:
        raise WeightsError("SevenNet model is not supported: " + "; ".join(problems))

    types = {int(z): int(i) for z, i in settings["_type_map"].items()}
    elements = tuple(sorted(types))
    chosen, missing = modality(settings, index), (0.0,) * len(elements)
    averages = [float(np.ravel(state[f"{i}_convolution.denominator"])[0]) ** 2 for i in range(layers)]
    xplor = cutoff["cutoff_function_name"] == "XPLOR"
    config = NequIPConfig(
        elements=elements,
        r_max=float(settings["cutoff"]),
        hidden_irreps=hidden,
        num_layers=layers,
        edge_l_max=_or_default(settings, "lmax_edge"),
        solid_harmonics=bool(solid),
        parity=bool(settings["is_parity"]),
        embedding_features=first,
        one_hot_embedding=True,
        self_connection=CONNECTIONS[kinds.pop()],  # pyright: ignore[reportArgumentType]  # checked above
        first_self_connection=True,
        scalar_biases=chosen.in_blocks,
        radial_depth=len(radial),
        radial_width=radial[0],
        radial_gain=SILU_NORM,
        num_bessels=basis.get("bessel_basis_num", 8),
        cutoff_power=cutoff.get("poly_cut_p_value", 6),
        switch_on=float(cutoff["cutoff_on"]) if xplor else None,
        average_neighbors=averages[0] if len(set(averages)) == 1 else tuple(averages),
        readout_depth=1,
        readout_width=int(hidden.split("x0e")[0].split("+")[-1]) // 2,
        readout_activation=False,
        energy_scales=missing,
        energy_shifts=missing,
        head=chosen.names[index] if len(chosen.names) > 1 else None,
    )
    symbols = tuple(chemical_symbols[z] for z in sorted(types, key=lambda z: types[z]))
    found = Description(config, Source(symbols, hidden), version(settings) >= (0, 11, 0), chosen)
    single = one_modality(state, layout(found)[0], chosen, len(elements))
    tables = {f"energy_{k}s": _per_element(single[f"{RESCALE}.{k}"], types) for k in ("scale", "shift")}
    return found._replace(config=NequIPConfig.model_validate(config.model_dump() | tables))


def from_sevennet(state: State, description: Description) -> Params:
    """Take over the weights of a SevenNet model.

    The source has no head for the force σ: those weights become zero, so that every σ is `force_sigma.SIGMA_UNIT`.

    Args:
      state: the state dictionary as float numpy arrays.
      description: the architecture, and how the source declares it.

    Returns:
      Parameters for `NequIP(description.config)` as numpy arrays in the dtype of the state's weights. JAX would
      reduce float64 to float32 unless 64-bit numbers are enabled.

    Raises:
      WeightsError: naming every entry of the state without a place, every parameter without a source, every
        shape that differs and every constant of the model that differs from the configuration.
    """
    config, source, _, chosen = description
    blocks, layers = layout(description)
    wanted = template(NequIP(config))
    state = one_modality(state, blocks, chosen, len(source.type_names))
    problems = misfits(state, sizes_of(blocks), _constants(config, source), NOT_WEIGHTS)
    filled: dict[str, np.ndarray] = {}
    if not problems:
        state = _current(state, layers)
        filled = {block.target: cut(state, block) for block in blocks}
        dtype = filled["embedding"].dtype
        roots = filled["bessel_frequencies"].reshape(-1).astype(np.float64) * (config.r_max / math.pi)
        filled["bessel_frequencies"] = roots.astype(dtype)
        types = _types(config, source)
        if config.self_connection == "element":
            filled |= {k: v[:, types] for k, v in filled.items() if "/self_connection/" in k}
        filled |= {k: np.zeros(v.shape, dtype) for k, v in wanted.items() if k.startswith(f"{HEAD}/")}
        problems = [f"parameter {k} has no source" for k in wanted if k not in filled]
        problems += [f"{k} has shape {v.shape}" for k, v in filled.items() if v.shape != wanted[k].shape]
    if problems:
        raise WeightsError("SevenNet weights do not fit the configuration: " + "; ".join(problems))
    return unflatten_dict({k: filled[k] for k in wanted}, sep="/")


def layout(description: Description) -> tuple[list[Block], list[Layer]]:
    """Map from parts of the entries of the state to parameters, and the blocks of the network.

    Raises:
      WeightsError: if elements or hidden irreps of source and configuration differ.
    """
    config, source, by_output, _ = description
    order = declared_order(config, source)
    shape = (config.declared_elements, config.embedding_features)
    types = _types(config, source)
    blocks = [Block("onehot_to_feature_x.linear.weight", 0, shape, "embedding", types, np.arange(shape[1]))]
    blocks.append(whole("edge_embedding.basis_function.coeffs", (1, config.num_bessels), "bessel_frequencies"))
    inputs, layers = {"0e": config.embedding_features}, []
    intro = {"element": "fc_tensor_product", "linear": "linear"}[config.self_connection]
    for i in range(config.num_layers):
        wanted = order if i < config.num_layers - 1 else {"0e": order["0e"]}
        layers.append(Layer(config, inputs, wanted, by_output=by_output))
        names = Names(
            tuple(f"{i}_convolution.weight_nn.layer{j}.weight" for j in range(config.radial_depth + 1)),
            f"{i}_self_interaction_1.linear.weight",
            f"{i}_self_interaction_2.linear.weight",
            f"{i}_self_connection_intro.{intro}.weight",
            f"{i}_self_interaction_1.linear.bias",
            f"{i}_self_interaction_2.linear.bias",
        )
        blocks += layers[-1].blocks(names, f"interaction_{i}/", connected=True)
        inputs = layers[-1].outputs
    readout = ("reduce_input_to_hidden.linear.weight", "reduce_hidden_to_energy.linear.weight")
    return blocks + mlp(readout, "readout", (inputs["0e"], config.readout_width, 1)), layers


def _current(state: State, layers: list[Layer]) -> dict[str, np.ndarray]:
    """The state with radial weights converted to the coupling coefficients of this package."""
    result = {k: np.asarray(v) for k, v in state.items()}
    for i, layer in enumerate(layers):
        last = f"{i}_convolution.weight_nn.layer{layer.config.radial_depth}.weight"
        signs = []
        for path in layer.routes:
            l1, l2, l3 = (degree(irrep) for irrep in path)
            name = f"{i}_convolution.convolution._compiled_main_left_right._w3j_{l1}_{l2}_{l3}"
            sign = 1.0
            if name in result:
                ours, theirs = coupling(l1, l2, l3) / math.sqrt(2 * l3 + 1), result[name]
                sign = float(np.sign(np.sum(ours * theirs)))
                if not np.allclose(sign * theirs, ours, atol=1e-5):
                    raise WeightsError(f"{name} is no multiple of the coupling coefficients")
            signs.append(np.full(layer.inputs[path.node], sign, result[last].dtype))
        result[last] = result[last] * np.concatenate(signs)[None, :]
    return result


def _irreps(settings: Mapping[str, Any]) -> tuple[int, str, list[str]]:
    """Channels of the embedding, hidden irreps in the source's order, and messages on unsupported ones."""
    channel, layers = int(settings["channel"]), settings["num_convolution_layer"]
    manual = settings.get("irreps_manual", False)
    if manual is False:
        signs = "oe" if settings["is_parity"] else "e"
        degrees = range(_or_default(settings, "lmax_node") + 1)
        return channel, "+".join(f"{channel}x{l}{sign}" for l in degrees for sign in signs), []
    first, *hidden, last = (str(irreps) for irreps in manual)
    groups = hidden[0].split("+") if hidden else [last]
    scalars = next((g for g in groups if g.endswith("x0e")), "none")
    if layers != len(hidden) + 1 or len(set(hidden)) > 1 or last != scalars or not re.fullmatch(r"\d+x0e", first):
        return channel, "1x0e", [f"irreps_manual is {manual!r}"]
    return int(first.removesuffix("x0e")), "+".join(groups), []


def _or_default(settings: Mapping[str, Any], name: str) -> int:
    """A highest degree; a negative number means that of `lmax`."""
    given = int(settings.get(name, -1))
    return given if given > 0 else int(settings["lmax"])


def _per_element(values: np.ndarray, types: Mapping[int, int]) -> tuple[float, ...]:
    """Values of the elements in ascending order."""
    return tuple(float(values[types[z]]) for z in sorted(types))


def _types(config: NequIPConfig, source: Source) -> np.ndarray:
    """Index of each element of the configuration in the source."""
    return np.array([source.type_names.index(chemical_symbols[z]) for z in config.elements])


def _constants(config: NequIPConfig, source: Source) -> dict[str, np.ndarray]:
    """Constants of a state that must agree with the configuration."""
    position = np.argsort(_types(config, source))
    found = {
        f"{RESCALE}.scale": np.array(config.energy_scales)[position],
        f"{RESCALE}.shift": np.array(config.energy_shifts)[position],
    }
    for i in range(config.num_layers):
        found[f"{i}_convolution.denominator"] = np.array([math.sqrt(config.neighbors_of(i))])
    return found

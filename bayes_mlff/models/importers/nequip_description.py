"""NequIP models of nequip 0.7 to 0.19 (PyTorch, e3nn) in the terms of this package.

The pickled modules of a model state its settings; the weights are then taken over by `torch_weights`.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from pydantic import ValidationError

from bayes_mlff.core.errors import WeightsError, brief, first_problem, shown
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.importers.nequip_modules import (
    at,
    blocks_of,
    neighbors_of,
    number,
    power,
    r_max,
    readout_of,
    unsupported,
)
from bayes_mlff.models.importers.torch_pickle import Inert, irreps_of
from bayes_mlff.models.importers.torch_weights import PREFIX, Source
from bayes_mlff.models.pair_repulsion import PairRepulsion, nequip_zbl

SCALES_AND_SHIFTS: Final = "per_type_energy_scale_shift."
"""Prefix of energy scales and shifts in the state."""

LINEAR: Final = "per_atom_energy_readout.mlp_module.mlp.weights."
"""Prefix of the layers of a readout without activations."""


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
    problems = unsupported(network, type_names)
    if problems:
        raise WeightsError(f"NequIP model is not supported: {brief('; '.join(problems))}")
    try:
        config, hidden = _config(network, type_names)
    except ValidationError as error:
        place, value, message = first_problem(error, "the model")
        raise WeightsError(f"NequIP model is not supported: {place} is {value}; {message}") from error
    return Description(config, Source(tuple(type_names), hidden), _state(network, len(type_names)))


def _config(network: Inert, type_names: Sequence[str]) -> tuple[NequIPConfig, str]:
    """The configuration, and the hidden irreps in the model's order."""
    blocks, order = list(blocks_of(network).values()), _order(type_names)
    hidden, edges = str(irreps_of(blocks[0].feature_irreps_hidden)), irreps_of(network.spharm.irreps_edge_sh)
    radial, readout = [[int(n) for n in mlp.dims] for mlp in (blocks[0].conv.edge_mlp, readout_of(network))]
    neighbors = [neighbors_of(block.conv) for block in blocks]
    each = [values[0] for values in neighbors]
    table = network.per_type_energy_scale_shift
    config = NequIPConfig(
        elements=tuple(chemical_symbols.index(type_names[i]) for i in order),
        r_max=r_max(network),
        hidden_irreps=hidden,
        num_layers=len(blocks),
        edge_l_max=len(edges) - 1,
        parity=len(edges) == 1 or any(ir.p < 0 for _, ir in edges),
        embedding_features=int(network.type_embed.embed_module.weight.shape[1]),
        first_self_connection=at(blocks[0].conv, "sc", None) is not None,
        radial_depth=len(radial) - 2,
        radial_width=radial[1],
        num_bessels=radial[0],
        trainable_bessels="bessel_weights" in network.bessel_encode._parameters,
        cutoff_power=round(power(network.bessel_encode)),
        average_neighbors=each[0] if len(set(each)) == 1 else tuple(each),
        element_neighbors=tuple(neighbors[0][i] for i in order) if len(neighbors[0]) > 1 else (),
        pair_cutoffs=_pair_cutoffs(network, order),
        readout_depth=len(readout) - 2,
        readout_width=readout[1] if len(readout) > 2 else 1,
        readout_activation=bool(readout_of(network).is_nonlinear) or len(readout) == 2,
        energy_scales=tuple(float(_each(table.scales, 1.0, len(order))[i]) for i in order),
        energy_shifts=tuple(float(_each(table.shifts, 0.0, len(order))[i]) for i in order),
        pair_repulsion=_repulsion(network),
    )
    return config, hidden


def _repulsion(network: Inert) -> PairRepulsion | None:
    pair = at(network, "pair_potential", None)
    if pair is None:
        return None
    own = at(pair, "cutoff", None) is not None
    exponent = round(power(pair if own else network.bessel_encode))
    return nequip_zbl(exponent, strength=2.0 * number(pair._qqr2exesquare))


def _pair_cutoffs(network: Inert, order: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    if not at(network, "edge_norm._per_edge_type", False):
        return ()
    reciprocal = network.edge_norm._rmax_recip.astype(np.float64).reshape(len(order), len(order))
    # The reciprocal of a reciprocal can be above the largest cutoff by the last digit.
    table = np.where(np.isclose(1.0, reciprocal * r_max(network), rtol=1e-12), r_max(network), 1.0 / reciprocal)
    return tuple(tuple(float(table[i, j]) for j in order) for i in order)


def _state(network: Inert, types: int) -> dict[str, np.ndarray]:
    """The state in float64, in which scales and shifts are those of all types."""
    found = {k: v.astype(np.float64) for k, v in network.state().items() if v.dtype.kind == "f"}
    broken = [name for name, values in found.items() if not np.isfinite(values).all()]
    if broken:
        raise WeightsError(f"NequIP model: not finite: {shown(broken)}")
    for kind, missing in (("scales", 1.0), ("shifts", 0.0)):
        name = f"{SCALES_AND_SHIFTS}{kind}"
        found[name] = _each(found[name], missing, types)[:, None]
    return {f"{PREFIX}{_numbered(k)}": v for k, v in found.items() if not k.startswith("pair_potential.")}


def _numbered(name: str) -> str:
    """The name of an entry; the layers of a readout without activations are numbered like those of the others."""
    number_of = name.removeprefix(LINEAR)
    return name if number_of == name else f"{LINEAR.removesuffix('weights.')}{2 * int(number_of)}.weight"


def _order(type_names: Sequence[str]) -> list[int]:
    """Places of the types in ascending order of their atomic numbers."""
    return sorted(range(len(type_names)), key=lambda i: chemical_symbols.index(type_names[i]))


def _each(values: Any, empty: float, types: int) -> np.ndarray:
    """One number for each type [types], from as many, one, or none."""
    found = np.ravel(values).astype(np.float64)
    if found.size not in (0, 1, types):
        raise WeightsError(f"NequIP model: {found.size} energy scales or shifts for {types} types")
    return np.full(types, empty if found.size == 0 else found[0]) if found.size < types else found

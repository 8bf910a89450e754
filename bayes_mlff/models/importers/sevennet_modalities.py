"""One modality of a SevenNet model that has several, as the state of a model that has this one alone.

A modality (the functional of the labels, say) enters such a model as a one-hot vector, which is appended to the input
of some linear layers, and by scales and shifts of its own. With one modality fixed, its row of such a layer is a bias
of the even scalars. The biases of the element embedding and of the readout, which has no activation, are then added to
the embedding and to the shifts; those of the interaction blocks remain. Energies are identical.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.importers.torch_weights import Block, State

RESCALE: Final = "rescale_atomic_energy"
"""Prefix of energy scales and shifts in the state."""

EMBEDDING: Final = "onehot_to_feature_x.linear"
READOUT: Final = ("reduce_input_to_hidden.linear", "reduce_hidden_to_energy.linear")

LAYERS: Final = {
    "use_modal_node_embedding": "onehot_to_feature_x",
    "use_modal_self_inter_intro": "self_interaction_1",
    "use_modal_self_inter_outro": "self_interaction_2",
    "use_modal_output_block": "reduce_input_to_hidden",
}
"""Ends of the names of the layers that see the modality, by the setting that says so."""


class Modality(NamedTuple):
    """A modality of a model."""

    names: tuple[str, ...]  # of all modalities, in the order of the one-hot vector; empty if the model has none
    index: int  # of this one
    layers: tuple[str, ...]  # ends of the names of the layers that see it
    tables: tuple[str, ...]  # those of scale and shift that have a row for each modality
    biases: bool  # whether the linear layers have biases besides

    @property
    def in_blocks(self) -> bool:
        """Whether biases remain in the interaction blocks."""
        return self.biases or any(name.startswith("self_interaction") for name in self.layers)


def names_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the modalities of a model in the order of their numbers; most models have none.

    Raises:
      WeightsError: if they are not numbered from zero.
    """
    if not settings.get("use_modality", False):
        return ()
    numbers = settings.get("_modal_map")
    if not isinstance(numbers, dict) or not numbers or sorted(numbers.values()) != list(range(len(numbers))):
        raise WeightsError(f"SevenNet model is not supported: use_modality is True, but _modal_map is {numbers!r}")
    return tuple(str(name) for name in sorted(numbers, key=lambda name: numbers[name]))


def modality(settings: Mapping[str, Any], index: int) -> Modality:
    """What a model's settings say about one of its modalities."""
    names = names_of(settings)
    layers = tuple(layer for key, layer in LAYERS.items() if names and settings.get(key, False))
    tables = tuple(kind for kind in ("scale", "shift") if names and settings.get(f"use_modal_wise_{kind}", False))
    return Modality(names, index, layers, tables, bool(settings.get("use_bias_in_linear", False)))


def one_modality(state: State, blocks: Sequence[Block], chosen: Modality, elements: int) -> dict[str, np.ndarray]:
    """The state of the model with one of its modalities, with biases in interaction blocks alone.

    Args:
      state: of the model with all modalities.
      blocks: the layout of the model with one modality.
      chosen: the modality.
      elements: number of elements; scales and shifts become one number for each.

    Raises:
      WeightsError: naming an entry that is missing or has another size.
    """
    result = {k: np.asarray(v) for k, v in state.items()}
    for kind in ("scale", "shift"):
        name = f"{RESCALE}.{kind}"
        rows = len(chosen.names) if kind in chosen.tables else 1
        table = result.get(name, np.zeros(0))
        if table.size not in (rows, rows * elements):
            raise WeightsError(f"{name} has shape {table.shape}; allowed: {rows} times one or {elements} numbers")
        row = table.reshape(rows, -1)[chosen.index if rows > 1 else 0]
        result[name] = np.full(elements, row[0]) if row.size == 1 else row
    if not chosen.layers and not chosen.biases:
        return result
    for block in _scalar_maps(blocks):
        layer = block.source.removesuffix(".weight")
        weight, bias = _without_rows(result, block, chosen)
        result |= {block.source: weight, f"{layer}.bias": bias}
        if layer.endswith(("1.linear", "2.linear")) and not chosen.in_blocks:
            del result[f"{layer}.bias"]
    table = result[f"{EMBEDDING}.weight"].reshape(elements, -1)
    result[f"{EMBEDDING}.weight"] = (table + math.sqrt(elements) * result.pop(f"{EMBEDDING}.bias")).reshape(-1)
    hidden, last = (result.pop(f"{layer}.bias") for layer in READOUT)
    constant = hidden @ result[f"{READOUT[1]}.weight"].reshape(-1) / math.sqrt(hidden.size) + last[0]
    result[f"{RESCALE}.shift"] = result[f"{RESCALE}.shift"] + result[f"{RESCALE}.scale"] * constant
    return result


def _scalar_maps(blocks: Sequence[Block]) -> list[Block]:
    """The maps of even scalars of all layers that may have biases."""
    ends = ("embedding", "/linear_in/linear_0e/weight", "/linear_out/linear_0e/weight", "dense_0/weight")
    return [b for b in blocks if b.target.endswith((*ends, "readout/dense_1/weight")) and "/radial/" not in b.target]


def _without_rows(state: State, block: Block, chosen: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a layer without the rows of modalities, and its bias with the row of the chosen one.

    e3nn divides by the square root of the number of inputs, which the one-hot vector increases.
    """
    layer = block.source.removesuffix(".linear.weight")
    (inputs, width), count = block.shape, len(chosen.names)
    weight, bias = (np.ravel(state.get(f"{layer}.linear.{kind}", ())) for kind in ("weight", "bias"))
    if bias.size not in ((width,) if chosen.biases else (0,)):
        raise WeightsError(f"{layer}.linear.bias has {bias.size} numbers, expected {width if chosen.biases else 0}")
    bias = bias if chosen.biases else np.zeros(width, weight.dtype)
    if not layer.endswith(chosen.layers):
        return weight, bias
    # The rows of the modalities follow those of all irreps.
    rest = weight.size - count * width
    if rest < block.start + inputs * width:
        raise WeightsError(f"{block.source} has {weight.size} numbers, too few for {count} modalities")
    rows, weight = weight[rest:].reshape(count, width), weight[:rest].copy()
    weight[block.start : block.start + inputs * width] *= math.sqrt(inputs / (inputs + count))
    return weight, bias + rows[chosen.index] / math.sqrt(inputs + count)

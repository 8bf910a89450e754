"""One head of a mace-torch model that has several, as the state of a model that has this one alone, and the way back.

Heads share everything but readouts, energies of isolated atoms, scale and shift. A readout with hidden scalars has as
many of them for each head; those of the other heads are set to zero, but count for the normalisation of the next layer.
"""

import math
import re
from typing import Any

import numpy as np

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.importers.torch_weights import State

ENERGIES = "atomic_energies_fn.atomic_energies"
READOUT = re.compile(r"(readouts\.\d+\.)(linear|linear_1|linear_mid|linear_2)\.(weight|bias)")


def names_of(module: Any) -> tuple[str, ...]:
    """Names of the heads of a model; older models have none."""
    return tuple(str(name) for name in getattr(module, "heads", ()))


def one_head(state: State, heads: int, index: int) -> dict[str, np.ndarray]:
    """The state of the model with one of its heads.

    Args:
      state: of the model with all heads.
      heads: their number.
      index: position of the head.

    Raises:
      WeightsError: if an entry is not there for each of the heads.
    """
    result = {k: np.array(v) for k, v in state.items()}
    if heads < 2:
        return result
    for name in state:
        found = _part(state, name, np.array(state[name]), heads, index)
        if found is not None:
            part, factor = found
            result[name] = part * np.asarray(factor, part.dtype)
    return {k: v.reshape(-1) if READOUT.fullmatch(k) else v for k, v in result.items()}


def put_back(one: State, state: State, heads: int, index: int) -> dict[str, np.ndarray]:
    """The state of the model with all heads after one of them has changed, the inverse of `one_head`."""
    result = {k: np.array(v, order="C") for k, v in state.items()}
    for name, value in one.items():
        found = None if heads < 2 else _part(state, name, result[name], heads, index)
        if found is None:
            result[name] = np.array(value)
        else:
            part, factor = found
            part[...] = np.asarray(value).reshape(part.shape) / factor
    return result


def _part(state: State, name: str, value: np.ndarray, heads: int, index: int) -> tuple[np.ndarray, float] | None:
    """View of what belongs to one head, and the factor on it in a model with this head alone; None if it is shared."""
    if name in (ENERGIES, "scale_shift.scale", "scale_shift.shift"):
        if value.ndim == 0 or len(value) != heads:
            raise WeightsError(f"{name} has shape {value.shape}; allowed: one for each of the {heads} heads")
        return value[index : index + 1], 1.0
    match = READOUT.fullmatch(name)
    if match is None or value.size == 0:
        return None
    prefix, layer, kind = match.groups()
    hidden = max(1, np.size(state.get(f"{prefix}linear_2.weight", ())) // heads**2)
    shape, place = {
        "linear.weight": ((-1, heads), np.s_[:, index]),
        "linear_1.weight": ((-1, heads, hidden), np.s_[:, index]),
        "linear_mid.weight": ((heads, hidden, heads, hidden), np.s_[index, :, index]),
        "linear_2.weight": ((heads, hidden, heads), np.s_[index, :, index]),
    }.get(f"{layer}.{kind}", ((heads, -1), np.s_[index]))  # else a bias
    if value.size % abs(math.prod(shape)) or (-1 not in shape and value.size != math.prod(shape)):
        raise WeightsError(f"{name} has {value.size} numbers; allowed: as many for each of the {heads} heads")
    mixing = kind == "weight" and layer in ("linear_mid", "linear_2")
    return value.reshape(shape)[place], 1.0 / math.sqrt(heads) if mixing else 1.0

"""Indices of certain layers of a network in its flat weights."""

import re
from collections.abc import Callable
from typing import cast

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree

from bayes_mlff.models.nequip import SIGMA_UNIT
from bayes_mlff.models.potential import Potential


def last_readout(potential: Potential) -> np.ndarray:
    """Indices [k] of the weights of the last linear layer of the (last) energy readout."""
    return _last(potential, lambda name: name[0].startswith("readout") and name[-1] == "weight")


def last_sigma_bias(potential: Potential) -> np.ndarray:
    """Index [1] of the last bias of the σ head: the logarithm of the force σ in units of `nequip.SIGMA_UNIT`."""
    return _last(potential, lambda name: name[0] == "sigma" and name[-1] == "bias")


def with_force_sigma(potential: Potential, params: jax.Array, sigma_ev_a: float) -> jax.Array:
    """Flat weights [..., p] with the last bias of the σ head set for a given force σ, eV/Å."""
    return params.at[..., last_sigma_bias(potential)].set(float(np.log(sigma_ev_a / SIGMA_UNIT)))


def _last(potential: Potential, wanted: Callable[[tuple[str, ...]], bool]) -> np.ndarray:
    """Indices of the weights of the last one (by layer number) of the arrays whose names are wanted."""
    leaves = cast(dict[tuple[str, ...], jax.Array], flatten_dict(potential.params))
    last = max(filter(wanted, leaves), key=lambda name: [int(n) for n in re.findall(r"\d+", "/".join(name))])
    marks = {name: np.full(np.shape(leaf), float(name == last)) for name, leaf in leaves.items()}
    return np.flatnonzero(np.asarray(ravel_pytree(unflatten_dict(marks))[0]))

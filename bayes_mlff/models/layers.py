"""Positions of certain layers of a network in its vector of weights."""

from typing import cast

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree

from bayes_mlff.models import architectures
from bayes_mlff.models.force_sigma import SIGMA_UNIT, last_bias
from bayes_mlff.models.potential import Potential


def last_readout(potential: Potential) -> np.ndarray:
    """Indices [k] of the weights of the last linear layer of the (last) energy readout."""
    return _places(potential, architectures.of(potential.config).last_layer(potential.config))


def last_sigma_bias(potential: Potential) -> np.ndarray:
    """Index [1] of the last bias of the σ head: the logarithm of the force σ in units of `SIGMA_UNIT`."""
    return _places(potential, last_bias(potential.config))


def with_force_sigma(potential: Potential, params: jax.Array, sigma_ev_a: float) -> jax.Array:
    """Set the last bias of the σ head in flat weights [..., p] to a given force σ, eV/Å."""
    return params.at[..., last_sigma_bias(potential)].set(float(np.log(sigma_ev_a / SIGMA_UNIT)))


def _places(potential: Potential, path: tuple[str, ...]) -> np.ndarray:
    """Indices, in the flat weights, of the parameter at a path.

    Raises:
      KeyError: if the network has no such parameter.
    """
    leaves = cast(dict[tuple[str, ...], jax.Array], flatten_dict(potential.params))  # annotated as nested
    if path not in leaves:
        raise KeyError(f"{potential.config.architecture} has no parameter {'/'.join(path)}; it has {sorted(leaves)}")
    marks = {name: np.full(np.shape(leaf), float(name == path)) for name, leaf in leaves.items()}
    return np.flatnonzero(np.asarray(ravel_pytree(unflatten_dict(marks))[0]))

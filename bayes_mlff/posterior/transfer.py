"""The transfer prior: around the weights of a pretrained model."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree

from bayes_mlff.models import architectures
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.force_sigma import HEAD
from bayes_mlff.models.potential import Potential
from bayes_mlff.posterior import prior as prior_module
from bayes_mlff.posterior.prior import GaussianPrior


def prior_mean(potential: Potential) -> jax.Array:
    """Pretrained weights [p], with zero for the σ head."""
    flat = _leaves(potential.params)
    centred = {k: jnp.zeros_like(v) if k[0] == HEAD else v for k, v in flat.items()}
    return ravel_pytree(unflatten_dict(centred))[0]


def prior_scale(given: float | None, potential: Potential) -> float:
    """σ_TL of the transfer prior: the given one, else that of the architecture."""
    return architectures.of(potential.config).prior_scale if given is None else given


def first_step_size(given: float | None, potential: Potential) -> float:
    """First step size γ0 of short chains: the given one, else that of the architecture."""
    return architectures.of(potential.config).step_size if given is None else given


def around_prior_mean(
    potential: Potential, prior: GaussianPrior, spread: float, chains: int, key: jax.Array
) -> jax.Array:
    """Draws [c, p] from a prior around pretrained weights, narrowed by the factor `spread`.

    Weights of the σ head are drawn from the prior itself: at exactly zero the head is a saddle point of its own
    weights, which gradients do not leave.
    """
    leaves = _leaves(potential.params)
    factors = {k: np.full(np.shape(v), 1.0 if k[0] == HEAD else spread) for k, v in leaves.items()}
    factor = ravel_pytree(unflatten_dict(factors))[0].astype(prior.mean.dtype)
    draws = jax.vmap(lambda k: prior_module.sample(prior, k))(jax.random.split(key, chains))
    return prior.mean[None, :] + factor[None, :] * (draws - prior.mean[None, :])


def _leaves(params: Params) -> dict[tuple[str, ...], jax.Array]:
    return cast(dict[tuple[str, ...], jax.Array], flatten_dict(params))  # flax annotates the leaves as nested

"""Independent normal prior over parameters, centred on pretrained weights or on zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Any


class GaussianPrior(NamedTuple):
    """p(θ) = N(mean, scale²), independent for every parameter.

    For transfer learning the mean is the pretrained weights (zero for the σ head) and the scale σ_TL; a mean
    of zero and a scale of one is the uninformative baseline.
    """

    mean: Params  # pytree as the parameters
    scale: Params | float  # > 0: one number, or a pytree as `mean` with leaves that broadcast to its leaves


def log_density(prior: GaussianPrior, params: Params) -> jax.Array:
    """Log density up to a constant that depends on the scale only: -½ Σ ((θ - mean)/scale)².

    Args:
      prior: the prior.
      params: one set of parameters, same structure as `prior.mean`.

    Returns:
      [] in the parameters' dtype.
    """

    def quadratic(x: jax.Array, mean: jax.Array, scale: jax.Array | float) -> jax.Array:
        return jnp.sum(((x - jnp.asarray(mean, x.dtype)) / jnp.asarray(scale, x.dtype)) ** 2)

    terms = jax.tree.map(quadratic, params, prior.mean, _scales(prior))
    return -0.5 * jnp.sum(jnp.stack(jax.tree.leaves(terms)))


def sample(prior: GaussianPrior, key: jax.Array) -> Params:
    """Draw one set of parameters, shaped and typed as the mean; `key` must not be used again."""
    leaves, treedef = jax.tree.flatten(prior.mean)
    keys = jax.tree.unflatten(treedef, list(jax.random.split(key, len(leaves))))

    def draw(mean: jax.Array, scale: jax.Array | float, leaf_key: jax.Array) -> jax.Array:
        mean = jnp.asarray(mean)
        return mean + jnp.asarray(scale, mean.dtype) * jax.random.normal(leaf_key, mean.shape, mean.dtype)

    return jax.tree.map(draw, prior.mean, _scales(prior), keys)


def _scales(prior: GaussianPrior) -> Params:
    if jax.tree.structure(prior.scale) == jax.tree.structure(prior.mean):
        return prior.scale
    if not jax.tree_util.treedef_is_leaf(jax.tree.structure(prior.scale)):
        raise ValueError("prior.scale: got another structure than prior.mean; allowed: one number or that structure")
    return jax.tree.map(lambda _: prior.scale, prior.mean)

"""The transfer prior: a normal distribution around the weights of a pretrained model."""

from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models import presets
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.force_sigma import HEAD
from bayes_mlff.models.potential import Potential
from bayes_mlff.models.presets import Chosen
from bayes_mlff.posterior import prior as prior_module
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.settings import ParallelChains, PriorSettings, SamplerStep

P = TypeVar("P", bound=PriorSettings)
S = TypeVar("S", bound=SamplerStep)


def prior_mean(potential: Potential) -> jax.Array:
    """Pretrained weights [p], with zero for the σ head."""
    flat = _leaves(potential.params)
    centred = {k: jnp.zeros_like(v) if k[0] == HEAD else v for k, v in flat.items()}
    return ravel_pytree(unflatten_dict(centred))[0]


def prior_scale(given: float | None, potential: Potential) -> float:
    """σ_TL of the transfer prior: the given one, else that of the model's preset."""
    return presets.of(potential).preset.prior_scale if given is None else given


def first_step_size(given: float | None, potential: Potential) -> float:
    """First step size γ0 of short chains: the given one, else that of the model's preset."""
    return presets.of(potential).preset.step_size if given is None else given


def stated_prior(prior: P, chosen: Chosen) -> P:
    """The prior with what the user has not set taken from a preset."""
    return prior if prior.scale is not None else prior.model_copy(update={"scale": chosen.preset.prior_scale})


def stated_sampler(sampler: S, chosen: Chosen, *, warm: bool = True) -> S:
    """The sampler with what the user has not set taken from a preset; `warm` if its chains must reach temperature 1.

    Raises:
      ConfigError: if the chains have too few steps for the cold steps of the preset.
    """
    preset = chosen.preset
    values = {"step_size": preset.step_size, "batch_size": preset.batch_size}
    values |= {"cold_steps": preset.cold_steps} if warm else {}
    unset = {key: value for key, value in values.items() if getattr(sampler, key, value) is None}
    made = sampler.model_copy(update=unset)
    if warm and isinstance(made, ParallelChains) and made.samples_nothing:
        least = f"more than {made.cold + made.ramp_steps}, since the preset of {chosen.whose} has {made.cold} cold ones"
        raise ConfigError("sampler.steps", made.steps, f"{least}; or sampler.cold_steps")
    return made


def around_prior_mean(
    potential: Potential, prior: GaussianPrior, spread: float, chains: int, key: jax.Array
) -> jax.Array:
    """Draws [c, p] from a prior around pretrained weights, narrowed by the factor `spread`.

    Weights of the σ head are drawn from the prior itself: exactly zero is a saddle point of its own weights, where all
    their gradients vanish.
    """
    leaves = _leaves(potential.params)
    factors = {k: np.full(np.shape(v), 1.0 if k[0] == HEAD else spread) for k, v in leaves.items()}
    factor = ravel_pytree(unflatten_dict(factors))[0].astype(prior.mean.dtype)
    draws = jax.vmap(lambda k: prior_module.sample(prior, k))(jax.random.split(key, chains))
    return prior.mean[None, :] + factor[None, :] * (draws - prior.mean[None, :])


def _leaves(params: Params) -> dict[tuple[str, ...], jax.Array]:
    return cast(dict[tuple[str, ...], jax.Array], flatten_dict(params))  # the annotation of flax is for nested leaves

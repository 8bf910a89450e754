"""A run whose posterior is one optimum with samples around it: what differs from chains."""

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.statistics import Statistic
from bayes_mlff.md.predictors import linear_predictor, of_one
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.models.energetics import PredictFn
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.parallel.devices import GIB, chain_mesh, memory_budget
from bayes_mlff.posterior import laplace
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.run import ChainState, Info

INITIAL_CAPACITY: Final = 64
"""Initial number of label slots; doubled when full, which costs one compilation."""

_OF_SAMPLES: Final = 2**31 - 2
"""In the place of a step's number, in the random key of samples around an optimum."""

Update = Callable[[jax.Array, ChainState, TrainingSet], tuple[jax.Array, ChainState, Info]]
Draw = Callable[[jax.Array, ChainState, TrainingSet], jax.Array]


def predictors(
    architecture: ArchitectureConfig, likelihood: Likelihood, further: tuple[Statistic, ...], *, with_stress: bool
) -> tuple[tuple[Callable[..., Predictive]], Callable[..., Predictive] | None]:
    """Predictors of one structure with all samples; and `Problem.in_full`."""

    def way(with_forces: bool) -> Callable[..., Predictive]:
        return of_one(linear_predictor(architecture, likelihood, with_stress=with_stress, with_forces=with_forces))

    if any(each.of_atoms for each in further):
        return (way(True),), None
    return (way(False),), way(True)


def samples(
    config: RunConfig, predict: PredictFn, prior: GaussianPrior, likelihood: Likelihood
) -> laplace.Sample | None:
    """The function that samples around an optimum; None where chains are the samples.

    Raises:
      ConfigError: if there are several processes, or not even the gradients of the first labels fit into the memory.
    """
    if config.posterior == "chains":
        return None
    if jax.process_count() > 1:
        allowed = f"chains, since {jax.process_count()} processes cannot share one optimum"
        raise ConfigError("posterior", "laplace", allowed)
    if directions(config, prior) is None:
        least = 2.0 * INITIAL_CAPACITY * prior.mean.nbytes / GIB
        allowed = f"{least:.3g} or more for {INITIAL_CAPACITY} gradients of all "
        raise ConfigError("sampler.memory_gib", config.sampler.memory_gib, f"{allowed}weights; or posterior: chains")
    return laplace.sampler(
        predict,
        prior,
        likelihood,
        samples=config.laplace.samples,
        directions=config.laplace.force_directions,
        free_zero=config.likelihood.energy_zero == "fitted",
        memory_bytes=_memory_of_rows(config),
    )


def _memory_of_rows(config: RunConfig) -> float:
    """Bytes that gradients of labels may take."""
    return 0.5 * memory_budget(chain_mesh(1), config.sampler.memory_gib)


def directions(config: RunConfig, prior: GaussianPrior) -> int | None:
    """Directions of the forces of each of the first labels that narrow the samples; None: not even energies fit."""
    most = _memory_of_rows(config) / prior.mean.nbytes
    return laplace.directions_within(config.laplace.force_directions, INITIAL_CAPACITY, most)


def of_centre(update: Update) -> Update:
    """An update of an optimum, [1, p + 1], as one of [1 + k, p + 1], after which all samples are at the optimum."""

    def update_all(
        params: jax.Array, state: ChainState, training_set: TrainingSet
    ) -> tuple[jax.Array, ChainState, Info]:
        centre, state, info = update(params[:1], state, training_set)
        return jnp.repeat(centre, len(params), axis=0), state, info

    return update_all


def drawn(around: laplace.Sample) -> Draw:
    """The function that draws samples [1 + k, p + 1] around the optimum, with the state that the last update left."""

    def draw(params: jax.Array, state: ChainState, training_set: TrainingSet) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(state.key[0], state.restarts[0]), _OF_SAMPLES)
        return jnp.concatenate([params[:1], around(params[0], training_set, key)])

    return draw

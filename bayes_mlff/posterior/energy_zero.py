"""The constant that all energies of one sample have in common, beside its weights.

A sample of the posterior is a vector [p + 1]: the flat weights [p] of the network, and the zero of its energies in
eV. The weights are sampled with the zero integrated out, under a flat prior of it. Given the weights, the posterior of
the zero is normal: N labels with independent errors of standard deviation σ around energy + zero give the mean of
label - energy, and σ²/N (Gelman et al. 2013, Bayesian Data Analysis, section 2.5). One draw from it for each sample of
the weights is a sample of both.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models.energetics import PredictFn, Prediction
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.settings import EnergyZero
from bayes_mlff.posterior.training_set import TrainingSet, labels_of


class Sample(NamedTuple):
    """The parts of samples of the posterior."""

    weights: jax.Array  # [..., p]
    zero: jax.Array  # [...] eV, added to the energies of the network


def decided(given: EnergyZero | None, obstacle: str | None) -> EnergyZero:
    """How the zero is found: as the user said, else fitted unless there is an obstacle, in words.

    Raises:
      ConfigError: if it is to be fitted and cannot be.
    """
    if given == "fitted" and obstacle is not None:
        raise ConfigError("likelihood.energy_zero", given, f"learnt, since {obstacle}")
    return given or ("fitted" if obstacle is None else "learnt")


def split(samples: jax.Array) -> Sample:
    """Parts of samples [..., p + 1]."""
    return Sample(samples[..., :-1], samples[..., -1])


def joined(weights: jax.Array, zero: jax.Array | float = 0.0) -> jax.Array:
    """Samples [..., p + 1] of weights [..., p] and zeros [...] in eV."""
    column = jnp.broadcast_to(jnp.asarray(zero, weights.dtype), weights.shape[:-1])
    return jnp.concatenate([weights, column[..., None]], axis=-1)


def with_zero(predict: PredictFn) -> PredictFn:
    """Prediction function of samples [p + 1], from one of weights [p]."""

    def shifted(sample: jax.Array, graphs) -> Prediction:
        weights, zero = split(sample)
        found = predict(weights, graphs)
        slopes = None if found.slopes is None else joined(found.slopes, 1.0)
        return found._replace(energy=found.energy + zero.astype(found.energy.dtype), slopes=slopes)

    return cast(PredictFn, shifted)


def beside(change: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Function of a sample [p + 1] that changes its weights [p], and leaves its zero."""
    return lambda sample: joined(change(sample[:-1]), sample[-1])


def draw(
    predict: PredictFn, likelihood: Likelihood, weights: jax.Array, training_set: TrainingSet, key: jax.Array | None
) -> jax.Array:
    """Draw the zero [] of one sample of the weights from its posterior, eV.

    Args:
      predict: model of weights [p].
      likelihood: with the same energy σ, in eV, for all structures.
      weights: [p].
      training_set: labels; the zero is 0 if none has an energy.
      key: must not be used again; None: the mean of the posterior instead of a draw.
    """

    def add(i: jax.Array, total: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        graphs, labels = labels_of(training_set, i[None])
        missing = labels.energy[0].astype(weights.dtype) - predict(weights, graphs).energy[0].astype(weights.dtype)
        known = labels.has_energy[0]
        return total[0] + jnp.where(known, missing, 0.0), total[1] + known.astype(weights.dtype)

    nothing = jnp.zeros([], weights.dtype)
    error, count = jax.lax.fori_loop(0, training_set.count, add, (nothing, nothing))
    least = jnp.maximum(count, 1.0)
    sigma = jnp.asarray(likelihood.energy_sigma, weights.dtype) / jnp.sqrt(least)
    noise = nothing if key is None else sigma * jax.random.normal(key, (), weights.dtype)
    return jnp.where(count > 0.0, error / least + noise, nothing)

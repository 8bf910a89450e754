"""The per-datum potential: prior and minibatch likelihood as one function of the parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bayes_mlff.models.energetics import Params, PredictFn
from bayes_mlff.posterior.likelihood import Likelihood, log_likelihood
from bayes_mlff.posterior.minibatch import draw
from bayes_mlff.posterior.prior import GaussianPrior, log_density
from bayes_mlff.posterior.training_set import TrainingSet, labels_of

PotentialFn = Callable[[Params, jax.Array, TrainingSet], jax.Array]


def potential(
    predict: PredictFn,
    prior: GaussianPrior,
    likelihood: Likelihood,
    batch_size: int,
    *,
    prefer_newest: bool = True,
) -> PotentialFn:
    """Build the per-datum potential U = -(1/N) log p(θ) - Σ_i w_i log p(y_i|x_i, θ).

    N is the number of labels; Σ_i w_i runs over a priority-sampled minibatch and estimates the mean over all
    labels without bias, so the expectation of U and of its gradient do not depend on the batch size. For the
    full sum exp(-N U) is the posterior, up to a constant.

    Args:
      predict: model, `(params, graphs [b, ...]) -> Prediction`; params may be a pytree or a flat vector.
      prior: prior over those params.
      likelihood: fixed standard deviations.
      batch_size: b.
      prefer_newest: draw the newest label more often; without it all labels are drawn alike.

    Returns:
      `(params, key, training_set) -> U []` for one chain, differentiable in params. `key` is used up by the
      draw. The set must hold a label: an empty one gives a potential that is not finite.
    """

    def evaluate(params: Params, key: jax.Array, training_set: TrainingSet) -> jax.Array:
        count = training_set.count
        newest = count - 1 if prefer_newest else None
        batch = draw(key, count, newest, batch_size, dtype=training_set.energy.dtype)
        graphs, labels = labels_of(training_set, batch.indices)
        log_p = log_likelihood(likelihood, predict(params, graphs), labels)
        log_prior = log_density(prior, params)
        data_term = jnp.sum(batch.weights.astype(log_p.dtype) * log_p)
        return -log_prior / count.astype(log_prior.dtype) - data_term.astype(log_prior.dtype)

    return evaluate

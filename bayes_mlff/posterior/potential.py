"""The per-datum potential: prior and minibatch likelihood as one function of the parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_mlff.core.numbers import largest_divisor
from bayes_mlff.models.energetics import Params, PredictFn
from bayes_mlff.posterior.likelihood import Likelihood, log_likelihood
from bayes_mlff.posterior.minibatch import Minibatch, draw
from bayes_mlff.posterior.prior import GaussianPrior, log_density
from bayes_mlff.posterior.training_set import TrainingSet, labels_of

CACHED_SLOTS = 400
"""Number of neighbour slots whose data fit into the caches of a CPU core; larger groups are slower."""


class Observations(NamedTuple):
    """Labels and the noise levels of the likelihood."""

    training_set: TrainingSet
    likelihood: Likelihood  # of floats, or of arrays [] that may be traced


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
      prefer_newest: draw the newest label more often; without it all labels have the same probability.

    Returns:
      `(params, key, training_set) -> U []` for one chain, differentiable in params. `key` must not be used
      again. The set must contain a label: the potential of an empty set is not finite.
    """

    def evaluate(params: Params, key: jax.Array, training_set: TrainingSet) -> jax.Array:
        batch = _draw(key, training_set, batch_size, prefer_newest)
        graphs, labels = labels_of(training_set, batch.indices)
        log_p = log_likelihood(likelihood, predict(params, graphs), labels)
        return _prior_term(params, prior, training_set) - _weighted(batch.weights, log_p, params)

    return evaluate


def potential_and_gradient(
    predict: PredictFn,
    prior: GaussianPrior,
    batch_size: int,
    *,
    prefer_newest: bool = True,
    at_once: int | None = None,
    batch_axis: str | None = None,
    free_zero: bool = False,
) -> Callable[[Params, jax.Array, Observations], tuple[jax.Array, Params]]:
    """Build U of `potential` together with its gradient, evaluated a few structures at a time.

    The likelihood is an argument together with the labels, since cold chains change it.

    Args:
      predict: model; as for `potential`.
      prior: prior over its params.
      batch_size: b.
      prefer_newest: draw the newest label more often.
      at_once: structures evaluated together; the default depends on the device. While there are fewer labels
        than b, groups of structures with weight zero are left out.
      batch_axis: name of a mesh axis over whose devices the groups are distributed; all devices get the sum. Only
        for use inside `jax.shard_map`.
      free_zero: the energies have an unknown constant in common, which the predictions need not reproduce: the
        likelihood is the marginal one under a flat prior of the constant. A change of almost any weight shifts all
        energies together by far more than it changes their differences, so that otherwise the steps that hold the
        constant hinder the weights that forces and energy differences need.

    Returns:
      `(params, key, observations) -> (U [], dU/dparams)` for one chain. With `free_zero` only the gradient is an
      unbiased estimate; U is larger than that of all labels while not all of them are in the minibatch.
    """

    def evaluate(params: Params, key: jax.Array, observations: Observations) -> tuple[jax.Array, Params]:
        training_set, likelihood = observations
        batch = _draw(key, training_set, batch_size, prefer_newest)
        here, devices = 0, 1
        if batch_axis is not None:
            here, devices = jax.lax.axis_index(batch_axis), jax.lax.axis_size(batch_axis)
        group = at_once or preferred_group(-(-batch_size // devices), training_set)
        batch = jax.tree.map(lambda x: jnp.pad(x, (0, -batch_size % group)), batch)  # padded with copies of weight zero

        used = jnp.minimum(training_set.count, batch_size)
        groups = (used + group - 1) // group
        mine = (groups - here + devices - 1) // devices

        def first(i: jax.Array) -> jax.Array:
            return (here + i * devices) * group  # of the i-th group of this device

        def rows(values: jax.Array, i: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(values, first(i), group)

        def residuals(i: jax.Array, found: jax.Array) -> jax.Array:
            graphs, labels = labels_of(training_set, rows(batch.indices, i))
            error = predict(params, graphs).energy.astype(found.dtype) - labels.energy.astype(found.dtype)
            return jax.lax.dynamic_update_slice_in_dim(found, error, first(i), 0)

        whole = batch_axis is None and len(batch.weights) == group
        has_energy = training_set.has_energy[batch.indices]
        everything = training_set.count <= batch_size

        def common(errors: jax.Array) -> jax.Array:
            weights = jnp.where(has_energy, batch.weights, 0.0).astype(errors.dtype)
            pairs = max(batch_size, 2) / (max(batch_size, 2) - 1) / _share_with_energy(training_set, errors.dtype)
            return _zeros(errors, weights, jnp.where(everything, 0.0, pairs))

        zeros = jnp.zeros(batch.weights.shape, jax.tree.leaves(params)[0].dtype)
        if free_zero and not whole:
            errors = jax.lax.fori_loop(0, mine, residuals, zeros)
            zeros = common(errors if batch_axis is None else jax.lax.psum(errors, batch_axis))

        def data_term(params: Params, i: jax.Array) -> jax.Array:
            graphs, labels = labels_of(training_set, rows(batch.indices, i))
            found = predict(params, graphs)
            if free_zero:
                shift = common(found.energy - labels.energy.astype(found.energy.dtype)) if whole else rows(zeros, i)
                labels = labels._replace(energy=labels.energy + shift.astype(labels.energy.dtype))
            return -_weighted(rows(batch.weights, i), log_likelihood(likelihood, found, labels), params)

        def add(i: jax.Array, total: tuple[jax.Array, Params]) -> tuple[jax.Array, Params]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(data_term)(params, i))

        start = jax.value_and_grad(_prior_term)(params, prior, training_set)
        own = jax.tree.map(lambda x: jnp.where(here == 0, x, jnp.zeros_like(x)), start)  # the prior counts once
        own = jax.lax.fori_loop(0, mine, add, own)
        return own if batch_axis is None else jax.lax.psum(own, batch_axis)

    return evaluate


def _zeros(errors: jax.Array, weights: jax.Array, pairs: jax.Array) -> jax.Array:
    """Estimate, for each label of a minibatch, the error that all energies have in common.

    The mean of (e - mean e)² over n labels is half of the mean of (e - e')² over all pairs. If the minibatch is not the
    whole set, its slots are independent draws, and pairs of different slots with the products of their weights
    estimate that mean without bias, whatever the weights are. The gradient of their sum is that of the label's own
    squared error, shifted by what is returned here.

    Args:
      errors: [b] eV, energy minus label.
      weights: [b] of the minibatch, zero for labels without energy.
      pairs: [] b/(b - 1) divided by the share of labels with energy; 0 if the minibatch is the whole set.

    Returns:
      [b] eV; a label's own error if there is no other one.
    """
    drawn = pairs > 0.0
    own = jnp.where(drawn, weights, 0.0)
    rest = jnp.sum(weights) - own
    others = rest > 1e-6 * jnp.sum(weights)
    mean = (jnp.sum(weights * errors) - own * errors) / jnp.where(others, rest, 1.0)
    factor = jnp.where(drawn, pairs * rest, 1.0)
    return jax.lax.stop_gradient(errors - jnp.where(others, factor, 0.0) * (errors - mean))


def _share_with_energy(training_set: TrainingSet, dtype: jnp.dtype) -> jax.Array:
    known = training_set.has_energy & (jnp.arange(training_set.capacity, dtype=jnp.int32) < training_set.count)
    return jnp.maximum(jnp.sum(known, dtype=jnp.int32), 1).astype(dtype) / training_set.count.astype(dtype)


def preferred_group(share: int, training_set: TrainingSet) -> int:
    """Number of structures that a device with `share` structures evaluates together."""
    if jax.default_backend() != "cpu":
        return share
    _, atoms, slots = training_set.graphs.neighbors.shape
    return largest_divisor(share, max(1, CACHED_SLOTS // (atoms * slots)))


def _draw(key: jax.Array, training_set: TrainingSet, batch_size: int, prefer_newest: bool) -> Minibatch:
    newest = training_set.count - 1 if prefer_newest else None
    return draw(key, training_set.count, newest, batch_size, fresh=training_set.fresh, dtype=training_set.energy.dtype)


def _prior_term(params: Params, prior: GaussianPrior, training_set: TrainingSet) -> jax.Array:
    log_prior = log_density(prior, params)
    return -log_prior / training_set.count.astype(log_prior.dtype)


def _weighted(weights: jax.Array, log_p: jax.Array, params: Params) -> jax.Array:
    return jnp.sum(weights.astype(log_p.dtype) * log_p).astype(jax.tree.leaves(params)[0].dtype)

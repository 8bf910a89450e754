"""The level of the predicted force σ, set by the errors on the training set."""

from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.energetics import Params, PredictFn
from bayes_mlff.posterior.potential import preferred_group
from bayes_mlff.posterior.training_set import TrainingSet, labels_of
from bayes_mlff.sghmc.run import Adjust

MOST: Final = 64
"""Labels that a level is taken from, spread evenly over the training set if it holds more."""

LevelFn = Callable[[Params, TrainingSet], Params]


def force_sigma_level(
    predict: PredictFn, sigma_bias: np.ndarray, batch_size: int, *, floor_ev_a: float, at_once: int | None = None
) -> LevelFn:
    """Build the function that sets the weight by which every force σ of a chain is multiplied.

    Where the errors are far from σ the likelihood has a gradient of the wrong size: a σ far too small makes the first
    steps blow up the AMSGrad mass, which forgets nothing, and a σ far too large hides the data behind the prior. The
    gradient of σ itself, one weight among many, corrects that more slowly than the schedule lasts. The weight with the
    highest likelihood while all others stay is known, however: the one for which the mean of (ΔF/σ)² is 1.

    Args:
      predict: model of flat weights.
      sigma_bias: place [1] in the flat weights of the logarithm of a factor of all force σ.
      batch_size: labels evaluated together unless at_once or the caches of the device say fewer.
      floor_ev_a: smallest geometric mean of σ, eV/Å: few labels can be fitted exactly.
      at_once: labels evaluated together; by default as many of `batch_size` as suit the device.

    Returns:
      `(params [p], training_set) -> params [p]` for one chain; it changes that weight only. The set must hold a label.
    """

    def level(params: Params, training_set: TrainingSet) -> Params:
        used = jnp.minimum(training_set.count, MOST)
        group = at_once or preferred_group(batch_size, training_set)

        def add(i: jax.Array, total: jax.Array) -> jax.Array:
            rank = i * group + jnp.arange(group, dtype=jnp.int32)
            indices = jnp.minimum(rank, used - 1) * training_set.count // used
            graphs, labels = labels_of(training_set, indices)
            found = predict(params, graphs)
            counted = labels.node_mask & (rank < used)[:, None]
            sigma = jnp.where(counted, found.force_sigma, 1.0)
            error = jnp.where(counted[..., None], found.forces - labels.forces, 0.0)
            squared = jnp.mean((error / sigma[..., None]) ** 2, axis=-1)
            log_sigma = jnp.where(counted, jnp.log(sigma / floor_ev_a), 0.0)
            sums = jnp.sum(squared), jnp.sum(log_sigma), jnp.sum(counted, dtype=jnp.int32)
            return total + jnp.stack([x.astype(total.dtype) for x in sums])

        groups = (used + group - 1) // group
        squared, log_sigma, atoms = jax.lax.fori_loop(0, groups, add, jnp.zeros([3], params.dtype))
        change = jnp.maximum(0.5 * jnp.log(squared / atoms), -log_sigma / atoms)
        return params.at[sigma_bias].add(change.astype(params.dtype))

    return level


def while_cold(level: LevelFn, cold_steps: int) -> Adjust:
    """Level before steps 0 to `cold_steps` and never at a positive temperature, where it would change the law."""

    def adjust(params: Params, step: jax.Array, training_set: Any) -> Params:
        return jax.lax.cond(step <= cold_steps, lambda p: level(p, training_set), lambda p: p, params)

    return adjust

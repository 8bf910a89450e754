"""Laplace approximation of the posterior of all weights: samples around one optimised set of weights.

To first order in the weights, labels in units of their σ are y = G δ + ε with ε ~ N(0, I), where δ is the distance from
the optimum, a row of G the gradient of a prediction over its σ, and the Hessian of the potential its Gauss-Newton form
(Daxberger et al. 2021, arXiv:2106.14806, section 3). The prior is N(0, α²) for every weight. Samples follow without a
matrix of the size of the weights (Matheron's rule; Wilson et al. 2021, arXiv:2011.04026, eq. 11): with δ0 ~ N(0, α²),

    δ = δ0 - α² Gᵀ (I + α² G Gᵀ)⁻¹ (G δ0 + ε).

The constant of all energies has a flat prior and is eliminated by generalised least squares, which is exact. A
structure has too many force components for one row each: they enter as `directions` random sums with signs ±1, divided
by the square root of their number, so that GᵀG is right on average. Predictions with such samples are to first order,
too (Immer et al. 2021, arXiv:2008.08400); see `ensemble.linear`.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models.energetics import PredictFn
from bayes_mlff.posterior.likelihood import Likelihood, count_atoms, of_structures
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.training_set import TrainingSet, labels_of

ROWS: Final = 1024
"""Rows of G beyond which labels get fewer directions of their forces, down to one each."""


class Rows(NamedTuple):
    """Rows of G for all slots of a training set, zero for slots without a label."""

    weights: jax.Array  # [m, p]
    zero: jax.Array  # [m] column of the constant of all energies


Sample = Callable[[jax.Array, TrainingSet, jax.Array], jax.Array]


def sampler(
    predict: PredictFn,
    prior: GaussianPrior,
    likelihood: Likelihood,
    *,
    samples: int,
    directions: int,
    memory_bytes: float = math.inf,
) -> Sample:
    """Build the function that samples the posterior around optimised weights.

    Args:
      predict: model of flat weights [p].
      prior: normal prior of the weights, with one scale for all.
      likelihood: fixed standard deviations; those of the forces are predicted by the network.
      samples: number of samples k, at least 2.
      directions: random sums of force components of each label, at least 0; fewer where there are many labels, or
        where their rows do not fit into the memory.
      memory_bytes: that the rows may take.

    Returns:
      `(centre [p + 1], training_set, key) -> [k, p + 1]`: samples of `energy_zero`, whose mean is the centre and whose
      covariance (with k - 1) is on average that of the posterior. The key must not be used again. Called from the host;
      compiled once for every capacity of the training set. It raises a ConfigError that names `sampler.memory_gib` if
      not even the rows of the energies fit.
    """
    scale = float(np.asarray(prior.scale))

    @jax.jit
    def prepared(centre: jax.Array, training_set: TrainingSet, key: jax.Array):
        key_rows, key_prior, key_noise = jax.random.split(key, 3)
        count = _count(directions, training_set.capacity, memory_bytes / ((centre.size - 1) * centre.dtype.itemsize))
        rows = design(predict, likelihood, centre[:-1], training_set, count, key_rows)
        first = scale * jax.random.normal(key_prior, (samples, centre.shape[0] - 1), centre.dtype)
        noise = jax.random.normal(key_noise, (rows.zero.shape[0], samples), centre.dtype)
        gram = jnp.matmul(rows.weights, rows.weights.T, precision="highest")
        return rows, first, gram, jnp.matmul(rows.weights, first.T, precision="highest") + noise

    @jax.jit
    def moved(centre: jax.Array, rows: Rows, first: jax.Array, by: jax.Array, zero: jax.Array) -> jax.Array:
        shifts = first - scale**2 * jnp.matmul(by.T, rows.weights, precision="highest")
        shifts = jnp.concatenate([shifts, zero[:, None]], axis=1)
        return centre[None, :] + shifts - jnp.mean(shifts, axis=0, keepdims=True)

    def sample(centre: jax.Array, training_set: TrainingSet, key: jax.Array) -> jax.Array:
        rows, first, gram, drawn = prepared(centre, training_set, key)
        found = _solved(np.asarray(gram, np.float64), np.asarray(rows.zero, np.float64), scale, np.asarray(drawn))
        return moved(centre, rows, first, *(jnp.asarray(each, centre.dtype) for each in found))

    return sample


def _solved(gram: np.ndarray, zero: np.ndarray, scale: float, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors [m, k] of the rows, and constants [k] of the energies, from G δ0 + ε [m, k]."""
    factor = cho_factor(np.eye(len(gram)) + scale**2 * gram)
    values = cho_solve(factor, drawn.astype(np.float64))
    if not zero.any():
        return values, np.zeros(drawn.shape[1])
    column = cho_solve(factor, zero)
    constant = (zero @ values) / (zero @ column)
    return values - column[:, None] * constant, -constant


def _count(directions: int, capacity: int, most: float = math.inf) -> int:
    """Directions of the forces of each label, for a number of label slots and the largest number of rows.

    Raises:
      ConfigError: if not even one row for each slot is possible.
    """
    if capacity > most:
        allowed = f"enough for {capacity} gradients of all weights, of which {int(most)} fit; or posterior: chains"
        raise ConfigError("sampler.memory_gib", None, allowed)
    return min(directions, max(ROWS // capacity - 1, 1), int(min(most, ROWS + 2 * capacity) // capacity) - 1)


def design(
    predict: PredictFn,
    likelihood: Likelihood,
    weights: jax.Array,
    training_set: TrainingSet,
    directions: int,
    key: jax.Array,
) -> Rows:
    """Rows of G for the labels of a training set.

    Args:
      predict: model of flat weights [p].
      likelihood: fixed standard deviations.
      weights: [p] around which is linearised.
      training_set: labels.
      directions: number of random sums of force components of each label.
      key: of the signs; must not be used again.
    """
    capacity, count = training_set.capacity, directions

    def energy(w: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        graphs, labels = labels_of(training_set, i[None])
        atoms = count_atoms(labels.node_mask, w.dtype)
        sigma = jnp.broadcast_to(jnp.asarray(of_structures(likelihood.energy_sigma, atoms), w.dtype), (1,))
        inverse = jnp.where(labels.has_energy, 1.0 / sigma, 0.0)[0]
        return predict(w, graphs).energy[0] * inverse, inverse

    def forces(w: jax.Array, i: jax.Array, key: jax.Array) -> jax.Array:
        graphs, labels = labels_of(training_set, i[None])
        found = predict(w, graphs)
        sigma = jax.lax.stop_gradient(found.force_sigma)[..., None]
        sign = jax.random.rademacher(key, (found.forces.size + 9,), w.dtype)
        total = jnp.sum(jnp.where(labels.known_forces, _shaped(sign, found.forces) * found.forces / sigma, 0.0))
        if likelihood.stress_sigma is not None and found.stress is not None:
            stress = _shaped(sign[-9:], found.stress) * found.stress / jnp.asarray(likelihood.stress_sigma, w.dtype)
            total = total + jnp.sum(jnp.where(labels.has_stress[:, None, None], stress, 0.0))
        return total / math.sqrt(count)

    def add(i: jax.Array, rows: Rows) -> Rows:
        row, inverse = jax.grad(energy, has_aux=True)(weights, i)
        block = row[None]
        if count:
            keys = jax.random.split(jax.random.fold_in(key, i), count)
            block = jnp.concatenate([block, jax.lax.map(lambda k: jax.grad(forces)(weights, i, k), keys)])
        first = i * (1 + count)
        zero = rows.zero.at[first].set(inverse.astype(weights.dtype))
        return Rows(jax.lax.dynamic_update_slice_in_dim(rows.weights, block, first, 0), zero)

    size = capacity * (1 + count)
    nothing = Rows(jnp.zeros((size, weights.shape[0]), weights.dtype), jnp.zeros((size,), weights.dtype))
    return jax.lax.fori_loop(0, training_set.count, add, nothing)


def _shaped(signs: jax.Array, like: jax.Array) -> jax.Array:
    return signs[: like.size].reshape(like.shape)

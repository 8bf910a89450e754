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
from functools import partial
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.models.energetics import PredictFn
from bayes_mlff.posterior.likelihood import Likelihood, count_atoms, of_structures
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.training_set import TrainingSet, labels_of

ROWS: Final = 1024
"""Rows of G beyond which labels get fewer directions of their forces, down to one each."""

ROUNDING: Final = 4.0
"""Errors of products of rows, in units of the largest one times the relative rounding error, that count as noise of the
labels: so much that the matrix stays positive definite, and far less than their own noise in all runs seen."""


class Rows(NamedTuple):
    """Rows of G for all slots of a training set, zero for slots without a label."""

    weights: jax.Array  # [m, p]
    zero: jax.Array  # [m] column of the constant of all energies


Sample = Callable[[jax.Array, TrainingSet, jax.Array], jax.Array]


class _Prepared(NamedTuple):
    """What the host solves, in the dtype of the weights; rows of G are `rows.weights + rows.zero[:, None] * common`."""

    rows: Rows  # without what the gradients of all energies have in common
    common: jax.Array  # [p]
    first: jax.Array  # [k, p] draws δ0 of the prior
    gram: jax.Array  # [m, m] products of the rows
    crossed: jax.Array  # [m] products of the rows with `common`
    drawn: jax.Array  # [m, k] products of the rows with δ0, and the noise
    moved: jax.Array  # [k] products of `common` with δ0


def sampler(
    predict: PredictFn,
    prior: GaussianPrior,
    likelihood: Likelihood,
    *,
    samples: int,
    directions: int,
    free_zero: bool = True,
    memory_bytes: float = math.inf,
) -> Sample:
    """Build the function that samples the posterior around optimised weights.

    Args:
      predict: model of flat weights [p].
      prior: normal prior of the weights, with one scale for all.
      likelihood: fixed standard deviations; those of the forces are predicted by the network.
      samples: number of samples k, at least 2.
      directions: random sums of force components of each label, at least 0; see `directions_within`.
      free_zero: the zero of the energies has a flat prior; otherwise it stays that of the centre.
      memory_bytes: that the rows may take.

    Returns:
      `(centre [p + 1], training_set, key) -> [k, p + 1]`: samples of `energy_zero`, whose mean is the centre and whose
      covariance (with k - 1) is on average that of the normal posterior with the rows drawn. The key must not be used
      again. Called from the host; compiled once for every capacity of the training set. It raises a RunStoppedError if
      the rows do not fit into the memory, or the posterior cannot be computed.
    """
    scale = float(np.asarray(prior.scale))

    @partial(jax.jit, static_argnames="count")
    def prepared(centre: jax.Array, training_set: TrainingSet, key: jax.Array, count: int) -> _Prepared:
        key_rows, key_prior, key_noise = jax.random.split(key, 3)
        rows, common = _centred(design(predict, likelihood, centre[:-1], training_set, count, key_rows))
        first = scale * jax.random.normal(key_prior, (samples, centre.shape[0] - 1), centre.dtype)
        noise = jax.random.normal(key_noise, (rows.zero.shape[0], samples), centre.dtype)
        gram, crossed = _product(rows.weights, rows.weights.T), _product(rows.weights, common)
        drawn = _product(rows.weights, first.T) + noise
        return _Prepared(rows, common, first, gram, crossed, drawn, _product(first, common))

    @jax.jit
    def moved(centre: jax.Array, made: _Prepared, by: jax.Array, along: jax.Array, zero: jax.Array) -> jax.Array:
        shifts = made.first - scale**2 * (_product(by.T, made.rows.weights) + along[:, None] * made.common[None, :])
        zeros = zero - _product(shifts, made.common) if free_zero else zero
        shifts = jnp.concatenate([shifts, zeros[:, None]], axis=1)
        return centre[None, :] + shifts - jnp.mean(shifts, axis=0, keepdims=True)

    def sample(centre: jax.Array, training_set: TrainingSet, key: jax.Array) -> jax.Array:
        bytes_of_row = (centre.size - 1) * centre.dtype.itemsize
        count = directions_within(directions, training_set.capacity, memory_bytes / bytes_of_row)
        if count is None:
            raise RunStoppedError(
                f"{training_set.capacity} gradients of all weights do not fit into {memory_bytes / 2**30:.3g} GiB, "
                "half of sampler.memory_gib: raise it and resume, or begin a run with posterior: chains"
            )
        made = prepared(centre, training_set, key, count)
        found = _solved(made, scale, free_zero=free_zero)
        return moved(centre, made, *(jnp.asarray(each, centre.dtype) for each in found))

    return sample


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


def _centred(rows: Rows) -> tuple[Rows, jax.Array]:
    """Take from the rows what those of energies have in common, z uᵀ with the column z of the zero; u is [p].

    The gradients of all energies are nearly the same, and so large in units of their σ that float32 would lose what
    distinguishes them in products of the rows.
    """
    squares = jnp.sum(rows.zero**2)
    common = _product(rows.zero, rows.weights) / jnp.where(squares > 0.0, squares, 1.0)
    return rows._replace(weights=rows.weights - rows.zero[:, None] * common[None, :]), common


def _solved(made: _Prepared, scale: float, *, free_zero: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factors [m, k] of the rows and [k] of what they have in common, and constants [k] of the energies, from G δ0 + ε.

    With a free zero the common part of the rows is absorbed by it, so that neither is needed here.

    Raises:
      RunStoppedError: if the matrix of the rows is not positive definite or not finite.
    """
    zero, gram, drawn, crossed, common2, moved = (
        np.asarray(x, np.float64)
        for x in (made.rows.zero, made.gram, made.drawn, made.crossed, jnp.sum(made.common**2), made.moved)
    )
    largest = float(np.max(np.diag(gram)))
    if not free_zero:
        gram = gram + np.outer(crossed, zero) + np.outer(zero, crossed) + common2 * np.outer(zero, zero)
        drawn = drawn + np.outer(zero, moved)
    try:
        noise = 1.0 + ROUNDING * scale**2 * largest * float(jnp.finfo(made.gram.dtype).eps)
        factor = cho_factor(noise * np.eye(len(gram)) + scale**2 * gram)
    except (LinAlgError, ValueError) as error:
        raise RunStoppedError(
            f"posterior: laplace: the curvature at the optimum cannot be used ({error}); a smaller sampler.step_size "
            "or another sampler.steps may help: change it and resume"
        ) from error
    values = cho_solve(factor, drawn)
    nothing = np.zeros(values.shape[1])
    if not free_zero:
        return values, zero @ values, nothing
    if not zero.any():
        return values, nothing, nothing
    column = cho_solve(factor, zero)
    constant = (zero @ values) / (zero @ column)
    return values - column[:, None] * constant, nothing, -constant


def directions_within(directions: int, capacity: int, most: float) -> int | None:
    """Directions of the forces of each label that are used, at most those asked for.

    Args:
      directions: asked for.
      capacity: label slots; above some hundred the directions of each become fewer.
      most: rows that fit into the memory.

    Returns:
      The number, or None if not even one row for each slot fits.
    """
    if capacity > most:
        return None
    rows = min(most, max(ROWS, 2 * capacity))
    return min(directions, int(rows // capacity) - 1)


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
        return total / math.sqrt(directions)

    def add(i: jax.Array, rows: Rows) -> Rows:
        row, inverse = jax.grad(energy, has_aux=True)(weights, i)
        block = row[None]
        if directions:
            keys = jax.random.split(jax.random.fold_in(key, i), directions)
            block = jnp.concatenate([block, jax.lax.map(lambda k: jax.grad(forces)(weights, i, k), keys)])
        first = i * (1 + directions)
        zero = rows.zero.at[first].set(inverse.astype(weights.dtype))
        return Rows(jax.lax.dynamic_update_slice_in_dim(rows.weights, block, first, 0), zero)

    size = training_set.capacity * (1 + directions)
    nothing = Rows(jnp.zeros((size, weights.shape[0]), weights.dtype), jnp.zeros((size,), weights.dtype))
    return jax.lax.fori_loop(0, training_set.count, add, nothing)


def _shaped(signs: jax.Array, like: jax.Array) -> jax.Array:
    return signs[: like.size].reshape(like.shape)

"""Last-layer Laplace approximation: a normal posterior of the last linear layer of the energy readout.

Energies, forces and stress are linear in those weights, so that the Gauss-Newton matrix is their exact Hessian and only
the weights before them are held at their optimum (Daxberger et al. 2021, arXiv:2106.14806, section 3).
"""

from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.energetics import PredictFn
from bayes_mlff.models.layers import last_readout, last_sigma_bias
from bayes_mlff.models.registry import Potential
from bayes_mlff.posterior.likelihood import Likelihood, count_atoms, of_structures
from bayes_mlff.posterior.training_set import TrainingSet, labels_of
from bayes_mlff.posterior.transfer import prior_mean

ITERATIONS: Final = 1000
PRECISIONS: Final = (1e-6, 1e12)
"""Search range of the prior precision and of the factors on the noise precisions."""


class Curvature(NamedTuple):
    """Gauss-Newton data of the labels of one kind for k weights, in units of the likelihood's σ."""

    gram: np.ndarray  # [k, k] sum over labels of the outer products of Jacobian rows
    square: float  # Σ of squared residuals
    count: int  # number of scalar labels


class Evidence(NamedTuple):
    """Precisions that maximise the evidence, and the resulting posterior covariance."""

    prior_precision: float  # of each weight
    noise_factors: tuple[float, ...]  # on 1/σ² of each kind of label
    effective: float  # effective number of weights determined by the labels, 0 to k
    covariance: np.ndarray  # [k, k]


def curvatures(
    predict: PredictFn, likelihood: Likelihood, labels: TrainingSet, params: jax.Array, index: np.ndarray
) -> tuple[Curvature, ...]:
    """Gauss-Newton matrices and residuals of energies, forces and stress, as far as these are labelled.

    Args:
      predict: model of flat weights [p].
      likelihood: fixed standard deviations; those of the forces are the network's.
      labels: training frames.
      params: [p] optimised weights.
      index: [k] places of the weights that are uncertain.

    Returns:
      One entry for each kind of label, in that order.
    """

    def whitened(weights: jax.Array, frame: jax.Array) -> tuple[jax.Array, ...]:
        graphs, known = labels_of(labels, frame[None])
        prediction = predict(params.at[index].set(weights), graphs)
        sigma = jax.lax.stop_gradient(prediction.force_sigma)[..., None]
        sizes = count_atoms(known.node_mask, prediction.energy.dtype)
        energy = (prediction.energy - known.energy) / of_structures(likelihood.energy_sigma, sizes)
        forces = jnp.where(known.known_forces, (prediction.forces - known.forces) / sigma, 0.0)
        rows = [jnp.where(known.has_energy, energy, 0.0), forces]
        if likelihood.stress_sigma is not None and prediction.stress is not None:
            stress = (prediction.stress - known.stress) / likelihood.stress_sigma
            rows.append(jnp.where(known.has_stress[:, None, None], stress, 0.0))
        return tuple(row.ravel() for row in rows)

    def one(frame: jax.Array) -> tuple[tuple[jax.Array, jax.Array], ...]:
        weights = params[index]
        jacobians, residuals = jax.jacfwd(whitened)(weights, frame), whitened(weights, frame)
        return tuple((j.T @ j, jnp.sum(r**2)) for j, r in zip(jacobians, residuals, strict=True))

    used = int(labels.count)
    sums = jax.jit(lambda: jax.lax.map(one, jnp.arange(used)))()
    counts = (
        labels.has_energy[:used].sum(),
        jnp.sum(jnp.broadcast_to(labels_of(labels, jnp.arange(used))[1].known_forces, labels.forces[:used].shape)),
        9 * labels.has_stress[:used].sum(),
    )
    return tuple(
        Curvature(np.asarray(gram, np.float64).sum(axis=0), float(np.asarray(square, np.float64).sum()), int(count))
        for (gram, square), count in zip(sums, counts[: len(sums)], strict=True)
        if int(count)
    )


def evidence(kinds: tuple[Curvature, ...], shift_square: float) -> Evidence:
    """Maximise the marginal likelihood over the prior precision a and a noise factor b of each kind of label.

    Fixed point of MacKay 1992 (Neural Comput. 4, 415, eqs. 4.10 to 4.12) with several noise levels:
    S = (a I + Σ_c b_c G_c)⁻¹, a = (k - a tr S)/|w - w0|², b_c = (N_c - b_c tr(S G_c))/r_c².

    Args:
      kinds: Gauss-Newton matrix, squared residuals and number of each kind of label.
      shift_square: |w - w0|², how far the optimum is from the centre of the prior.
    """
    size = len(kinds[0].gram)
    prior, factors = 1.0, np.ones(len(kinds))

    def posterior() -> np.ndarray:
        precision = prior * np.eye(size) + sum(b * kind.gram for b, kind in zip(factors, kinds, strict=True))
        return np.linalg.inv(precision)

    for _ in range(ITERATIONS):
        covariance = posterior()
        before = np.array([prior, *factors])
        determined = size - prior * np.trace(covariance)
        prior = _bounded(determined, shift_square)
        used = [b * np.sum(covariance * kind.gram) for b, kind in zip(factors, kinds, strict=True)]
        factors = np.array([_bounded(kind.count - g, kind.square) for kind, g in zip(kinds, used, strict=True)])
        if np.allclose([prior, *factors], before, rtol=1e-8, atol=0.0):
            break
    covariance = posterior()
    return Evidence(prior, tuple(map(float, factors)), float(size - prior * np.trace(covariance)), covariance)


def samples(
    potential: Potential, params: jax.Array, index: np.ndarray, found: Evidence, forces_kind: int | None, count: int,
    key: jax.Array,
) -> jax.Array:  # fmt: skip
    """Draw sets of weights [count, p] from the posterior; the key must not be used again.

    The mean of independent draws is subtracted, so the mean of the samples is exactly the optimum, and their covariance
    (with count - 1) is on average that of the posterior. The noise factor of the forces is included in the last bias of
    the σ head.

    Args:
      potential: architecture.
      params: [p] optimised weights.
      index: [k] places of the weights that are uncertain.
      found: posterior of these weights.
      forces_kind: index of the noise factor of the forces; None if these are not learnt.
      count: number of samples, at least 2.
      key: of the draws.
    """
    root = np.linalg.cholesky(found.covariance)
    normal = jax.random.normal(key, (count, len(index)), params.dtype)
    shifts = (normal - jnp.mean(normal, axis=0, keepdims=True)) @ jnp.asarray(root.T, params.dtype)
    centre = params
    if forces_kind is not None:
        shift = -0.5 * float(np.log(found.noise_factors[forces_kind]))
        centre = params.at[last_sigma_bias(potential)].add(shift)
    return jnp.tile(centre[None], (count, 1)).at[:, index].add(shifts)


def approximate(
    potential: Potential, predict: PredictFn, likelihood: Likelihood, labels: TrainingSet, params: jax.Array,
    *, count: int, key: jax.Array,
) -> tuple[jax.Array, Evidence]:  # fmt: skip
    """Samples [count, p] of the last layer's posterior around optimised weights [p], and the chosen precisions.

    The prior is centred on the pretrained weights.
    """
    index = last_readout(potential)
    kinds = curvatures(predict, likelihood, labels, params, index)
    shift = np.asarray(params - prior_mean(potential), np.float64)[index]
    found = evidence(kinds, float(np.sum(shift**2)))
    energies = int(bool(labels.has_energy[0]))
    return samples(potential, params, index, found, energies if len(kinds) > energies else None, count, key), found


def fitted(likelihood: Likelihood, labels: TrainingSet, found: Evidence) -> Likelihood:
    """σ/√b of energies and stress, with the noise factors b of their labels; σ itself if there are no labels."""
    factors = list(found.noise_factors)
    energy = factors.pop(0) if bool(labels.has_energy[0]) else 1.0
    stress = factors[1] if len(factors) > 1 else 1.0
    stress_sigma = likelihood.stress_sigma
    energy_sigma = jax.tree.map(lambda x: x / energy**0.5, likelihood.energy_sigma)
    return Likelihood(energy_sigma, None if stress_sigma is None else stress_sigma / stress**0.5)


def _bounded(numerator: float, denominator: float) -> float:
    low, high = PRECISIONS
    return float(np.clip(max(numerator, 0.0) / max(denominator, 1e-300), low, high))

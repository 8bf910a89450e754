"""How probable a label is, given what one set of parameters predicts."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_mlff.models.energetics import Prediction


class Likelihood(NamedTuple):
    """Fixed standard deviations of the labels; those of the forces come from the network."""

    energy_sigma: float | jax.Array  # eV, total energy
    stress_sigma: float | jax.Array | None = None  # eV/Å³; None leaves stress out


class Labels(NamedTuple):
    """Reference values of a batch of structures; masked entries may hold anything."""

    energy: jax.Array  # [b] eV
    forces: jax.Array  # [b, n, 3] eV/Å
    stress: jax.Array  # [b, 3, 3] eV/Å³, tension positive (ASE sign)
    node_mask: jax.Array  # [b, n] bool, False on padding
    has_energy: jax.Array  # [b] bool
    has_stress: jax.Array  # [b] bool


def log_likelihood(likelihood: Likelihood, prediction: Prediction, labels: Labels) -> jax.Array:
    """Log density of the labels of each structure, all constants included.

    Independent normals, with -3 log σ_i for each atom:
    log N(E; Ê, σ_E²) + Σ_i log N(F_i; F̂_i, σ_i² I) + Σ_ab log N(S_ab; Ŝ_ab, σ_S²).
    The stress sum runs over all nine components, so each shear counts twice.

    Args:
      likelihood: fixed standard deviations.
      prediction: mean energies, forces and stress, and σ_i; structures along the first axis.
      labels: reference values and what of them exists.

    Returns:
      [b] in the prediction's dtype. Densities per eV, (eV/Å) and (eV/Å³).

    Raises:
      ValueError: at trace time, if shapes disagree or the stress has a σ and was not predicted.
    """
    if prediction.forces.shape != labels.forces.shape:
        raise ValueError(f"labels.forces: got {labels.forces.shape}; allowed: {prediction.forces.shape}")
    energy = _log_normal(prediction.energy, labels.energy, likelihood.energy_sigma, labels.has_energy)
    atoms = labels.node_mask[..., None]
    sigma = jnp.where(labels.node_mask, prediction.force_sigma, 1.0)[..., None]
    forces = _log_normal(prediction.forces, labels.forces, sigma, atoms)
    total = energy + jnp.sum(forces, axis=(1, 2))
    if likelihood.stress_sigma is None:
        return total
    if prediction.stress is None:
        raise ValueError("prediction.stress: got None; allowed: [b, 3, 3], since likelihood.stress_sigma is set")
    known = labels.has_stress[:, None, None]
    stress = _log_normal(prediction.stress, labels.stress, likelihood.stress_sigma, known)
    return total + jnp.sum(stress, axis=(1, 2))


def _log_normal(mean: jax.Array, value: jax.Array, sigma: jax.Array | float, mask: jax.Array) -> jax.Array:
    """log N(value; mean, sigma²), zero with zero gradient where masked, whatever `value` holds there."""
    sigma = jnp.asarray(sigma, mean.dtype)
    residual = jnp.where(mask, mean - value.astype(mean.dtype), 0.0)
    density = -0.5 * (residual / sigma) ** 2 - jnp.log(sigma) - 0.5 * math.log(2.0 * math.pi)
    return jnp.where(mask, density, 0.0)

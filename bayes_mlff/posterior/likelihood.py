"""Likelihood of labels, given the predictions of one set of parameters."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayes_mlff.models.energetics import Prediction


class PerAtom(NamedTuple):
    """Standard deviation of a total energy that is proportional to the number of atoms."""

    sigma: float | jax.Array  # eV/atom


EnergySigma = float | jax.Array | PerAtom
"""Standard deviation of total energies: eV of every structure, or so much per atom."""


class Likelihood(NamedTuple):
    """Fixed standard deviations of the labels; those of the forces come from the network."""

    energy_sigma: EnergySigma  # of the total energy
    stress_sigma: float | jax.Array | None = None  # eV/Å³; None leaves stress out


class Labels(NamedTuple):
    """Reference values of a batch of structures; masked entries may have any value."""

    energy: jax.Array  # [b] eV
    forces: jax.Array  # [b, n, 3] eV/Å
    stress: jax.Array  # [b, 3, 3] eV/Å³, tension positive (ASE sign)
    node_mask: jax.Array  # [b, n] bool, False on padding
    has_energy: jax.Array  # [b] bool
    has_stress: jax.Array  # [b] bool
    has_forces: jax.Array | None = None  # [b, n, 3] bool; None: the forces of all atoms

    @property
    def known_forces(self) -> jax.Array:
        """Mask of the labelled force components: [b, n, 1] if it is the same for x, y, z, else [b, n, 3]."""
        atoms = self.node_mask[..., None]
        return atoms if self.has_forces is None else atoms & self.has_forces


def of_structures(sigma: EnergySigma, atoms: Any) -> Any:
    """Standard deviation of the total energies, eV, of structures with the given numbers of atoms ([] or [b])."""
    return sigma.sigma * atoms if isinstance(sigma, PerAtom) else sigma


def log_likelihood(likelihood: Likelihood, prediction: Prediction, labels: Labels) -> jax.Array:
    """Log density of the labels of each structure, all constants included.

    Independent normals, with -3 log σ_i for each atom:
    log N(E; Ê, σ_E²) + Σ_i log N(F_i; F̂_i, σ_i² I) + Σ_ab log N(S_ab; Ŝ_ab, σ_S²).
    The stress sum runs over all nine components, so each shear counts twice.

    Args:
      likelihood: fixed standard deviations.
      prediction: mean energies, forces and stress, and σ_i; structures along the first axis.
      labels: reference values and masks of those that exist.

    Returns:
      [b] in the prediction's dtype. Densities per eV, (eV/Å) and (eV/Å³).

    Raises:
      ValueError: at trace time, if shapes disagree or the stress has a σ and was not predicted.
    """
    if prediction.forces.shape != labels.forces.shape:
        raise ValueError(f"labels.forces: got {labels.forces.shape}; allowed: {prediction.forces.shape}")
    energy_sigma = of_structures(likelihood.energy_sigma, count_atoms(labels.node_mask, prediction.energy.dtype))
    energy = _log_normal(prediction.energy, labels.energy, energy_sigma, labels.has_energy)
    sigma = jnp.where(labels.node_mask, prediction.force_sigma, 1.0)[..., None]
    forces = _log_normal(prediction.forces, labels.forces, sigma, labels.known_forces)
    total = energy + jnp.sum(forces, axis=(1, 2))
    if likelihood.stress_sigma is None:
        return total
    if prediction.stress is None:
        raise ValueError("prediction.stress: got None; allowed: [b, 3, 3], since likelihood.stress_sigma is set")
    known = labels.has_stress[:, None, None]
    stress = _log_normal(prediction.stress, labels.stress, likelihood.stress_sigma, known)
    return total + jnp.sum(stress, axis=(1, 2))


def count_atoms(node_mask: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Number of atoms [b] of structures with masks [b, n], in a floating-point type."""
    return jnp.sum(node_mask, axis=-1, dtype=dtype)


def _log_normal(mean: jax.Array, value: jax.Array, sigma: jax.Array | float, mask: jax.Array) -> jax.Array:
    """log N(value; mean, sigma²); zero with zero gradient for masked entries, whatever their value is."""
    sigma = jnp.asarray(sigma, mean.dtype)
    residual = jnp.where(mask, mean - value.astype(mean.dtype), 0.0)
    density = -0.5 * (residual / sigma) ** 2 - jnp.log(sigma) - 0.5 * math.log(2.0 * math.pi)
    return jnp.where(mask, density, 0.0)

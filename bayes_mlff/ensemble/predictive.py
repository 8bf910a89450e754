"""Predictive distribution from the predictions of K posterior samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.energetics import Prediction


class Predictive(NamedTuple):
    """Mean and standard deviation of every observable of a batch; uncalibrated."""

    energy_mean: jax.Array  # [b] eV
    energy_sigma: jax.Array  # [b] eV, standard deviation of the total energy
    forces_mean: jax.Array  # [b, n, 3] eV/Å, exactly zero on padding
    forces_sigma: jax.Array  # [b, n, 3] eV/Å, standard deviation of each component; one on padding
    stress_mean: jax.Array | None  # [b, 3, 3] eV/Å³, tension positive (ASE sign); None where not predicted
    stress_sigma: jax.Array | None  # [b, 3, 3] eV/Å³, standard deviation of each component
    chain_energy: jax.Array  # [c, b] eV, energy of every chain
    forces_dof: jax.Array  # [b, n] effective number of components of the error of the force on an atom, 1 to 3


def with_spread_of_forces(predictive: Predictive, full: Predictive) -> Predictive:
    """A prediction with σ of forces and stress of a fuller one; energies and mean forces stay, to the last bit."""
    sigma = {name: getattr(full, name) for name in ("forces_sigma", "forces_dof", "stress_sigma")}
    return predictive._replace(**sigma)


def combine(
    prediction: Prediction,
    *,
    energy_sigma: float | np.ndarray,
    stress_sigma: float | None = None,
    allow_single_chain: bool = False,
) -> Predictive:
    """Moments of the equal mixture of the chains' normal distributions.

    For every scalar observable with means mu_k and standard deviations sigma_k of K chains the mean is
    mean_k mu_k and the variance var_k(mu_k) + mean_k sigma_k², the first term unbiased (K - 1), as in deep
    ensembles (Lakshminarayanan et al. 2017, section 2.4, with K - 1 in place of K). Sums run over differences
    from the first chain, so that large total energies lose no digits in float32.

    Args:
      prediction: fields with a leading chain axis: energy [c, b], forces [c, b, n, 3], stress [c, b, 3, 3] or
        None, force_sigma [c, b, n].
      energy_sigma: eV, positive; the likelihood's fixed standard deviation of the total energy, of all structures or
        [b] of each.
      stress_sigma: eV/Å³, positive; the likelihood's fixed standard deviation of a stress component; needed
        where the prediction has a stress, without effect elsewhere.
      allow_single_chain: accept K = 1. The variance between chains is then 0: sigma is that of the likelihood only
        and does not include the model's uncertainty.

    Returns:
      Means and standard deviations (not variances), in the prediction's dtype.

    Raises:
      ValueError: at trace time, if the energy is not [c, b], there are fewer than two chains without
        `allow_single_chain`, or a needed sigma is missing or not positive.
    """
    if prediction.energy.ndim != 2:
        shape = prediction.energy.shape
        raise ValueError(f"prediction.energy: got shape {shape}; allowed: [chains, structures]")
    chains = prediction.energy.shape[0]
    if chains < 2 and not (allow_single_chain and chains == 1):
        raise ValueError(
            f"prediction: got {chains} on the chain axis; allowed: at least 2, because the variance between "
            "chains needs two of them (or allow_single_chain=True with exactly 1)"
        )
    fixed = jnp.asarray(_positive("energy_sigma", energy_sigma), prediction.energy.dtype)
    energy_mean, energy_sd = _mixture(prediction.energy, fixed if fixed.ndim == 0 else fixed[None])
    forces_mean, forces_sd = _mixture(prediction.forces, prediction.force_sigma[..., None])
    stress_mean = stress_sd = None
    if prediction.stress is not None:
        fixed = jnp.full((), _positive("stress_sigma", stress_sigma), prediction.stress.dtype)
        stress_mean, stress_sd = _mixture(prediction.stress, fixed)
    dof = _components(prediction.forces, forces_sd)
    return Predictive(energy_mean, energy_sd, forces_mean, forces_sd, stress_mean, stress_sd, prediction.energy, dof)


def _mixture(mean: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation over the leading axis; sigma has this axis, too, or is one number."""
    difference = mean - mean[:1]
    within = jnp.square(sigma) if sigma.ndim == 0 else jnp.mean(jnp.square(sigma), axis=0)
    between = jnp.var(difference, axis=0, ddof=1) if mean.shape[0] > 1 else jnp.zeros_like(mean[0])
    return mean[0] + jnp.mean(difference, axis=0), jnp.sqrt(between + within)


def _components(forces: jax.Array, sigma: jax.Array) -> jax.Array:
    """Effective number (tr Σ)²/tr(Σ²) of components of the force on each atom [b, n], see `ensemble.calibration`.

    Σ is the covariance [3, 3] of its components: unbiased between the chains, plus their noise, which is isotropic.

    Args:
      forces: [c, b, n, 3] of every chain.
      sigma: [b, n, 3] standard deviation of each component with the noise.
    """
    chains, variance = forces.shape[0], jnp.square(sigma)
    total = jnp.sum(variance, axis=-1)
    difference = forces - forces[:1]
    centred = difference - jnp.mean(difference, axis=0, keepdims=True)
    crossed = jnp.sum(centred * jnp.roll(centred, 1, axis=-1), axis=0) / max(chains - 1, 1)
    # Shares of the trace, since squares of small variances are below the smallest number of float32.
    shares = jnp.sum(jnp.square(variance / total[..., None]) + 2.0 * jnp.square(crossed / total[..., None]), axis=-1)
    return jnp.clip(1.0 / shares, 1.0, 3.0)


def _positive(name: str, value: float | np.ndarray | None) -> float | np.ndarray:
    if value is None or not np.all((np.asarray(value) > 0.0) & np.isfinite(value)):
        raise ValueError(f"{name}: got {value!r}; allowed: a positive, finite standard deviation")
    return value

"""Diagnostics of chains: R-hat, effective sample size and kinetic temperature."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from bayes_mlff.core.errors import DataError
from bayes_mlff.sghmc.precondition import Params


def kinetic_temperature(
    momentum: Params, inverse_mass: Params, *, step_size: jax.Array, friction: float, n_data: jax.Array | int
) -> jax.Array:
    """Kinetic temperature of one chain, from its momenta.

    Without a force the recursion p <- (1-α) p + α ξ has Var p = α²/(1-(1-α)²) Var ξ = 2α/(2-α) · T/(γ M⁻¹ N),
    hence T_kin = (2-α)/(2α) · N · mean_j(γ M_j⁻¹ p_j²). For U = k θ²/2 the recursion is AR(2) in θ and
    T_kin = N k Var θ exactly, at every step size: T / (1 - α γ M⁻¹ k / (2(2-α))). It lags behind changes of
    γ by about 1/α steps and counts minibatch noise and drift, which make it exceed the thermostat's.

    Args:
      momentum: p after a step, pytree.
      inverse_mass: M⁻¹ of that step, same structure.
      step_size: γ of that step.
      friction: friction coefficient α.
      n_data: number of data N.

    Returns:
      [] in units of the thermostat's temperature, averaged over all parameters, in their dtype.
    """
    terms = jax.tree.map(lambda p, inv: jnp.sum(inv * p * p), momentum, inverse_mass)
    n_params = sum(p.size for p in jax.tree.leaves(momentum))
    total = jnp.sum(jnp.stack(jax.tree.leaves(terms)))
    scale = (2.0 - friction) / (2.0 * friction * n_params) * jnp.asarray(n_data, float) * step_size
    return scale.astype(total.dtype) * total


def split_rhat(draws: np.ndarray) -> float:
    """Rank-normalised split R-hat, the larger of bulk and folded (Vehtari et al. 2021, arXiv:1903.08008).

    Args:
      draws: [c, s] one scalar quantity; c >= 1 chains of s >= 4 draws.

    Returns:
      1 for mixed chains; Vehtari et al. ask for less than 1.01. NaN if all draws are equal.

    Raises:
      DataError: if the shape is wrong or a draw is not finite.
    """
    halves = _split(draws)
    folded = np.abs(halves - np.median(halves))
    return float(max(_rhat(_rank_normalise(halves)), _rhat(_rank_normalise(folded))))


def effective_sample_size(draws: np.ndarray) -> float:
    """Bulk effective sample size: rank-normalised split chains (Vehtari et al. 2021, arXiv:1903.08008).

    The autocorrelation sum is cut by the initial positive and monotone sequence (Geyer 1992).

    Args:
      draws: [c, s] one scalar quantity; c >= 1 chains of s >= 4 draws.

    Returns:
      Equivalent number of independent draws over all chains, at most c·s·log10(c·s).

    Raises:
      DataError: if the shape is wrong or a draw is not finite.
    """
    z = _rank_normalise(_split(draws))
    chains, length = z.shape
    within, total = _variances(z)
    centred = z - z.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, 2 * length, axis=1)) ** 2
    autocovariance = np.fft.irfft(spectrum, axis=1)[:, :length] / length
    # the within-chain estimate of lag 0 is scaled as `within`, so that rho(0) is one for mixed chains
    rho = 1.0 - (within - autocovariance.mean(axis=0) * length / (length - 1)) / total
    rho[0] = 1.0
    pairs = rho[: length // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs < 0.0)
    pairs = np.minimum.accumulate(pairs[: negative[0]] if negative.size else pairs)
    size = chains * length
    time = max(2.0 * pairs.sum() - 1.0, 1.0 / np.log10(size))
    return float(size / time)


def _split(draws: np.ndarray) -> np.ndarray:
    array = np.asarray(draws, np.float64)
    if array.ndim != 2 or array.shape[1] < 4:
        raise DataError(f"draws: got shape {array.shape}; allowed: [chains, at least 4 draws]")
    if not np.isfinite(array).all():
        raise DataError("draws: got a number that is not finite; allowed: finite numbers")
    half = array.shape[1] // 2
    return np.concatenate([array[:, :half], array[:, -half:]])


def _rank_normalise(draws: np.ndarray) -> np.ndarray:
    ranks = stats.rankdata(draws, method="average").reshape(draws.shape)
    return stats.norm.ppf((ranks - 0.375) / (draws.size + 0.25))


def _variances(draws: np.ndarray) -> tuple[float, float]:
    """Mean within-chain variance W and the pooled estimate (s-1)/s W + B/s (Gelman and Rubin 1992)."""
    length = draws.shape[1]
    within = float(draws.var(axis=1, ddof=1).mean())
    return within, (length - 1) / length * within + float(draws.mean(axis=1).var(ddof=1))


def _rhat(draws: np.ndarray) -> float:
    within, total = _variances(draws)
    return np.sqrt(total / within) if within > 0.0 else np.nan

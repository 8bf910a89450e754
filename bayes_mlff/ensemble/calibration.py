"""Online calibration of the energy uncertainty by the errors observed at interventions.

The error of the total energy is modelled as e ~ N(0, sigma²/lambda) with a Gamma(a, b) prior on the
precision factor lambda. After n interventions with z = e/sigma and S = sum z² the posterior is
Gamma(a + n/2, b + S/2), so that e/sigma follows Student's t with nu = 2a + n degrees of freedom and scale
s = sqrt((b + S/2)/(a + n/2)): the conjugate result for a normal law with known mean (Gelman et al. 2013,
Bayesian Data Analysis, section 2.6).

Everything here runs on the host in float64; the jitted dynamics compares sigma with one number,
`critical_sigma`. All functions broadcast, so that one state may hold an array of independent calibrations.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # `stats` alone takes half a second to import, for the same two functions

Real = float | np.ndarray


class Calibration(NamedTuple):
    """Prior and sufficient statistics of the precision factor."""

    a: float  # prior shape, positive
    b: float  # prior rate, positive
    n: Real  # number of interventions; not a whole number if older ones are down-weighted
    s: Real  # sum of (error/sigma)²


def init(a: float = 3.0, b: float = 10.0) -> Calibration:
    """State before the first intervention.

    Args:
      a: prior shape of the precision factor, positive; 3 for NequIP, 1.5 for MACE.
      b: prior rate, positive; 10 for both.

    Returns:
      The state with no data. The prior expects errors sqrt(b/a) times as large as the predicted sigma.

    Raises:
      ValueError: if a or b is not positive and finite.
    """
    for name, value in (("a", a), ("b", b)):
        if not 0.0 < value < np.inf:
            raise ValueError(f"calibration.{name}: got {value!r}; allowed: a positive finite number")
    return Calibration(float(a), float(b), 0.0, 0.0)


def update(state: Calibration, error: ArrayLike, sigma: ArrayLike, *, decay: float = 1.0) -> Calibration:
    """Add one intervention.

    Args:
      state: calibration before this intervention.
      error: eV, predicted minus reference total energy, from the ensemble before it learnt this label.
      sigma: eV, the uncalibrated standard deviation of that prediction.
      decay: in (0, 1]; n and S are multiplied by it first. 1 gives all interventions the same weight; below 1 the
        weights decrease exponentially over about 1/(1 - decay) interventions, so that the calibration follows a
        drifting miscalibration.

    Returns:
      The state with n <- decay n + 1, S <- decay S + (error/sigma)².

    Raises:
      ValueError: if error or sigma is not finite, sigma is not positive, or decay is not in (0, 1].
    """
    error, sigma = np.asarray(error, np.float64), _positive("sigma", sigma)
    if not np.isfinite(error).all():
        raise ValueError(f"error: got {error}; allowed: finite numbers in eV")
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"calibration.decay: got {decay!r}; allowed: above 0, at most 1")
    return state._replace(n=decay * state.n + 1.0, s=_scalar(decay * state.s + np.square(error / sigma)))


def scale(state: Calibration) -> Real:
    """Scale s of the Student t distribution of error/sigma, see the head of this module."""
    return _scalar(_scale(state))


def restart(state: Calibration, z: ArrayLike) -> Calibration:
    """Restart from the prior with some of the interventions only.

    Args:
      state: calibration whose prior is kept.
      z: [m] error/sigma of the interventions to keep, uncalibrated.

    Returns:
      The prior updated with these alone: n = m, S = sum z².

    Raises:
      ValueError: if a z is not finite.
    """
    kept = np.asarray(z, np.float64)
    if not np.isfinite(kept).all():
        raise ValueError(f"z: got {z!r}; allowed: finite numbers")
    return state._replace(n=float(kept.size), s=_scalar(np.sum(np.square(kept))))


def exceedance_probability(state: Calibration, sigma: ArrayLike, threshold: ArrayLike) -> Real:
    """Probability that the absolute error of the total energy is above a threshold.

    P(|e| > eps) = I_x(nu/2, 1/2) with x = nu/(nu + tau²), tau = eps/(sigma s), where I is the regularised
    incomplete beta function (Abramowitz & Stegun 1964, 26.7.1 and 26.5.2). It computes the tail directly and keeps
    its relative accuracy for small sigma and large n, where a hypergeometric series overflows.

    Args:
      state: calibration before the intervention in question.
      sigma: eV, positive; uncalibrated standard deviation.
      threshold: eV, positive.

    Returns:
      Probability in [0, 1]; 0 only where it is below the smallest float64.

    Raises:
      ValueError: if sigma or threshold is not positive and finite.
    """
    nu = _degrees(state)
    tau2 = np.square(_positive("threshold", threshold) / (_positive("sigma", sigma) * _scale(state)))
    outer, inner = nu / (nu + tau2), tau2 / (nu + tau2)
    # The smaller one of x and 1 - x must be computed directly: 1 - x would lose it by rounding.
    tail = np.where(inner < 0.5, special.betaincc(0.5, nu / 2, inner), special.betainc(nu / 2, 0.5, outer))
    return _scalar(tail)


def critical_sigma(state: Calibration, threshold: ArrayLike, *, confidence: float = 0.95) -> Real:
    """Largest uncalibrated sigma for which no label is needed.

    Args:
      state: current calibration.
      threshold: eV, positive.
      confidence: in (0, 1), required probability that the absolute error is below the threshold.

    Returns:
      sigma_crit, eV: `exceedance_probability` is above 1 - confidence exactly where sigma > sigma_crit.

    Raises:
      ValueError: if threshold is not positive or confidence is not in (0, 1).
    """
    return _scalar(_positive("threshold", threshold) / (_scale(state) * _quantile(state, confidence)))


def largest_critical_sigma(a: float, b: float, decay: float, *, confidence: float = 0.95) -> float:
    """Limit of `critical_sigma` divided by the threshold after infinitely many interventions without error.

    Args:
      a: prior shape.
      b: prior rate.
      decay: as in `update`; with 1 there is no finite limit.
      confidence: in (0, 1).
    """
    if decay == 1.0:
        return float("inf")
    return float(critical_sigma(init(a, b)._replace(n=1.0 / (1.0 - decay)), 1.0, confidence=confidence))


def interval(state: Calibration, sigma: ArrayLike, *, confidence: float = 0.95) -> Real:
    """Half width of the central interval that contains the error with the given probability.

    Args:
      state: calibration before the intervention in question.
      sigma: eV, positive; uncalibrated standard deviation.
      confidence: in (0, 1).

    Returns:
      Half width, eV, of the interval around zero error.

    Raises:
      ValueError: if sigma is not positive or confidence is not in (0, 1).
    """
    return _scalar(_positive("sigma", sigma) * _scale(state) * _quantile(state, confidence))


def normal_score(state: Calibration, error: ArrayLike, sigma: ArrayLike) -> Real:
    """Absolute error on the scale of a standard normal variable.

    Args:
      state: calibration before the intervention.
      error: eV, predicted minus reference total energy.
      sigma: eV, positive; uncalibrated standard deviation.

    Returns:
      |w| with P(|N(0, 1)| > |w|) = P(|e| > |error|): half-normal if the calibration is right, exact also far out
      in the tail, where `probability_integral` rounds to 0 or 1; at most 37.

    Raises:
      ValueError: if sigma is not positive.
    """
    distance = np.maximum(np.abs(np.asarray(error, np.float64)), np.finfo(np.float64).tiny)
    tail = np.clip(exceedance_probability(state, sigma, distance), 1e-300, 1.0)
    return _scalar(-special.ndtri(tail / 2.0))


def probability_integral(state: Calibration, error: ArrayLike, sigma: ArrayLike) -> Real:
    """Predictive distribution function at the observed error, uniform on [0, 1] if the calibration is right.

    Args:
      state: calibration before the intervention.
      error: eV, predicted minus reference total energy.
      sigma: eV, positive; uncalibrated standard deviation.

    Returns:
      T_nu(e/(sigma s)), in [0, 1].

    Raises:
      ValueError: if sigma is not positive.
    """
    z = np.asarray(error, np.float64) / (_positive("sigma", sigma) * _scale(state))
    return _scalar(special.stdtr(_degrees(state), z))


def map_factor(state: Calibration) -> Real:
    """Factor on the *variance* at the most probable precision: (b + S/2)/(a + n/2 - 1).

    For the analysis of a finished run, sigma_calibrated² = sigma² · factor; the trigger uses the full law.

    Args:
      state: current calibration.

    Returns:
      The factor, positive, without unit.

    Raises:
      ValueError: if a + n/2 <= 1, where the density of lambda has no maximum at a positive value.
    """
    shape = state.a + state.n / 2 - 1.0
    if not np.all(np.asarray(shape) > 0.0):
        raise ValueError(f"calibration: got a + n/2 = {shape + 1.0}; allowed: above 1, for a mode to exist")
    return _scalar((state.b + state.s / 2) / shape)


def _degrees(state: Calibration) -> Real:
    return 2.0 * state.a + state.n


def _scale(state: Calibration) -> Real:
    return np.sqrt((state.b + state.s / 2) / (state.a + state.n / 2))


def _quantile(state: Calibration, confidence: float) -> Real:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: got {confidence!r}; allowed: above 0, below 1")
    return -special.stdtrit(_degrees(state), (1.0 - confidence) / 2)


def _positive(name: str, value: ArrayLike) -> np.ndarray:
    array = np.asarray(value, np.float64)
    if not (np.isfinite(array).all() and (array > 0.0).all()):
        raise ValueError(f"{name}: got {value!r}; allowed: positive finite numbers")
    return array


def _scalar(value: ArrayLike) -> Real:
    """A plain float for a single number, so that states and results can be written to JSON and logs."""
    array = np.asarray(value, np.float64)
    return float(array) if array.ndim == 0 else array

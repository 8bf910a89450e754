"""Online calibration of predicted uncertainties by the errors observed at interventions.

The error of the total energy is modelled as e ~ N(0, sigma²/lambda) with a Gamma(a, b) prior on the
precision factor lambda. After n interventions with z = e/sigma and S = sum z² the posterior is
Gamma(a + n/2, b + S/2), so that e/sigma follows Student's t with nu = 2a + n degrees of freedom and scale
s = sqrt((b + S/2)/(a + n/2)): the conjugate result for a normal law with known mean (Gelman et al. 2013,
Bayesian Data Analysis, section 2.6).

The error of a force is the norm of a vector with covariance Sigma/lambda, and sigma² is the trace of Sigma. Its square
is a sum of three chi-square variables with unequal weights, which is taken as sigma²/lambda chi²_k/k with
k = (tr Sigma)²/tr(Sigma²), from 1 for one direction to 3 for independent components of equal size (Satterthwaite 1946,
Biometrics Bulletin 2, 110): exact for one, two or three equal weights, and for others the 95 % quantile contains 95.0
to 95.6 %. With n the sum of k and S the sum of k z² the posterior is the same, and e²/(s² sigma²) follows
Fisher's F with k and nu degrees of freedom. With k = 1, the default `dof` of all functions, this is Student's t.

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
    n: Real  # number of interventions, of vectors the sum of dof; not whole if older ones are down-weighted
    s: Real  # sum of dof (error/sigma)²


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


def update(
    state: Calibration, error: ArrayLike, sigma: ArrayLike, *, dof: ArrayLike = 1.0, decay: float = 1.0
) -> Calibration:
    """Add one intervention.

    Args:
      state: calibration before this intervention.
      error: predicted minus reference total energy, eV, from the ensemble before it learnt this label; or the norm of
        such a difference of vectors, such as forces in eV/Å.
      sigma: the uncalibrated standard deviation of that prediction, in the unit of the error.
      dof: effective number of components of the error, 1 for an energy.
      decay: in (0, 1]; n and S are multiplied by it first. 1 gives all interventions the same weight; below 1 the
        weights decrease exponentially over about 1/(1 - decay) interventions, so that the calibration follows a
        drifting miscalibration.

    Returns:
      The state with n <- decay n + dof, S <- decay S + dof (error/sigma)².

    Raises:
      ValueError: if error or sigma is not finite, sigma or dof is not positive, or decay is not in (0, 1].
    """
    error, sigma, dof = np.asarray(error, np.float64), _positive("sigma", sigma), _positive("dof", dof)
    if not np.isfinite(error).all():
        raise ValueError(f"error: got {error}; allowed: finite numbers")
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"calibration.decay: got {decay!r}; allowed: above 0, at most 1")
    s = decay * state.s + dof * np.square(error / sigma)
    return state._replace(n=_scalar(decay * state.n + dof), s=_scalar(s))


def scale(state: Calibration) -> Real:
    """Scale s of the Student t distribution of error/sigma, see the head of this module."""
    return _scalar(_scale(state))


def exceedance_probability(state: Calibration, sigma: ArrayLike, threshold: ArrayLike, *, dof: ArrayLike = 1.0) -> Real:
    """Probability that the absolute error is above a threshold.

    P(|e| > eps) = I_x(nu/2, k/2) with x = nu/(nu + k tau²), tau = eps/(sigma s), where I is the regularised
    incomplete beta function (Abramowitz & Stegun 1964, 26.6.2, 26.7.1 and 26.5.2). It computes the tail directly and
    keeps its relative accuracy for small sigma and large n, where a hypergeometric series overflows.

    Args:
      state: calibration before the intervention in question.
      sigma: positive; uncalibrated standard deviation, eV for the total energy.
      threshold: positive, in the unit of sigma.
      dof: effective number k of components of the error.

    Returns:
      Probability in [0, 1]; 0 only where it is below the smallest float64.

    Raises:
      ValueError: if sigma, threshold or dof is not positive and finite.
    """
    nu, k = degrees(state), _positive("dof", dof)
    tau2 = k * np.square(_positive("threshold", threshold) / (_positive("sigma", sigma) * _scale(state)))
    outer, inner = nu / (nu + tau2), tau2 / (nu + tau2)
    # The smaller one of x and 1 - x must be computed directly: 1 - x would lose it by rounding.
    tail = np.where(inner < 0.5, special.betaincc(k / 2, nu / 2, inner), special.betainc(nu / 2, k / 2, outer))
    return _scalar(tail)


def critical_sigma(state: Calibration, threshold: ArrayLike, *, confidence: float = 0.95, dof: ArrayLike = 1.0) -> Real:
    """Largest uncalibrated sigma for which no label is needed.

    Args:
      state: current calibration.
      threshold: positive, eV for the total energy.
      confidence: in (0, 1), required probability that the absolute error is below the threshold.
      dof: effective number of components of the error; the result increases with it.

    Returns:
      sigma_crit, in the unit of the threshold: `exceedance_probability` is above 1 - confidence exactly where
      sigma > sigma_crit.

    Raises:
      ValueError: if threshold or dof is not positive or confidence is not in (0, 1).
    """
    return _scalar(_positive("threshold", threshold) / (_scale(state) * _quantile(state, confidence, dof)))


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


def interval(state: Calibration, sigma: ArrayLike, *, confidence: float = 0.95, dof: ArrayLike = 1.0) -> Real:
    """Half width of the central interval that contains the error with the given probability.

    Args:
      state: calibration before the intervention in question.
      sigma: positive; uncalibrated standard deviation, eV for the total energy.
      confidence: in (0, 1).
      dof: effective number of components of the error.

    Returns:
      Half width, in the unit of sigma, of the interval around zero error; of vectors the largest norm.

    Raises:
      ValueError: if sigma or dof is not positive or confidence is not in (0, 1).
    """
    return _scalar(_positive("sigma", sigma) * _scale(state) * _quantile(state, confidence, dof))


def score_of_tail(probability: ArrayLike) -> Real:
    """|w| with P(|N(0, 1)| > |w|) equal to a probability, at most 37."""
    return _scalar(-special.ndtri(np.clip(probability, 1e-300, 1.0) / 2.0))


def probability_integral(state: Calibration, error: ArrayLike, sigma: ArrayLike, *, dof: ArrayLike = 1.0) -> Real:
    """Predictive distribution function at the observed error, uniform on [0, 1] if the calibration is right.

    Args:
      state: calibration before the intervention.
      error: predicted minus reference total energy, eV, or the norm of a vector.
      sigma: positive; uncalibrated standard deviation, in the unit of the error.
      dof: effective number of components of the error.

    Returns:
      (1 + sign(e) P(|E| < |e|))/2, in [0, 1]; for one component this is T_nu(e/(sigma s)). Norms, which are never
      negative, are uniform on [1/2, 1]: like energies they are in the central interval of a level exactly if this is.

    Raises:
      ValueError: if sigma or dof is not positive.
    """
    error, k = np.asarray(error, np.float64), _positive("dof", dof)
    z = error / (_positive("sigma", sigma) * _scale(state))
    distance = np.maximum(np.abs(error), np.finfo(np.float64).tiny)
    inside = 1.0 - np.asarray(exceedance_probability(state, sigma, distance, dof=k))
    return _scalar(np.where(k == 1.0, special.stdtr(degrees(state), z), 0.5 * (1.0 + np.sign(error) * inside)))


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


def degrees(state: Calibration) -> Real:
    """Degrees of freedom ν of the law of error/sigma."""
    return 2.0 * state.a + state.n


def _scale(state: Calibration) -> Real:
    return np.sqrt((state.b + state.s / 2) / (state.a + state.n / 2))


def _quantile(state: Calibration, confidence: float, dof: ArrayLike) -> Real:
    """Quantile of |error|/(sigma s): the root of that of F, whose two incomplete beta functions keep both tails."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: got {confidence!r}; allowed: above 0, below 1")
    nu, k = np.asarray(degrees(state), np.float64), _positive("dof", dof)
    inner = special.betaincinv(k / 2, nu / 2, confidence)
    outer = special.betaincinv(nu / 2, k / 2, 1.0 - confidence)
    student = -special.stdtrit(nu, (1.0 - confidence) / 2)
    return np.where(k == 1.0, student, np.sqrt(nu * inner / (k * outer)))


def _positive(name: str, value: ArrayLike) -> np.ndarray:
    array = np.asarray(value, np.float64)
    if not (np.isfinite(array).all() and (array > 0.0).all()):
        raise ValueError(f"{name}: got {value!r}; allowed: positive finite numbers")
    return array


def _scalar(value: ArrayLike) -> Real:
    """A plain float for a single number, so that states and results can be written to JSON and logs."""
    array = np.asarray(value, np.float64)
    return float(array) if array.ndim == 0 else array

"""Law of prediction errors in which the samples' spread and the noise of the likelihood have scales of their own.

The σ of a total energy has two parts: σ² = spread² + floor², where the spread is the standard deviation between the
samples and the floor the constant σ of the likelihood. How much of an error each of them explains is not known before
errors have been seen: samples may spread too little, and the floor be too large. The error is modelled as

    e ~ N(0, (r² spread² + floor²)/lambda),    lambda ~ Gamma(a, b),    r from `RATIOS` with `prior_weights`.

For each ratio r this is the conjugate law of `ensemble.calibration`, so that the law of the next error is a mixture of
Student's t distributions, whose weights are the marginal likelihoods of the errors so far: exact for this prior, since
there are finitely many ratios. Where errors grow with the spread, large ratios gain weight, the spread decides when a
label is requested, and the floor shrinks with lambda; where they do not, the floor explains them.

With a floor of 0, as for forces, whose network predicts the noise of each atom, the ratio is without effect, and the
law is that of `ensemble.calibration` to the last bit. All functions broadcast over leading axes.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bayes_mlff.ensemble import calibration
from bayes_mlff.ensemble.calibration import Calibration, Real

RATIOS: Final = np.geomspace(0.125, 32.0, 17)
"""Ratios r between the scale of the spread and that of the floor."""

MEDIAN: Final = 1.5
"""Median of the prior of the ratio. For the spread of short chains in runs of ethanol, butanol and LaMnO3 it predicts
the errors at labels, with `WIDTH`, better than wider ones do, and with it, not with one scale alone, σ grows as the
errors do at twice the temperature (`benchmarks/README.md`)."""

OF_LAPLACE: Final = 1.0 / 3.0
"""Prior scale of spread and noise with samples around an optimum, in multiples of that with chains: their spread is
three times as wide in each of these systems. Were it alone expected to be too wide, the noise would drown it."""

WIDTH: Final = 2.0
"""Factor on the ratio for one standard deviation of its log-normal prior."""

_BISECTIONS: Final = 64


class ErrorLaw(NamedTuple):
    """Prior and sufficient statistics of the law of errors; the last axis of arrays is that of the ratios."""

    each: Calibration  # for each ratio: s [..., g], n [..., 1]
    log_weight: np.ndarray  # [..., g] logarithms of the probabilities of the ratios; their sum is 1
    floor: float = 0.0  # constant part of σ, in its unit; 0: none, and a single ratio

    @property
    def ratios(self) -> np.ndarray:
        """[g]; those of `RATIOS`, or one without a floor."""
        return RATIOS if self.floor > 0.0 else np.ones(1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ErrorLaw) and self.to_json() == other.to_json()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.each.a, self.each.b, self.floor))

    def to_json(self) -> dict[str, Any]:
        """Values for a file."""
        a, b, n, s = self.each
        return {
            "a": a,
            "b": b,
            "n": np.asarray(n).tolist(),
            "s": np.asarray(s).tolist(),
            "log_weight": self.log_weight.tolist(),
            "floor": self.floor,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ErrorLaw":
        """Inverse of `to_json`.

        Raises:
          KeyError, TypeError, ValueError: if a value is missing, out of range, or there are too many or too few.
        """
        law = init(float(values["a"]), float(values["b"]), floor=float(values["floor"]))
        n, s, log_weight = (np.asarray(values[name], np.float64) for name in ("n", "s", "log_weight"))
        if s.shape != law.log_weight.shape or log_weight.shape != s.shape or n.size != 1:
            raise ValueError(f"got {s.size} sums and {log_weight.size} weights; allowed: {law.log_weight.size}")
        if not (np.isfinite(n).all() and (n >= 0.0).all() and np.isfinite(s).all() and (s >= 0.0).all()):
            raise ValueError(f"got n {n} and s {s}; allowed: finite numbers from 0 on")
        if not abs(np.logaddexp.reduce(log_weight)) < 1e-6:
            raise ValueError(f"got log_weight {log_weight}; allowed: logarithms of probabilities with the sum 1")
        return law._replace(each=law.each._replace(n=n.reshape(1), s=s), log_weight=log_weight)


def prior_weights() -> np.ndarray:
    """Prior probabilities of `RATIOS`, log-normal around `MEDIAN`."""
    bell = np.exp(-0.5 * np.square(np.log(RATIOS / MEDIAN) / np.log(WIDTH)))
    return bell / np.sum(bell)


def init(a: float = 3.0, b: float = 10.0, *, floor: float = 0.0) -> ErrorLaw:
    """Law before the first error.

    Args:
      a: prior shape of the precision factor, see `calibration.init`.
      b: prior rate.
      floor: constant part of σ, in its unit; 0 if it has none.

    Raises:
      ValueError: if a or b is not positive and finite, or the floor is negative.
    """
    if not 0.0 <= floor < np.inf:
        raise ValueError(f"floor: got {floor!r}; allowed: a finite number from 0 on")
    weights = prior_weights() if floor > 0.0 else np.ones(1)
    prior = calibration.init(a, b)._replace(n=np.zeros(1), s=np.zeros(weights.size))
    return ErrorLaw(prior, np.log(weights), float(floor))


def update(law: ErrorLaw, error: ArrayLike, sigma: ArrayLike, *, dof: ArrayLike = 1.0, decay: float = 1.0) -> ErrorLaw:
    """Add one error.

    Args:
      law: before this error.
      error: [...] predicted minus reference, or the norm of such a vector; see `calibration.update`.
      sigma: [...] uncalibrated standard deviation of that prediction, floor included.
      dof: [...] effective number of components of the error.
      decay: as in `calibration.update`; the logarithms of the weights return to the prior's by the same factor.

    Raises:
      ValueError: see `calibration.update`.
    """
    error, each, dof = np.asarray(error, np.float64)[..., None], _each(law, sigma), np.asarray(dof)[..., None]
    known = calibration.update(law.each, error, each, dof=dof, decay=decay)
    if law.ratios.size == 1:
        return law._replace(each=_arrays(known))
    # The marginal likelihood of an error with k components: that of F, without what all ratios share.
    nu, scale = calibration.degrees(law.each), calibration.scale(law.each) * each
    density = -dof * np.log(scale) - 0.5 * (nu + dof) * np.log1p(dof * np.square(error / scale) / nu)
    prior = np.log(prior_weights())
    weight = prior + decay * (law.log_weight - prior) + density
    return law._replace(each=_arrays(known), log_weight=weight - np.logaddexp.reduce(weight, axis=-1, keepdims=True))


def restart(law: ErrorLaw, errors: Sequence[tuple[float, float, float]]) -> ErrorLaw:
    """Restart from the prior with some of the errors only: triples of error, σ and effective number of components."""
    anew = init(law.each.a, law.each.b, floor=law.floor)
    for error, sigma, dof in errors:
        anew = update(anew, error, sigma, dof=dof)
    return anew


def exceedance_probability(law: ErrorLaw, sigma: ArrayLike, threshold: ArrayLike, *, dof: ArrayLike = 1.0) -> Real:
    """Probability that the absolute error is above a threshold, see `calibration.exceedance_probability`.

    Args:
      law: present law.
      sigma: [...] uncalibrated standard deviation of the prediction, floor included.
      threshold: [...] positive, in the unit of sigma.
      dof: [...] effective number of components of the error.
    """
    each, limit = _each(law, sigma), np.asarray(threshold, np.float64)[..., None]
    tail = calibration.exceedance_probability(law.each, each, limit, dof=np.asarray(dof)[..., None])
    return _scalar(np.sum(np.exp(law.log_weight) * tail, axis=-1))


def interval(law: ErrorLaw, sigma: ArrayLike, *, confidence: float = 0.95, dof: ArrayLike = 1.0) -> Real:
    """Half width of the central interval that contains the error with the given probability.

    Args:
      law: present law.
      sigma: [...] uncalibrated standard deviation of the prediction, floor included.
      confidence: in (0, 1).
      dof: [...] effective number of components of the error.

    Returns:
      Half width, in the unit of sigma; of vectors the largest norm.
    """
    widths = calibration.interval(law.each, _each(law, sigma), confidence=confidence, dof=np.asarray(dof)[..., None])
    if law.ratios.size == 1:
        return _scalar(np.asarray(widths)[..., 0])
    # The quantile of a mixture lies between those of its components.
    low, high = np.min(widths, axis=-1), np.max(widths, axis=-1)
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        outside = exceedance_probability(law, sigma, middle, dof=dof) > 1.0 - confidence
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return _scalar(np.sqrt(low * high))


def critical_sigma(law: ErrorLaw, threshold: ArrayLike, *, confidence: float = 0.95, dof: ArrayLike = 1.0) -> Real:
    """Largest uncalibrated σ for which no label is needed.

    Args:
      law: present law.
      threshold: [...] positive, in the unit of sigma.
      confidence: in (0, 1), required probability that the absolute error is below the threshold.
      dof: [...] effective number of components of the error.

    Returns:
      σ_crit: `exceedance_probability` is above 1 - confidence exactly where σ > σ_crit. Where even samples without
      spread are not certain enough, the floor that would be, which is below the present one.
    """
    threshold = np.asarray(threshold, np.float64)
    limits = calibration.critical_sigma(
        law.each, threshold[..., None], confidence=confidence, dof=np.asarray(dof)[..., None]
    )
    if law.ratios.size == 1:
        return _scalar(np.asarray(limits)[..., 0])
    always = np.asarray(exceedance_probability(law, law.floor, threshold, dof=dof)) > 1.0 - confidence
    # For each ratio alone the limit is known, and that of the mixture lies between these.
    spread2 = np.maximum(np.square(limits) - law.floor**2, 0.0) / np.square(law.ratios)
    alone = np.sqrt(spread2 + law.floor**2)
    low, high = np.min(alone, axis=-1), np.max(alone, axis=-1)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        asks = exceedance_probability(law, middle, threshold, dof=dof) > 1.0 - confidence
        low, high = np.where(asks, low, middle), np.where(asks, middle, high)
    if not always.any():
        return _scalar(low)
    at_floor = interval(law, law.floor, confidence=confidence, dof=dof)
    return _scalar(np.where(always, law.floor * threshold / at_floor, low))


def normal_score(law: ErrorLaw, error: ArrayLike, sigma: ArrayLike, *, dof: ArrayLike = 1.0) -> Real:
    """Absolute error on the scale of a standard normal variable.

    Args:
      law: before the error.
      error: predicted minus reference total energy, eV, or the norm of a vector.
      sigma: positive; uncalibrated standard deviation, in the unit of the error.
      dof: effective number of components of the error.

    Returns:
      |w| with P(|N(0, 1)| > |w|) = P(|e| > |error|): half-normal if the law is right, exact also far out in the tail,
      where `probability_integral` rounds to 0 or 1; at most 37.

    Raises:
      ValueError: if sigma or dof is not positive.
    """
    distance = np.maximum(np.abs(np.asarray(error, np.float64)), np.finfo(np.float64).tiny)
    return calibration.score_of_tail(exceedance_probability(law, sigma, distance, dof=dof))


def probability_integral(law: ErrorLaw, error: ArrayLike, sigma: ArrayLike, *, dof: ArrayLike = 1.0) -> Real:
    """Predictive distribution function at the observed error, see `calibration.probability_integral`."""
    error, dof = np.asarray(error, np.float64)[..., None], np.asarray(dof)[..., None]
    each = calibration.probability_integral(law.each, error, _each(law, sigma), dof=dof)
    return _scalar(np.sum(np.exp(law.log_weight) * each, axis=-1))


def scale(law: ErrorLaw, sigma: ArrayLike) -> Real:
    """Root mean square of the scales of the mixture's components, in the unit of sigma; finite for every law."""
    squares = np.square(calibration.scale(law.each) * _each(law, sigma))
    return _scalar(np.sqrt(np.sum(np.exp(law.log_weight) * squares, axis=-1)))


class Parts(NamedTuple):
    """The variance of the law of errors, factor² spread² + floor²; infinite where it does not exist."""

    factor: Real  # [...] on the spread of the samples
    floor: Real  # [...] in the unit of σ


def parts(law: ErrorLaw) -> Parts:
    """What the law makes of the spread and of the floor; without a floor the factor is that on σ."""
    if not np.all(np.asarray(law.each.a + law.each.n / 2) > 1.0):
        return Parts(np.inf, np.inf)
    weight = np.exp(law.log_weight) * calibration.map_factor(law.each)
    factor, floor = np.sum(weight * np.square(law.ratios), axis=-1), np.sum(weight, axis=-1)
    return Parts(_scalar(np.sqrt(factor)), _scalar(law.floor * np.sqrt(floor)))


def deviation(law: ErrorLaw, sigma: ArrayLike) -> Real:
    """Standard deviation of the law of the error: the calibrated σ.

    Args:
      law: present law.
      sigma: [...] uncalibrated standard deviation of the prediction, floor included.

    Returns:
      In the unit of sigma; infinite if a + n/2 <= 1, where the variance does not exist.
    """
    factor, floor = parts(law)
    spread2 = np.maximum(np.square(np.asarray(sigma, np.float64)) - law.floor**2, 0.0)
    return _scalar(np.sqrt(np.square(factor) * spread2 + np.square(floor)))


def _each(law: ErrorLaw, sigma: ArrayLike) -> np.ndarray:
    """σ of each ratio [..., g] from σ [...]; one below the floor, by rounding, is the floor."""
    sigma = np.asarray(sigma, np.float64)[..., None]
    if law.ratios.size == 1:
        return sigma
    spread2 = np.maximum(np.square(sigma) - law.floor**2, 0.0)
    return np.sqrt(np.square(law.ratios) * spread2 + law.floor**2)


def _arrays(state: Calibration) -> Calibration:
    return state._replace(n=np.atleast_1d(state.n), s=np.atleast_1d(state.s))


def _scalar(value: ArrayLike) -> Real:
    array = np.asarray(value, np.float64)
    return float(array) if array.ndim == 0 else array

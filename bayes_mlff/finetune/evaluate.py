"""Predictions of labelled frames by every sample, and metrics of the predictions and their σ."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from bayes_mlff.core.units import GPA, KCAL_MOL_PER_EV
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.ensemble import metrics
from bayes_mlff.ensemble.predictive import combine
from bayes_mlff.ensemble.ranking import ranking
from bayes_mlff.ensemble.resampling import log_factor_error, structure_share
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior.likelihood import of_structures

LEVELS = (0.5, 0.8, 0.9, 0.95)
ERROR_EDGES = (0.0, 0.25, 0.5, 1.0, 2.0, float("inf"))
"""Edges of the intervals of force errors, in units of a large error."""
Single = Callable[[jax.Array, Graph], Prediction]
"""One set of weights [p] and a batch of graphs; compiled."""


class Quality(NamedTuple):
    """Predicted minus reference of one observable, all scalars of all frames; σ is None without an ensemble."""

    reference: np.ndarray  # [m]
    error: np.ndarray  # [m]
    sigma: np.ndarray | None  # [m]
    frame: np.ndarray  # [m] ascending, index of the frame of each scalar


class Outcome(NamedTuple):
    """Observables of one set of frames."""

    energy: Quality | None  # eV, of frames with a known energy zero; None if there are none
    forces: Quality | None  # eV/Å, components; None where not labelled
    stress: Quality | None  # eV/Å³, six components; None where not labelled or not predicted


def predict(single: Single, params: jax.Array, graphs: Graph, batch: int) -> Prediction:
    """Predict frames by every sample, batches padded to one size so that there is one compilation.

    Args:
      single: compiled model.
      params: [c, p].
      graphs: leaves [f, ...].
      batch: number of frames that are evaluated together.

    Returns:
      Fields [c, f, ...], float64 on the host.
    """
    count = graphs.positions.shape[0]
    rows = []
    for k in range(params.shape[0]):
        parts = []
        for first in range(0, count, batch):
            index = np.minimum(np.arange(first, first + batch), count - 1)
            part = single(params[k], jax.tree.map(lambda x, i=index: x[i], graphs))
            used = min(batch, count - first)
            parts.append(jax.tree.map(lambda x, n=used: np.asarray(x, np.float64)[:n], part))
        rows.append(jax.tree.map(lambda *x: np.concatenate(x), *parts))
    return jax.tree.map(lambda *x: np.stack(x), *rows)


def outcome(
    prediction: Prediction,
    frames: Frames,
    ensemble: Ensemble,
    *,
    with_sigma: bool = True,
    energy_units: np.ndarray | None = None,
) -> Outcome:
    """Compare predictions [c, f, ...] of an ensemble's samples with the labels.

    Args:
      prediction: of the network, without atomic reference energies.
      frames: labels.
      ensemble: atomic reference energies, factors on σ and σ of the likelihood.
      with_sigma: False leaves σ out, for models whose σ has no meaning.
      energy_units: [f] numbers by which energies, their errors and σ are divided; None: total energies.
    """
    units = np.ones(frames.size) if energy_units is None else energy_units
    atomic = ensemble.atomic_reference_energy(frames.numbers)
    shared = np.mean(atomic, axis=0)  # large, so added after the moments, which may be float32
    own = prediction._replace(energy=prediction.energy + (atomic - shared[None]))
    stress_sigma = ensemble.stress_sigma_ev_a3
    single = prediction.energy.shape[0] == 1
    typed = jax.tree.map(jnp.asarray, own)
    energy_sigma = of_structures(ensemble.energy_sigma_ev, frames.atoms)
    moments = combine(typed, energy_sigma=energy_sigma, stress_sigma=stress_sigma, allow_single_chain=single)
    factors = ensemble.factors

    def compare(mean, sigma, factor: float, reference: np.ndarray, kept: Any = ...) -> Quality:
        error = (np.asarray(mean, np.float64) - reference)[kept].ravel()
        spread = factor * np.asarray(sigma, np.float64)[kept].ravel() if with_sigma else None
        each = reference.size // frames.size
        frame = np.repeat(np.arange(frames.size), each).reshape(reference.shape)[kept].ravel()
        return Quality(reference[kept].ravel(), error, spread, frame)

    energy = stress = None
    if frames.energy is not None:
        mean = np.asarray(moments.energy_mean, np.float64) + shared
        kept = ensemble.knows_energy(frames.numbers)
        if kept.any():
            sigma = np.asarray(moments.energy_sigma, np.float64) / units
            energy = compare(mean / units, sigma, factors.energy, frames.energy / units, kept)
            if energy.sigma is not None and not np.isfinite(energy.sigma).all():
                energy = energy._replace(sigma=None)
    if moments.stress_mean is not None and moments.stress_sigma is not None and frames.stress is not None:
        upper = np.triu_indices(3)
        mean, sigma = (np.asarray(x)[:, upper[0], upper[1]] for x in (moments.stress_mean, moments.stress_sigma))
        stress = compare(mean, sigma, factors.stress, frames.stress[:, upper[0], upper[1]])
    forces = None
    if frames.known_forces.any():
        parts = (moments.forces_mean, moments.forces_sigma, factors.forces, frames.forces, frames.known_forces)
        forces = compare(*parts)
    return Outcome(energy, forces, stress)


def force_rmse(prediction: Prediction, frames: Frames) -> np.ndarray:
    """Root mean square error of all force components by sample, [c] eV/Å, of predictions [c, f, ...]."""
    known = frames.known_forces
    error = np.where(known[None], prediction.forces - frames.forces[None], 0.0)
    return np.sqrt(np.sum(error**2, axis=(1, 2, 3)) / np.count_nonzero(known))


def rescaling(validation: Outcome) -> SigmaFactors:
    """Factors that make the mean predicted variance of a validation set equal its mean square error."""

    def factor(quality: Quality | None) -> float:
        if quality is None or quality.sigma is None or not quality.error.any():
            return 1.0
        return metrics.rescale_factor(quality.error, quality.sigma)

    return SigmaFactors(factor(validation.energy), factor(validation.forces), factor(validation.stress))


class FactorErrors(NamedTuple):
    """Uncertainty of the logarithms of the factors on σ: half-widths of 95 % intervals; None if not known."""

    energy: float | None = None
    forces: float | None = None
    stress: float | None = None


def factor_errors(validation: Outcome) -> FactorErrors:
    """Uncertainty of the factors of `rescaling`, due to the small number of validation frames."""

    def half_width(quality: Quality | None) -> float | None:
        if quality is None or quality.sigma is None or not quality.error.any() or quality.frame[0] == quality.frame[-1]:
            return None
        return log_factor_error(quality.error, quality.sigma, quality.frame)

    return FactorErrors(half_width(validation.energy), half_width(validation.forces), half_width(validation.stress))


def summarise(
    result: Outcome,
    large_error_kcal_mol_a: float,
    large_error_kcal_mol: float,
    errors: FactorErrors | None = None,
) -> dict[str, dict]:
    """Metrics of every observable, for a JSON file: kcal/mol, kcal/mol/Å and GPa.

    Args:
      result: errors, and σ if there is one.
      large_error_kcal_mol_a: size of the force errors that σ should detect.
      large_error_kcal_mol: size of the errors of energies that σ should detect.
      errors: uncertainty of the factors on σ, if these come from other frames.

    Returns:
      By observable: `rmse`, `mae` and, with σ, `mll` (nats per scalar of the stated unit), `crps`, `coverage` by
      nominal level with its 95 % intervals, binomial, with structures as independent, and with the errors of the
      factors besides, `calibration_curve`, `ranking` (see `ensemble.ranking`; None where σ is constant), and
      for forces and energies `auc_roc` (None if all errors are on one side) and `mll_by_error`.
    """
    errors = errors or FactorErrors()
    summary = {}
    if result.energy is not None:
        summary["energy_kcal_mol"] = _numbers(result.energy, KCAL_MOL_PER_EV, errors.energy, large_error_kcal_mol)
    if result.forces is not None:
        summary["forces_kcal_mol_a"] = _numbers(result.forces, KCAL_MOL_PER_EV, errors.forces, large_error_kcal_mol_a)
    if result.stress is not None:
        summary["stress_gpa"] = _numbers(result.stress, 1.0 / GPA, errors.stress)
    return summary


def _numbers(quality: Quality, unit: float, log_error: float | None, threshold: float | None = None) -> dict:
    error = quality.error * unit
    numbers: dict = {"count": int(error.size), "rmse": metrics.rmse(error), "mae": metrics.mae(error)}
    if quality.sigma is None:
        return numbers
    sigma = quality.sigma * unit
    pit = metrics.normal_pit(error, sigma)
    inside, curve = metrics.coverage(pit, LEVELS), metrics.calibration_curve(pit)
    numbers |= {
        "mean_sigma": float(np.sqrt(np.mean(sigma**2))),
        "mll": metrics.mean_log_likelihood(error, sigma),
        "crps": metrics.crps(error, sigma),
        "coverage": {f"{level:g}": float(share) for level, share in zip(LEVELS, inside.observed, strict=True)},
        "coverage_intervals": _coverage_intervals(error / sigma, inside, quality.frame, log_error),
        "calibration_curve": {"nominal": curve.x.tolist(), "observed": curve.y.tolist()},
        "ranking": None if (known := ranking(error, sigma)) is None else known._asdict(),
    }
    if threshold is not None:
        above = np.abs(error) > threshold
        numbers["large_error"] = threshold
        numbers["share_large"] = float(above.mean())
        numbers["mll_by_error"] = _by_error(error, sigma, threshold)
        numbers["auc_roc"] = metrics.auc_roc(error, sigma, threshold) if 0 < above.sum() < above.size else None
    return numbers


def _coverage_intervals(
    deviations: np.ndarray, inside: metrics.Coverage, frame: np.ndarray, log_error: float | None
) -> dict[str, dict]:
    """95 % intervals of the coverage, by nominal level; a single frame gives no estimate of the correlation."""
    intervals = {}
    for level, observed, low, high in zip(LEVELS, inside.observed, inside.lower, inside.upper, strict=True):
        within = np.abs(deviations) / stats.norm.ppf(0.5 + 0.5 * level)  # in units of the half-width of the interval
        found = intervals[f"{level:g}"] = {"binomial": [float(low), float(high)]}
        if frame[0] == frame[-1]:
            continue
        share = structure_share(within <= 1.0, frame)
        found["structures"] = [share.lower, share.upper]
        if log_error is not None:
            narrow, wide = (float(np.mean(within <= np.exp(sign * log_error))) for sign in (-1.0, 1.0))
            down, up = (
                np.hypot(observed - share.lower, observed - narrow),
                np.hypot(share.upper - observed, wide - observed),
            )
            found["factor"] = [max(0.0, float(observed - down)), min(1.0, float(observed + up))]
    return intervals


def _by_error(error: np.ndarray, sigma: np.ndarray, threshold: float) -> list[dict]:
    """Mean log likelihood in intervals of the absolute error; None for an empty or unbounded value."""
    edges = [threshold * edge for edge in ERROR_EDGES]
    split = metrics.mean_log_likelihood_by_error(error, sigma, edges)
    return [
        {
            "from": low,
            "to": high if np.isfinite(high) else None,
            "mll": float(value) if count else None,
            "count": int(count),
        }
        for low, high, value, count in zip(edges, edges[1:], split.mll, split.count, strict=False)
    ]

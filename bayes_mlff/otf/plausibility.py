"""Plausibility of labels: is a converged result consistent with earlier labels and with the prediction?

A calculation can converge to another electronic state, or return energy and forces that do not belong together. Two
checks can show this. The previous label: along the straight path between two geometries the energy changes by minus
the work of the forces, for a harmonic surface exactly that of the mean force of both ends (trapezoidal rule). The
ensemble: it predicts the energy with σ. Neither check decides alone. A label far from the ensemble's prediction is
learnt if it agrees with the previous label, since then the ensemble is wrong; a label that disagrees with the previous
one is learnt if the ensemble predicted it, since then the path was too long or the previous label is wrong. Forces far
from the prediction are learnt if they are close to those of the previous label.
"""

from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core.numbers import apart
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble.energy_scale import EnergyScale

FLOOR_THRESHOLDS: Final = 2.0
"""Misfit between two labels, in thresholds, that is allowed at any distance, for noise of the reference. Labels of
neighbouring steps differ by up to half a threshold of 3 kcal/mol with a plane-wave code."""

ANHARMONIC: Final = 0.5
"""Further allowed misfit, as a fraction of sum_i |ΔF_i·Δr_i|, which is twice what a harmonic surface adds to the work
of the first force; over gaps from 1 to 4000 steps in ethanol and LaMnO3 the fraction was at most 0.15."""

DOUBT_SIGMAS: Final = 5.0
"""Error in calibrated σ above which a label that contradicts the previous one also contradicts the prediction."""

_FLIP: Final = "magnetic moments changed"
"""Beginning of remarks on changed magnetic moments, see `engines.moments`."""


class Expectation(NamedTuple):
    """Prediction of the ensemble, with calibrated σ."""

    energy: float  # eV, on the model's scale
    energy_sigma: float  # eV
    forces: np.ndarray  # [n, 3] eV/Å
    forces_sigma: np.ndarray  # [n, 3] eV/Å


class Misfit(NamedTuple):
    """Comparison of the energy difference of two labels with the work of their forces."""

    residual: float  # eV
    tolerance: float  # eV, increases with the distance of the geometries


def misfit(before: LabelRecord, structure: Structure, label: Label, threshold_ev: float) -> Misfit | None:
    """Compare a label with the previous one by the trapezoidal rule.

    Args:
      before: an accepted label of the same atoms.
      structure: geometry of the new label.
      label: the new label.
      threshold_ev: largest acceptable error of the total energy, eV.

    Returns:
      Residual and tolerance; None if the cell has changed and a stress is missing. The common strain of cell and atoms
      does the work V S:ε, the motion of atoms in the strained cell the work of their forces.
    """
    old = before.structure
    strain, carried = np.zeros((3, 3)), old.positions
    if not np.array_equal(old.cell, structure.cell):
        if before.label.stress is None or label.stress is None:
            return None
        deform = np.linalg.solve(old.cell, structure.cell)
        strain, carried = 0.5 * (deform + deform.T) - np.eye(3), old.positions @ deform
    moved = structure.positions - carried
    moved = moved - moved.mean(axis=0)
    gained = -0.5 * float(np.sum((before.label.forces + label.forces) * moved))
    curved = float(np.sum(np.abs(np.sum((label.forces - before.label.forces) * moved, axis=1))))
    if before.label.stress is not None and label.stress is not None and strain.any():
        volume = abs(float(np.linalg.det(old.cell)))
        gained += 0.5 * volume * float(np.sum((before.label.stress + label.stress) * strain))
        curved += volume * abs(float(np.sum((label.stress - before.label.stress) * strain)))
    residual = label.energy - before.label.energy - gained
    return Misfit(residual, FLOOR_THRESHOLDS * threshold_ev + ANHARMONIC * curved)


def objections(
    structure: Structure,
    label: Label,
    *,
    scale: EnergyScale,
    threshold_ev: float,
    expected: Expectation,
    before: LabelRecord | None,
    remarks: tuple[str, ...] = (),
    sigmas: float = 20.0,
    thresholds: float = 20.0,
) -> tuple[str, ...]:
    """Reasons why a label should not be learnt; empty if it is plausible.

    Args:
      structure: geometry of the label.
      label: the label; finite and of the right shape.
      scale: energy scale, to compare the label with predictions.
      threshold_ev: largest acceptable error of the total energy, eV.
      expected: prediction before the label was known.
      before: last accepted label.
      remarks: remarks of the engine, among them changes of magnetic moments.
      sigmas: largest plausible error in calibrated σ; a label is doubted if it exceeds this and `thresholds`.
      thresholds: largest plausible error in thresholds (eV; for forces eV/Å).
    """
    error = scale.reference_to_total(label.energy) - expected.energy
    surprise = abs(error) / expected.energy_sigma
    said = f"energy differs from the prediction by {error:+.4g} eV ({surprise:.3g} calibrated sigma)"
    pair = None if before is None else misfit(before, structure, label, threshold_ev)
    jump = pair is not None and abs(pair.residual) > pair.tolerance
    vindicated = pair is not None and not jump and pair.tolerance < 0.5 * abs(error)
    flip = next((remark for remark in remarks if remark.startswith(_FLIP)), None)
    unexpected = surprise > DOUBT_SIGMAS and abs(error) > threshold_ev
    doubted = unexpected or (flip is not None and abs(error) > threshold_ev)
    reasons = []
    if pair is not None and before is not None and jump and doubted:
        more, most = apart(abs(pair.residual), pair.tolerance)
        reasons.append(
            f"energy and forces contradict each other: since the label of step {before.step} the energy changed by "
            f"{more} eV {'more' if pair.residual > 0.0 else 'less'} than the work of the forces, allowed {most} eV; "
            f"{said}"
        )
    elif surprise > sigmas and abs(error) > thresholds * threshold_ev and not vindicated:
        reasons.append(_beyond("energy", error, surprise, "eV", (sigmas, thresholds * threshold_ev)))
    elif flip is not None and unexpected and not vindicated:
        reasons.append(f"{said}, and {flip}")
    if reasons and flip is not None and flip not in reasons[0]:
        reasons.append(flip)
    wrong = label.forces - expected.forces
    spread = float(np.sqrt(np.mean(np.square(wrong / expected.forces_sigma))))
    size = float(np.sqrt(np.mean(np.square(wrong))))
    nearer = np.inf if before is None else float(np.sqrt(np.mean(np.square(label.forces - before.label.forces))))
    if spread > sigmas and size > thresholds * threshold_ev and nearer > 0.5 * size:
        reasons.append(_beyond("forces", size, spread, "eV/A", (sigmas, thresholds * threshold_ev)))
    return tuple(reasons)


def _beyond(what: str, error: float, surprise: float, unit: str, allowed: tuple[float, float]) -> str:
    """Message about an error that is too large, both in σ and in its unit."""
    size, largest = apart(abs(error), allowed[1])
    times, most = apart(surprise, allowed[0], 3)
    verb, sign = ("differs", "+" if error > 0.0 else "-") if what == "energy" else ("differ", "")
    return (
        f"{what} {verb} from the prediction by {sign}{size} {unit} ({times} calibrated sigma), allowed {most} sigma "
        f"or {largest} {unit}"
    )

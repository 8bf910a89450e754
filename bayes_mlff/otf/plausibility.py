"""Labels that lie: does a converged result fit to what is known already?

A calculation can converge to another electronic state, or hand out an energy and forces of different origin. Two
witnesses know better. The label before: along the straight path between two geometries the energy changes by minus
the work of the forces, for a harmonic surface exactly that of the mean force of both ends (trapezoidal rule). The
ensemble: it states σ. Neither is believed alone. A label far from the ensemble's prediction is learnt if it fits to
the label before, for then the ensemble is at fault; one that does not fit to the label before is learnt if the
ensemble expected it, for then the path was too long or the earlier label is at fault. Forces far from the
prediction are learnt if they are near those of the label before.
"""

from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core.numbers import apart
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble.energy_scale import EnergyScale

REJECTED: Final = "rejected.extxyz"
"""File of a run directory in which refused labels are kept; the reason stands in their field `reason`."""

FLOOR_THRESHOLDS: Final = 2.0
"""Misfit between two labels, in thresholds, that is allowed whatever their distance: noise of the reference. Labels
of neighbouring steps differ by up to half a threshold of 3 kcal/mol with a plane-wave code."""

ANHARMONIC: Final = 0.5
"""Misfit allowed beside that, as a share of sum_i |ΔF_i·Δr_i|, twice what a harmonic surface adds to the first
force's work; over gaps from 1 to 4000 steps in ethanol and LaMnO3 the share met was at most 0.15."""

DOUBT_SIGMAS: Final = 5.0
"""Calibrated σ beyond which the ensemble did not expect an energy that the label before contradicts."""

_FLIP: Final = "magnetic moments changed"
"""How remarks on moments that turned over begin, see `dft.moments`."""


class Expectation(NamedTuple):
    """What the ensemble says, σ calibrated."""

    energy: float  # eV, on the model's scale
    energy_sigma: float  # eV
    forces: np.ndarray  # [n, 3] eV/Å
    forces_sigma: np.ndarray  # [n, 3] eV/Å


class Misfit(NamedTuple):
    """Energy difference of two labels against the work of their forces."""

    residual: float  # eV
    tolerance: float  # eV, grows with the distance of the geometries


def misfit(before: LabelRecord, structure: Structure, label: Label, threshold_ev: float) -> Misfit | None:
    """Compare a label with the one before by the trapezoidal rule.

    Args:
      before: an accepted label of the same atoms.
      structure: geometry of the new label.
      label: the new one.
      threshold_ev: error of the total energy to hold, eV.

    Returns:
      Residual and tolerance; None if the cell has changed and a stress is missing. The straining of cell and atoms
      together does the work V S:ε, the motion of atoms in the strained cell that of their forces.
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
    """Why a label should not be learnt; empty if nothing speaks against it.

    Args:
      structure: geometry of the label.
      label: finite, of the right shape.
      scale: of the label's energy against that of predictions.
      threshold_ev: error of the total energy to hold, eV.
      expected: prediction before the label was known.
      before: last accepted label.
      remarks: of the engine, among them changes of magnetic moments.
      sigmas: error in calibrated σ and
      thresholds: in thresholds (eV; for forces eV/Å) beyond which a prediction is not merely wrong.
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
    """That an error exceeds what is allowed in σ and in itself."""
    size, largest = apart(abs(error), allowed[1])
    times, most = apart(surprise, allowed[0], 3)
    verb, sign = ("differs", "+" if error > 0.0 else "-") if what == "energy" else ("differ", "")
    return (
        f"{what} {verb} from the prediction by {sign}{size} {unit} ({times} calibrated sigma), allowed {most} sigma "
        f"or {largest} {unit}"
    )

"""Doubts about labels that the pretrained model, or the labels among themselves, contradict."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.finetune.frame_checks import alike
from bayes_mlff.finetune.label_units import (
    ENERGY_UNITS,
    FORCE_UNITS,
    STRESS_SIGNS,
    STRESS_UNITS,
    Units,
    likelier,
)
from bayes_mlff.finetune.labelled import Frames
from bayes_mlff.finetune.work import Ratio, work_ratio
from bayes_mlff.models.energetics import Prediction

FRAMES_TO_DOUBT: Final = 8
COMPONENTS_TO_DOUBT: Final = 100
"""Frames of a set, and force components, with fewer of which chance can make labels resemble another unit."""
FORCES_TO_DOUBT: Final = 0.1
"""RMS of the predicted force components, eV/Å, below which frames are too near a minimum to say anything."""
FAR_APART: Final = ("eV/A", "kcal/mol/A", "kJ/mol/A", "hartree/bohr")
ENERGIES_FAR_APART: Final = ("eV", "kcal/mol", "kJ/mol", "hartree")
"""Units that a model can tell apart whose forces and energies are too small by half."""
CLEARLY_OFF: Final = 1.3
"""How far from 1 all likely ratios of differences of energies to work have to be; the least wrong unit is 1.9 off."""
EXPLAINS: Final = 1.25
"""Within which factor of a ratio a reason for it has to be."""


def check_units(prediction: Prediction, frames: Frames, units: Units, name: str) -> None:
    """Doubt units by which the labels of a set are far from the predictions of the pretrained model.

    Args:
      prediction: of the pretrained model, fields [1, f, ...].
      frames: labels, converted from the stated units.
      units: of the file.
      name: of the set.

    Raises:
      DataError: naming the key, its value and the unit that fits far better.
    """
    near = {unit: FORCE_UNITS[unit] for unit in {*FAR_APART, units.forces}}
    forces = {**near, **{f"-{unit}": -factor for unit, factor in near.items()}}
    found: dict[str, tuple[str, str | None]] = {}
    if frames.size < FRAMES_TO_DOUBT:
        return
    known = frames.known_forces
    predicted, components = np.where(known, np.asarray(prediction.forces[0]), 0.0), np.count_nonzero(known)
    if components >= COMPONENTS_TO_DOUBT and np.sqrt(np.sum(predicted**2) / components) > FORCES_TO_DOUBT:
        found["forces_unit"] = units.forces, likelier(frames.forces, predicted, forces, units.forces, times=2.0)
    if frames.energy is not None:
        labels, predicted = _around_compositions(frames.numbers, frames.energy, np.asarray(prediction.energy[0]))
        if len(labels) >= FRAMES_TO_DOUBT:
            factors = {unit: ENERGY_UNITS[unit] for unit in {*ENERGIES_FAR_APART, units.energy}}
            found["energy_unit"] = units.energy, likelier(labels, predicted, factors, units.energy, times=3.0)
    if frames.stress is not None and prediction.stress is not None:
        labels, predicted = (x - np.median(x, axis=0) for x in (frames.stress, np.asarray(prediction.stress[0])))
        factors = {f"{unit}, {sign}": a * b for unit, a in STRESS_UNITS.items() for sign, b in STRESS_SIGNS.items()}
        stated = f"{units.stress}, {units.sign}"
        found["stress_unit, stress_sign"] = stated, likelier(labels, predicted, factors, stated, times=3.0)
    for key, (got, unit) in found.items():
        if unit is not None:
            raise DataError(
                f"data.{key}: got {got}, but by the pretrained model the labels of data.{name} look like {unit} "
                "(a minus: gradients in place of forces); allowed: the unit of the file, or data.doubtful_units: allow"
            )


def _around_compositions(numbers: np.ndarray, *energies: np.ndarray) -> list[np.ndarray]:
    """Each of the energies [f] around their median among the frames of a composition, of those that have several."""
    groups = [index for index in alike(np.sort(numbers, axis=1)) if len(index) > 1]
    return [np.concatenate([[], *(x[index] - np.median(x[index]) for index in groups)]) for x in energies]


def check_work(prediction: Prediction, frames: Frames, units: Units, name: str) -> Ratio | None:
    """Refuse energies and forces that do not belong together.

    Args:
      prediction: of the pretrained model, fields [1, f, ...].
      frames: labels, converted.
      units: of the file.
      name: of the set.

    Returns:
      Differences of energies over the work of the forces; None if the set cannot tell.

    Raises:
      DataError: naming the ratio and what would explain it.
    """
    if frames.energy is None or frames.size < FRAMES_TO_DOUBT:
        return None
    found = work_ratio(frames, prediction)
    if found is None or not _clearly_off(found):
        return found
    total = work_ratio(frames._replace(energy=frames.energy * frames.atoms), prediction)
    explained = explanations(found, units)
    if total is not None and abs(np.log(abs(total.value))) < np.log(EXPLAINS) and total.value > 0.0:
        explained.insert(0, "energies per atom, which are to be multiplied by the number of atoms")
    because = f"as {' or '.join(explained[:3])} would be" if explained else "which no unit explains"
    raise DataError(
        f"data.{name}: differences of energies are {found.value:.3g} times the work of the forces between near frames "
        f"(95 % interval {found.lower:.3g} to {found.upper:.3g}, {found.pairs} pairs), {because}; allowed: energies "
        f"and forces of one potential energy surface (read in {units.energy}, {units.forces}, positions in "
        f"{units.positions}), or data.doubtful_units: allow"
    )


def _clearly_off(found: Ratio) -> bool:
    return found.upper < 1.0 / CLEARLY_OFF or found.lower > CLEARLY_OFF


def explanations(found: Ratio, units: Units) -> list[str]:
    """Units or a sign by which the ratio would be near 1, the nearest first."""

    def nearest(factors: Mapping[str, float], stated: str, power: int) -> list[tuple[float, str]]:
        sizes = {unit: abs(np.log(abs(found.value) * (x / factors[stated]) ** power)) for unit, x in factors.items()}
        return [(size, unit) for unit, size in sizes.items() if unit != stated and size < np.log(EXPLAINS)]

    sign = "gradients in place of forces" if found.value < 0.0 else ""
    if abs(np.log(abs(found.value))) < np.log(EXPLAINS):
        return [sign] if sign else []
    several = [(size, f"forces in {unit}") for size, unit in nearest(FORCE_UNITS, units.forces, -1)]
    several += [(size, f"energies in {unit}") for size, unit in nearest(ENERGY_UNITS, units.energy, 1)]
    return [f"{text} {'and ' + sign if sign else ''}".strip() for _, text in sorted(several)]

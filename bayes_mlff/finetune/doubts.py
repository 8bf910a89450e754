"""Checks of labels against the pretrained model, and of energies against forces."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from ase.symbols import Symbols

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.frame_checks import alike
from bayes_mlff.data.label_units import (
    ENERGY_UNITS,
    FORCE_UNITS,
    STRESS_SIGNS,
    STRESS_UNITS,
    Units,
    likelier,
)
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.finetune.work import Ratio, Untested, work_ratio
from bayes_mlff.models.energetics import Prediction

FRAMES_TO_DOUBT: Final = 8
COMPONENTS_TO_DOUBT: Final = 100
"""Number of frames of a set, and of force components, below which labels may resemble another unit by chance."""
FORCES_TO_DOUBT: Final = 0.1
"""RMS of the predicted force components, eV/Å, below which frames are too near a minimum for a verdict."""
GRADIENTS_TO_DOUBT: Final = 0.7
"""The same for the sign of the forces without energies: near a minimum, signs depend on the model's own minimum."""
VANISHING: Final = 0.1
"""RMS of the predicted force components of a frame, eV/Å, above which exact zeros cannot be true forces."""
SAME_ENERGY: Final = 1e-7
"""Largest difference, eV, of energies that count as equal."""
DIFFERENT_ENERGY: Final = 0.02
"""Range of the predicted energies of a composition, eV, above which the labels cannot all be equal."""
UNRELATED: Final = 0.5
"""Correlation of energy differences with work below which labels are inconsistent ..."""
RELATED: Final = 0.75
"""... if the model's own values correlate better than this, so that frames are close enough for a verdict."""
MOST_GROUPS: Final = 50
"""Largest number of compositions of a set that are checked separately, the most frequent ones."""
FAR_APART: Final = ("eV/A", "kcal/mol/A", "kJ/mol/A", "hartree/bohr")
ENERGIES_FAR_APART: Final = ("eV", "kcal/mol", "kJ/mol", "hartree")
"""Units that can be told apart even with a model whose forces and energies are too small by half."""
CLEARLY_OFF: Final = 1.3
"""Factor from 1 beyond which the whole interval of the ratio is refused; the closest wrong unit gives 1.9."""
EXPLAINS: Final = 1.25
"""Largest factor between a ratio and the value that an explanation predicts."""


def check_set(
    prediction: Prediction, frames: Frames, units: Units, name: str, *, by_model: bool = True
) -> dict[str, Ratio | Untested]:
    """All checks of a set and of every composition with enough frames, since compositions may have different sources.

    Args:
      prediction: of the pretrained model, fields [1, f, ...].
      frames: labels, converted.
      units: of the file.
      name: of the set.
      by_model: also refuse labels that contradict the model.

    Returns:
      Ratio of energy differences to the work of the forces, by name of the set and of the compositions in it.

    Raises:
      DataError: naming what is wrong.
    """
    check_values(prediction, frames, name)
    parts = {name: (prediction, frames)}
    groups = alike(np.sort(frames.numbers, axis=1))
    if len(groups) > 1:
        for index in sorted(groups, key=len, reverse=True)[:MOST_GROUPS]:
            if len(index) >= FRAMES_TO_DOUBT:
                numbers = frames.numbers[index[0]]
                text = f"{name}, {len(index)} frames of {Symbols(numbers[numbers > 0]).get_chemical_formula()}"
                parts[text] = taken(prediction, index), frames.take(index)
    found = {}
    # Compositions first, since their errors are more specific.
    for text, (predicted, used) in sorted(parts.items(), key=lambda item: item[0] == name):
        found[text] = check_work(predicted, used, units, text)
        if by_model:
            check_units(predicted, used, units, text, found[text])
    return found


def taken(prediction: Prediction, index: np.ndarray) -> Prediction:
    """Predictions [1, m, ...] of some of the frames."""
    return Prediction(*(None if x is None else np.asarray(x)[:, index] for x in prediction))  # pyright: ignore


def check_values(prediction: Prediction, frames: Frames, name: str) -> None:
    """Refuse frames with all forces exactly zero, and compositions with equal energies, unless the model agrees.

    The model agrees if forces vanish by symmetry, as in perfect crystals, or if frames are rotated copies.

    Raises:
      DataError: naming the first such frame.
    """
    known = frames.known_forces
    count = np.maximum(1, np.count_nonzero(known, axis=(1, 2)))
    predicted = np.where(known, np.asarray(prediction.forces[0], np.float64), 0.0)
    pulled = np.sqrt(np.sum(predicted**2, axis=(1, 2)) / count) > VANISHING
    zero = np.flatnonzero(pulled & ~np.where(known, frames.forces, 0.0).any(axis=(1, 2)))
    if len(zero):
        raise DataError(
            f"data.{name}: the forces of {len(zero)} of {frames.size} frames are all exactly zero (first frame "
            f"{zero[0]} of those used), but the pretrained model predicts others; allowed: forces of every frame, or "
            "data.doubtful_units: allow"
        )
    if frames.energy is None:
        return
    for index in alike(np.sort(frames.numbers, axis=1)):
        spread = np.ptp(np.asarray(prediction.energy[0], np.float64)[index])
        if len(index) > 2 and np.ptp(frames.energy[index]) < SAME_ENERGY and spread > DIFFERENT_ENERGY:
            raise DataError(
                f"data.{name}: the energies of all {len(index)} frames with the atoms of frame {index[0]} are the same "
                f"({frames.energy[index[0]]:.6g} eV), but the pretrained model predicts a range of {spread:.3g} eV; "
                "allowed: the energy of every frame, targets: forces without energies, or data.doubtful_units: allow"
            )


def check_units(
    prediction: Prediction, frames: Frames, units: Units, name: str, work: Ratio | Untested | None = None
) -> None:
    """Refuse units if the labels agree far better with the pretrained model in another unit.

    Args:
      prediction: of the pretrained model, fields [1, f, ...].
      frames: labels, converted from the stated units.
      units: of the file.
      name: of the set.
      work: ratio of energy differences to work; if it is positive, the sign of the forces is not questioned.

    Raises:
      DataError: naming the key, its value and the unit that fits far better.
    """
    if frames.size < FRAMES_TO_DOUBT:
        return
    found: dict[str, tuple[str, str | None]] = {}
    known = frames.known_forces
    predicted, components = np.where(known, np.asarray(prediction.forces[0]), 0.0), np.count_nonzero(known)
    size = np.sqrt(np.sum(predicted**2) / max(1, components))
    forces = {unit: FORCE_UNITS[unit] for unit in {*FAR_APART, units.forces}}
    if work.lower <= 0.0 if isinstance(work, Ratio) else size > GRADIENTS_TO_DOUBT:
        forces |= {f"-{unit}": -factor for unit, factor in forces.items()}
    if components >= COMPONENTS_TO_DOUBT and size > FORCES_TO_DOUBT:
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
                "(minus: gradients in place of forces); allowed: the unit of the file, or data.doubtful_units: allow"
            )


def _around_compositions(numbers: np.ndarray, *energies: np.ndarray) -> list[np.ndarray]:
    """Energies minus the median of their composition, for compositions with several frames."""
    groups = [index for index in alike(np.sort(numbers, axis=1)) if len(index) > 1]
    return [np.concatenate([[], *(x[index] - np.median(x[index]) for index in groups)]) for x in energies]


def check_work(prediction: Prediction, frames: Frames, units: Units, name: str) -> Ratio | Untested:
    """Refuse energies and forces that are inconsistent with each other.

    Args:
      prediction: of the pretrained model, fields [1, f, ...].
      frames: labels, converted.
      units: of the file.
      name: of the set.

    Returns:
      Ratio of energy differences to the work of the forces; or why it cannot be determined.

    Raises:
      DataError: naming the ratio and possible explanations.
    """
    if not frames.known_forces.any():
        return Untested("there are no forces")
    if frames.energy is not None and frames.size < FRAMES_TO_DOUBT:
        return Untested(f"there are fewer than {FRAMES_TO_DOUBT} frames")
    found = work_ratio(frames, prediction)
    if isinstance(found, Untested):
        if found.model > RELATED and found.labels < UNRELATED:
            raise DataError(
                f"data.{name}: energies and forces of nearby frames are inconsistent: the correlation of energy "
                f"differences with the work of the forces is {found.labels:.2f}, but that of the pretrained model at "
                f"the same frames is {found.model:.2f}; allowed: energies and forces of one potential energy surface, "
                "in the same order and units in all frames, or data.doubtful_units: allow"
            )
        return found
    if not _clearly_off(found):
        return found
    total = work_ratio(frames._replace(energy=frames.energy * frames.atoms), prediction)  # pyright: ignore
    explained = explanations(found, units)
    if isinstance(total, Ratio) and abs(np.log(abs(total.value))) < np.log(EXPLAINS) and total.value > 0.0:
        explained.insert(0, "energies per atom, which have to be multiplied by the number of atoms")
    because = f"as {' or '.join(explained[:3])} would be" if explained else "which no unit explains"
    raise DataError(
        f"data.{name}: energy differences are {found.value:.3g} times the work of the forces between nearby frames "
        f"(95 % interval {found.lower:.3g} to {found.upper:.3g}, {found.pairs} pairs), {because}; allowed: energies "
        f"and forces of one potential energy surface (read in {units.energy}, {units.forces}, positions in "
        f"{units.positions}), or data.doubtful_units: allow"
    )


def _clearly_off(found: Ratio) -> bool:
    return found.upper < 1.0 / CLEARLY_OFF or found.lower > CLEARLY_OFF


def explanations(found: Ratio, units: Units) -> list[str]:
    """Units or a sign that would bring the ratio near 1, the best one first."""

    def nearest(factors: Mapping[str, float], stated: str, power: int) -> list[tuple[float, str]]:
        sizes = {unit: abs(np.log(abs(found.value) * (x / factors[stated]) ** power)) for unit, x in factors.items()}
        return [(size, unit) for unit, size in sizes.items() if unit != stated and size < np.log(EXPLAINS)]

    sign = "gradients in place of forces" if found.value < 0.0 else ""
    if abs(np.log(abs(found.value))) < np.log(EXPLAINS):
        return [sign] if sign else []
    several = [(size, f"forces in {unit}") for size, unit in nearest(FORCE_UNITS, units.forces, -1)]
    several += [(size, f"energies in {unit}") for size, unit in nearest(ENERGY_UNITS, units.energy, 1)]
    return [f"{text} {'and ' + sign if sign else ''}".strip() for _, text in sorted(several)]

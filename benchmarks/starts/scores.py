"""Whether σ is larger where the errors are larger: rank correlations on a set of frames, and what they could be."""

from typing import Any

import numpy as np

from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.ensemble.ranking import ranking
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior.likelihood import of_structures


def score(prediction: Prediction, frames: Frames, ensemble: Ensemble) -> dict[str, Any]:
    """Errors and rank correlations by part of σ.

    Args:
      prediction: fields [c, f, ...] of the samples, without atomic reference energies.
      frames: labels, with energies.
      ensemble: samples with σ of the likelihood and factors.

    Returns:
      For energies (kcal/mol, of frames), force components and atoms, and forces of frames (kcal/mol/Å): `rmse`, σ of
      every part as root mean square, and `Ranking` of |error| with that part. `spread` is the standard deviation
      between samples, `noise` that of the likelihood, which for forces is predicted, `sigma` both. The error of an
      atom or a frame is the root mean square of its components.
    """
    assert frames.energy is not None
    atomic = ensemble.atomic_reference_energy(frames.numbers)
    chains = prediction.energy.shape[0]
    energies = (np.asarray(prediction.energy) + atomic) * KCAL_MOL_PER_EV
    error = energies.mean(axis=0) - frames.energy * KCAL_MOL_PER_EV
    noise = np.broadcast_to(np.asarray(of_structures(ensemble.energy_sigma_ev, frames.atoms)), error.shape)
    parts = {"noise": noise * KCAL_MOL_PER_EV} | ({"spread": energies.std(axis=0, ddof=1)} if chains > 1 else {})
    result = {"energy": _of(error, parts) | {"scatter": float(np.std(error))}}

    known = frames.known_forces
    forces = np.mean(np.asarray(prediction.forces), axis=0)
    error = np.where(known, forces - frames.forces, 0.0) * KCAL_MOL_PER_EV
    noise = np.sqrt(np.mean(np.asarray(prediction.force_sigma) ** 2, axis=0))[..., None] * np.ones(3) * KCAL_MOL_PER_EV
    parts = {"noise": noise}
    if chains > 1:
        parts["spread"] = np.std(np.asarray(prediction.forces), axis=0, ddof=1) * KCAL_MOL_PER_EV
    result["components"] = _of(error[known], {name: part[known] for name, part in parts.items()})
    real = frames.node_mask

    def size(x: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
        return np.sqrt(np.sum(np.where(known, x, 0.0) ** 2, axis=axis) / np.maximum(1, known.sum(axis=axis)))

    components = int(known.sum()) // len(known)
    for name, axis, kept, each in (("atoms", (2,), real, 3), ("frames", (1, 2), slice(None), components)):
        result[name] = _of(size(error, axis)[kept], {k: size(part, axis)[kept] for k, part in parts.items()}, each)
    return result


def energy_scatter(prediction: Prediction, frames: Frames) -> float:
    """Standard deviation of the errors of one model's energies, kcal/mol, of frames of one composition.

    Its reference energies of atoms may be of another kind than those of the labels: only differences are compared.
    """
    assert frames.energy is not None
    return float(np.std(prediction.energy[0] - frames.energy)) * KCAL_MOL_PER_EV


def _of(error: np.ndarray, parts: dict[str, np.ndarray], each: int = 1) -> dict[str, Any]:
    every = parts | {"sigma": np.sqrt(sum(part**2 for part in parts.values()))}
    found: dict[str, Any] = {"rmse": _root_mean_square(error)}
    for name, part in every.items():
        known = ranking(error, part, each=each)
        found[name] = {"rms": _root_mean_square(part), **({} if known is None else known._asdict())}
    return found


def _root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))

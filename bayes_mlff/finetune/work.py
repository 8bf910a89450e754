"""Consistency of energies and forces: energy differences against the work of the forces between frames.

For two nearby frames ΔE = -½(F_i + F_j)·ΔR + t, where the error t of the trapezoidal rule is of third order in ΔR.
The known t of the pretrained model at the same two frames is an estimate of that of the labels.
"""

from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.data.frame_checks import alike
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.models.energetics import Prediction

FRAMES: Final = 400
"""Largest number of frames of one composition, evenly spaced, among which nearby pairs are searched."""
NEAREST: Final = 3
PAIRS: Final = 8
"""Smallest number of pairs from which a ratio is computed."""
MOST_NUMBERS: Final = 1 << 25
"""Largest number of distances kept in memory to find nearby frames."""
HELD: Final = 1e-3
"""Largest displacement, Å, of atoms whose forces are not known."""
SAME_CELL: Final = 1e-6
RESAMPLES: Final = 400
FEW: Final = 12
CORRELATED: Final = (0.9, 0.5)
"""Correlation of energy differences with work below which frames are too far apart for a verdict: for fewer frames
than `FEW`, where a high correlation may be due to chance, and for more."""


class Ratio(NamedTuple):
    """Ratio of energy differences to work; 1 if energies and forces are consistent."""

    value: float
    lower: float  # of the 95 % interval from resampled frames, allowing for errors of both
    upper: float
    pairs: int


class Untested(NamedTuple):
    """Why energy differences and work cannot be compared, with their correlations (NaN if unknown)."""

    reason: str  # completes "could not be tested, because ..."
    labels: float = np.nan  # the greater one of those with and without the error of the trapezoidal rule
    model: float = np.nan  # of the model's own energies with the work of its own forces, at the same pairs


class _Pairs(NamedTuple):
    """Pairs of near frames, [m] each."""

    first: np.ndarray  # indices of frames
    second: np.ndarray
    energy: np.ndarray  # eV, difference of the labels
    work: np.ndarray  # eV, of the labels' forces
    model_energy: np.ndarray
    model_work: np.ndarray
    distance: np.ndarray  # Å, root of the summed squares of displacements

    @property
    def error(self) -> np.ndarray:
        """Error of the trapezoidal rule with the model's forces, eV."""
        return self.model_energy - self.model_work


def work_ratio(frames: Frames, prediction: Prediction) -> Ratio | Untested:
    """Ratio of energy differences to work.

    Pairs are weighted by 1/(d0⁶ + d⁶), since the variance of t grows with d⁶; d0 is chosen so that several pairs
    count. The interval reaches from the lower end of the regression of ΔE on work to the upper end of the inverse
    regression of work on ΔE. The true ratio lies between the two, however the scatter is divided between energies and
    work (Frisch 1934). Both are resampled by frames.

    Args:
      frames: labels with energies.
      prediction: of a model, fields [1, f, ...].

    Returns:
      The ratio, or the reason why there is none: too few nearby frames, or frames that are inconclusive.
    """
    if frames.energy is None:
        return Untested("there are no energies")
    groups = [index for index in alike(frames.numbers) if len(index) > 1]
    if not groups:
        return Untested("no two frames have the same atoms in the same order")
    parts = [part for index in groups if (part := _pairs(frames, prediction, index)) is not None]
    joined = _Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else None
    if joined is not None:
        joined = _Pairs(*(column[joined.distance > 1e-6] for column in joined))
    if joined is None or len(joined.energy) < PAIRS:
        return Untested(f"fewer than {PAIRS} pairs of frames have the same atoms, and known forces and stress")
    scale = np.quantile(joined.distance, min(1.0, max(0.25, 20.0 / len(joined.distance))))
    weights = 1.0 / (1.0 + (joined.distance / scale) ** 6)
    value, *_, correlation = _slopes(joined, weights)
    if not abs(correlation) > CORRELATED[frames.size >= FEW]:
        labels = np.nan_to_num(np.abs([correlation, _correlation(joined.work, joined.energy, weights)])).max()
        model = _correlation(joined.model_work, joined.model_energy, weights)
        return Untested("frames are too far apart, or too few", float(labels), model)
    random, size = np.random.default_rng(0), frames.size
    resampled = []
    for _ in range(RESAMPLES):
        count = np.bincount(random.integers(size, size=size), minlength=size)
        again = _slopes(joined, weights * count[joined.first] * count[joined.second])
        if np.isfinite(again).all():
            resampled.append(again[:3])
    if len(resampled) < RESAMPLES // 2:
        return Untested("too few frames are alike")
    ends = np.quantile(np.array(resampled)[:, 1:], [0.025, 0.975], axis=0)
    return Ratio(value, float(ends.min()), float(ends.max()), len(joined.energy))


def _slopes(pairs: _Pairs, weights: np.ndarray) -> tuple[float, float, float, float]:
    """Geometric mean of two slopes, the slopes of ΔE on work and inverse, and the correlation, all corrected for t."""
    x, y, t = pairs.work, pairs.energy, pairs.error
    size = np.sum(weights * t * t)
    if size > 0.0:
        x, y = (v - t * (np.sum(weights * v * t) / size) for v in (x, y))
    xx, xy, yy = (float(np.sum(weights * a * b)) for a, b in ((x, x), (x, y), (y, y)))
    if not (xx > 0.0 and yy > 0.0 and xy != 0.0):
        return np.nan, np.nan, np.nan, np.nan
    direct, inverse = xy / xx, yy / xy
    return float(np.sign(xy) * np.sqrt(direct * inverse)), direct, inverse, xy / float(np.sqrt(xx * yy))


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Correlation of x and y around zero; NaN if one of them vanishes."""
    size = float(np.sqrt(np.sum(weights * x * x) * np.sum(weights * y * y)))
    return float(np.sum(weights * x * y)) / size if size > 0.0 else np.nan


def _pairs(frames: Frames, prediction: Prediction, index: np.ndarray) -> _Pairs | None:
    """Pairs among frames of the same atoms in the same order."""
    if len(index) < 2 or frames.energy is None:
        return None
    index = index[np.unique(np.linspace(0, len(index) - 1, FRAMES).astype(int))] if len(index) > FRAMES else index
    real = frames.node_mask[index[0]]
    periodic = frames.pbc[index].any()
    first, second = _near(frames, index, real, periodic=bool(periodic))
    forces, unknown = frames.forces[:, real], frames.without_forces
    aligned = not periodic and (unknown is None or not unknown[index].any())
    moved = _displacements(frames, first, second, real, aligned=aligned)
    if moved is None:
        return None
    shift, turn = moved
    model = np.asarray(prediction.forces[0], np.float64)[:, real]
    energies = frames.energy, np.asarray(prediction.energy[0], np.float64)
    differences = [energy[second] - energy[first] for energy in energies]
    works = [-0.5 * np.sum((f[first] + f[second] @ turn) * shift, axis=(1, 2)) for f in (forces, model)]
    kept = np.ones(len(first), bool)
    if unknown is not None:
        hidden = (unknown[first] | unknown[second])[:, real]
        kept &= np.abs(np.where(hidden, shift, 0.0)).max(axis=(1, 2)) < HELD
    strained = np.abs(frames.cells[second] - frames.cells[first]).max(axis=(1, 2)) > SAME_CELL
    if periodic and strained.any():
        if frames.stress is None or prediction.stress is None or not frames.pbc[index].all():
            kept &= ~strained
        else:
            stresses = frames.stress, np.asarray(prediction.stress[0], np.float64)
            works = [w + _strain_work(frames, s, first, second) for w, s in zip(works, stresses, strict=True)]
    distance = np.sqrt(np.sum(shift**2, axis=(1, 2)))
    found = _Pairs(first, second, differences[0], works[0], differences[1], works[1], distance)
    return _Pairs(*(column[kept] for column in found))


def _near(frames: Frames, index: np.ndarray, real: np.ndarray, *, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of each frame with its nearest ones, by distances within a molecule or displacements in a crystal."""
    n, rows = int(real.sum()), []
    chosen = np.random.default_rng(0).permutation(n)[: max(2, int((2 * MOST_NUMBERS / len(index)) ** 0.5))]
    positions = frames.positions[index][:, real]
    if not periodic:
        some = positions[:, chosen]
        upper = np.triu_indices(len(chosen), 1)
        shapes = np.linalg.norm(some[:, upper[0]] - some[:, upper[1]], axis=-1)
        rows = [np.sum((shapes - shape) ** 2, axis=1) for shape in shapes]
    else:
        for one in range(len(index)):
            moved = _folded(frames, np.full(len(index), index[one]), index, real)
            rows.append(np.sum(moved**2, axis=(1, 2)) if moved is not None else np.full(len(index), np.inf))
    apart = np.array(rows)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, : min(NEAREST, len(index) - 1)]
    pairs = sorted({(min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row})
    first, second = np.array(pairs).T
    return index[first], index[second]


def _displacements(
    frames: Frames, first: np.ndarray, second: np.ndarray, real: np.ndarray, *, aligned: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Displacements [m, n, 3] and rotations [m, 3, 3] of the second frames to the first."""
    none = np.broadcast_to(np.eye(3), (len(first), 3, 3))
    if frames.pbc[first].any():
        moved = _folded(frames, first, second, real)
        return None if moved is None else (moved, none)
    one, two = (frames.positions[i][:, real] for i in (first, second))
    if not aligned:
        return two - one, none
    one, two = (x - x.mean(axis=1, keepdims=True) for x in (one, two))
    left, _, right = np.linalg.svd(np.einsum("fni,fnj->fij", two, one))  # Kabsch 1976
    left[:, :, -1] *= np.sign(np.linalg.det(left @ right))[:, None]
    turn = left @ right
    return two @ turn - one, turn


def _folded(frames: Frames, first: np.ndarray, second: np.ndarray, real: np.ndarray) -> np.ndarray | None:
    """Displacements [m, n, 3] at a mean cell, each atom to its nearest image, less that of all where none is held."""
    full = frames.cells.copy()
    blank = ~full.any(axis=2)
    full[blank] = np.broadcast_to(np.eye(3), full.shape)[blank]  # a direction that does not repeat, in Å
    inverse = np.linalg.pinv(full)
    moved = frames.positions[second][:, real] @ inverse[second] - frames.positions[first][:, real] @ inverse[first]
    moved -= np.round(moved) * frames.pbc[first][:, None, :]
    return moved @ (0.5 * (full[first] + full[second]))


def _strain_work(frames: Frames, stress: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """V σ:ε of the deformation of a cell, eV; a rotation of the cell does no work."""
    one, two = frames.cells[first], frames.cells[second]
    middle = 0.5 * (one + two)
    strain = np.linalg.solve(middle, two - one)
    strain = 0.5 * (strain + np.swapaxes(strain, 1, 2))
    volume = np.abs(np.linalg.det(middle))
    return volume * np.sum(0.5 * (stress[first] + stress[second]) * strain, axis=(1, 2))

"""Checks of labelled sets; each error names the set and the frames."""

from typing import Final

import numpy as np
from ase.data import covalent_radii
from scipy.spatial import KDTree

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data.label_settings import Wanted
from bayes_mlff.data.label_units import FORCE_UNITS, POSITION_UNITS, Units
from bayes_mlff.data.labelled_files import LabelKeys, LabelledStructure
from bayes_mlff.data.labelled_frames import Frames

LARGEST_FORCE: Final = 10.0
"""RMS force component, eV/Å, above which the unit is questioned; values at 300 to 1000 K are 0.5 to 3."""
CLOSEST_PAIR: Final = 0.5
"""Distance of two atoms below which positions cannot be in Å."""
SHORTEST_BOND: Final = 0.75
LONGEST_BOND: Final = 1.4
"""Range of nearest-neighbour distances over sums of covalent radii in which the unit is not questioned."""
USUAL_BOND: Final = (0.8, 1.3)
"""Range of the median ratio in which another unit counts as an explanation."""
BOND_FRAMES: Final = 200
FEW_FRAMES: Final = 0.1
"""Fraction of the frames of a set: with more implausible frames than this, or with two, the unit is refused."""
NOBLE: Final = (2, 10, 18, 36, 54, 86)
SAME_GEOMETRY: Final = 1e-3
"""Largest difference, Å, of any coordinate or cell component between geometries that count as equal."""


def complete(labelled: list[LabelledStructure], wanted: Wanted, key: str, keys: LabelKeys) -> None:
    """Refuse a file in which only some frames have energies, or that lacks the stress if it is a target.

    Raises:
      DataError: naming key, the first such frame and what it lacks.
    """
    without = [index for index, (_, label) in enumerate(labelled) if np.isnan(label.energy)]
    if 0 < len(without) < len(labelled):
        raise DataError(
            f"{key}: frame {without[0]} lacks {keys.energy}, which others have; allowed: energies in every "
            f"frame ({wanted.section}.xyz_energy_key names them){wanted.or_no_energy}"
        )
    for index, (_, label) in enumerate(labelled):
        if wanted.stress and label.stress is None:
            raise DataError(
                f"{key}: frame {index} lacks {keys.stress}; allowed: stress in every frame of every set "
                f"({wanted.section}.xyz_stress_key names it){wanted.or_no_stress}"
            )


def same_labels(sets: dict[str, Frames]) -> None:
    """Refuse sets of which only some have energies.

    Raises:
      DataError: naming two such sets.
    """
    for_energy = {name: frames.energy is not None for name, frames in sets.items()}
    if len(set(for_energy.values())) > 1:
        known, unknown = (next(name for name, has in for_energy.items() if has is wanted) for wanted in (True, False))
        raise DataError(
            f"data.{unknown}: no energies, which data.{known} has; allowed: energies in every set, or with targets: "
            "forces in none"
        )


def plausible(frames: Frames, key: str, *, large_forces: bool = False, section: str = "data") -> None:
    """Refuse forces and distances that are implausible, as from a wrong unit.

    Args:
      frames: labels, converted to Å, eV and eV/Å.
      key: configuration key that names the file.
      large_forces: accept forces above the usual range.
      section: configuration key of the settings.

    Raises:
      DataError: naming the key, and the frame if it is a single one.
    """
    rms = frames.force_rms
    if rms > LARGEST_FORCE and not large_forces:
        raise DataError(
            f"{key}: the RMS force component is {rms:.3g} eV/Å; allowed: at most {LARGEST_FORCE:g}. "
            f"{section}.forces_unit says what unit the file is in: {', '.join(FORCE_UNITS)}; or "
            f"{section}.doubtful_units: allow"
        )
    for index in range(frames.size):
        structure = frames.structure(index)
        cell = neighbors.complete_cell(structure.cell, structure.pbc)
        first, second, _ = neighbors.pairs(structure, cell, CLOSEST_PAIR)
        if len(first):
            raise DataError(
                f"{key}: frame {index}: atoms {first[0]} and {second[0]} are closer than {CLOSEST_PAIR} Å; "
                "allowed: positions in Å"
            )


def bond_lengths(frames: Frames, units: Units, key: str, section: str = "data") -> None:
    """Refuse a unit of positions with implausible nearest-neighbour distances, if another unit gives usual ones.

    Distances of nearest neighbours over the sums of their covalent radii are near 1 in molecules, crystals and metals;
    noble gases are left out. A unit is refused only if nearly all atoms of all frames are implausible, or those of
    single frames with at least three atoms. Single frames are accepted if other frames of the composition lie between
    them and the usual distances, as along a stretched bond.

    Raises:
      DataError: naming the key, the unit and the one that fits, and the first frame unless all are concerned.
    """
    rows = {int(index): _bond_ratios(frames, index) for index in _spread(frames.size, BOND_FRAMES)}
    rows = {index: ratios for index, ratios in rows.items() if len(ratios)}
    if not rows:
        return
    ratios, which = np.concatenate([*rows.values()]), ""
    found = _other_unit(ratios, units)
    if found is None:
        single = _in_another_unit(frames, rows, units)
        if len(single) < 2 and len(single) <= FEW_FRAMES * len(rows):
            return
        index, found = next(iter(single.items()))
        ratios, which = rows[index], f"frame {index}, and {len(single)} of {len(rows)} frames in all: "
    best, would_be = found
    raise DataError(
        f"{key}: {which}nearest neighbours are {np.median(ratios):.3g} times the sum of their covalent radii apart "
        f"(median), in {best} they would be {would_be:.3g}; {section}.positions_unit: got {units.positions}; "
        f"allowed: the unit of the file, the same in all frames, or {section}.doubtful_units: allow"
    )


def _other_unit(ratios: np.ndarray, units: Units) -> tuple[str, float] | None:
    """If nearly all ratios are implausible: a unit with a usual median ratio, and this ratio; else None."""
    middle, low, high = np.median(ratios), np.quantile(ratios, 0.05), np.quantile(ratios, 0.95)
    if not (high < SHORTEST_BOND or low > LONGEST_BOND):
        return None
    here = POSITION_UNITS[units.positions]
    others = {unit: middle * factor / here for unit, factor in POSITION_UNITS.items() if unit != units.positions}
    best = min(others, key=lambda unit: abs(np.log(others[unit])))
    return (best, float(others[best])) if USUAL_BOND[0] < others[best] < USUAL_BOND[1] else None


def _in_another_unit(frames: Frames, rows: dict[int, np.ndarray], units: Units) -> dict[int, tuple[str, float]]:
    """Frames, by index, with three or more atoms that seem to be in another unit: this unit and the median ratio."""
    found = {
        index: other
        for index, ratios in rows.items()
        if len(ratios) > 2 and (other := _other_unit(ratios, units)) is not None
    }
    middles = {index: float(np.log(np.median(ratios))) for index, ratios in rows.items()}
    kinds = {index: tuple(np.sort(frames.numbers[index])) for index in rows}

    def stretched(index: int) -> bool:
        here, there = middles[index], float(np.log(found[index][1]))
        low, high = sorted((here + 0.25 * (there - here), there + 0.25 * (here - there)))
        return any(low < middles[i] < high for i in rows if kinds[i] == kinds[index])

    return {index: other for index, other in found.items() if not stretched(index)}


def _spread(size: int, most: int) -> np.ndarray:
    """Indices of at most so many frames, evenly spaced."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(int))


def _bond_ratios(frames: Frames, index: int) -> np.ndarray:
    """Nearest-neighbour distance over the sum of covalent radii, for atoms with a neighbour within reach."""
    structure = frames.structure(index)
    if len(structure.numbers) == 1 and not structure.pbc.any():
        return np.zeros(0)
    cell = neighbors.complete_cell(structure.cell, structure.pbc)
    volume = abs(np.linalg.det(cell)) if structure.pbc.all() else np.inf
    # Large enough for bonds in bohr read as Å, but not so large that a cell read as nm needs all pairs.
    reach = float(np.clip(2.0 * (volume / len(structure.numbers)) ** (1.0 / 3.0), 1.0, 12.0))
    first, second, shift = neighbors.pairs(structure, cell, reach)
    apart = structure.positions[second] - structure.positions[first] + shift @ cell
    own, other = structure.numbers[first], structure.numbers[second]
    ratios = np.linalg.norm(apart, axis=1) / (covalent_radii[own] + covalent_radii[other])
    bonded = ~(np.isin(own, NOBLE) | np.isin(other, NOBLE))
    nearest = np.full(len(structure.numbers), np.inf)
    np.minimum.at(nearest, first[bonded], ratios[bonded])
    return nearest[np.isfinite(nearest)]


def no_duplicates(sets: dict[str, Frames]) -> None:
    """Refuse duplicate geometries of the same atoms, within a set or in two sets.

    Raises:
      DataError: naming the sets and frames.
    """
    names = [f"{name} {index}" for name, frames in sets.items() for index in range(frames.size)]
    atoms = np.concatenate([np.concatenate([frames.numbers, frames.pbc], axis=1) for frames in sets.values()])
    geometries = np.concatenate(
        [np.concatenate([frames.positions, frames.cells], axis=1).reshape(frames.size, -1) for frames in sets.values()]
    )
    found = set().union(*(_close(geometries, index) for index in alike(atoms)))
    if found:
        pairs = [f"{names[later]} = {names[before]}" for later, before in sorted(found)]
        shown = ", ".join(pairs[:10]) + (", ..." if len(pairs) > 10 else "")
        raise DataError(
            f"data: {len(pairs)} pairs of geometries are the same to {SAME_GEOMETRY} Å ({shown}; frames counted from 0 "
            "among those used); allowed: each once, or data.duplicates: allow"
        )


def repeated(geometries: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of equal rows of [f, k] coordinates, Å, the later one first."""
    return {(max(pair), min(pair)) for pair in KDTree(geometries).query_pairs(SAME_GEOMETRY, p=np.inf)}


def _close(geometries: np.ndarray, index: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of equal geometries, the later one first."""
    some = geometries[index]
    # The two nearest entries of every frame; one of them is usually the frame itself.
    _, near = KDTree(some).query(some, k=2, p=np.inf, distance_upper_bound=SAME_GEOMETRY)
    pairs = [(i, j) for i, row in enumerate(np.asarray(near)) for j in map(int, row) if j not in (i, len(some))]
    return {(int(index[max(pair)]), int(index[min(pair)])) for pair in pairs}


def alike(rows: np.ndarray) -> list[np.ndarray]:
    """Groups of equal rows of [m, k]: their indices, ascending, for each distinct row."""
    group = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    return np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])

"""Comparison of a structure and a model with those that a run was started from."""

from typing import Any, Final

import jax
import numpy as np
from ase.data import atomic_masses, chemical_symbols
from flax.traverse_util import flatten_dict
from scipy.spatial import KDTree

from bayes_mlff.core.errors import shown
from bayes_mlff.data.structure import ElectronicState, Structure
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.models.potential import Potential

LENGTH: Final = 1e-6
"""Å. Positions and cells within this are the same; different versions of a reader may round differently."""

RELATIVE: Final = 1e-9
"""Relative tolerance for velocities, masses, moments and charges."""

_MOST: Final = 3
"""Largest number of atoms that are named; further ones are only counted."""

_INFO: Final = "a remark of the file"


def structure_differences(now: InitialStructure, before: InitialStructure) -> tuple[str, ...]:
    """List in words how a structure differs from the one that a run was started from; atoms count from 0.

    Args:
      now: the structure as the file has it now.
      before: the structure that the run was started from.
    """
    new, old = now.structure, before.structure
    if len(new.numbers) != len(old.numbers):
        return (f"{len(new.numbers)} atoms instead of {len(old.numbers)}",)
    if _is_reordered(new, old):
        return ("rows moved: the same atoms in another order",)
    names = [chemical_symbols[z] for z in old.numbers]
    wrong = np.flatnonzero(new.numbers != old.numbers)
    elements = [f"atom {i} is {chemical_symbols[new.numbers[i]]} instead of {names[i]}" for i in wrong]
    return (
        *_some(elements, "atoms are of other elements"),
        *_box(new, old),
        *_vectors(names, new.positions, old.positions, "position", "Å", LENGTH),
        *_scalars(names, _masses(new), _masses(old), "mass", "amu"),
        *_held(names, new, old),
        *_optional(names, now.velocities, before.velocities, "velocity", "Å/fs"),
        *_electronic(names, new.electronic, old.electronic),
        *_labels(names, new.labels, old.labels),
    )


def _is_reordered(new: Structure, old: Structure) -> bool:
    """True if both have the same atoms at the same positions, but in another order."""
    if np.array_equal(new.numbers, old.numbers) and np.allclose(new.positions, old.positions, rtol=0.0, atol=LENGTH):
        return False
    if sorted(new.numbers) != sorted(old.numbers) or not np.allclose(new.cell, old.cell, rtol=0.0, atol=LENGTH):
        return False
    found: list[int] = []
    for element in np.unique(old.numbers):
        rows = np.flatnonzero(new.numbers == element)
        distance, nearest = KDTree(new.positions[rows]).query(old.positions[old.numbers == element])
        if np.max(distance) > 10.0 * LENGTH:
            return False
        found += rows[nearest].tolist()
    return len(set(found)) == len(found)


def _labels(names: list[str], new: np.ndarray | None, old: np.ndarray | None) -> tuple[str, ...]:
    """Names of atoms that differ; runs of earlier versions kept none."""
    if new is None or old is None:
        return ()
    said = [f"atom {i} ({names[i]}): named {new[i]} instead of {old[i]}" for i in np.flatnonzero(new != old)]
    return _some(said, "atoms have other names")


def _box(new: Structure, old: Structure) -> tuple[str, ...]:
    said = []
    if not np.array_equal(new.pbc, old.pbc):
        said.append(f"periodic along {_directions(new.pbc)} instead of {_directions(old.pbc)}")
    change = np.linalg.norm(new.cell - old.cell, axis=1)
    if change.max() > LENGTH:
        which = int(np.argmax(change))
        vectors = (" ".join(f"{x:.6g}" for x in cell[which]) for cell in (new.cell, old.cell))
        said.append("cell: vector {} is ({}) instead of ({}) Å".format("abc"[which], *vectors))
    return tuple(said)


def _directions(pbc: np.ndarray) -> str:
    return " and ".join(name for name, periodic in zip("abc", pbc, strict=True) if periodic) or "no direction"


def _masses(structure: Structure) -> np.ndarray:
    return atomic_masses[structure.numbers] if structure.masses is None else structure.masses


def _held(names: list[str], new: Structure, old: Structure) -> tuple[str, ...]:
    free = np.zeros((len(names), 3), bool)
    now, before = (free if s.fixed is None else s.fixed for s in (new, old))
    said = [
        f"atom {i} ({names[i]}): held along {_axes(now[i])} instead of {_axes(before[i])}"
        for i in np.flatnonzero((now != before).any(axis=1))
    ]
    return _some(said, "atoms are held otherwise")


def _axes(held: np.ndarray) -> str:
    return " and ".join(name for name, one in zip("xyz", held, strict=True) if one) or "no axis"


def _electronic(names: list[str], new: ElectronicState, old: ElectronicState) -> tuple[str, ...]:
    said = [
        f"{name} {_stated(getattr(new, name))} instead of {_stated(getattr(old, name))}"
        for name in ("charge", "multiplicity")
        if getattr(new, name) != getattr(old, name)
    ]
    said += _optional(names, new.moments, old.moments, "initial magnetic moment", "μB")
    said += _optional(names, new.charges, old.charges, "initial charge", "e")
    said += _optional(names, new.tags, old.tags, "tag", "")
    for key in sorted({*new.info, *old.info}):
        values = new.info.get(key), old.info.get(key)
        if values[0] != values[1]:
            said.append(f"{_INFO}, {key}, is {_stated(values[0])} instead of {_stated(values[1])}")
    return tuple(said)


def _stated(value: Any) -> str:
    return "not stated" if value is None else shown(value)


def _optional(
    names: list[str], new: np.ndarray | None, old: np.ndarray | None, what: str, unit: str
) -> tuple[str, ...]:
    if new is None and old is None:
        return ()
    if new is None or old is None:
        return (f"{what}: {'none' if new is None else 'one for each atom'} instead of "
                f"{'none' if old is None else 'one for each atom'}",)  # fmt: skip
    if new.shape != old.shape:
        return (f"{what}: numbers of another shape",)
    if new.ndim == 1:
        return _scalars(names, new, old, what, unit)
    return _vectors(names, new, old, what, unit, RELATIVE)


def _vectors(
    names: list[str], new: np.ndarray, old: np.ndarray, what: str, unit: str, within: float
) -> tuple[str, ...]:
    change = np.linalg.norm(new - old, axis=1)
    wrong = sorted(np.flatnonzero(~(change <= within)), key=lambda i: -change[i])
    said = [f"atom {i} ({names[i]}): {what} differs by {change[i]:.2g} {unit}" for i in wrong]
    return _some(said, f"atoms differ in their {what}")


def _scalars(names: list[str], new: np.ndarray, old: np.ndarray, what: str, unit: str) -> tuple[str, ...]:
    wrong = np.flatnonzero(~np.isclose(new, old, rtol=RELATIVE, atol=RELATIVE))
    said = [f"atom {i} ({names[i]}): {what} {new[i]:.6g} instead of {old[i]:.6g} {unit}".rstrip() for i in wrong]
    return _some(said, f"atoms differ in their {what}")


def _some(said: list[str], all_of_them: str) -> tuple[str, ...]:
    """The first few phrases, and the total number if there are more."""
    more = (f"{len(said)} {all_of_them} in all",) if len(said) > _MOST else ()
    return (*said[:_MOST], *more)


def model_differences(now: Potential, before: Potential) -> tuple[str, ...]:
    """List in words how a model differs from the one that a run was started from.

    Args:
      now: the present model, for the elements of the structure.
      before: the model that the run was started from.
    """
    new, old = now.config.model_dump(), before.config.model_dump()
    said = [
        f"{key} is {shown(new.get(key))} instead of {shown(old.get(key))}"
        for key in {**old, **new}
        if new.get(key) != old.get(key)
    ]
    if said:
        return _some(said, "settings of the architecture differ")
    left, right = (flatten_dict(p.params, sep="/") for p in (now, before))
    changed = [key for key in right if not _same_bits(left[key], right[key])]
    if not changed:
        return ()
    largest = max(float(np.max(np.abs(np.asarray(left[key]) - np.asarray(right[key])))) for key in changed)
    some = ", ".join(str(key) for key in changed[:_MOST]) + (" ..." if len(changed) > _MOST else "")
    return (f"{len(changed)} of {len(right)} arrays of weights differ, by up to {largest:.2g} ({some})",)


def _same_bits(left: Any, right: Any) -> bool:
    return jax.numpy.shape(left) == jax.numpy.shape(right) and np.asarray(left).tobytes() == np.asarray(right).tobytes()

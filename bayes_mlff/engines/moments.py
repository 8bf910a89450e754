"""Initial magnetic moments, and remarks on moments that changed between labels."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import Structure

JUMP: Final = 0.5
"""A larger change of a local moment, μB, from one label to the next is reported."""

PLANE_GAP: Final = 1.0
"""Gap, Å, along the plane normal above which magnetic atoms belong to different planes."""

CHANGED: Final = "magnetic moments changed"
"""Beginning of the remark on changed moments."""

SIGN: Final = 0.1
"""The sign of smaller moments, μB, is ignored."""


def check_count(moments: Sequence[float] | None, structure: Structure, key: str) -> None:
    """Refuse a list of moments whose length is not the number of atoms."""
    if moments is not None and len(moments) != len(structure.numbers):
        raise ConfigError(key, list(moments), f"{len(structure.numbers)} numbers, one for each atom")


def moments_of_elements(values: Mapping[str, float], order: str, structure: Structure) -> tuple[float, ...]:
    """Make the moments of all atoms from one value for each magnetic element.

    Args:
      values: moment of each magnetic element, μB; other elements have none.
      order: 'ferromagnetic', or 'A-AFM': the sign alternates between planes of magnetic atoms stacked along c; the
        plane of the first magnetic atom has the given sign.
      structure: must be periodic along c if order is 'A-AFM'.

    Returns:
      One moment for each atom, μB.

    Raises:
      ConfigError: if an element is absent, or the number of planes does not allow alternating signs.
    """
    symbols = [chemical_symbols[int(number)] for number in structure.numbers]
    for element in values:
        if element not in symbols:
            raise ConfigError("engine.magmoms", dict(values), f"elements of the structure: {sorted(set(symbols))}")
    moments = np.array([values.get(symbol, 0.0) for symbol in symbols])
    magnetic = np.flatnonzero([symbol in values for symbol in symbols])
    if order == "A-AFM":
        plane = _planes(structure, magnetic)
        moments[magnetic] *= np.where((plane - plane[0]) % 2 == 0, 1.0, -1.0)
    return tuple(float(moment) for moment in moments)


def _planes(structure: Structure, atoms: np.ndarray) -> np.ndarray:
    """Number of the plane [m] of each of these atoms along c; the number of planes must be even."""
    if not structure.pbc[2] or atoms.size == 0:
        raise ConfigError("engine.magnetic_order", "A-AFM", "magnetic atoms and a structure that is periodic along c")
    normal = np.cross(structure.cell[0], structure.cell[1])
    normal /= np.linalg.norm(normal)
    period = abs(float(structure.cell[2] @ normal))
    height = structure.positions[atoms] @ normal % period
    order = np.argsort(height)
    gaps = np.diff(height[order], append=height[order[0]] + period)
    starts = np.roll(gaps > PLANE_GAP, 1)  # a plane ends where a gap follows
    count = int(starts.sum())
    if count < 2 or count % 2:
        raise ConfigError(
            "engine.magnetic_order", "A-AFM", f"an even number of planes of magnetic atoms along c; found {count}"
        )
    plane = np.empty(atoms.size, np.int64)
    plane[order] = np.cumsum(starts) % count
    return plane


def moment_remarks(
    before: Sequence[float] | None, now: Sequence[float] | None, structure: Structure, *, jumps: bool
) -> tuple[str, ...]:
    """Report which local moments changed sign or, if `jumps`, changed by more than `JUMP`.

    Args:
      before: moments of the previous label, or the initial ones, μB.
      now: moments of this label, μB.
      structure: for the names of the atoms.
      jumps: false if `before` is only a guess of the size of the moments.

    Returns:
      Nothing, or one remark that names all these atoms.
    """
    if before is None or now is None:
        return ()
    first, last = np.asarray(before), np.asarray(now)
    flipped = (first * last < 0.0) & (np.minimum(np.abs(first), np.abs(last)) > SIGN)
    changed = flipped | (jumps & (np.abs(last - first) > JUMP))
    if not changed.any():
        return ()
    atoms = ", ".join(
        f"{chemical_symbols[int(structure.numbers[i])]} {i}: {first[i]:+.2f} to {last[i]:+.2f}"
        for i in np.flatnonzero(changed)
    )
    return (f"{CHANGED} (μB): {atoms}; this label may be of another magnetic state",)

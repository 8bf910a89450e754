"""Result of a reference calculation for one structure."""

from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError

LARGEST: Final = 1e12
"""Largest energy, force or stress, so that squares do not overflow in float32."""


class Label(NamedTuple):
    """Reference energy, forces and (where the engine has it) stress of one structure, float64."""

    energy: float  # eV, whole structure; consistent with the forces
    forces: np.ndarray  # [n, 3] eV/Å
    stress: np.ndarray | None = None  # [3, 3] eV/Å³, tension positive (ASE sign)


def check_label(label: Label, n_atoms: int) -> None:
    """Refuse a label that is not finite, beyond `LARGEST` or of the wrong shape.

    Raises:
      DataError: naming the array and what was expected.
    """
    if not abs(label.energy) <= LARGEST:
        raise DataError(f"label.energy: got {label.energy!r}; allowed: a finite number in eV, at most {LARGEST:g}")
    expected = {"forces": (label.forces, (n_atoms, 3)), "stress": (label.stress, (3, 3))}
    for name, (array, shape) in expected.items():
        if array is None:
            continue
        if np.shape(array) != shape:
            raise DataError(f"label.{name}: got shape {np.shape(array)}; allowed: {shape}")
        wrong = np.argwhere(~(np.abs(array) <= LARGEST))
        if len(wrong):
            raise DataError(f"label.{name}: not finite or above {LARGEST:g} for atoms, components {wrong[:3].tolist()}")

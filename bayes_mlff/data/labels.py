"""What a reference calculation says about one structure."""

from typing import NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError


class Label(NamedTuple):
    """Reference energy, forces and (where the engine has it) stress of one structure, float64."""

    energy: float  # eV, whole structure, the one consistent with the forces
    forces: np.ndarray  # [n, 3] eV/Å
    stress: np.ndarray | None = None  # [3, 3] eV/Å³, tension positive (ASE sign)


def check_label(label: Label, n_atoms: int) -> None:
    """Refuse a label that is not finite or has the wrong shape.

    Raises:
      DataError: naming the array and what was expected.
    """
    if not np.isfinite(label.energy):
        raise DataError(f"label.energy: got {label.energy!r}; allowed: a finite number in eV")
    expected = {"forces": (label.forces, (n_atoms, 3)), "stress": (label.stress, (3, 3))}
    for name, (array, shape) in expected.items():
        if array is None:
            continue
        if np.shape(array) != shape:
            raise DataError(f"label.{name}: got shape {np.shape(array)}; allowed: {shape}")
        if not np.isfinite(array).all():
            raise DataError(
                f"label.{name}: not finite for atoms or components {np.argwhere(~np.isfinite(array))[:3].tolist()}"
            )

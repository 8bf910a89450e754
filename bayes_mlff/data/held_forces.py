"""Forces of held atoms: many codes write zeros for them, which must not be used as labels."""

from typing import Final

import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.frame_checks import alike
from bayes_mlff.data.labelled_frames import Frames

LARGE: Final = 0.05
"""RMS force, eV/Å, of the other atoms above which exact zeros cannot be explained by a minimum."""


def masked(frames: Frames, held: np.ndarray | None, key: str) -> tuple[Frames, list[str]]:
    """Mask the forces that a constraint has set to zero.

    Masked are force components that are held and exactly zero, and atoms whose forces are exactly zero in all frames
    with the same atoms in the same order while those of other atoms are large. Non-zero forces of held atoms are used.

    Args:
      frames: labels.
      held: [f, n, 3] coordinates that are held according to the file; None if there are none.
      key: configuration key that names the set.

    Returns:
      The frames, and sentences on what was masked.

    Raises:
      DataError: if no force is left.
    """
    zero = (frames.forces == 0.0) & frames.node_mask[..., None]
    unknown, remarks = np.zeros(zero.shape, bool), []
    if held is not None:
        unknown |= held & zero
        if unknown.any():
            remarks.append(f"{key}: {_counted(unknown)} of held atoms are exactly zero in the file and are not used")
        used = np.count_nonzero((held & ~zero).any(axis=-1))
        if used:
            remarks.append(f"{key}: {used} forces of held atoms are not zero in the file and are used")
    unmarked = _always_zero(frames, zero) & ~unknown
    if unmarked.any():
        atoms = np.flatnonzero(unmarked.any(axis=(0, 2)))
        shown = ", ".join(map(str, atoms[:8])) + (", ..." if len(atoms) > 8 else "")
        remarks.append(
            f"{key}: forces of atoms {shown} are exactly zero in every frame, as of held atoms, although the file "
            f"states no constraint: {_counted(unmarked)} are not used"
        )
    unknown |= unmarked
    if not unknown.any():
        return frames, remarks
    result = frames._replace(without_forces=unknown)
    if not result.known_forces.any():
        raise DataError(f"{key}: all forces are zeros of held atoms; allowed: files with forces of free atoms")
    return result, remarks


def _counted(mask: np.ndarray) -> str:
    return f"{np.count_nonzero(mask)} force components in {np.count_nonzero(mask.any(axis=(1, 2)))} frames"


def _always_zero(frames: Frames, zero: np.ndarray) -> np.ndarray:
    """[f, n, 3] True for forces that are zero in all frames of the same atoms while those of other atoms are large."""
    found = np.zeros(zero.shape, bool)
    for index in alike(frames.numbers):
        still = zero[index].all(axis=(0, 2))
        moving = frames.node_mask[index[0]] & ~still
        if still.any() and moving.any():
            sizes = np.sqrt(np.mean(frames.forces[index][:, moving] ** 2, axis=(1, 2)))
            found[np.ix_(index, np.flatnonzero(still))] = bool((sizes > LARGE).all())
    return found

"""Random frames of a finished run that the reference labelled, as `validation.npz` holds them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data.npz import read_arrays
from bayes_mlff.runs.thermo_log import LARGEST


class Validation(NamedTuple):
    """Energies of f random frames on the model's scale; each [f]."""

    step: np.ndarray  # of the trajectory
    reference_ev: np.ndarray  # eV
    predicted_ev: np.ndarray  # eV, mean of the final chains
    sigma_ev: np.ndarray  # eV, standard deviation, not calibrated
    pretrained_ev: np.ndarray  # eV, of the model before fine-tuning


def read(path: Path) -> Validation | None:
    """What a run stored; None if there is no such file.

    Raises:
      RunDirectoryError: if an array is missing, or is not one finite number for each frame.
    """
    if not path.exists():
        return None
    arrays = read_arrays(path, Validation._fields)
    for name, array in zip(Validation._fields, arrays, strict=True):
        if array.dtype.kind not in "fiu" or array.ndim != 1 or array.shape != arrays[0].shape:
            raise RunDirectoryError(
                f"{path}: {name} has type {array.dtype} and shape {array.shape}; allowed: a real number for each frame"
            )
        if not (np.abs(array) < LARGEST).all():
            raise RunDirectoryError(f"{path}: {name} is not finite")
    return Validation(*(array.astype(np.float64) for array in arrays))

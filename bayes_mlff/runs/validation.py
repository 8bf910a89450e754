"""Validation of a finished run, from `validation.npz`: random frames that the reference has labelled."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data.npz import read_arrays
from bayes_mlff.runs.thermo_log import LARGEST


class Validation(NamedTuple):
    """Energies of f random frames; each array [f]."""

    step: np.ndarray  # MD step of the frame
    reference_ev: np.ndarray  # eV, on the model's energy scale
    predicted_ev: np.ndarray  # eV, mean of the final chains
    sigma_ev: np.ndarray  # eV, standard deviation, not calibrated
    pretrained_ev: np.ndarray  # eV, of the model before fine-tuning


def read(path: Path) -> Validation | None:
    """Read the validation of a run; None if the file does not exist.

    Raises:
      RunDirectoryError: if an array is missing, or does not hold one finite number per frame.
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

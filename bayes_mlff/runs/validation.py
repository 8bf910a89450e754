"""Validation of a finished run, from `validation.npz`: random frames that the reference has labelled."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data.npz import array_names, read_arrays
from bayes_mlff.runs.thermo_log import LARGEST


class Validation(NamedTuple):
    """Errors at f random frames; each array [f]."""

    step: np.ndarray  # MD step of the frame
    reference_ev: np.ndarray  # eV, on the model's energy scale
    predicted_ev: np.ndarray  # eV, mean of the final chains
    sigma_ev: np.ndarray  # eV, standard deviation, not calibrated
    pretrained_ev: np.ndarray  # eV, of the model before fine-tuning
    # Root mean square error of the force components that are free, eV/Å: of the mean of the final chains, and of the
    # model before fine-tuning; nan in runs of earlier versions.
    force_error_ev_a: np.ndarray
    pretrained_force_error_ev_a: np.ndarray


_FORCES: Final = ("force_error_ev_a", "pretrained_force_error_ev_a")


def read(path: Path) -> Validation | None:
    """Read the validation of a run; None if the file does not exist.

    Raises:
      RunDirectoryError: if an array is missing, or does not hold one finite number per frame.
    """
    if not path.exists():
        return None
    present = array_names(path)
    names = tuple(n for n in Validation._fields if n not in _FORCES or n in present)
    arrays = read_arrays(path, names)
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind not in "fiu" or array.ndim != 1 or array.shape != arrays[0].shape:
            raise RunDirectoryError(
                f"{path}: {name} has type {array.dtype} and shape {array.shape}; allowed: a real number for each frame"
            )
        if not (np.abs(array) < LARGEST).all():
            raise RunDirectoryError(f"{path}: {name} is not finite")
    known = {name: array.astype(np.float64) for name, array in zip(names, arrays, strict=True)}
    unknown = np.full(arrays[0].shape, np.nan)
    return Validation(**{name: known.get(name, unknown) for name in Validation._fields})

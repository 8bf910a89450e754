"""What the labels of a run say beside their geometry, read without ASE for a quick look at the run."""

import math
import re
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data import frame_text
from bayes_mlff.data.readings import ENERGY

REJECTED: Final = "rejected.extxyz"
"""File of a run directory in which refused labels are kept; the reason stands in their field `reason`."""

INITIAL: Final = "initial"
"""Reason of the label of a run's first structure."""

GIVEN: Final = "given"
"""Reason of labels that a run did not pay for, since it was started from them."""

COMPARED: Final = "compared.extxyz"
"""File of a run directory with the label that was calculated to compare given ones with it."""

_ENTRY: Final = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|(\S+))')
_ESCAPED: Final = re.compile(r"\\(.)")


class LabelNote(NamedTuple):
    """One label without its geometry; energies of the whole structure, eV."""

    step: int
    time_fs: float
    reason: str
    engine_seconds: float
    reference_ev: float  # as the reference gave it
    offset_ev: float  # to the scale of predictions
    predicted_ev: float | None  # None if the model said nothing before the label was known
    pretrained_ev: float | None
    force_errors: np.ndarray | None  # [n, 3] reference minus predicted, eV/Å
    symbols: tuple[str, ...]  # [n]
    asked: tuple[str, ...] = ()  # names of the triggers that requested it


def read(path: Path) -> list[LabelNote]:
    """The notes of a file of labels in its order; a torn last frame, which is being written, is left out.

    Raises:
      DataError: if the file is missing or damaged, or a frame lacks a key; the frame is named by its index, from 0.
    """
    if not path.exists():
        raise DataError(f"{path}: no such dataset")
    return [_note(f"{path}: frame {i}", text) for i, text in enumerate(frame_text.scan(path).frames)]


def _note(where: str, text: str) -> LabelNote:
    _, comment, *rows = text.rstrip("\n").split("\n")
    found = {k: bare or _ESCAPED.sub(r"\1", quoted) for k, quoted, bare in _ENTRY.findall(comment)}
    missing = [key for key in ("step", "time_fs", "reason", "engine_seconds", "REF_energy", "energy_offset")
               if key not in found]  # fmt: skip
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; present: {sorted(found)}")
    step = found["step"]
    if not step.isdecimal():
        raise DataError(f"{where}: step is {shown(step)}; allowed: a whole number")
    number = {key: _number(where, key, found[key]) for key in _NUMBERS if key in found}
    cells = [row.split() for row in rows]
    return LabelNote(
        step=int(step),
        time_fs=number["time_fs"],
        reason=found["reason"],
        engine_seconds=number["engine_seconds"],
        reference_ev=number["REF_energy"],
        offset_ev=number["energy_offset"],
        predicted_ev=number.get("predicted_energy_mean"),
        pretrained_ev=number.get("pretrained_energy"),
        force_errors=_force_errors(where, found.get("Properties", ""), cells),
        symbols=tuple(row[0] if row else "" for row in cells),
        # Records of earlier versions do not say which trigger it was; there was one.
        asked=tuple(found.get("asked", ENERGY if found["reason"] == "uncertain" else "").split()),
    )


_NUMBERS: Final = (
    "time_fs", "engine_seconds", "REF_energy", "energy_offset", "predicted_energy_mean", "pretrained_energy",
)  # fmt: skip


def _number(where: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {key} is {shown(text)}; allowed: a finite number")
    return value


def _force_errors(where: str, properties: str, cells: list[list[str]]) -> np.ndarray | None:
    """Reference minus predicted forces, from the columns that the properties name."""
    parts, places, begin = properties.split(":"), {}, 0
    try:
        for name, count in zip(parts[::3], parts[2::3], strict=True):
            places[name] = slice(begin, begin + int(count))
            begin += int(count)
        if "predicted_forces_mean" not in places:
            return None
        kinds = ("REF_forces", "predicted_forces_mean")
        reference, predicted = (np.array([row[places[kind]] for row in cells], np.float64) for kind in kinds)
        errors = reference - predicted
    except (LookupError, ValueError) as error:
        raise DataError(f"{where} is unreadable: {type(error).__name__}: {error}") from error
    if errors.shape != (len(cells), 3) or not np.isfinite(errors).all():
        raise DataError(f"{where}: forces have shape {errors.shape}; allowed: three finite numbers for each atom")
    return errors

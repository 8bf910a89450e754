"""Charge and spin of labelled frames: one potential energy surface has one of each."""

from collections.abc import Mapping

import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.stated import State
from bayes_mlff.finetune.reading import LabelledSet


def common_state(files: Mapping[str, LabelledSet]) -> dict[str, float]:
    """Charge and spin that all frames of all files state.

    A frame that states nothing counts as neutral and in its lowest spin.

    Args:
      files: by the names of their keys.

    Returns:
      `charge`, and `spin`, `multiplicity` or whatever the files call it; without what no frame states.

    Raises:
      DataError: naming two frames that differ.
    """
    rows = [
        (f"data.{name}, frame {index}", state, numbers[numbers > 0])
        for name, file in files.items()
        for index, (state, numbers) in enumerate(zip(file.states, file.frames.numbers, strict=True))
    ]
    first = next((row for row in rows if row[1].charge is not None), rows[0])
    charge = first[1].charge or 0.0
    for where, state, _ in rows:
        if (state.charge or 0.0) != charge:
            raise DataError(_differ("charge", (first[0], _said(first[1].charge)), (where, _said(state.charge))))
    first = next((row for row in rows if row[1].spin is not None), rows[0])
    for where, state, numbers in rows:
        if not _same_spin(first[1], state, numbers, charge):
            told, other = (_said(None if s.spin is None else f"{s.spin[0]} {s.spin[1]:g}") for s in (first[1], state))
            raise DataError(_differ("spin", (first[0], told), (where, other)))
    found = {} if all(state.charge is None for _, state, _ in rows) else {"charge": charge}
    return found if first[1].spin is None else found | {first[1].spin[0]: first[1].spin[1]}


def _same_spin(one: State, other: State, numbers: np.ndarray, charge: float) -> bool:
    if one.spin is None or one.spin == other.spin:
        return True
    if other.spin is not None:
        return False
    odd = (int(numbers.sum()) - round(charge)) % 2
    name, value = one.spin
    lowest = {float(1 + odd)} if "mult" in name else {float(odd)} if name == "2s" else {float(1 + odd), float(odd)}
    return value in lowest


def _said(value: object) -> str:
    return "states none" if value is None else f"states {value:g}" if isinstance(value, float) else f"states {value}"


def _differ(what: str, one: tuple[str, str], other: tuple[str, str]) -> str:
    return (
        f"{one[0]} {one[1]}, {other[0]} {other[1]}: frames of another {what} lie on another potential energy surface; "
        f"allowed: one {what} in all sets, or data.electronic_states: allow"
    )

"""Charge and spin of labelled frames, which must be the same for all: they select the potential energy surface."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.labelled_reading import LabelledSet
from bayes_mlff.data.stated import State, multiplicities


def common_state(files: Mapping[str, LabelledSet], *, or_allow: str = "") -> dict[str, float]:
    """Charge and spin that all frames of all files state.

    A frame that states nothing counts as neutral and in its lowest spin.

    Args:
      files: labelled files by configuration key.
      or_allow: what else is allowed where frames differ, for messages.

    Returns:
      `charge`, and the spin under the name that the files use (`spin`, `multiplicity`, ...); what no frame states is
      missing.

    Raises:
      DataError: naming two frames that differ, or one whose spin is impossible for its number of electrons.
    """
    rows = [
        _Row(f"{name}, frame {index}", state, numbers[numbers > 0], bool(pbc.any()))
        for name, file in files.items()
        for index, (state, numbers, pbc) in enumerate(
            zip(file.states, file.frames.numbers, file.frames.pbc, strict=True)
        )
    ]
    for row in rows:
        _check_possible(row, or_allow)
    first = next((row for row in rows if row.state.charge is not None), rows[0])
    charge = first.state.charge or 0.0
    for row in rows:
        if (row.state.charge or 0.0) != charge:
            said = (first.where, _said(first.state.charge)), (row.where, _said(row.state.charge))
            raise DataError(_differ("charge", *said, or_allow))
    first = next((row for row in rows if row.state.spin is not None), rows[0])
    for row in rows:
        if row.state.spin != first.state.spin and not first.multiplicities() & row.multiplicities():
            raise DataError(_differ("spin", (first.where, _said_spin(first)), (row.where, _said_spin(row)), or_allow))
    found = {} if all(row.state.charge is None for row in rows) else {"charge": charge}
    return found if first.state.spin is None else found | {first.state.spin[0]: first.state.spin[1]}


class _Row(NamedTuple):
    """A frame."""

    where: str
    state: State
    numbers: np.ndarray  # [n]
    periodic: bool

    def multiplicities(self) -> frozenset[float]:
        return multiplicities(self.state, self.numbers, periodic=self.periodic)


def _check_possible(row: _Row, or_allow: str) -> None:
    if row.state.spin is not None and not row.multiplicities():
        charge = row.state.charge or 0.0
        electrons = int(row.numbers.sum()) - round(charge)
        raise DataError(
            f"{row.where} {_said_spin(row)}, which {electrons} electrons (charge {charge:g}) cannot have; "
            f"allowed: a spin that fits the charge{or_allow}"
        )


def _said_spin(row: _Row) -> str:
    return _said(None if row.state.spin is None else f"{row.state.spin[0]} {row.state.spin[1]:g}")


def _said(value: object) -> str:
    return "states none" if value is None else f"states {value:g}" if isinstance(value, float) else f"states {value}"


def _differ(what: str, one: tuple[str, str], other: tuple[str, str], or_allow: str) -> str:
    return (
        f"{one[0]} {one[1]}, {other[0]} {other[1]}: frames of another {what} lie on another potential energy surface; "
        f"allowed: one {what} in all sets{or_allow}"
    )

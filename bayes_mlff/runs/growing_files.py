"""Files that grow along a trajectory: thermo.csv and the frames, and how they are truncated to a checkpoint."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core import durable
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.runs.trajectory import Constants

THERMO_COLUMNS = (
    "step",
    "time_fs",
    "temperature_k",
    "potential_ev",
    "kinetic_ev",
    "total_ev",
    "sigma_ev",
    "sigma_crit_ev",
    "sigma_force_max_ev_a",
    "conserved_ev",  # total minus the work of thermostat and barostat
    "volume_a3",  # nan if not periodic
    "pressure_gpa",  # internal, with its kinetic part; nan where the stress is not predicted
)


class Frame(NamedTuple):
    """One frame of the trajectory."""

    step: int
    time_fs: float
    positions: np.ndarray  # [n, 3] Å
    cell: np.ndarray  # [3, 3] Å, rows
    stress: np.ndarray | None  # [3, 3] eV/Å³, tension positive, without kinetic part
    momenta: np.ndarray | None = None  # [n, 3] sqrt(amu·eV), the unit of ASE


class GrowingFiles:
    """Rows and frames of one trajectory in a folder."""

    def __init__(self, path: Path):
        self.path = path
        self.trajectory = path / "trajectory.extxyz"
        self.thermo = path / "thermo.csv"
        self.remedy = "restore the file"  # if one is shorter than a checkpoint says

    def sizes(self) -> dict[str, int]:
        """Sizes, bytes, of thermo.csv and the trajectory, for a checkpoint; both are on the disk when this returns."""
        growing = [path for path in (self.thermo, self.trajectory) if path.exists()]
        with writing(self.path):
            for path in growing:
                durable.sync(path)
        return {p.name: p.stat().st_size if p in growing else 0 for p in (self.thermo, self.trajectory)}

    def truncate(self, sizes: dict[str, int]) -> None:
        """Truncate thermo.csv and the trajectory to the sizes of a checkpoint.

        Raises:
          RunDirectoryError: if a file is shorter, so was changed after the checkpoint; nothing is truncated then.
        """
        paths = {path: path.stat().st_size if path.exists() else 0 for path in (self.thermo, self.trajectory)}
        for path, present in paths.items():
            if present < sizes[path.name]:
                raise RunDirectoryError(
                    f"{path}: {present} bytes, but the checkpoint knows {sizes[path.name]}; {self.remedy}"
                )
        with writing(self.path):
            for path, present in paths.items():
                if present > sizes[path.name]:
                    os.truncate(path, sizes[path.name])

    def append_thermo(self, rows: np.ndarray, columns: tuple[str, ...] = THERMO_COLUMNS) -> None:
        """Append rows [m, len(columns)] to thermo.csv.

        Raises:
          RunDirectoryError: if the file has other columns (from other triggers), or cannot be written.
        """
        if not len(rows):
            return
        header, there = ",".join(columns), self._thermo_header()
        if there not in ("", header):
            raise RunDirectoryError(
                f"{self.thermo}: has the columns {there}; allowed: {header}, which depend on the triggers of a run "
                "(start a new run for other triggers)"
            )
        lines = [] if there else [header]
        lines += [f"{int(row[0])}," + ",".join(f"{x:.8g}" for x in row[1:]) for row in rows]
        with writing(self.thermo):
            durable.append(self.thermo, "".join(line + "\n" for line in lines).encode())

    def _thermo_header(self) -> str:
        """First line of thermo.csv; empty if there is none yet."""
        if not self.thermo.exists():
            return ""
        with self.thermo.open(encoding="utf-8", errors="replace") as file:
            return file.readline().rstrip("\n")

    def append_frames(
        self, numbers: np.ndarray, pbc: np.ndarray, frames: Iterable[Frame], constants: Constants | None = None
    ) -> None:
        """Append frames to the trajectory as extended XYZ, each with its lattice and the constants of the run."""
        columns, ends, remarks, fixed = constants or Constants("", ("",) * len(numbers), "")
        held = np.zeros((len(numbers), 3), bool) if fixed is None else fixed
        symbols = [chemical_symbols[z] for z in numbers]
        periodic = " ".join("T" if p else "F" for p in pbc)
        text = ""
        for frame in frames:
            lattice = f'Lattice="{_matrix(frame.cell)}" ' if frame.cell.any() else ""
            stress = "" if frame.stress is None else f' stress="{_matrix(frame.stress)}"'
            moving = "" if frame.momenta is None else ":momenta:R:3"
            comment = (
                f"{lattice}Properties=species:S:1:pos:R:3{moving}{columns} step={frame.step} "
                f'time_fs={frame.time_fs:.9g}{stress} pbc="{periodic}"{remarks}'
            )
            momenta = np.zeros((len(numbers), 0)) if frame.momenta is None else frame.momenta
            rows = (
                " ".join([s, *map(_coordinate, r, h), *(f"{x:.9g}" for x in p)]) + end
                for s, r, h, p, end in zip(symbols, frame.positions, held, momenta, ends, strict=True)
            )
            text += f"{len(symbols)}\n{comment}\n" + "\n".join(rows) + "\n"
        with writing(self.trajectory):
            durable.append(self.trajectory, text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of a run atomically.

    Raises:
      RunDirectoryError: if it cannot be written; the file then keeps its old content.
    """
    with writing(path):
        durable.write_whole(path, content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunDirectoryError that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(
            f"{path}: cannot be written ({error.strerror}); nothing that was committed is lost: "
            "resume when this is fixed"
        ) from error


def _coordinate(value: float, held: bool) -> str:
    """Write a coordinate; fixed ones with all digits, so that they are unchanged when they are read again."""
    return repr(float(value)) if held else f"{value:.8f}"


def _matrix(values: np.ndarray) -> str:
    return " ".join(f"{x:.9g}" for x in np.ravel(values))

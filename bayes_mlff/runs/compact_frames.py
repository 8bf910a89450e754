"""Frames in NetCDF by the convention of AMBER, version 1.0 (ambermd.org/netcdf): a fourth of the size of text.

Positions are in Å, velocities in Å/ps, times in ps, in float32, as the convention says; atomic numbers, masses and
steps are added. Lengths and angles are all that it keeps of a cell: geometries are turned so that the first vector is
along x and the second in the plane of x and y. A direction that is not periodic has the length 0, as ASE writes it.
"""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.cell import Cell

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, RunDirectoryError, brief
from bayes_mlff.runs.growing_files import Frame, GrowingFiles, writing
from bayes_mlff.runs.trajectory import Constants, Trajectory

NAME: Final = "trajectory.nc"

_PER_PS: Final = 1000.0
"""Å/fs in Å/ps."""


def library() -> Any:
    """The package netCDF4.

    Raises:
      ConfigError: if it is not installed.
    """
    try:
        return importlib.import_module("netCDF4")
    except ImportError as error:
        raise ConfigError("format", "netcdf", "extxyz, or pip install 'bayes-mlff[netcdf]'") from error


class CompactFiles(GrowingFiles):
    """thermo.csv, and frames in NetCDF."""

    def __init__(self, path: Path, masses: np.ndarray):
        """Prepare files in a folder.

        Args:
          path: the folder.
          masses: [n] amu.

        Raises:
          ConfigError: if the package for the format is not installed.
        """
        super().__init__(path)
        self.trajectory = path / NAME
        self._masses, self._library, self._frames = masses, library(), 0

    def sizes(self) -> dict[str, int]:
        """As of text, but the number of frames in the place of bytes of the trajectory."""
        return super().sizes() | {NAME: self._frames}

    def truncate(self, sizes: dict[str, int]) -> None:
        """Truncate thermo.csv; frames after those of the checkpoint are written once more, with the same values.

        Raises:
          RunDirectoryError: if a file has less than the checkpoint knows.
        """
        wanted, there = sizes[NAME], 0
        if self.trajectory.is_file():
            with _reading(self.trajectory) as file:
                there = len(file.dimensions["frame"])
        if there < wanted:
            raise RunDirectoryError(f"{self.trajectory}: {there} frames, but the checkpoint knows {wanted}; restore it")
        if not wanted:
            with writing(self.trajectory):
                self.trajectory.unlink(missing_ok=True)
        size = self.trajectory.stat().st_size if self.trajectory.is_file() else 0
        super().truncate(sizes | {NAME: size})
        self._frames = wanted

    def append_frames(
        self, numbers: np.ndarray, pbc: np.ndarray, frames: Iterable[Frame], constants: Constants | None = None
    ) -> None:
        """Append frames; what text has besides (stress, constraints, charge and spin) is left out."""
        many = list(frames)
        if not many:
            return
        turned = [_turned(frame, pbc) for frame in many]
        with writing(self.trajectory):
            try:
                self._write(numbers, pbc, many, turned)
            except RuntimeError as error:  # of the library, such as a full disk
                raise OSError(None, brief(str(error))) from error
        self._frames += len(many)

    def _write(
        self, numbers: np.ndarray, pbc: np.ndarray, frames: list[Frame], turned: list[tuple[np.ndarray, ...]]
    ) -> None:
        begun = self._frames > 0
        kind = {} if begun else {"format": "NETCDF3_64BIT_OFFSET"}
        with self._library.Dataset(self.trajectory, "a" if begun else "w", **kind) as file:
            if not begun:
                _define(file, numbers, self._masses, with_velocities=frames[0].momenta is not None)
            rows = slice(self._frames, self._frames + len(frames))
            variables = file.variables
            variables["time"][rows] = [frame.time_fs / 1000.0 for frame in frames]
            variables["step"][rows] = [frame.step for frame in frames]
            variables["coordinates"][rows] = np.stack([x[0] for x in turned])
            variables["cell_lengths"][rows] = np.stack([np.where(pbc, x[2][:3], 0.0) for x in turned])
            variables["cell_angles"][rows] = np.stack([x[2][3:] for x in turned])
            if "velocities" in variables:
                momenta = np.stack([x[1] for x in turned])
                variables["velocities"][rows] = momenta / self._masses[:, None] * units.FS * _PER_PS


def _turned(frame: Frame, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and momenta [n, 3] turned to the standard orientation of the cell, and its lengths and angles [6]."""
    momenta = np.zeros_like(frame.positions) if frame.momenta is None else frame.momenta
    if not pbc.any():
        return frame.positions, momenta, np.array([0.0, 0.0, 0.0, 90.0, 90.0, 90.0])
    cell = Cell(frame.cell).complete()
    _, turn = cell.standard_form()
    return frame.positions @ turn.T, momenta @ turn.T, cell.cellpar()


def _define(file: Any, numbers: np.ndarray, masses: np.ndarray, *, with_velocities: bool) -> None:
    """Write the head of a file."""
    about = {"Conventions": "AMBER", "ConventionVersion": "1.0", "program": "bayes-mlff", "programVersion": "",
             "title": "production", "application": "bayes-mlff"}  # fmt: skip
    file.setncatts(about)
    sizes = {"frame": None, "spatial": 3, "atom": len(numbers), "cell_spatial": 3, "cell_angular": 3, "label": 5}
    for name, size in sizes.items():
        file.createDimension(name, size)
    columns = (
        ("spatial", "S1", ("spatial",), None),
        ("cell_spatial", "S1", ("cell_spatial",), None),
        ("cell_angular", "S1", ("cell_angular", "label"), None),
        ("atom_types", "i4", ("atom",), None),
        ("masses", "f8", ("atom",), "amu"),
        ("time", "f4", ("frame",), "picosecond"),
        ("step", "i4", ("frame",), None),
        ("coordinates", "f4", ("frame", "atom", "spatial"), "angstrom"),
        ("cell_lengths", "f8", ("frame", "cell_spatial"), "angstrom"),
        ("cell_angles", "f8", ("frame", "cell_angular"), "degree"),
        *((("velocities", "f4", ("frame", "atom", "spatial"), "angstrom/picosecond"),) if with_velocities else ()),
    )
    for name, kind, dimensions, unit in columns:
        made = file.createVariable(name, kind, dimensions)
        if unit is not None:
            made.units = unit
    file.variables["spatial"][:] = list("xyz")
    file.variables["cell_spatial"][:] = list("abc")
    file.variables["cell_angular"][:] = [list("alpha"), list("beta "), list("gamma")]
    file.variables["atom_types"][:] = numbers
    file.variables["masses"][:] = masses


def _reading(path: Path) -> Any:
    try:
        return library().Dataset(path, "r")
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({brief(str(error))})") from error


def read(path: Path) -> Trajectory:
    """Read all frames.

    Raises:
      ConfigError: if the package for the format is not installed.
      RunDirectoryError: if it cannot be read, or is no such file.
    """
    with _reading(path) as file:
        try:
            found = {name: np.asarray(file.variables[name][:]) for name in file.variables}
            lengths, angles = found["cell_lengths"], found["cell_angles"]
            pbc = lengths[0] > 0.0
            cells = [Cell.new([*a, *b]).array for a, b in zip(lengths, angles, strict=True)]
            masses, velocities = found["masses"], found.get("velocities")
            momenta = None if velocities is None else velocities * masses[:, None] / (units.FS * _PER_PS)
            # Times are of float32, steps are exact: times follow from the first ones.
            time_fs = 1000.0 * found["time"].astype(np.float64)
            return Trajectory(
                found["step"].astype(np.int64),
                time_fs[0] / found["step"][0] * found["step"].astype(np.float64),
                found["atom_types"].astype(np.int64),
                pbc,
                found["coordinates"].astype(np.float64),
                np.array(cells),
                momenta=momenta,
                masses=masses,
            )
        except (LookupError, ValueError) as error:
            raise RunDirectoryError(f"{path}: got {brief(repr(error))}; allowed: frames of a production") from error

"""The run directory: its files, its lock, and how it is truncated to the last checkpoint."""

import contextlib
import fcntl
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core import durable
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.ensemble.files import CHECKPOINTS
from bayes_mlff.runs import start
from bayes_mlff.runs.trajectory import Constants

CONFIG: Final = "config.yaml"
"""A directory is a run only if it has this file."""

IN_FORCE: Final = "config.in_force.yaml"
DATASET: Final = "dataset.extxyz"

LABEL_RESERVE: Final = 1 << 20
"""Bytes reserved on the disk so that the label in progress can be stored when it is full (1000 atoms: 0.2 MB)."""

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


class RunDirectory:
    """The files of one run; an exclusive lock is held while it is open."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / CONFIG
        self.in_force = path / IN_FORCE
        self.dataset = path / DATASET
        self.validation = path / "validation.extxyz"
        self.validation_arrays = path / "validation.npz"
        self.trajectory = path / "trajectory.extxyz"
        self.thermo = path / "thermo.csv"
        self.events = path / "events.jsonl"
        self.checkpoints = path / CHECKPOINTS
        self._lock: TextIO | None = None
        self._clock_s = time.time() - time.monotonic()

    def create(self, config_text: str, beginning: Mapping[str, bytes] | None = None) -> None:
        """Make a new run directory.

        Args:
          config_text: the configuration of the run as YAML.
          beginning: files of the folder `start` by name, see `start.contents`.

        Raises:
          RunDirectoryError: if the directory already holds a run, or cannot be written.
        """
        if self.config.exists():
            raise RunDirectoryError(
                f"{self.path}: already holds a run; continue it with 'resume {self.path}' or choose another --output"
            )
        with _writing(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            (self.path / start.FOLDER).mkdir(exist_ok=True)
        for name, content in (beginning or {}).items():
            with _writing(self.path):
                durable.make_folder((self.path / start.FOLDER / name).parent)
            write_whole(self.path / start.FOLDER / name, content)
        self.put_in_force(config_text)
        write_whole(self.config, config_text.encode())  # last: with it, this is a run

    def put_in_force(self, config_text: str) -> None:
        """Store the settings that the run uses, separately from config.yaml, which the user may edit."""
        write_whole(self.in_force, config_text.encode())

    def open(self) -> None:
        """Take the lock, and clean up after an interrupted process.

        An incomplete last line of the events is removed. If all checkpoints were removed, thermo.csv and the trajectory
        are renamed to end in `.old`. Disk space for one label is reserved.

        Raises:
          RunDirectoryError: if this is not a run directory, another process uses it, or it cannot be written.
        """
        if not self.config.is_file():
            raise RunDirectoryError(f"{self.path}: no run here (config.yaml is missing)")
        with _writing(self.path):
            lock = (self.path / "run.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            taken = isinstance(error, BlockingIOError)
            why = "another process is running here" if taken else f"the file system cannot lock ({error.strerror})"
            raise RunDirectoryError(f"{self.path}: {why}") from error
        self._lock = lock
        try:
            with _writing(self.path):
                self._clear_away()
        except RunDirectoryError:
            self.close()
            raise

    def _clear_away(self) -> None:
        self.checkpoints.mkdir(exist_ok=True)
        if self.events.exists():
            data = self.events.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self.events, whole)
                self.log("events_recovered", bytes_removed=len(data) - whole)
        if not any(self.checkpoints.glob("*.ckpt")):
            for path in (self.thermo, self.trajectory):
                if path.exists():
                    path.replace(path.with_name(path.name + ".old"))
        dataset.reserve(self.path, LABEL_RESERVE)

    def close(self) -> None:
        """Release the lock and the reserved disk space."""
        if self._lock is not None:
            dataset.release(self.path)
            self._lock.close()
            self._lock = None

    def sizes(self) -> dict[str, int]:
        """Sizes, bytes, of thermo.csv and the trajectory, for a checkpoint; both are on the disk when this returns."""
        growing = [path for path in (self.thermo, self.trajectory) if path.exists()]
        with _writing(self.path):
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
                    f"{path}: {present} bytes, but the checkpoint knows {sizes[path.name]}; restore the file, or "
                    f"remove {self.checkpoints} and resume: then the run begins again, with the labels it has"
                )
        with _writing(self.path):
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
        with _writing(self.thermo):
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
        with _writing(self.trajectory):
            durable.append(self.trajectory, text.encode())

    def store_validation(self, **arrays: Any) -> None:
        """Write the arrays of the validation on random frames (validation.npz) atomically."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_whole(self.validation_arrays, buffer.getvalue())

    def log(self, event: str, **fields: Any) -> None:
        """Append one event to events.jsonl; times never decrease within a process, even if the clock is set back."""
        now = self._clock_s + time.monotonic()
        line = json.dumps({"event": event, "time": round(now, 3), **fields}) + "\n"
        with _writing(self.events):
            durable.append(self.events, line.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of a run atomically.

    Raises:
      RunDirectoryError: if it cannot be written; the file then keeps its old content.
    """
    with _writing(path):
        durable.write_whole(path, content)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
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

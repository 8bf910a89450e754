"""The run directory: what is in it, who may write to it, and how it is cut back to the last committed step."""

import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core.errors import RunDirectoryError

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
    """One geometry of the trajectory."""

    step: int
    time_fs: float
    positions: np.ndarray  # [n, 3] Å
    cell: np.ndarray  # [3, 3] Å, rows
    stress: np.ndarray | None  # [3, 3] eV/Å³, tension positive, without kinetic part


class RunDirectory:
    """Files of one run; holds an exclusive lock while open."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.in_force = path / "config.in_force.yaml"
        self.dataset = path / "dataset.extxyz"
        self.validation = path / "validation.extxyz"
        self.validation_arrays = path / "validation.npz"
        self.trajectory = path / "trajectory.extxyz"
        self.thermo = path / "thermo.csv"
        self.events = path / "events.jsonl"
        self.checkpoints = path / "checkpoints"
        self._lock: TextIO | None = None

    def create(self, config_text: str) -> None:
        """Make a new run directory.

        Raises:
          RunDirectoryError: if it already holds a run, or cannot be written.
        """
        if self.config.exists():
            raise RunDirectoryError(
                f"{self.path}: already holds a run; continue it with 'resume {self.path}' or choose another --output"
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.put_in_force(config_text)
            self.config.write_text(config_text)
        except OSError as error:
            raise RunDirectoryError(f"{self.path}: cannot be written ({error.strerror})") from error

    def put_in_force(self, config_text: str) -> None:
        """Remember the settings that the run goes on with, apart from the copy that a user may edit."""
        temporary = self.in_force.with_suffix(".tmp")
        temporary.write_text(config_text)
        temporary.replace(self.in_force)

    def open(self) -> None:
        """Take the lock.

        Raises:
          RunDirectoryError: if this is no run directory or another process is using it.
        """
        if not self.config.is_file():
            raise RunDirectoryError(f"{self.path}: no run here (config.yaml is missing)")
        self._lock = (self.path / "run.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(f"{self.path}: another process is running here") from error

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def sizes(self) -> dict[str, int]:
        """Bytes of the files that grow step by step; part of every checkpoint."""
        return {p.name: p.stat().st_size if p.exists() else 0 for p in (self.thermo, self.trajectory)}

    def truncate(self, sizes: dict[str, int]) -> None:
        """Cut the growing files back to what a checkpoint knows."""
        for path in (self.thermo, self.trajectory):
            if path.exists():
                os.truncate(path, sizes[path.name])

    def append_thermo(self, rows: np.ndarray) -> None:
        """Add rows [m, len(THERMO_COLUMNS)]."""
        with self.thermo.open("a") as file:
            if file.tell() == 0:
                file.write(",".join(THERMO_COLUMNS) + "\n")
            for row in rows:
                file.write(f"{int(row[0])}," + ",".join(f"{x:.8g}" for x in row[1:]) + "\n")

    def append_frames(self, numbers: np.ndarray, pbc: np.ndarray, frames: Iterable[Frame]) -> None:
        """Add frames of the trajectory as extended XYZ, each with its own lattice."""
        symbols = [chemical_symbols[z] for z in numbers]
        periodic = " ".join("T" if p else "F" for p in pbc)
        with self.trajectory.open("a") as file:
            for frame in frames:
                lattice = f'Lattice="{_matrix(frame.cell)}" ' if pbc.any() else ""
                stress = "" if frame.stress is None else f' stress="{_matrix(frame.stress)}"'
                comment = (
                    f"{lattice}Properties=species:S:1:pos:R:3 step={frame.step} time_fs={frame.time_fs:.9g}"
                    f'{stress} pbc="{periodic}"'
                )
                rows = (f"{s} {r[0]:.9g} {r[1]:.9g} {r[2]:.9g}" for s, r in zip(symbols, frame.positions, strict=True))
                file.write(f"{len(symbols)}\n{comment}\n" + "\n".join(rows) + "\n")

    def log(self, event: str, **fields: Any) -> None:
        """Add one event to events.jsonl."""
        with self.events.open("a") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 3), **fields}) + "\n")


def _matrix(values: np.ndarray) -> str:
    return " ".join(f"{x:.9g}" for x in np.ravel(values))

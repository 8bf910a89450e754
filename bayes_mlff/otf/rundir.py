"""The run directory: what is in it, who may write to it, and how it is cut back to the last committed step."""

import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

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
)


class RunDirectory:
    """Files of one run; holds an exclusive lock while open."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
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
            self.config.write_text(config_text)
        except OSError as error:
            raise RunDirectoryError(f"{self.path}: cannot be written ({error.strerror})") from error

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

    def append_frames(
        self,
        numbers: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        frames: Iterable[tuple[int, float, np.ndarray]],
    ) -> None:
        """Add trajectory frames (step, time in fs, positions [n, 3] Å) as extended XYZ."""
        symbols = [chemical_symbols[z] for z in numbers]
        lattice = ""
        if pbc.any():
            lattice = 'Lattice="' + " ".join(f"{x:.9g}" for x in np.ravel(cell)) + '" '
        periodic = " ".join("T" if p else "F" for p in pbc)
        with self.trajectory.open("a") as file:
            for step, time_fs, positions in frames:
                comment = f'{lattice}Properties=species:S:1:pos:R:3 step={step} time_fs={time_fs:.9g} pbc="{periodic}"'
                rows = (f"{s} {r[0]:.9g} {r[1]:.9g} {r[2]:.9g}" for s, r in zip(symbols, positions, strict=True))
                file.write(f"{len(symbols)}\n{comment}\n" + "\n".join(rows) + "\n")

    def log(self, event: str, **fields: Any) -> None:
        """Add one event to events.jsonl."""
        with self.events.open("a") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 3), **fields}) + "\n")

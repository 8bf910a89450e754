"""The run directory: its files and its lock."""

import fcntl
import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from bayes_mlff.core import durable
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.ensemble.files import CHECKPOINTS
from bayes_mlff.runs import start
from bayes_mlff.runs.growing_files import GrowingFiles, write_whole, writing

CONFIG: Final = "config.yaml"
"""A directory is a run only if it has this file."""

IN_FORCE: Final = "config.in_force.yaml"
DATASET: Final = "dataset.extxyz"

LABEL_RESERVE: Final = 1 << 20
"""Bytes reserved on the disk so that the label in progress can be stored when it is full (1000 atoms: 0.2 MB)."""


class RunDirectory(GrowingFiles):
    """The files of one run; an exclusive lock is held while it is open."""

    def __init__(self, path: Path, *, checkpoints: Path | None = None):
        """Name the files.

        Args:
          path: of the directory.
          checkpoints: folder of the checkpoints if they are not in it.
        """
        super().__init__(path)
        self.config = path / CONFIG
        self.in_force = path / IN_FORCE
        self.dataset = path / DATASET
        self.validation = path / "validation.extxyz"
        self.validation_arrays = path / "validation.npz"
        self.events = path / "events.jsonl"
        self.checkpoints = path / CHECKPOINTS if checkpoints is None else checkpoints
        again = "then the run begins again, with the labels it has"
        self.remedy = f"restore the file, or remove {self.checkpoints} and resume: {again}"
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
        with writing(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            (self.path / start.FOLDER).mkdir(exist_ok=True)
        for name, content in (beginning or {}).items():
            with writing(self.path):
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
        with writing(self.path):
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
            with writing(self.path):
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

    def store_validation(self, **arrays: Any) -> None:
        """Write the arrays of the validation on random frames (validation.npz) atomically."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_whole(self.validation_arrays, buffer.getvalue())

    def log(self, event: str, **fields: Any) -> None:
        """Append one event to events.jsonl; times never decrease within a process, even if the clock is set back."""
        now = self._clock_s + time.monotonic()
        line = json.dumps({"event": event, "time": round(now, 3), **fields}) + "\n"
        with writing(self.events):
            durable.append(self.events, line.encode())

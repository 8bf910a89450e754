"""A folder of finished labels, written by whoever calculated them, so that none is lost while nobody waits."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bayes_mlff.core.durable import discard, make_folder, sync, sync_folder, write_whole
from bayes_mlff.core.errors import DataError
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.labelling.outcome import Outcome, from_bytes, is_whole, to_bytes

SUFFIX: Final = ".label"
DAMAGED: Final = ".damaged"
UNFINISHED: Final = ".tmp"
POLL_S: Final = 0.5

_WITHOUT_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems that have no locks."""


class Found(NamedTuple):
    """What a spool has under a key."""

    outcome: Outcome | None
    remarks: tuple[str, ...]  # about a file that was set aside


class Spool:
    """Finished labels by key, one file each; a file is there whole or not at all.

    Several processes on several hosts may use one folder. A label stays until it is dropped.
    """

    def __init__(self, folder: Path):
        """Use a folder, which `make` makes; nothing is read or written yet."""
        self.folder = folder.absolute()

    def make(self) -> None:
        """Make the folder, if it is missing.

        Raises:
          OSError: if it cannot be made.
        """
        make_folder(self.folder)

    def pending(self) -> tuple[str, ...]:
        """Keys of all labels that are there, by the time at which they were written."""
        files = [path for path in self.folder.glob(f"*{SUFFIX}") if path.is_file()]
        return tuple(path.stem for path in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name)))

    def take(self, key: str, asked: Structure) -> Found:
        """Read a label, which stays in the folder; a torn or damaged file is set aside.

        Args:
          key: see `outcome.key_of`.
          asked: the structure to which the key belongs.
        """
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return Found(None, ())
        try:
            outcome = from_bytes(content, asked)
            if outcome.key != key:
                raise DataError(f"it belongs to {outcome.key}")
        except (DataError, LookupError, TypeError, ValueError) as error:
            aside = self._aside(path)
            return Found(None, (f"{path}: damaged ({error}); set aside as {aside.name}, the label is asked for again",))
        return Found(outcome, ())

    def put(self, outcome: Outcome) -> None:
        """Store a label; it is on the disk when this returns.

        Raises:
          OSError: if it cannot be written; an earlier file of this key is then as it was.
        """
        path = self._path(outcome.key)
        temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}{UNFINISHED}")
        write_whole(path, to_bytes(outcome), temporary=temporary)

    def holds(self, key: str) -> bool:
        """True if there is a file of this key."""
        return self._path(key).is_file()

    def drop(self, key: str) -> None:
        """Remove a label that is stored elsewhere by now."""
        discard(self._path(key))
        discard(self._lock(key))

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[tuple[str, ...]]:
        """Let one process at a time, on whichever host, calculate a label; others wait until it has ended.

        The lock belongs to the process, so that it ends with it. What a process had written when it was killed is
        taken over, if it is whole. Yields remarks: on a file system without locks nobody waits.
        """
        remarks: tuple[str, ...] = ()
        with self._lock(key).open("ab") as file:
            while True:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno in _WITHOUT_LOCKS:
                        remarks = (f"{self.folder}: its file system has no locks, so that a label may be paid twice",)
                        break
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                time.sleep(POLL_S)
            if not remarks:
                self._take_over(key)
            yield remarks
            if self.holds(key):
                discard(self._lock(key))  # whoever waits for it finds the label

    def _take_over(self, key: str) -> None:
        """Finish what a process wrote that was killed before the file had its name; only with the lock."""
        for left in sorted(self.folder.glob(f".{key}{SUFFIX}.*{UNFINISHED}")):
            if self.holds(key) or not is_whole(left.read_bytes()):
                discard(left)
                continue
            sync(left)
            left.replace(self._path(key))
            sync_folder(self.folder)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _lock(self, key: str) -> Path:
        return self.folder / f"{key}.lock"

    def _aside(self, path: Path) -> Path:
        """Rename a damaged file, which nobody reads again."""
        number = 1
        while (aside := path.with_name(f"{path.name}{DAMAGED}{number}")).exists():
            number += 1
        with contextlib.suppress(FileNotFoundError):  # another process may have set it aside first
            path.rename(aside)
        return aside

"""Where an engine works: in the folder `engine` of its run, so that no two runs ever share one."""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = "engine"
"""Folder of the run directory in which the engine works."""

_ONE_AT_A_TIME: Final = threading.RLock()
"""A process has one working directory."""


class WorkFolder:
    """The folder of one engine; a temporary one for as long as there is no run directory."""

    def __init__(self, directory: Path | None):
        self._directory = None if directory is None else directory.absolute()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def path(self) -> Path:
        """Absolute path of the folder, which exists."""
        if self._directory is not None and self._directory.is_dir():
            folder = (self._directory / FOLDER).resolve()
            folder.mkdir(exist_ok=True)
            return folder
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="bayes-mlff-")
        return Path(self._temporary.name)

    def close(self) -> None:
        """Remove the temporary folder."""
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            temporary.cleanup()


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder this process's working directory for a while; other threads that want one wait."""
    with _ONE_AT_A_TIME, contextlib.chdir(folder):
        yield

"""Working folder of an engine: `engine` in the run directory, so that no two runs share a folder."""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = "engine"
"""Folder of the run directory in which the engine works."""

_ONE_AT_A_TIME: Final = threading.RLock()
"""Lock for the working directory, of which a process has only one."""


class WorkFolder:
    """The working folder of one engine; a temporary folder as long as there is no run directory."""

    def __init__(self, directory: Path | None):
        self._directory = None if directory is None else directory.absolute()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def path(self) -> Path:
        """Absolute path of the folder; it is created if necessary."""
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
    """Change the working directory of this process inside a `with` block; other threads that do so wait."""
    with _ONE_AT_A_TIME, contextlib.chdir(folder):
        yield

"""The directory of a production: one folder for each replica, and one in it for the equilibration."""

import json
from pathlib import Path
from typing import Any, Final

from bayes_mlff.core import durable
from bayes_mlff.production.setup import Setup
from bayes_mlff.runs.compact_frames import CompactFiles
from bayes_mlff.runs.growing_files import GrowingFiles, write_whole, writing
from bayes_mlff.runs.replica_folders import REPLICAS

SUMMARY: Final = "summary.json"
TEXT: Final = "summary.txt"
STOPPED: Final = "stopped.extxyz"


def folder_of(part: str, replica: int) -> Path:
    """Folder of a replica, counted from 0, in one part, relative to that of the production."""
    own = Path(REPLICAS) / str(replica + 1)
    return own if part == "dynamics" else own / part


class Folders:
    """Growing files of all replicas."""

    def __init__(self, path: Path, setup: Setup):
        self.path = path
        self._setup = setup
        self._files = {
            (part.name, i): self._files_of(path / folder_of(part.name, i))
            for part in setup.parts
            for i in range(setup.config.replicas)
        }

    def _files_of(self, path: Path) -> GrowingFiles:
        netcdf = self._setup.config.format == "netcdf"
        return CompactFiles(path, self._setup.motion.masses) if netcdf else GrowingFiles(path)

    def make(self) -> None:
        """Make all folders."""
        for each in self._files.values():
            with writing(each.path):
                durable.make_folder(each.path)

    def of(self, part: str, replica: int) -> GrowingFiles:
        """Files of one replica in one part."""
        return self._files[part, replica]

    def stopped(self, part: str, replica: int) -> GrowingFiles:
        """The file with the geometry at which a replica stopped."""
        made = GrowingFiles(self.path / folder_of(part, replica))
        made.trajectory = made.path / STOPPED
        return made

    def sizes(self) -> dict[str, dict[str, int]]:
        """Sizes of all growing files, which are on the disk when this returns."""
        return {str(each.path.relative_to(self.path)): each.sizes() for each in self._files.values()}

    def truncate(self, sizes: dict[str, dict[str, int]]) -> None:
        """Truncate all growing files to the sizes of a checkpoint.

        Raises:
          RunDirectoryError: if a file is shorter, so was changed after the checkpoint.
        """
        for each in self._files.values():
            each.truncate(sizes[str(each.path.relative_to(self.path))])

    def clear(self) -> None:
        """Remove what was written before the first checkpoint."""
        for each in self._files.values():
            for path in (each.thermo, each.trajectory):
                with writing(path):
                    path.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file atomically."""
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())

"""Where the trajectories of a production are."""

from pathlib import Path
from typing import Final

MARK: Final = "production.json"
"""File by which a directory is known as that of a production."""

REPLICAS: Final = "replicas"
"""Folder with one folder for each replica, whose names are numbers from 1."""


def of(path: Path) -> list[Path] | None:
    """Folders of the replicas of a production in their order; None if the path is no production."""
    if not (path / MARK).is_file():
        return None
    found = [each for each in (path / REPLICAS).glob("*") if each.name.isdecimal()]
    return sorted(found, key=lambda each: int(each.name))

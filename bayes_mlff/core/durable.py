"""Files that a crash or a full disk leaves either as they were or as they should be."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Give a file its content in one step; it has reached the disk when this returns.

    The content is written beside it, to `<name>.tmp`, which a failure removes and a kill may leave behind.

    Raises:
      OSError: if it cannot be written; then the file is as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        discard(temporary)
        raise
    sync_folder(path.parent)


def link(source: Path, target: Path) -> bool:
    """Give a file a second name, in place of what had that name; it has reached the disk when this returns.

    Returns:
      False if the file system cannot do it; then perhaps nothing has that name.
    """
    try:
        target.unlink(missing_ok=True)
        target.hardlink_to(source)
    except OSError:
        return False
    sync_folder(target.parent)
    return True


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where they are missing; they have reached the disk when this returns.

    Raises:
      OSError: if one cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file; not yet durable, see `sync`.

    Raises:
      OSError: if it cannot be written; what was written in part is taken back where the system allows it.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError:
        cut(path, size)
        raise


def cut(path: Path, size: int) -> None:
    """Shorten a file, or try to; for the way out of another error."""
    try:
        os.truncate(path, size)
    except OSError:
        return


def discard(path: Path) -> None:
    """Remove a file, or try to; for the way out of another error."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def sync(path: Path) -> None:
    """Bring what was written to a file, by whomever, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Bring new and removed names in a folder to the disk."""
    sync(path)

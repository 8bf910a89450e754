"""File writing that is safe against crashes and full disks: a file has either its old or its new content."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes, *, temporary: Path | None = None) -> None:
    """Replace the content of a file atomically; the new content is on the disk when this returns.

    The content is first written to another file, which a killed process may leave behind.

    Args:
      path: of the file.
      content: new content.
      temporary: the other file, in the same folder; by default `<name>.tmp`.

    Raises:
      OSError: if it cannot be written; the file then keeps its old content.
    """
    temporary = temporary or path.with_name(path.name + ".tmp")
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
    """Make a hard link, which replaces an existing file of that name; it is on the disk when this returns.

    Returns:
      False if the file system does not support it; an existing `target` may then be gone.
    """
    try:
        target.unlink(missing_ok=True)
        target.hardlink_to(source)
    except OSError:
        return False
    sync_folder(target.parent)
    return True


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents; they are on the disk when this returns.

    Raises:
      OSError: if a folder cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def append(path: Path, content: bytes) -> None:
    """Append to a file; call `sync` to make sure that the content is on the disk.

    Raises:
      OSError: if it cannot be written; a part that was written is removed again where the system allows it.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError:
        cut(path, size)
        raise


def cut(path: Path, size: int) -> None:
    """Shorten a file to `size` bytes, without raising; for use while another error is handled."""
    try:
        os.truncate(path, size)
    except OSError:
        return


def discard(path: Path) -> None:
    """Remove a file, without raising; for use while another error is handled."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def sync(path: Path) -> None:
    """Flush a file to the disk (fsync), whichever process has written it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush the entries of a folder to the disk, so that new and removed names survive a crash."""
    sync(path)

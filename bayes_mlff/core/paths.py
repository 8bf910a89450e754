"""The cache folder, checks of paths given by users, and a memory limit for reading files."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """Folder of downloaded models and compiled functions: `bayes_mlff/` in `$XDG_CACHE_HOME`, or else in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "bayes_mlff"


def is_file(path: Path) -> bool:
    """True if the file exists; false, and no error, for impossible names (too long or with zero bytes)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def bounded_memory(extra_bytes: int) -> Iterator[None]:
    """Limit the memory that this process may allocate additionally; a larger request raises a MemoryError.

    There is no limit on systems without /proc, such as macOS.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + extra_bytes
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(wanted, *known) if known else wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

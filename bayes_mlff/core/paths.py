"""Where files are kept, and files that users give: whether they are there, and reading them within bounds."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """Where files are kept: `bayes_mlff/` in `$XDG_CACHE_HOME`, or else in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "bayes_mlff"


def is_file(path: Path) -> bool:
    """True if there is such a file; false, never an error, where no file can be: names too long or with zero bytes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def bounded_memory(extra_bytes: int) -> Iterator[None]:
    """Let this process take only so much more memory inside; whoever asks for more gets a MemoryError.

    Where the system does not say how much there is, as on macOS, there is no bound.
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

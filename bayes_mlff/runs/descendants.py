"""Child processes of this process, their children, and so on."""

import contextlib
import os
import signal
import time
from pathlib import Path


def descendants(root: int | None = None) -> list[int]:
    """Process ids of all descendants of this process, or of `root`; empty on systems without /proc, such as macOS."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [os.getpid() if root is None else root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def end_descendants(*, grace_s: float) -> None:
    """End all descendants: first SIGTERM, which launchers of parallel programs pass on, after the grace time SIGKILL.

    Args:
      grace_s: time between the two signals, s; with 0 only SIGKILL is sent.
    """
    found = descendants()
    if grace_s > 0.0:
        _signal(found, signal.SIGTERM)
        limit = time.monotonic() + grace_s
        while time.monotonic() < limit and set(found) & set(descendants()):
            time.sleep(0.02)
    _signal([*found, *descendants()], signal.SIGKILL)


def _signal(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)

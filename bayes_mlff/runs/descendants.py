"""The programs that this process has started, and those that they have started."""

import contextlib
import os
import signal
import time
from pathlib import Path


def descendants(root: int | None = None) -> list[int]:
    """Processes below this one, or below `root`; none where the system does not tell, as on macOS."""
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
    """Ask all of them to end, as launchers of parallel programs must pass it on; those that stay are killed.

    Args:
      grace_s: how long they may take, s.
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

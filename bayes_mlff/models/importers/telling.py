"""Messages about the loading of a model: to an observer of a run, or else to the standard error stream."""

import time
from typing import Final, Protocol

from rich.console import Console

EVERY_S: Final = 10.0
"""Time between two lines about the same work where there is no terminal, s."""

BAR: Final = 24
"""Width of a progress bar, characters."""


class Listener(Protocol):
    """Receives lines of text, and what is being waited for; observers of runs and of fine-tunings are such."""

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def working(self, what: str) -> None:
        """The present work, which replaces what was said of it before."""
        ...


class OnStderr:
    """A listener that writes to the standard error stream; on a terminal the present work is one line that changes."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._shown, self._last = False, float("-inf")

    def say(self, text: str) -> None:
        """Print a line."""
        self._wipe()
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def working(self, what: str) -> None:
        """Show the work on the line of the cursor; without a terminal print a line every `EVERY_S`."""
        if self._console.is_terminal:
            self._wipe()
            self._console.print(what[: self._console.width - 1], end="", highlight=False, markup=False)
            self._shown = True
        elif time.monotonic() - self._last >= EVERY_S:
            self._last = time.monotonic()
            self.say(what)

    def _wipe(self) -> None:
        if self._shown:
            self._console.file.write("\r\x1b[2K")
            self._shown = False


def progress(name: str, done: int, total: int | None, bytes_per_s: float) -> str:
    """What is being downloaded, how far it is, and how long it may still take.

    Args:
      name: of the model.
      done: bytes that are here.
      total: bytes of the whole file; None if the server does not say.
      bytes_per_s: speed of this connection.
    """
    speed = f"{bytes_per_s / 1e6:.1f} MB/s"
    if not total:
        return f"downloading {name}: {done / 1e6:.1f} MB, {speed}"
    filled = min(BAR, BAR * done // total)
    left = f", {(total - done) / bytes_per_s:.0f} s left" if bytes_per_s > 0.0 else ""
    bar = "━" * filled + "─" * (BAR - filled)
    return f"downloading {name}: {bar} {100 * done // total} % of {total / 1e6:.1f} MB, {speed}{left}"

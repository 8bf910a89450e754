"""Regular messages during long work: what is being done, and for how long."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from bayes_mlff.core import durations

EVERY_S: Final = 15.0
"""Longest time without a message, s; checked once per second."""


class Heartbeat:
    """Prints a line if nothing was printed for a while; a context manager with its own thread.

    Args:
      say: prints a line; called from the thread.
      every_s: longest time without a message, s.
      clock: monotonic clock, s.
    """

    def __init__(
        self, say: Callable[[str], None], *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ):
        self._say, self._every_s, self._clock = say, every_s, clock
        self._what, self._since, self._spoken = "starting", clock(), clock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def doing(self, what: str) -> None:
        """Set the description of the present work, which begins now; what is behind a colon says how far it is."""
        if what.partition(": ")[0] != self._what.partition(": ")[0] or ": " not in what:
            self._since = self._clock()
        self._what = what

    def spoke(self) -> None:
        """Record that a message was printed just now."""
        self._spoken = self._clock()

    def text(self) -> str:
        """The present work and its duration so far."""
        return f"  {self._what} ... {durations.shown(self._clock() - self._since)}"

    def due(self) -> str | None:
        """The next message if it is due, else None."""
        if self._clock() - self._spoken < self._every_s:
            return None
        self.spoke()
        return self.text()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(min(1.0, self._every_s / 4.0)):
            line = self.due()
            if line is not None:
                self._say(line)

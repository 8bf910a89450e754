"""The largest number of labels that are begun within an hour."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

HOUR_S: Final = 3600.0


class Pace:
    """Waits before a label if too many were begun within the last hour of this process."""

    def __init__(self, per_hour: float | None):
        most = max(1, int(per_hour or 1.0))
        self._most = None if per_hour is None else most
        self._window_s = HOUR_S * most / (per_hour or 1.0)
        self._begun: deque[float] = deque()

    def wait(self, meanwhile: Callable[[], None]) -> None:
        """Wait until one more label may begin; `meanwhile` is called about twice a second."""
        if self._most is None:
            return
        while len(self._begun) >= self._most:
            left = self._begun[0] + self._window_s - time.monotonic()
            if left <= 0.0:
                self._begun.popleft()
                continue
            meanwhile()
            time.sleep(min(left, 0.5))
        self._begun.append(time.monotonic())

"""Parsl's executor of jobs, which notices when its interchange is gone; by itself Parsl would wait for it forever."""

import threading
import time
from concurrent.futures import BrokenExecutor
from typing import Any, Final

POLL_S: Final = 1.0
ANSWER_S: Final = 50.0
"""Longest time for an answer of the interchange, s; shorter than the time in which an executor has to close."""


def watching(base: Any) -> Any:
    """A class of executors that fail with all of their tasks when their interchange dies.

    Jobs go on with the labels that they have begun, as they do without a driver.

    Args:
      base: `parsl.executors.HighThroughputExecutor`, which is imported only where Parsl is used.
    """

    class Watching(base):
        """Parsl's executor of jobs, with a thread that watches its interchange."""

        def start(self) -> None:
            """Start the interchange, and watch it."""
            self._ending = threading.Event()
            super().start()
            threading.Thread(target=self._watch, daemon=True).start()

        def shutdown(self, *args: Any, **kwargs: Any) -> None:
            """End the interchange."""
            self._ending.set()
            super().shutdown(*args, **kwargs)

        def connected_managers(self) -> list[Any]:
            """What is known of the managers; nothing without an interchange."""
            return self._asked("MANAGERS")

        def connected_blocks(self) -> list[str]:
            """Jobs that have begun to work; none without an interchange."""
            return self._asked("CONNECTED_BLOCKS")

        def _asked(self, what: str) -> list[Any]:
            if self.interchange_proc.poll() is not None:
                return []
            return self.command_client.run(what, timeout_s=ANSWER_S)

        def _watch(self) -> None:
            while self.interchange_proc.poll() is None:
                time.sleep(POLL_S)
            if not self._ending.is_set():
                died = f"Parsl's interchange died, status {self.interchange_proc.returncode}"
                self.set_bad_state_and_fail_all(BrokenExecutor(died))

    return Watching

"""Orderly end of a run on a signal or before its time limit.

SIGTERM, SIGUSR1, SIGINT and a time limit are requests to end. The loop checks for them when everything is on the disk
(`check`). While it cannot check, since it waits for a reference calculation, for compilation or for the devices, a
thread ends the process after a waiting time (`patience`). That is as safe as a kill, which a run survives at any
moment; in addition it is reported in the events and to the user, and the programs that the engine has started are
ended as well. A thread is needed because Python calls signal handlers only when the main thread has returned from the
library function in which it is, which may take hours.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, NamedTuple, Self

from bayes_mlff.core.errors import EXIT_INTERRUPTED, EngineError, RunInterruptedError
from bayes_mlff.parallel import hosts
from bayes_mlff.runs.descendants import end_descendants

SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

PATIENCE_S: Final = 4.0
"""Longest time from a request until the loop reaches `check`."""

SAVING_S: Final = 20.0
"""The same while a checkpoint is being written."""

MARGIN_S: Final = 15.0
"""A run is asked to end so long before its time limit, or a tenth of the limit before it if that is less."""

LAST_WORDS_S: Final = 3.0
"""Time for the last event and for ending the engine's programs, once the waiting time is over."""

ECHO_S: Final = 0.3
"""Waiting time for a signal that has also ended the engine's program: its failure may be noticed before the signal."""

TWICE_S: Final = 0.5
"""A second signal within this time is taken for a duplicate of the first one."""

SLURM_END: Final = "SLURM_JOB_END_TIME"
"""Environment variable with the time, in seconds since 1970, at which SLURM will end the job."""


class TimeLimit(NamedTuple):
    """The time at which a run must have ended, and the reason."""

    monotonic_s: float  # on the clock of time.monotonic()
    length_s: float  # time that was left when the limit was determined
    reason: str


def time_limit(
    wall_time_s: float | None, environment: Mapping[str, str] = os.environ, *, spent_s: float = 0.0
) -> TimeLimit | None:
    """Time limit of a run: its wall time or the end of its SLURM job, whichever is earlier; None if there is none.

    Args:
      wall_time_s: allowed time from the start of the process, s.
      environment: environment variables, in which SLURM states the end of the job.
      spent_s: time since the start of the process, s.
    """
    limits = [] if wall_time_s is None else [(max(wall_time_s - spent_s, 0.0), "the end of --wall-time")]
    told = environment.get(SLURM_END, "")
    left = int(told) - time.time() if told.isdecimal() else 0.0
    if left > 0.0:  # else the variable is left over from an earlier job
        limits.append((left, "the end of the SLURM job's time"))
    if not limits:
        return None
    length, reason = min(limits)
    return TimeLimit(time.monotonic() + length, length, reason)


def process_age_s() -> float:
    """Seconds since this process was started; 0 on systems without /proc."""
    try:
        after_name = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError):
        return 0.0
    return max(uptime - int(after_name[19]) / os.sysconf("SC_CLK_TCK"), 0.0)


class Interruption:
    """Requests to end a run; a context manager, which handles the signals if it is entered in the main thread."""

    def __init__(self, limit: TimeLimit | None = None, *, farewell: str = ""):
        """Store the limit; signals are handled from `__enter__` on.

        Args:
          limit: time at which the run must have ended.
          farewell: how the user can continue the run, for the message.
        """
        self.limit, self.farewell = limit, farewell
        self.step: int | None = None  # last step on the disk
        self.last_words: Callable[[str], None] = nothing_to_say
        self._where = "before it began"
        self._requested: str | None = None
        self._since = 0.0
        self._patience = 0.0  # until the loop runs, nothing is lost
        self._in_order = False  # the main thread is ending the run
        self._lock = threading.Lock()
        self._before: dict[int, Any] = {}
        self._receiver: socket.socket
        self._sender: socket.socket
        self._thread: threading.Thread | None = None
        self._first = True

    # -- for the loop ------------------------------------------------------------------------------------------

    def check(self, step: int, n_steps: int, doing: str = "") -> None:
        """End the run here if that was requested; to be called when everything is on the disk.

        Args:
          step: last step on the disk.
          n_steps: number of steps of the run.
          doing: what the run is doing, for the message.

        Raises:
          RunInterruptedError: in all processes if one of them has a request.
        """
        self.step, self._where = step, f"at step {step} of {n_steps}{doing}"
        with self._lock:
            self._patience = PATIENCE_S
        if hosts.any_of(self._requested is not None):
            raise self.error(self._requested or "a request to another process of this run")

    def before_label(self, longest_s: float) -> None:
        """End the run here if a reference calculation of this length, s, would not finish before the time limit.

        Raises:
          RunInterruptedError: in all processes, if the time is too short in one of them.
        """
        left = None if self.limit is None else self.limit.monotonic_s - self._margin - time.monotonic()
        if hosts.any_of(left is not None and longest_s > left):
            reason = "the end of another process's time" if self.limit is None else self.limit.reason
            raise self.error(f"{reason} (a reference calculation of {longest_s:.3g} s would not fit)")

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Set how long the enclosed work may continue after a request, s; with 0 it is not begun after a request.

        Raises:
          RunInterruptedError: with 0 seconds, if there was a request before.
        """
        with self._lock:
            before, self._patience = self._patience, seconds
        try:
            if seconds == 0.0 and self._requested is not None and not self._in_order:
                raise self.error(self._requested)
            yield
        except EngineError as error:
            if seconds == 0.0 and self._soon():  # the signal went to the programs of the engine, too
                raise self.error(str(self._requested)) from error
            raise
        finally:
            with self._lock:  # the thread keeps this lock when it ends the process
                self._patience = before

    def error(self, reason: str) -> RunInterruptedError:
        """Make the error that ends the run from the main thread."""
        self._requested, self._since, self._in_order = reason, time.monotonic(), True
        return RunInterruptedError(reason, self._where, self.farewell)

    def _soon(self) -> bool:
        """True if there is a request, or one arrives within `ECHO_S`."""
        limit = time.monotonic() + ECHO_S
        while self._requested is None and time.monotonic() < limit and self._thread is not None:
            time.sleep(0.01)
        return self._requested is not None

    # -- signals -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Start to handle signals and the time limit."""
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._first = hosts.first()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup, background jobs
                    self._before[number] = signal.signal(number, _leave_to_thread)
            self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="interruption", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous signal handlers."""
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
        assert self._thread is not None
        self._sender.send(b"\0")
        self._thread.join()
        self._thread = None
        self._sender.close()
        self._receiver.close()

    # -- in the thread -----------------------------------------------------------------------------------------

    @property
    def _margin(self) -> float:
        return 0.0 if self.limit is None else min(MARGIN_S, 0.1 * max(self.limit.length_s, 0.0))

    def _watch(self) -> None:
        """Wait for a request; then for the end of the run, up to the waiting time."""
        while True:
            ready, _, _ = select.select([self._receiver], [], [], self._until_next_look())
            numbers = self._receiver.recv(64) if ready else b""
            if 0 in numbers:
                return
            now = time.monotonic()
            for number in numbers:
                if self._requested is None:
                    self._requested, self._since = signal.Signals(number).name, now
                elif now - self._since > TWICE_S:
                    self._end_at_once(number)
            if self._requested is None and self.limit is not None and now >= self.limit.monotonic_s - self._margin:
                self._requested, self._since = self.limit.reason, now
            if self._requested is not None:
                self._press(now)

    def _until_next_look(self) -> float | None:
        if self._requested is not None:
            return 0.05
        if self.limit is None:
            return None
        return max(0.0, min(self.limit.monotonic_s - self._margin - time.monotonic(), 3600.0))

    def _press(self, now: float) -> None:
        """End the process if the waiting time of the main thread is over."""
        if not self._lock.acquire(timeout=0.01):
            return
        waited = now - self._since
        if waited < (SAVING_S if self._in_order else self._patience):
            self._lock.release()
            return
        # The lock is kept, so that the main thread cannot leave `patience` any more.
        assert self._requested is not None
        _end_later(LAST_WORDS_S)
        with contextlib.suppress(Exception):  # nothing may keep the process from ending
            self.last_words(self._requested)
        end_descendants(grace_s=1.0)
        if self._first:
            _say(str(RunInterruptedError(self._requested, self._where, self.farewell)))
        os._exit(EXIT_INTERRUPTED)

    def _end_at_once(self, number: int) -> None:
        """End at once after a second signal; only the programs of the engine are ended first."""
        _end_later(LAST_WORDS_S, 128 + number)
        end_descendants(grace_s=0.0)
        _say(f"ended at once by a second signal, {signal.Signals(number).name}; {self.farewell}")
        os._exit(128 + number)


def nothing_to_say(reason: str) -> None:
    """Do nothing; the default of `Interruption.last_words`."""


def _leave_to_thread(number: int, frame: FrameType | None) -> None:
    """Do nothing: the thread gets the signal through the wakeup socket."""


def _end_later(seconds: float, code: int = EXIT_INTERRUPTED) -> None:
    """End the process after some seconds, even if this thread is blocked by then."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _say(text: str) -> None:
    """Write a line to stderr without Python's buffers, whose locks the main thread may hold, and show the cursor."""
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    flushing.join(0.5)
    terminal = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{terminal}{text}\n".encode())


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()

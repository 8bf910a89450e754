"""A child process that answers JSON lines, and can crash or hang without taking this process along."""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from bayes_mlff.core.errors import EngineRetryError, EngineSetupError

CHILD: Final = Path(__file__).with_name("child.py")
STDERR: Final = "worker.stderr"
POLL_S: Final = 0.5
GRACE_S: Final = 2.0
TAIL: Final = 1500
CHUNK: Final = 1 << 16

_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OWN_PYTHON: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""What would lead another interpreter to the packages of this one."""


def find_python(python: str | None) -> str:
    """Path of the interpreter to use; links stay as they are, since a virtual environment hangs on them.

    Raises:
      EngineSetupError: if it is not there or cannot be executed.
    """
    if python is None:
        return sys.executable
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise EngineSetupError(f"engine.python: got {python!r}; allowed: the path of a Python interpreter")
    return os.path.abspath(found)


def child_environment(python: str, threads: int, extra: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a child that runs `python` with so many threads."""
    other = os.path.abspath(python) != os.path.abspath(sys.executable)
    kept = {name: value for name, value in os.environ.items() if not (other and name in _OWN_PYTHON)}
    return kept | dict.fromkeys(_THREADS, str(threads)) | dict(extra)


class Mpi(NamedTuple):
    """How to start several processes that calculate a label together."""

    launcher: tuple[str, ...]  # such as mpiexec -n 4
    module: str  # of the calculator's package, with `world`
    environment: Mapping[str, str]  # variables that the processes need


class WorkerProcess:
    """One child with a session and process group of its own; it ends with its pipes if this process dies.

    A child that has not answered in time, has died or was interrupted is ended, and cannot be asked again.
    """

    def __init__(self, python: str, environment: Mapping[str, str], directory: Path, mpi: Mpi | None = None):
        """Start the child in `directory`, where it also leaves its standard error; with `mpi` it starts others.

        Raises:
          EngineSetupError: if the process cannot be started.
        """
        self.directory = directory
        self._stderr = directory / STDERR
        try:
            with self._stderr.open("ab") as stderr:
                self._stderr_start = stderr.tell()
                self._process = subprocess.Popen(
                    [python, str(CHILD), *(() if mpi is None else ("serve", mpi.module, *mpi.launcher))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    bufsize=0,
                    cwd=directory,
                    env=dict(environment),
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineSetupError(f"engine: cannot start {python} in {directory}: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._buffer, self._asked, self._ended = b"", 0, False

    @property
    def pid(self) -> int:
        """Process, session and process group."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """True if it can be asked, as far as one can know."""
        return not self._ended and self._process.poll() is None

    def ask(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for the reply to it.

        Args:
          message: the request; its values are those of JSON.
          timeout_s: how long to wait for the complete reply, s.

        Raises:
          EngineRetryError: if the child died or is too slow, with the end of its standard error.
        """
        self._asked += 1
        pending = json.dumps({"id": self._asked, **message}).encode() + b"\n"
        deadline = time.monotonic() + timeout_s
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._stdout, selectors.EVENT_READ)
                selector.register(self._stdin, selectors.EVENT_WRITE)
                while True:
                    remaining = deadline - time.monotonic()
                    if remaining <= 0.0:
                        raise EngineRetryError(f"no answer within {timeout_s:g} s; the process was killed")
                    ready = {key.fileobj for key, _ in selector.select(min(remaining, POLL_S))}
                    if self._stdin in ready:
                        pending = pending[os.write(self._stdin.fileno(), pending[:CHUNK]) :]
                        if not pending:
                            selector.unregister(self._stdin)
                    if self._stdout in ready:
                        data = os.read(self._stdout.fileno(), CHUNK)
                        if not data:
                            raise BrokenPipeError
                        reply = self._reply(data)
                        if reply is not None:
                            return reply
                    elif self._process.poll() is not None:
                        raise BrokenPipeError
        except BrokenPipeError:
            self._wait()  # it may have closed its pipes on the way out: let it say how it ended
            self.end()
            raise EngineRetryError(f"the process {self._how_it_ended()} without an answer{self._tail()}") from None
        except EngineRetryError as error:
            self.end()
            raise EngineRetryError(f"{error}{self._tail()}") from None
        except BaseException:
            self.end()
            raise

    def end(self, *, orderly: bool = False) -> None:
        """End the child and everything that it started.

        Args:
          orderly: let an idle child close its calculator first.
        """
        if self._ended:
            return
        self._ended = True
        self._stdin.close()
        if orderly:
            self._wait()
        self._signal_group(signal.SIGTERM)
        limit = time.monotonic() + GRACE_S
        while time.monotonic() < limit and self._group_exists():
            time.sleep(0.01)
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        self._stdout.close()

    def _reply(self, data: bytes) -> dict[str, Any] | None:
        """The reply to the latest request, if it is complete; lines that are not JSON objects are noise."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                reply = json.loads(line)
            except ValueError:
                continue
            if isinstance(reply, dict) and reply.get("id") == self._asked:
                return reply
        return None

    def _wait(self) -> None:
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return

    def _group_exists(self) -> bool:
        self._process.poll()  # a child that nobody waits for remains in its group
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def _tail(self) -> str:
        """The last lines that this child wrote to standard error."""
        with self._stderr.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._stderr_start, size - TAIL))
            text = file.read().decode("utf-8", "replace").strip()
        return f"; end of {self._stderr}: {text}" if text else f"; {self._stderr} is empty"

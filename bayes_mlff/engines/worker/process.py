"""A child process that answers JSON lines, and can crash or hang without harm to this process."""

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
"""Environment variables that would make another interpreter use the packages of this one."""


def find_python(python: str | None) -> str:
    """Path of the interpreter to use; links are not resolved, since virtual environments depend on them.

    Raises:
      EngineSetupError: if it does not exist or cannot be executed.
    """
    if python is None:
        return sys.executable
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise EngineSetupError(f"engine.python: got {python!r}; allowed: the path of a Python interpreter")
    return os.path.abspath(found)


def child_environment(python: str, threads: int, extra: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a child process that runs `python` with this number of threads."""
    other = os.path.abspath(python) != os.path.abspath(sys.executable)
    kept = {name: value for name, value in os.environ.items() if not (other and name in _OWN_PYTHON)}
    return kept | dict.fromkeys(_THREADS, str(threads)) | dict(extra)


class Mpi(NamedTuple):
    """How to start several MPI processes that calculate a label together."""

    launcher: tuple[str, ...]  # command, e.g. mpiexec -n 4
    module: str  # module of the calculator's package that has `world`
    environment: Mapping[str, str]  # variables that the processes need


class WorkerProcess:
    """One child with its own session and process group; if this process dies, its pipes close and the child ends.

    A child that has not answered in time, has died or was interrupted is ended and cannot be used again.
    """

    def __init__(self, python: str, environment: Mapping[str, str], directory: Path, mpi: Mpi | None = None):
        """Start the child in `directory`, where it also writes its standard error; with `mpi` it starts MPI processes.

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
        """Id of the process, its session and its process group."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """True if the process is running, so that it can be asked."""
        return not self._ended and self._process.poll() is None

    def ask(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for the reply to it.

        Args:
          message: the request, with JSON values.
          timeout_s: longest time to wait for the complete reply, s.

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
            self._wait()  # it may have closed its pipes before its end: wait for the exit status
            self.end()
            raise EngineRetryError(f"the process {self._how_it_ended()} without an answer{self._tail()}") from None
        except EngineRetryError as error:
            self.end()
            raise EngineRetryError(f"{error}{self._tail()}") from None
        except BaseException:
            self.end()
            raise

    def end(self, *, orderly: bool = False) -> None:
        """End the child and all processes that it started.

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
        """The reply to the latest request, if it is complete; lines that are not JSON objects are ignored."""
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
        except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
            return

    def _group_exists(self) -> bool:
        self._process.poll()  # a child that is not waited for remains in its group
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

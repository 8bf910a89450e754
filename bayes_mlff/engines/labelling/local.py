"""Processes on this machine, each of which calculates one label at a time and can die without harm to the others."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerDiedError(RuntimeError):
    """The process of a task died; other tasks are not concerned."""


class LocalPool(Executor):
    """An executor of several pools of one process each.

    A pool of several processes ends all of them when one dies, with all the labels that they are calculating. Here a
    thread waits for each process, and gives the next task to a new one if it has died.
    """

    def __init__(self, workers: int, *, threads: int):
        """Prepare the processes, which start with their first task.

        Args:
          workers: number of processes.
          threads: number of OpenMP and BLAS threads of each.
        """
        self._threads = threads
        self._waiting = ThreadPoolExecutor(workers, thread_name_prefix="label")
        self._own = threading.local()
        self._starting, self._closed = threading.Lock(), False
        self._pids: set[int] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """See `Executor.submit`; the future has a `WorkerDiedError` if the process of this task died."""
        return self._waiting.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Executor.shutdown`; without waiting, or if tasks are cancelled, the processes are killed."""
        if not wait or cancel_futures:
            with self._starting:
                self._closed = True
                for process in multiprocessing.active_children():
                    if process.pid in self._pids:
                        _kill_family(process.pid)
        self._waiting.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _run(self, fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run a task in the process of this thread."""
        pid = 0
        try:
            pool, pid = self._process()
            return pool.submit(fn, *args, **kwargs).result()
        except BrokenProcessPool as error:
            self._own.pool = None
            with self._starting:
                self._pids.discard(pid)
            raise WorkerDiedError(
                f"the worker process {pid or 'died at its start'} died (killed, out of memory, or crashed)"
            ) from error

    def _process(self) -> tuple[ProcessPoolExecutor, int]:
        """The process of this thread; a new one if there is none."""
        if getattr(self._own, "pool", None) is None:
            with self._starting, _environment(self._threads):
                if self._closed:
                    raise BrokenProcessPool("the executor is closed")
                pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _end_with_driver)
                pid = pool.submit(os.getpid).result()
                self._own.pool, self._own.pid = pool, pid
                self._pids.add(pid)
        return self._own.pool, self._own.pid


def _end_with_driver() -> None:
    """In a worker: a process group of its own, without the terminal's Ctrl-C, that ends when the driver is gone."""
    os.setsid()
    driver = multiprocessing.parent_process()
    assert driver is not None

    def watch() -> None:
        driver.join()
        _kill_family(os.getpid())

    threading.Thread(target=watch, daemon=True).start()


def _kill_family(pid: int) -> None:
    """Kill a worker, and the programs that its engine has started in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Environment in which processes start; NumPy reads the number of threads when it is imported.

    They import this package from where it is, also if that was the folder of an earlier configuration, which is no
    longer in `sys.path`.
    """
    here, path = str(Path(__file__).resolve().parents[3]), list(sys.path)
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    if here not in path:
        sys.path.append(here)
    try:
        yield
    finally:
        sys.path[:] = path
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""Hands label tasks to an executor and brings back what became of them, in the order of arrival."""

import contextlib
import queue
import time
from collections import deque
from collections.abc import Hashable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from bayes_mlff.core.errors import ConfigError, EngineSetupError, brief
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import CommonSettings
from bayes_mlff.engines.labelling.executors import close, is_broken, make_executor
from bayes_mlff.engines.labelling.outcome import Outcome, key_of
from bayes_mlff.engines.labelling.settings import ExecutorBase, LocalSettings
from bayes_mlff.engines.labelling.spool import Spool
from bayes_mlff.engines.labelling.task import Task, Trial, label, method_of, try_out

ATTEMPTS: Final = 3
"""Number of times that a label is handed out before it counts as lost."""


class Arrival(NamedTuple):
    """What became of one request."""

    tag: Hashable  # as given to `submit`
    outcome: Outcome
    waited_s: float  # from the request to the arrival, s
    attempts: int  # number of times that it was handed out; 0 if it was found in the spool
    remarks: tuple[str, ...]  # for the log: lost attempts, damaged files


class _Request:
    """One geometry that is asked for, perhaps by several."""

    def __init__(self, structure: Structure, remarks: tuple[str, ...]):
        self.structure = structure
        self.tags: dict[Hashable, float] = {}  # tag -> time of the request
        self.attempts = 0
        self.remarks = remarks
        self.future: Future | None = None  # None as long as it is held back


class Dispatcher:
    """Asks an executor for labels. All methods are for the thread that made it.

    Use it as a context manager: entering starts the executor, leaving closes it without waiting for labels that are
    under way. Nothing is lost or paid twice by a driver that ends in whatever way: each worker stores its label in the
    spool before it answers, and a geometry that is found there is not calculated again. What has arrived stays in the
    spool until `stored` is called.
    """

    def __init__(
        self,
        executor: ExecutorBase,
        engine: CommonSettings,
        *,
        settings_hash: str,
        spool: Path,
        base: Path | None = None,
        in_flight: int | None = None,
        attempts: int = ATTEMPTS,
    ):
        """Prepare; nothing is started or written.

        Args:
          executor: settings of the executor.
          engine: settings of the engine.
          settings_hash: that of the engine; workers whose engine has another one are refused.
          spool: folder for labels and the executor's logs, which all workers see.
          base: folder of the configuration.
          in_flight: largest number of labels that the executor has at once; never more than it can calculate at once,
            if that is known. Others are held back here, and can be cancelled.
          attempts: number of times that a label is handed out before it counts as lost.

        Raises:
          ConfigError: if the engine's settings are no plain data, or labels would depend on their order.
        """
        self._settings, self._base, self._attempts = executor, base, attempts
        self._method = method_of(engine, base, settings_hash)
        self._spool = Spool(spool)
        limits = [limit for limit in (in_flight, executor.places) if limit is not None]
        self._limit = min(limits, default=None)
        self._executor: Executor | None = None
        self._breaks = 0  # of the executor, since the last answer
        self._requests: dict[str, _Request] = {}
        self._held: deque[str] = deque()
        self._back: queue.SimpleQueue[tuple[str, Future]] = queue.SimpleQueue()
        self._arrived: list[Arrival] = []

    def __enter__(self) -> Self:
        """Start the executor.

        Raises:
          EngineSetupError: if it cannot be imported, does not start, or is no executor.
          OSError: if the spool cannot be made.
        """
        self._spool.make()
        self._executor = self._made()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the executor."""
        self.close()

    def try_out(self, structure: Structure) -> Trial | None:
        """Let a worker make its engine and say whether it can label structures like this one; nothing is calculated.

        Returns:
          What the worker says; None if no worker was there in time, because a queue is long. Each task makes the same
          checks before it calculates.

        Raises:
          EngineSetupError: if the executor dies, or the worker cannot label or has another method.
        """
        assert self._executor is not None, "the dispatcher is used as a context manager"
        deadline = time.monotonic() + self._settings.start_timeout_s
        for attempt in range(1, self._attempts + 1):
            try:
                future = self._executor.submit(try_out, self._method, str(self._spool.folder), structure)
                trial: Trial = future.result(timeout=max(0.0, deadline - time.monotonic()))
                break
            except TimeoutError:
                return self._nobody_there()
            except Exception as error:
                if attempt == self._attempts or is_broken(error):
                    text = f"{type(error).__name__}: {brief(str(error))}"
                    raise EngineSetupError(
                        f"executor: it cannot run a first task, which calculates nothing: {text}"
                    ) from error
        if trial.problem is not None:
            raise EngineSetupError(f"executor: the worker {trial.where} cannot label: {trial.problem}")
        return trial

    @property
    def pending(self) -> int:
        """Number of requests that have not arrived, also those that are held back."""
        return sum(len(request.tags) for request in self._requests.values())

    def key(self, structure: Structure) -> str:
        """Key under which the label of a structure is in the spool."""
        return key_of(self._method.settings_hash, structure)

    def submit(self, tag: Hashable, structure: Structure) -> None:
        """Ask for a label; returns at once. What is in the spool has arrived when this returns.

        Args:
          tag: any value that is not used for another request that has not arrived.
          structure: what is to be labelled.

        Raises:
          EngineSetupError: if the executor has broken several times in a row.
          ConfigError: if the task cannot be pickled.
        """
        if any(tag in request.tags for request in self._requests.values()):
            raise ValueError(f"there is a request with the tag {tag!r} already")
        key, now = self.key(structure), time.monotonic()
        if key not in self._requests:
            found, remarks = self._spool.take(key, structure)
            if found is not None:
                self._arrived.append(Arrival(tag, found, 0.0, 0, found.remarks))
                return
            self._check(structure)
            self._requests[key] = _Request(structure, remarks)
            self._held.append(key)
        self._requests[key].tags[tag] = now
        self._hand_out()

    def done(self) -> list[Arrival]:
        """All requests that have arrived since the last call, in the order of arrival; does not wait.

        Raises:
          EngineSetupError: if the executor has broken several times in a row.
        """
        with contextlib.suppress(queue.Empty):
            while True:
                self._receive(*self._back.get_nowait())
        arrived, self._arrived = self._arrived, []
        return arrived

    def wait(self, timeout_s: float) -> bool:
        """Wait until something has arrived.

        Args:
          timeout_s: longest time, s.

        Returns:
          True if `done` will give something; False if the time is over, or nothing is asked for.

        Raises:
          EngineSetupError: if the executor has broken several times in a row.
        """
        deadline = time.monotonic() + timeout_s
        while not self._arrived and self._requests:
            try:
                self._receive(*self._back.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                return False
        return bool(self._arrived)

    def cancel(self, tag: Hashable) -> bool:
        """Withdraw a request.

        Returns:
          True if it will not arrive; False if its calculation may have begun, or there is no such request.
        """
        for key, request in self._requests.items():
            if tag not in request.tags:
                continue
            if len(request.tags) == 1 and not self._withdrawn(key, request):
                return False
            del request.tags[tag]
            if not request.tags:
                del self._requests[key]
                self._hand_out()
            return True
        return False

    def stored(self, outcome: Outcome) -> None:
        """Remove a label from the spool, which is stored elsewhere by now."""
        self._spool.drop(outcome.key)

    def close(self) -> None:
        """Close the executor; labels under way are given up, what is held back is forgotten."""
        executor, self._executor = self._executor, None
        requests, self._requests = self._requests, {}
        self._held.clear()
        for request in requests.values():
            _cancelled(request.future)
        if executor is not None:
            close(executor)

    def _nobody_there(self) -> None:
        """Raise EngineSetupError if workers must have answered by now."""
        if isinstance(self._settings, LocalSettings):
            limit = f"{self._settings.start_timeout_s:g} s (executor.start_timeout_s)"
            raise EngineSetupError(f"executor: no process was ready within {limit}")

    def _made(self) -> Executor:
        return make_executor(self._settings, base=self._base, work=self._spool.folder)

    def _task(self, structure: Structure) -> Task:
        return Task(self._method, structure, str(self._spool.folder))

    def _check(self, structure: Structure) -> None:
        try:
            ForkingPickler.dumps(self._task(structure))
        except Exception as error:
            raise ConfigError(
                "structure", type(error).__name__, f"plain data, which can be pickled ({error})"
            ) from error

    def _hand_out(self) -> None:
        """Give the executor what it may have."""
        while self._held and (self._limit is None or len(self._requests) - len(self._held) < self._limit):
            key = self._held.popleft()
            request = self._requests[key]
            request.attempts += 1
            try:
                assert self._executor is not None, "the dispatcher is used as a context manager"
                request.future = self._executor.submit(label, self._task(request.structure))
            except Exception as error:  # noqa: BLE001 (whatever executors raise)
                request.future = Future()
                request.future.set_exception(BrokenExecutor(f"no task is taken: {type(error).__name__}: {error}"))
            request.future.add_done_callback(lambda future, key=key: self._back.put((key, future)))

    def _receive(self, key: str, future: Future) -> None:
        """Take what an executor has answered."""
        request = self._requests.get(key)
        if request is None or request.future is not future:
            return  # withdrawn, or of an executor that is gone
        outcome = self._answer(key, request, future)
        if outcome is not None:
            del self._requests[key]
            now = time.monotonic()
            remarks = (*request.remarks, *outcome.remarks)
            self._arrived += [
                Arrival(tag, outcome, now - asked, request.attempts, remarks) for tag, asked in request.tags.items()
            ]
        self._hand_out()

    def _answer(self, key: str, request: _Request, future: Future) -> Outcome | None:
        """The outcome of a request, durably stored; None if it is handed out again."""
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            outcome: Outcome = future.result()
        else:  # not raised: a worker's KeyboardInterrupt is not the driver's
            text = f"{type(error).__name__}: {brief(str(error))}"
            if is_broken(error):
                self._replace_executor(text)
                return None
            outcome = Outcome(key, "lost", None, text, 0.0, "")
        if outcome.kind == "lost":
            found, remarks = self._spool.take(key, request.structure)
            request.remarks += (f"attempt {request.attempts} was lost: {outcome.message}", *remarks)
            if found is None and request.attempts < self._attempts:
                self._hold(key, request)
                return None
            lost = f"lost {request.attempts} times, at last: {outcome.message}"
            outcome = found or outcome._replace(message=lost)
        self._breaks = 0
        if outcome.paid and not self._spool.holds(key):
            try:
                self._spool.put(outcome)
            except OSError as error:
                request.remarks += (f"{self._spool.folder}: the label could not be stored ({error})",)
        return outcome

    def _hold(self, key: str, request: _Request) -> None:
        """Hold a request back, to be handed out before all others."""
        request.future = None
        self._held.appendleft(key)

    def _replace_executor(self, text: str) -> None:
        """Start another executor in the place of a broken one, which gets all that was under way."""
        self._breaks += 1
        if self._breaks >= self._attempts:
            raise EngineSetupError(f"executor: it broke {self._breaks} times in a row without a label: {text}")
        assert self._executor is not None
        close(self._executor)
        for key, request in self._requests.items():
            if request.future is not None and not _answered(request.future):
                request.attempts -= 1  # nobody knows whose fault it was
                self._hold(key, request)
        self._executor = self._made()

    def _withdrawn(self, key: str, request: _Request) -> bool:
        """Take back what an executor has not begun."""
        if request.future is None:
            self._held.remove(key)
            return True
        return _cancelled(request.future)


def _cancelled(future: Future | None) -> bool:
    """Cancel a future if it has not begun; not all executors can."""
    with contextlib.suppress(NotImplementedError):
        return future is not None and future.cancel()
    return False


def _answered(future: Future) -> bool:
    """True if a future has a result, which is still to be received."""
    return future.done() and not future.cancelled() and future.exception() is None

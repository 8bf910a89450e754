"""One run in several processes, on one host or many, each with its own devices.

All processes do the same work and take the same decisions; only the chains are split over the devices of all
processes. Only the first process calls the reference and writes the run directory; the others receive its results
and write to temporary copies. With one process, the functions here do nothing.
"""

import base64
import contextvars
import itertools
import json
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from bayes_mlff.core.errors import BayesMlffError, ConfigError, EngineFailedError, RunInterruptedError

T = TypeVar("T")

SLURM: Final = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
"""Environment variables that `srun` sets for each process."""

LONGEST_WAIT_S: Final = 7 * 24 * 3600
"""Longest wait for another process, e.g. for a reference calculation of the first one."""

SILENCE_S: Final = 60
"""A process that sends no heartbeat for this time counts as dead; then all processes end."""

_ALONE: Final = contextvars.ContextVar("alone", default=False)
"""True while the first process does work inside `shared`."""

_BARRIERS: Final = itertools.count()
"""Numbers of the barriers of this process, the same in all; global, like JAX's own connection."""


def join() -> None:
    """Connect to the other processes, if `srun` has started several or JAX's coordinator variables are set.

    The variables are JAX_COORDINATOR_ADDRESS (host:port of the first process) and, without SLURM,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. Call this before anything is computed.

    Raises:
      ConfigError: if a variable is missing or is not a number.
    """
    slurm = all(name in os.environ for name in SLURM) and os.environ["SLURM_NTASKS"] != "1"
    told = "JAX_COORDINATOR_ADDRESS" in os.environ
    if not (slurm or told):
        return
    jax.distributed.initialize(
        num_processes=None if slurm else _number("JAX_NUM_PROCESSES"),
        process_id=None if slurm else _number("JAX_PROCESS_ID"),
        heartbeat_timeout_seconds=SILENCE_S,
        shutdown_timeout_seconds=SILENCE_S,
    )


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise ConfigError(name, value, "a number, since JAX_COORDINATOR_ADDRESS is set")
    return int(value)


def first() -> bool:
    """True in the first process, which calls the reference and writes the files."""
    return jax.process_index() == 0


def barrier() -> None:
    """Wait for the other processes, for up to `LONGEST_WAIT_S`; a wait on the devices would fail after half a minute.

    Raises:
      JaxRuntimeError: if one of them has ended.
    """
    if jax.process_count() > 1:
        from jax._src import distributed  # noqa: PLC0415 (the public ways to wait do so on the devices)

        client = distributed.global_state.client
        assert client is not None
        client.wait_at_barrier(f"bayes_mlff {next(_BARRIERS)}", timeout_in_ms=1000 * LONGEST_WAIT_S)


def shared(work: Callable[[], T]) -> T:
    """Call a function only in the first process and return its result in all processes.

    Args:
      work: returns JSON values, which may contain tuples, arrays and bytes; other processes get lists for tuples.

    Raises:
      BayesMlffError: in all processes if the function raises one. EngineFailedError and RunInterruptedError keep their
        type in all processes, other errors only in the first.
    """
    if jax.process_count() == 1:
        return work()
    value, failure, error = None, None, None
    if first():
        token = _ALONE.set(True)
        try:
            value = work()
        except RunInterruptedError as caught:
            error, failure = caught, ("interrupted", (caught.reason, caught.where, caught.farewell))
        except BayesMlffError as caught:
            kind = "engine" if isinstance(caught, EngineFailedError) else "other"
            error, failure = caught, (kind, (str(caught),))
        finally:
            _ALONE.reset(token)
    told = _told(json.dumps((value, failure), default=_encoded).encode())
    if error is not None:
        raise error
    if not first():
        value, failure = json.loads(told, object_hook=_decoded)
    if failure is not None:
        kind, arguments = failure
        raise {"interrupted": RunInterruptedError, "engine": EngineFailedError, "other": BayesMlffError}[kind](
            *arguments
        )
    return cast(T, value)


def any_of(value: bool) -> bool:
    """True in all processes if `value` is true in one; all must call it together. Inside `shared`: only the first's."""
    if jax.process_count() == 1 or _ALONE.get():
        return value
    return bool(np.any(multihost_utils.process_allgather(np.bool_(value))))


def _encoded(value: Any) -> Any:
    """Encode arrays and bytes as JSON."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": value.shape, "content": _encoded(value.tobytes())}
    return {"bytes": base64.b64encode(value).decode()}


def _decoded(item: dict[str, Any]) -> Any:
    """Decode what `_encoded` made; other JSON objects are unchanged."""
    if set(item) == {"bytes"}:
        return base64.b64decode(item["bytes"])
    if set(item) == {"dtype", "shape", "content"}:
        return np.frombuffer(item["content"], item["dtype"]).reshape(item["shape"]).copy()
    return item


def _told(message: bytes) -> bytes:
    """Send the message of the first process to all; returns it."""
    barrier()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    content = np.frombuffer(message, np.uint8) if first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes()

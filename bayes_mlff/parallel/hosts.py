"""One run in several processes, on one host or many, each with devices of its own.

All processes do the same work and take the same decisions; those of the chains are shared out over the devices of
all. The first process alone asks the reference and keeps the run directory; the others are told its answers, and
write to copies that are thrown away. With one process everything here does nothing.
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
"""What `srun` sets for each process."""

LONGEST_WAIT_S: Final = 7 * 24 * 3600
"""For a reference calculation of the first process."""

SILENCE_S: Final = 60
"""After which a process that gives no sign of life is taken for dead, which ends all."""

_ALONE: Final = contextvars.ContextVar("alone", default=False)
"""True while the first process does what the others are told about afterwards."""

_BARRIERS: Final = itertools.count()
"""Numbers of the barriers of this process, the same in all; like JAX's own connection there is one for a process."""


def join() -> None:
    """Connect to the other processes, if `srun` has started several or JAX's coordinator variables are set.

    The variables are JAX_COORDINATOR_ADDRESS (host:port of the first process) with, where SLURM does not tell,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. To be called before anything is computed.

    Raises:
      ConfigError: if a variable is missing or is no number.
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
    """True in the process that asks the reference and keeps the files."""
    return jax.process_index() == 0


def barrier() -> None:
    """Wait for the other processes, however long they take; devices would wait for each other for half a minute.

    Raises:
      JaxRuntimeError: if one of them has ended.
    """
    if jax.process_count() > 1:
        from jax._src import distributed  # noqa: PLC0415 (the public ways to wait do so on the devices)

        client = distributed.global_state.client
        assert client is not None
        client.wait_at_barrier(f"bayes_mlff {next(_BARRIERS)}", timeout_in_ms=1000 * LONGEST_WAIT_S)


def shared(work: Callable[[], T]) -> T:
    """What a function gives in the first process, which alone calls it, in all processes.

    Args:
      work: gives what JSON can hold, or tuples, arrays and bytes within; the others get lists for tuples.

    Raises:
      BayesMlffError: in all processes if the function does; of the same type in the first, EngineFailedError in all.
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
    """True in all processes if it is in one of them, which all ask at the same time; within `shared`, of the first."""
    if jax.process_count() == 1 or _ALONE.get():
        return value
    return bool(np.any(multihost_utils.process_allgather(np.bool_(value))))


def _encoded(value: Any) -> Any:
    """Arrays and bytes as JSON."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": value.shape, "content": _encoded(value.tobytes())}
    return {"bytes": base64.b64encode(value).decode()}


def _decoded(item: dict[str, Any]) -> Any:
    """`_encoded` back again, and any other JSON object as it is."""
    if set(item) == {"bytes"}:
        return base64.b64decode(item["bytes"])
    if set(item) == {"dtype", "shape", "content"}:
        return np.frombuffer(item["content"], item["dtype"]).reshape(item["shape"]).copy()
    return item


def _told(message: bytes) -> bytes:
    """The message of the first process."""
    barrier()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    content = np.frombuffer(message, np.uint8) if first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes()

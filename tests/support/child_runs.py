"""Runs in child processes that may be killed: what a test of faults looks at afterwards."""

import contextlib
import itertools
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import jax
from matplotlib.figure import Figure

from bayes_mlff.cli import app as command_line
from bayes_mlff.core import jax_start
from bayes_mlff.testing import faulty_engines
from tests.support import compiled, faults

OUTPUT: Final = "output.txt"
OPERATIONS: Final = "operations.json"
_PRELOAD: Final = (
    "tests.support.child_runs",
    "tests.support.light_imports",
    "tests.support.one_context",
    "bayes_mlff.api.runner",
    "bayes_mlff.api.console",
    "bayes_mlff.testing.faulty_engines",
    "ase.calculators.lj",
    "flax.nnx",
    "jraph",
    "ml_collections",
    "tests.support.before_fork",
)
"""Imported once, for all children; none of them may compute anything, which would fix JAX's devices."""


class Surroundings(NamedTuple):
    """What a child meets."""

    cache: Path | None = None  # folder for compiled functions, which make later children faster
    fault: str | None = None  # what happens to its run directory `run`, as in `faults.Fault.parse`
    devices: int = 1  # of JAX, on the CPU
    clock_step_s: float = 0.0  # what the system's clock jumps by at every look, s
    file_limit: int | None = None  # largest size of a file by the operating system, bytes
    record: bool = False  # leave behind what is done to the files of the run


class Outcome(NamedTuple):
    """How a child ended."""

    code: int  # exit status; minus the signal that killed it
    output: str


def run(folder: Path, arguments: Sequence[str], around: Surroundings, *, timeout_s: float = 900.0) -> Outcome:
    """Run the command line of `bayes_mlff.otf` in a child, forked from a process that has imported but not used JAX.

    Args:
      folder: where it works, and leaves its output.
      arguments: of the command line.
      around: what it meets.
      timeout_s: how long it may take.

    Raises:
      TimeoutError: if it takes longer; it has been killed then.
    """
    return finish(start(folder, arguments, around), folder, timeout_s=timeout_s)


def operations(folder: Path) -> list[faults.Operation]:
    """What a child with `record` did to the files of its run."""
    return [faults.Operation(*operation) for operation in json.loads((folder / OPERATIONS).read_text())]


def start(folder: Path, arguments: Sequence[str], around: Surroundings) -> Any:
    """Start a child as `run` does, without waiting for it; returns a process for `finish`, which ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOAD))
    child = context.Process(target=_work, args=(folder, arguments, around), daemon=True)
    child.start()
    return child


def finish(child: Any, folder: Path, *, timeout_s: float = 900.0) -> Outcome:
    """Wait for a child from `start`.

    Raises:
      TimeoutError: if it takes longer than `timeout_s`; it has been killed then.
    """
    child.join(timeout_s)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise TimeoutError(f"no end within {timeout_s} s; {folder / OUTPUT}: {(folder / OUTPUT).read_text()[-2000:]}")
    return Outcome(child.exitcode, (folder / OUTPUT).read_text())


def _work(folder: Path, arguments: Sequence[str], around: Surroundings) -> None:
    """In the child: settle in, then do what the command line does."""
    os.chdir(folder)
    os.environ[faulty_engines.START] = str(folder.absolute())  # engines work in folders of their runs
    output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", around.devices)
    if around.cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(around.cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if around.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (around.file_limit, around.file_limit))
    now, looks = time.time, itertools.count()

    def shifted_time() -> float:
        return now() + around.clock_step_s * next(looks)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(jax_start, "start_jax"))
        stack.enter_context(mock.patch("time.time", shifted_time))
        stack.enter_context(mock.patch.object(Figure, "savefig"))  # slow, and drawn elsewhere
        if around.cache is not None:
            stack.enter_context(compiled.shared(around.cache))
        if around.fault is not None or around.record:
            fault = None if around.fault is None else faults.Fault.parse(around.fault)
            plan = stack.enter_context(faults.accident(fault, Path("run")))
            stack.callback(lambda: Path(OPERATIONS).write_text(json.dumps(plan.seen)))
        sys.argv = ["bayes_mlff.otf", *arguments]
        command_line.main()

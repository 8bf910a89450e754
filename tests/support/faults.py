"""Planned accidents at named points of a run: kill -9, a signal, a full disk, a read-only or broken one.

Production code knows nothing of them: calls into the system and into three functions of the loop are replaced in a
process of its own, which runs the command line of `bayes_mlff.otf` until the accident.

    python -m tests.support.faults kill@label_synced:2 RUN_DIRECTORY -- run config.yaml -o RUN_DIRECTORY
    python -m tests.support.faults ENOSPC@any_write:7 RUN_DIRECTORY -- resume RUN_DIRECTORY
"""

import contextlib
import errno
import fnmatch
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar
from unittest import mock

from bayes_mlff.core.errors import ConfigError

T = TypeVar("T")
Moment = Literal["before", "half", "after"]


class Point(NamedTuple):
    """Where an accident can happen."""

    operation: (
        str  # 'call', or of a file: open (for writing), write, fsync, replace, truncate, unlink, link (to the target)
    )
    target: str  # function as 'module:Class.method', or pattern of the file's name
    moment: Moment  # 'half': when half of the bytes are in the file


POINTS: Final = {
    "reference_started": Point("call", "bayes_mlff.engines.verified:VerifiedEngine.label", "before"),
    "reference_answered": Point("call", "bayes_mlff.engines.verified:VerifiedEngine.label", "after"),
    "label_half_written": Point("write", "dataset.extxyz", "half"),
    "label_written": Point("fsync", "dataset.extxyz", "before"),
    "label_synced": Point("fsync", "dataset.extxyz", "after"),
    "chains_continued": Point("call", "bayes_mlff.parallel.devices:ChainDevices.__call__", "after"),
    "thermo_half_written": Point("write", "thermo.csv", "half"),
    "trajectory_half_written": Point("write", "trajectory.extxyz", "half"),
    "event_half_written": Point("write", "events.jsonl", "half"),
    "checkpoint_not_begun": Point("open", "*.ckpt.tmp", "before"),
    "checkpoint_half_written": Point("write", "*.ckpt.tmp", "half"),
    "checkpoint_written": Point("fsync", "*.ckpt.tmp", "before"),
    "checkpoint_synced": Point("fsync", "*.ckpt.tmp", "after"),
    "checkpoint_named": Point("replace", "*.ckpt", "after"),
    "checkpoint_dropped": Point("unlink", "*.ckpt", "after"),
    "ensemble_half_written": Point("write", "*.ensemble.safetensors.tmp", "half"),
    "ensemble_named": Point("replace", "*.ensemble.safetensors", "after"),
    "ensemble_linked": Point("link", "*.ensemble.safetensors", "after"),
    "ensemble_dropped": Point("unlink", "*.ensemble.safetensors", "after"),
    "artefact_half_written": Point("write", "ensemble.safetensors.tmp", "half"),
    "model_half_kept": Point("write", "model.safetensors.tmp", "half"),
    "identity_half_written": Point("write", "identity.json.tmp", "half"),
    "configuration_half_written": Point("write", "config.yaml.tmp", "half"),
    "validation_half_written": Point("write", "validation.npz*", "half"),
    "report_half_written": Point("write", "report.html*", "half"),
    "any_open": Point("open", "*", "before"),
    "any_write": Point("write", "*", "half"),
    "any_fsync": Point("fsync", "*", "before"),
}
"""Points by name; the n-th time that a run comes by is meant by `name:n`."""

KILL: Final = "kill"
SIGNALS: Final = ("SIGTERM", "SIGUSR1", "SIGINT")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_REFUSED: Final = {
    errno.ENOSPC: ("write", "fsync"),
    errno.EDQUOT: ("write", "fsync"),
    errno.EIO: ("write", "fsync"),
    errno.EROFS: ("open", "write", "replace", "truncate", "unlink", "link"),
}
"""What goes on failing after the first error of a kind."""


class Fault(NamedTuple):
    """One accident."""

    point: str
    occurrence: int = 1
    error: int | None = None  # errno with which the disk fails from then on; None: this process gets a signal
    signal: str = "SIGKILL"

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """From `kill@POINT:n`, `SIGTERM@POINT:n` or `ENOSPC@POINT:n`; n is 1 if left out.

        Raises:
          ConfigError: if there is no such point or accident.
        """
        action, _, where = text.partition("@")
        point, _, number = where.partition(":")
        errors = [errno.errorcode[code] for code in _REFUSED]
        if action not in (KILL, *SIGNALS, *errors):
            raise ConfigError("fault", text, f"{KILL} or one of {', '.join((*SIGNALS, *errors))}, '@' and a point")
        if point not in POINTS or not (number or "1").isdecimal():
            raise ConfigError("fault", text, f"a point and perhaps ':n', of {', '.join(POINTS)}")
        if action in SIGNALS:
            return cls(point, int(number or 1), None, action)
        return cls(point, int(number or 1), None if action == KILL else getattr(errno, action))


class Operation(NamedTuple):
    """What a run did to one of its files."""

    name: str
    file: str


class Accident:
    """Counts what a run does to the files in its directory, and strikes when it is time.

    A full disk takes as many bytes more as were removed since.
    """

    def __init__(self, fault: Fault | None, root: Path):
        """Watch files below `root`, which need not exist yet; without a fault nothing but the watching is done."""
        self.seen: list[Operation] = []
        self._fault, self._root = fault, os.path.abspath(root) + os.sep
        self._left = 0 if fault is None else fault.occurrence
        self._error: int | None = None  # of the disk, once it has failed
        self._free = 0  # bytes, on a full disk
        self._names: dict[int, str] = {}  # of open files

    def on_call(self, target: str, action: Callable[[], T]) -> T:
        """Call a function of the loop."""
        moment = self._moment("call", target)
        if moment == "before":
            self._strike()
        result = action()
        if moment == "after":
            self._strike()
        return result

    def on_file(self, operation: str, path: str, action: Callable[[], T], half: Callable[[], Any] | None = None) -> T:
        """Do something to a file; `half` does a part of it."""
        if not self.watches(path):
            return action()
        self.seen.append(Operation(operation, os.path.basename(path)))
        moment = self._moment(operation, os.path.basename(path))
        if moment == "half" and half is not None and not self._goes_on():
            half()
        if moment in ("before", "half"):
            self._strike()
        self._refuse(operation, path)
        result = action()
        if moment == "after":
            self._strike()
        return result

    def write(self, path: str, data: Any, action: Callable[[Any], int]) -> int:
        """Write, or as much of it as finds room."""
        view = memoryview(data).cast("B")
        if self._error in _FULL and self.watches(path) and self._free > 0:
            count = action(view[: self._free])
            self._free -= count
            return count
        return self.on_file("write", path, lambda: action(view), lambda: action(view[: len(view) // 2]))

    def opened(self, descriptor: int, path: str) -> None:
        """Remember the name behind a descriptor."""
        self._names[descriptor] = path

    def closed(self, descriptor: int) -> None:
        """Forget the name: the number will be that of another file."""
        self._names.pop(descriptor, None)

    def name(self, descriptor: int) -> str:
        """Path that was opened; empty for what was not opened here."""
        return self._names.get(descriptor, "")

    def watches(self, path: str) -> bool:
        """True for files in the run directory."""
        return path.startswith(self._root)

    def _moment(self, operation: str, target: str) -> Moment | None:
        """When to strike in this operation, if it is the one that was waited for."""
        if self._fault is None or self._left == 0:
            return None
        point = POINTS[self._fault.point]
        if point.operation != operation or not fnmatch.fnmatchcase(target, point.target):
            return None
        self._left -= 1
        return point.moment if self._left == 0 else None

    def _goes_on(self) -> bool:
        """True if what was begun is done in spite of the accident: a signal is a request."""
        return self._fault is not None and self._fault.signal in SIGNALS

    def _strike(self) -> None:
        assert self._fault is not None
        if self._fault.error is None:
            os.kill(os.getpid(), signal.Signals[self._fault.signal])
            return
        self._error = self._fault.error

    def _refuse(self, operation: str, path: str) -> None:
        if self._error is None:
            return
        if self._error in _FULL and operation == "unlink" and os.path.exists(path) and os.stat(path).st_nlink == 1:
            self._free += os.path.getsize(path)
        if operation == "fsync" and self._free > 0:
            return
        if operation in _REFUSED[self._error]:
            raise OSError(self._error, os.strerror(self._error), path)


class _WatchedFile(io.FileIO):
    """A file whose writes an accident can hit."""

    def __init__(self, path: str, mode: str, accident: Accident):
        self._path, self._accident = path, accident
        accident.on_file("open", path, lambda: io.FileIO.__init__(self, path, mode))
        accident.opened(self.fileno(), path)

    def write(self, data: Any, /) -> int:
        return self._accident.write(self._path, data, super().write)

    def close(self) -> None:
        if not self.closed:
            self._accident.closed(self.fileno())
        super().close()

    def truncate(self, size: int | None = None, /) -> int:
        return self._accident.on_file("truncate", self._path, lambda: super(_WatchedFile, self).truncate(size))


@contextlib.contextmanager
def accident(fault: Fault | None, root: Path) -> Iterator[Accident]:
    """Let a fault happen to this process when it comes by; meant for a process of its own.

    Args:
      fault: what is to happen; None only records what is done to the files.
      root: run directory; other files are left alone.
    """
    plan = Accident(fault, root)
    with contextlib.ExitStack() as stack:
        for patch in (*_file_patches(plan), *_call_patches(plan)):
            stack.enter_context(patch)
        yield plan


def _file_patches(plan: Accident) -> Iterator[Any]:
    """Replacements of every way in which Python changes a file."""
    real_open, os_open, os_close, os_write, fsync = io.open, os.open, os.close, os.write, os.fsync
    real_truncate = os.truncate  # takes descriptors as well

    def open_file(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if isinstance(file, int) or not set(mode) & set("wax+") or not plan.watches(os.path.abspath(file)):
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _WatchedFile(os.path.abspath(file), mode.replace("b", "").replace("t", ""), plan)
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)

    def open_descriptor(path, flags, mode=0o777, *, dir_fd=None):
        if dir_fd is not None or not flags & (os.O_WRONLY | os.O_RDWR):
            descriptor = os_open(path, flags, mode, dir_fd=dir_fd)
        else:
            descriptor = plan.on_file("open", os.path.abspath(path), lambda: os_open(path, flags, mode))
        plan.opened(descriptor, os.path.abspath(path))
        return descriptor

    def close(descriptor):
        plan.closed(descriptor)
        os_close(descriptor)

    def write(descriptor, data, /):
        return plan.write(plan.name(descriptor), data, lambda part: os_write(descriptor, part))

    def sync(descriptor, /):
        return plan.on_file("fsync", plan.name(descriptor), lambda: fsync(descriptor))

    def cut(path, size):
        name = plan.name(path) if isinstance(path, int) else os.path.abspath(path)
        return plan.on_file("truncate", name, lambda: real_truncate(path, size))

    def named(operation: str, position: int) -> Callable[..., Any]:
        real = getattr(os, operation)
        return lambda *paths, **how: plan.on_file(
            "replace" if operation == "rename" else operation,
            os.path.abspath(paths[position]),
            lambda: real(*paths, **how),
        )

    yield mock.patch("io.open", open_file)
    yield mock.patch("builtins.open", open_file)
    replacements = {"open": open_descriptor, "close": close, "write": write, "fsync": sync}
    replacements |= {"truncate": cut, "ftruncate": cut}
    replacements |= {"replace": named("replace", 1), "rename": named("rename", 1), "unlink": named("unlink", 0)}
    replacements["link"] = named("link", 1)
    for name, replacement in replacements.items():
        yield mock.patch(f"os.{name}", replacement)


def _call_patches(plan: Accident) -> Iterator[Any]:
    """Replacements of the functions that are points themselves."""
    for target in sorted({point.target for point in POINTS.values() if point.operation == "call"}):
        module, _, path = target.partition(":")
        owner_name, _, name = path.partition(".")
        owner = getattr(importlib.import_module(module), owner_name)
        yield mock.patch.object(owner, name, _watched(plan, target, getattr(owner, name)))


def _watched(plan: Accident, target: str, real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: plan.on_call(target, lambda: real(*given, **named))


def main(arguments: list[str]) -> None:
    """Run the command line of `bayes_mlff.otf` with an accident: FAULT RUN_DIRECTORY -- ARGUMENTS.

    Raises:
      ConfigError: if the arguments are something else.
    """
    if len(arguments) < 3 or arguments[2] != "--":
        raise ConfigError("arguments", " ".join(arguments), "FAULT RUN_DIRECTORY -- ARGUMENTS of bayes_mlff.otf")
    fault = Fault.parse(arguments[0])
    command_line = importlib.import_module("bayes_mlff.cli.app")
    sys.argv = ["bayes_mlff.otf", *arguments[3:]]
    with accident(fault, Path(arguments[1])):
        command_line.main()


if __name__ == "__main__":
    main(sys.argv[1:])

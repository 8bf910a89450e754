"""All error classes; each message names the key or file, the value that was given and what is allowed."""

import reprlib
import struct
import tokenize
import zipfile
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError

READER_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Exceptions that readers of other packages raise for a damaged or unsuitable file."""

EXIT_INTERRUPTED: Final = 75
"""Exit status of a run that ended early on request and can be resumed: EX_TEMPFAIL of sysexits.h."""

LONGEST: Final = 1000
"""Largest number of characters of a value, or of another package's message, that a message repeats."""

_REPR: Final = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 200, 200
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 8


def shown(value: object) -> str:
    """Format a value for a message; large values are shortened to a few lines."""
    return brief(_REPR.repr(value))


def brief(text: str) -> str:
    """Shorten a text to `LONGEST` characters."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


class FirstProblem(NamedTuple):
    """The first thing that a validation found, as text."""

    place: str
    value: str
    message: str


def first_problem(error: "ValidationError", whole: str) -> FirstProblem:
    """The first problem of a validation; `whole` is the name of what was validated, if it concerns all of that."""
    first = error.errors(include_url=False)[0]
    return FirstProblem(".".join(map(str, first["loc"])) or whole, shown(first["input"]), brief(first["msg"]))


class BayesMlffError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(BayesMlffError):
    """A setting is unknown, missing or out of range.

    Args:
      key: dotted configuration key.
      value: what the user gave.
      allowed: what would have been accepted, as a phrase.
    """

    def __init__(self, key: str, value: object, allowed: str):
        super().__init__(f"{key}: got {shown(value)}; allowed: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed


class DataError(BayesMlffError):
    """A file or array of structures or labels cannot be used as it is."""


class WeightsError(BayesMlffError):
    """Weights do not fit the model: a source entry is unused, a target is unfilled or a shape differs."""


class RunDirectoryError(BayesMlffError):
    """A run directory is missing, locked, incomplete or written by another format version."""


class RunInterruptedError(BayesMlffError):
    """A run has ended before its last step because of a signal or a time limit; everything is saved.

    Args:
      reason: name of the signal, or which time limit was reached.
      where: how far the run is, e.g. "at step 3 of 7".
      farewell: how the user can continue the run.
    """

    def __init__(self, reason: str, where: str, farewell: str):
        super().__init__(f"interrupted by {reason} {where}; everything is saved; {farewell}".rstrip("; "))
        self.reason, self.where, self.farewell = reason, where, farewell


class RunStoppedError(BayesMlffError):
    """The run cannot continue without a decision of the user; it can be resumed afterwards."""


class BrokenInstallationError(BayesMlffError):
    """The installed version of JAX computes wrong numbers on this machine."""


class EngineError(BayesMlffError):
    """Base of the three kinds of failure of a reference calculation."""


class EngineSetupError(EngineError):
    """The engine can never work as configured: a package, basis or pseudopotential is missing."""


class EngineFailedError(EngineError):
    """The engine cannot label this geometry, though it may label others."""


class EngineRetryError(EngineError):
    """The engine failed, but the same calculation may succeed when it is repeated."""

"""Every error a user can cause or meet; each message names the key, what came and what is allowed."""

import reprlib
import struct
import tokenize
import zipfile
import zlib
from typing import Final

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
"""What readers of other packages raise when a file is not what it should be."""

EXIT_INTERRUPTED: Final = 75
"""Status of a command that ended early on request and wants to be called again: EX_TEMPFAIL of sysexits.h."""

LONGEST: Final = 1000
"""Characters of a value, or of what another package says of it, in a message."""

_REPR: Final = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 200, 200
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 8


def shown(value: object) -> str:
    """A value as a message shows it: never longer than a few lines, however large the value is."""
    return brief(_REPR.repr(value))


def brief(text: str) -> str:
    """The beginning of a text, which may repeat what a user wrote."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


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
    """A run has ended before its last step since it was asked to; no mistake, and nothing that was saved is lost.

    Args:
      reason: a signal's name, or which time is over.
      where: "at step 3 of 7".
      farewell: how to go on.
    """

    def __init__(self, reason: str, where: str, farewell: str):
        super().__init__(f"interrupted by {reason} {where}; everything is saved; {farewell}".rstrip("; "))
        self.reason, self.where, self.farewell = reason, where, farewell


class RunStoppedError(BayesMlffError):
    """The run cannot go on by itself; the directory remains resumable."""


class BrokenInstallationError(BayesMlffError):
    """JAX, as it is installed here, computes wrong numbers."""


class EngineError(BayesMlffError):
    """Base of the three ways in which a reference calculation can go wrong."""


class EngineSetupError(EngineError):
    """The engine can never work as configured: a package, basis or pseudopotential is missing."""


class EngineFailedError(EngineError):
    """The engine cannot label this geometry, though it may label others."""


class EngineRetryError(EngineError):
    """The engine failed in a way that another try may cure."""

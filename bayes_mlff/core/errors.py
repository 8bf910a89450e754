"""Every error a user can cause or meet; each message names the key, what came and what is allowed."""


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
        super().__init__(f"{key}: got {value!r}; allowed: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed


class DataError(BayesMlffError):
    """A file or array of structures or labels cannot be used as it is."""


class WeightsError(BayesMlffError):
    """Weights do not fit the model: a source entry is unused, a target is unfilled or a shape differs."""


class RunDirectoryError(BayesMlffError):
    """A run directory is missing, locked, incomplete or written by another format version."""


class EngineError(BayesMlffError):
    """Base of the three ways in which a reference calculation can go wrong."""


class EngineSetupError(EngineError):
    """The engine can never work as configured: a package, basis or pseudopotential is missing."""


class EngineFailedError(EngineError):
    """The engine cannot label this geometry, though it may label others."""


class EngineRetryError(EngineError):
    """The engine failed in a way that another try may cure."""

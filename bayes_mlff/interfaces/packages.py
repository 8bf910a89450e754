"""Optional packages of other programs, which are imported when they are used."""

import importlib
from typing import Any

from bayes_mlff.core.errors import ConfigError


def load(name: str, extra: str) -> Any:
    """Import a package.

    Args:
      name: name of the module.
      extra: extra of this package that installs it.

    Raises:
      ConfigError: with the command that installs it, if it is missing or too old to be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError("--to", f"{extra}, without the package {name} ({error})", how_to_install(extra)) from error


def how_to_install(extra: str) -> str:
    """What a user has to do about a missing package."""
    return f'this program when it is installed: pip install "bayes-mlff[{extra}]"'

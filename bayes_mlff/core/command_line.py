"""Tools that all commands share; no slow import (JAX and the like) happens here."""

import sys
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console

from bayes_mlff.core.errors import (
    EXIT_INTERRUPTED,
    BayesMlffError,
    ConfigError,
    EngineError,
    RunInterruptedError,
)
from bayes_mlff.core.settings import parse_yaml

EXIT_MISTAKE: Final = 2
EXIT_ENGINE: Final = 3


def override(raw: dict[str, Any], items: list[str] | None) -> None:
    """Put values of the form `section.key=value` into settings read from YAML; keys `section.name` are set first.

    Raises:
      ConfigError: for an item without "=", or if a part of the dotted key is a value and not a section.
    """
    for item in sorted(items or [], key=lambda text: not text.partition("=")[0].endswith(".name")):
        key, separator, value = item.partition("=")
        if not separator:
            raise ConfigError("--set", item, "key=value, e.g. seed=1")
        put(raw, key, parse_yaml(value, key="--set", source=item))


def put(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; missing sections are created.

    The `name` of a section selects its kind. A new name clears the section: its other keys belong to the old kind.

    Raises:
      ConfigError: if a part of the dotted key is a value and not a section.
    """
    target = raw
    *sections, last = key.split(".")
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(key, value, "a dotted key whose sections exist")
    if sections and last == "name" and target.get(last, value) != value:
        target.clear()
    target[last] = value


def make_console(*, stderr: bool = False) -> Console:
    """Make a console that prints text unchanged: no markup, no highlighting, no line breaks inside a line."""
    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Replace control characters and characters that cannot be encoded by their escape sequences."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def write_new(path: Path, text: str, key: str) -> None:
    """Write a new file; an existing file is never overwritten.

    Raises:
      ConfigError: naming `key`, if the file exists already or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(key, str(path), "a file that does not exist yet") from error
    except (OSError, ValueError) as error:
        raise ConfigError(key, str(path), f"a file that can be written ({error})") from error


def run_app(app: typer.Typer) -> None:
    """Run a command line; errors of this package are printed as one line, without a traceback."""
    try:
        app(prog_name="bayes-mlff")
    except RunInterruptedError as error:
        make_console(stderr=True).print(printable(str(error)))
        sys.exit(EXIT_INTERRUPTED)
    except BayesMlffError as error:
        console = make_console(stderr=True)
        console.print("error", style="bold red", end=" ")
        console.print(f"{type(error).__name__}: {printable(str(error))}")
        sys.exit(EXIT_ENGINE if isinstance(error, EngineError) else EXIT_MISTAKE)

"""What the command lines of the package share."""

import os
import sys
from typing import Any, Final

import jax
import typer
import yaml
from rich.console import Console

from bayes_mlff.core.errors import BayesMlffError, ConfigError, EngineError
from bayes_mlff.core.numbers import largest_divisor

EXIT_MISTAKE: Final = 2
EXIT_ENGINE: Final = 3


def override(raw: dict[str, Any], items: list[str] | None) -> None:
    """Put values of the form `section.key=value` into settings read from YAML.

    Raises:
      ConfigError: for an item without "=" or with a section that is not one.
    """
    for item in items or []:
        key, separator, value = item.partition("=")
        if not separator:
            raise ConfigError("--set", item, "key=value, e.g. seed=1")
        try:
            put(raw, key, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError("--set", item, "a value that is valid YAML") from error


def put(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the sections that are missing.

    Raises:
      ConfigError: if something on the way is not a section.
    """
    target = raw
    *sections, last = key.split(".")
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(key, value, "a dotted key whose sections exist")
    target[last] = value


def one_device_per_core(chains: int) -> None:
    """Make as many JAX devices on the CPU as cores can be used for the chains, which then run side by side."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", largest_divisor(chains, cores))


def run_app(app: typer.Typer) -> None:
    """Run a command line; errors made on purpose are printed as one line, without a traceback."""
    try:
        app()
    except BayesMlffError as error:
        Console(stderr=True).print(f"[bold red]error[/] {type(error).__name__}:", end=" ")
        Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(EXIT_ENGINE if isinstance(error, EngineError) else EXIT_MISTAKE)

"""Names of a package that are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
      package: its name.
      places: module of each name, and after a colon what it is called there if that is something else.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, there = places[name].partition(":")
        found = getattr(importlib.import_module(module), there or name)
        setattr(sys.modules[package], name, found)  # the next time it is there
        return found

    return find

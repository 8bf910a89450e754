"""Lazy imports: names of a package are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the `__getattr__` function of a package.

    Args:
      package: name of the package.
      places: "module" or "module:name" for each public name; the second form if the module uses another name.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, there = places[name].partition(":")
        found = getattr(importlib.import_module(module), there or name)
        setattr(sys.modules[package], name, found)  # later uses find it without this function
        return found

    return find

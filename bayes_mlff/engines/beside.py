"""Finds modules and files next to a configuration that its engine uses; a run keeps copies of them."""

import ast
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from bayes_mlff.engines import factories
from bayes_mlff.engines.calculator_settings import CalculatorSettings, all_arguments

MOST_BYTES: Final = 1 << 24
"""Largest total size of the copies, 16 MiB: modules, basis sets, parameters."""

_COMPILED: Final = (".pyc", ".pyo")


class Beside(NamedTuple):
    """Files that an engine uses from the folder of its configuration."""

    kept: Mapping[str, bytes] = {}  # contents by path relative to that folder
    needed: tuple[str, ...] = ()  # names in the arguments of files that are too large to copy or are elsewhere


def gather(settings: Any, base: Path) -> Beside:
    """Find the modules and files next to a configuration that an engine uses.

    These are modules that the settings name, and modules that these import from the same folder. Files that a module
    reads by itself while it runs are not found.

    Args:
      settings: settings of any engine.
      base: folder of the configuration.
    """
    if not isinstance(settings, CalculatorSettings):
        return Beside()
    base = base.resolve()
    modules: dict[str, Path] = {}
    for path in _import_paths(settings):
        _collect(path.replace(":", ".").partition(".")[0], base, modules)
    named = {name for arguments in all_arguments(settings) for name in _files(arguments, str(base))}
    inside = {name: base / name for name in sorted(named) if _is_inside(base / name, base) and not os.path.isabs(name)}
    kept, left = _read({**modules, **inside})
    return Beside(kept, tuple(sorted((named - set(kept)) | set(left))))


def _import_paths(settings: CalculatorSettings) -> Iterator[str]:
    yield settings.calculator
    yield from settings.retry_exceptions
    for arguments in all_arguments(settings):
        yield from (item["calculator"] for _, item in factories.descriptions(arguments, ""))


def _files(value: Any, base: str, key: str = "") -> Iterator[str]:
    """Names in the arguments that `factories.with_files` treats as files."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _files(item, base, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _files(item, base, key)
    elif isinstance(value, str) and os.path.isabs(value):
        if os.path.isfile(value):
            yield value
    elif isinstance(value, str) and factories.with_files(value, base, key) != value:
        yield value


def _is_inside(path: Path, base: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(base)


def _collect(root: str, base: Path, found: dict[str, Path]) -> None:
    """Add the files of a module or package in this folder, and of the modules that it imports from there."""
    spec = importlib.machinery.PathFinder.find_spec(root, [str(base)])
    if spec is None or _is_installed(root, base):
        return
    if spec.submodule_search_locations is not None:
        folder = base / root
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    elif spec.origin is not None:
        files = [Path(spec.origin)]
    else:
        return
    new = {str(p.relative_to(base)): p for p in files if p.suffix not in _COMPILED and not p.name.startswith(".")}
    new = {name: path for name, path in new.items() if name not in found}
    found.update(new)
    for path in new.values():
        for name in _imports(path):
            _collect(name, base, found)


def _is_installed(root: str, base: Path) -> bool:
    """True if the interpreter has an installed module of this name, which is then imported instead."""
    if importlib.machinery.BuiltinImporter.find_spec(root) is not None:
        return True
    own = {os.path.realpath(folder) for folder in (base, os.getcwd(), *factories.folders_added())}
    elsewhere = [entry for entry in sys.path if os.path.realpath(entry or os.getcwd()) not in own]
    return importlib.machinery.PathFinder.find_spec(root, elsewhere) is not None


def _imports(path: Path) -> set[str]:
    """Top-level names of all modules that a Python file imports, anywhere in the file."""
    if path.suffix != ".py":
        return set()
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level]
    return {name.partition(".")[0] for name in names}


def _read(files: Mapping[str, Path]) -> tuple[dict[str, bytes], list[str]]:
    """Contents of files, and the names of those that exceed the size limit or cannot be read."""
    kept: dict[str, bytes] = {}
    left, total = [], 0
    for name, path in files.items():
        try:
            size = path.stat().st_size
            content = path.read_bytes() if total + size <= MOST_BYTES else None
        except OSError:
            content = None
        if content is None:
            left.append(name)
            continue
        kept[name] = content
        total += len(content)
    return kept, left

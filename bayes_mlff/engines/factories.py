"""Makes an ASE calculator from an import path; used in this process and in a child process with any Python 3.8+.

The child loads this file by its path, so it imports nothing of this package.
"""

import contextlib
import copy
import functools
import hashlib
import importlib
import importlib.machinery
import inspect
import os
import sys
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple  # noqa: UP035 (Python 3.8)

Names = Dict[str, Any]  # noqa: UP006 (Python 3.8)

FORM = "'package.module:Name'"
MEMBERS = ("get_property", "implemented_properties")
INSTALL = {
    "gpaw": "python -m bayes_mlff.engines.gpaw.install --python {python}, or with a C++ compiler and a siteconfig.py "
    "of your own: GPAW_CONFIG=siteconfig.py {python} -m pip install gpaw gpaw-data",
    "tblite": "{python} -m pip install 'bayes-mlff[xtb]'",
    "chgnet": "{python} -m pip install torch chgnet",
    "mace": "{python} -m pip install mace-torch",
    "fairchem": "{python} -m pip install fairchem-core",
    "dftd3": "{python} -m pip install dftd3",
    "dftd4": "{python} -m pip install dftd4",
    "xtb": "{python} -m pip install xtb",
    "ase": "{python} -m pip install ase",
}
"""Commands that install the packages of known calculators; messages never advise to install any other name."""


class UnusableError(Exception):
    """An import path of the configuration gives no usable calculator; the message says where and why."""


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_added: List[str] = []  # noqa: UP006 (the folder of the configuration whose modules can be imported)
_before: Set[str] = set()  # noqa: UP006 (packages that were loaded before it)


def is_description(value: Any) -> bool:
    """True for a mapping that describes a calculator: `calculator` with an import path, and optional `arguments`."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("calculator"), str)
        and set(value) <= {"calculator", "arguments"}
        and isinstance(value.get("arguments", {}), dict)
    )


def descriptions(arguments: Any, place: str) -> Iterator[Tuple[str, Names]]:  # noqa: UP006
    """Find the descriptions of calculators inside arguments: yields (dotted key, description), outer ones first."""
    items = arguments.items() if isinstance(arguments, dict) else enumerate(arguments)
    for key, item in items:
        where = f"{place}.{key}"
        if is_description(item):
            yield where, item
            yield from descriptions(item.get("arguments", {}), f"{where}.arguments")
        elif isinstance(item, (dict, list)):
            yield from descriptions(item, where)


def identity(path: str, arguments: Names, base: Optional[str]) -> str:  # noqa: UP045
    """Packages and versions of a calculator and of those in its arguments, with digests of the user's own modules."""
    found = []
    for name in (path, *(item["calculator"] for _, item in descriptions(arguments, ""))):
        own = digest(name, base)
        text = version(name.replace(":", ".").partition(".")[0])
        found.append(text if own is None else f"{text} {own}")
    return "; ".join(dict.fromkeys(found))


@functools.lru_cache(maxsize=None)  # noqa: UP033 (Python 3.8)
def version(root: str) -> str:
    """Distribution and version of a package; only the name if it belongs to no distribution."""
    metadata = importlib.import_module("importlib.metadata")
    packages = getattr(metadata, "packages_distributions", None)
    names = packages().get(root, []) if packages is not None else [root]
    try:
        return ", ".join(f"{name} {metadata.version(name)}" for name in sorted(set(names))) or root
    except metadata.PackageNotFoundError:
        return root


def find(path: str, place: str, base: Optional[str]) -> Any:  # noqa: UP045
    """Import the object that an import path names.

    Args:
      path: 'package.module:Name' or 'package.module.Name'.
      place: dotted key of the configuration that names it.
      base: folder of the configuration; its modules are found after the installed ones.

    Raises:
      UnusableError: if it cannot be imported; says where it was searched, and how to install known packages.
    """
    got = f"{place}: got {path!r}"
    if path.endswith(".py") or ".py:" in path or "/" in path or os.sep in path:
        stem = os.path.basename(path.partition(":")[0])
        stem = stem[:-3] if stem.endswith(".py") else stem
        name = path.partition(":")[2] or "Name"
        raise UnusableError(f"{got}; allowed: {FORM}; a file beside the configuration is named as '{stem}:{name}'")
    module, _, name = path.rpartition(":" if ":" in path else ".")
    if not module or not name or not all(part.isidentifier() for part in (module + "." + name).split(".")):
        raise UnusableError(f"{got}; allowed: {FORM}")
    loaded = _module(module, got, base)
    try:
        found = functools.reduce(getattr, name.split("."), loaded)
    except AttributeError as error:
        with contextlib.suppress(Exception):
            return importlib.import_module(module + "." + name)
        where = getattr(loaded, "__file__", None)
        hidden = _hidden(module, base, where)
        raise UnusableError(f"{place}: module {module!r} has no {name!r} ({where}){hidden}") from error
    return found


def find_factory(path: str, place: str, base: Optional[str]) -> Any:  # noqa: UP045
    """Import the class or function that an import path names, see `find`."""
    found = find(path, place, base)
    if callable(found):
        return found
    kind = "a module" if inspect.ismodule(found) else f"of type {type(found).__name__}"
    raise UnusableError(f"{place}: got {path!r}, which is {kind}; allowed: a class or function that makes a calculator")


def _module(module: str, got: str, base: Optional[str]) -> Any:  # noqa: UP045
    _add(base, module.split(".", maxsplit=1)[0])
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.split(".", maxsplit=1)[0]
        missing = error.name or ""
        hint = install_hint(missing) or install_hint(root)
        raise UnusableError(f"{got}; {_missing(module, missing, base)}{hint}") from error
    except (Exception, SystemExit) as error:
        text = f"module {module!r} fails when it is imported ({type(error).__name__}: {error}){place_of(error)}"
        raise UnusableError(
            f"{got}; cannot import it: {text}{install_hint(module.split('.', maxsplit=1)[0])}"
        ) from error


def _missing(module: str, missing: str, base: Optional[str]) -> str:  # noqa: UP045
    if missing and not (module + ".").startswith(missing + "."):
        return f"module {module!r} needs {missing!r}, which {sys.executable} does not have"
    beside = "" if base is None else f", and there is none beside the configuration, in {base}"
    return f"cannot import module {module!r}: {sys.executable} has none of this name{beside}"


def install_hint(name: str) -> str:
    """End of a message that says how to install a known calculator; empty for any other name."""
    command = INSTALL.get(name.split(".", maxsplit=1)[0])
    return "" if command is None else "; " + command.format(python=sys.executable)


def _hidden(module: str, base: Optional[str], where: Any) -> str:  # noqa: UP045
    root = module.split(".", maxsplit=1)[0]
    beside = _beside(root, base)
    if beside is None or where is None or _folder_of(beside) == os.path.dirname(os.path.abspath(str(where))):
        return ""
    return f"; {beside} beside the configuration has the name of that installed module: rename it"


def _beside(root: str, base: Optional[str]) -> Optional[str]:  # noqa: UP045
    """File of a module in the folder of the configuration; None if there is none."""
    if base is None:
        return None
    spec = importlib.machinery.PathFinder.find_spec(root, [base])
    return None if spec is None or spec.origin is None else os.path.abspath(spec.origin)


def _folder_of(origin: str) -> str:
    return os.path.dirname(os.path.abspath(origin))


def _add(base: Optional[str], root: str) -> None:  # noqa: UP045
    """Add a folder to `sys.path`: after all installed modules, but before the current working directory."""
    others = [folder for folder in _added if folder != base]
    if others:
        sys.path[:] = [entry for entry in sys.path if entry not in others]
        del _added[:]
        theirs = root not in _before or _beside(root, base) is not None
        for name, module in list(sys.modules.items()):
            origin = getattr(module, "__file__", None)
            gone = theirs and origin is not None and _within(origin, others) and not _installed(origin)
            if gone and name.split(".")[0] == root:
                del sys.modules[name]  # it has the same name but belongs to another configuration
    if base is None or base in _added:
        return
    here = [entry for entry in sys.path if entry == "" or os.path.abspath(entry) == os.getcwd()]
    rest = [entry for entry in sys.path if entry not in here and entry != base]
    sys.path[:] = [*rest, base, *here]
    _added.append(base)
    _before.clear()
    _before.update(name.split(".")[0] for name in sys.modules)
    importlib.invalidate_caches()


def folders_added() -> List[str]:  # noqa: UP006
    """Folders of configurations that were added to `sys.path`."""
    return list(_added)


def _within(path: str, folders: Any) -> bool:
    return any(os.path.abspath(path).startswith(os.path.join(folder, "")) for folder in folders)


def _installed(origin: str) -> bool:
    """Whether a module is an installed one or of this package, wherever the environment and this package lie."""
    return "site-packages" in origin or _within(origin, [_PACKAGE])


def digest(path: str, base: Optional[str]) -> Optional[str]:  # noqa: UP045
    """SHA-256 of the module of an import path, if the configuration's folder has it or a copy; else None."""
    module = importlib.import_module(path.rpartition(":" if ":" in path else ".")[0])
    origin = getattr(module, "__file__", None)
    if base is None or origin is None or _installed(origin):
        return None
    found, stem = _content(origin), os.path.join(base, *module.__name__.split("."))
    if not _within(origin, [base]) and found not in (
        _content(stem + ".py"),
        _content(os.path.join(stem, "__init__.py")),
    ):
        return None
    return None if found is None else hashlib.sha256(found).hexdigest()


def _content(path: str) -> Optional[bytes]:  # noqa: UP045
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def keywords(factory: Any) -> List[str]:  # noqa: UP006
    """Keywords that a calculator declares: its default parameters, and those of its signature."""
    names = set(getattr(factory, "default_parameters", None) or {})
    with contextlib.suppress(TypeError, ValueError):
        names |= {
            name
            for name, p in inspect.signature(factory).parameters.items()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }
    return sorted(name for name in names if isinstance(name, str))


def make(path: str, arguments: Names, base: Optional[str], place: str = "engine") -> Any:  # noqa: UP045
    """Make a calculator, and the calculators that its arguments describe.

    Raises:
      UnusableError: naming the dotted key, if an object cannot be made or is not a calculator.
    """
    factory = find_factory(path, f"{place}.calculator", base)
    made = {key: _made(value, base, f"{place}.arguments.{key}") for key, value in copy.deepcopy(arguments).items()}
    try:
        calculator = factory(**made)
    except UnusableError:
        raise
    except SystemExit as error:
        raise UnusableError(
            f"{place}.calculator: {path} ends the program when it is called with {_brief(arguments)}: "
            f"{type(error).__name__}: {error}{place_of(error)}"
        ) from error
    except Exception as error:
        raise UnusableError(
            f"{place}.arguments: {path} refuses {_brief(arguments)}: {type(error).__name__}: {error}{place_of(error)}"
        ) from error
    _check(calculator, path, f"{place}.calculator")
    return calculator


def _made(value: Any, base: Optional[str], place: str) -> Any:  # noqa: UP045
    if is_description(value):
        return make(value["calculator"], value.get("arguments", {}), base, place)
    if isinstance(value, dict):
        return {key: _made(item, base, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_made(item, base, f"{place}.{i}") for i, item in enumerate(value)]
    return value


def _check(calculator: Any, path: str, place: str) -> None:
    if calculator is None:
        raise UnusableError(f"{place}: {path} gave None; allowed: one that returns a calculator")
    if isinstance(calculator, type):
        raise UnusableError(
            f"{place}: {path} gave the class {calculator.__name__}; allowed: one that returns a calculator"
        )
    missing = [name for name in MEMBERS if not hasattr(calculator, name)]
    if missing:
        kind = type(calculator).__name__
        raise UnusableError(
            f"{place}: {path} gave a {kind}, which is no ASE calculator: it has no {' and no '.join(missing)}"
        )


def _brief(arguments: Names) -> str:
    text = repr(arguments)
    return text if len(text) <= 500 else text[:500] + " ..."


def place_of(error: BaseException) -> str:
    """File and line outside this module from which an exception came, as the end of a message."""
    trace = error.__traceback__
    frames = []
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    outside = [f for f in frames if f[0] != __file__ and not f[0].startswith("<") and "importlib" not in f[0]]
    return "" if not outside else f" ({outside[-1][0]}, line {outside[-1][1]})"


def with_files(arguments: Any, base: Optional[str], key: str = "") -> Any:  # noqa: UP045
    """Replace names of existing files in the configuration's folder by absolute paths; names of output files stay."""
    if isinstance(arguments, dict):
        return {name: with_files(value, base, str(name)) for name, value in arguments.items()}
    if isinstance(arguments, list):
        return [with_files(value, base, key) for value in arguments]
    is_name = isinstance(arguments, str) and ("." in arguments or "/" in arguments) and "\n" not in arguments
    output = key.lower() in ("label", "directory", "prefix", "txt", "command", "calculator", "atoms", "workdir")
    if base is None or not is_name or output or key.lower().startswith(("out", "log", "stdout", "stderr")):
        return arguments
    path = os.path.join(base, arguments)
    return path if len(path) < 4096 and os.path.isfile(path) else arguments

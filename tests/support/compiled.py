"""Functions that a test session has compiled once are not traced and compiled again, in whatever process.

Every run builds its functions afresh, so that JAX traces and lowers the same network for every test. Here a function is
known by what it is made of: code, closures and arguments, and what the code finds by its names in modules of the
package and of the tests, so that a fault that is planted there is another function. One whose parts are not all
understood is compiled as usual. Replaced methods of classes, and replaced functions of other packages, are not seen:
tests that plant such faults in what is compiled need `afresh`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pickle
import re
import reprlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Set
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from unittest import mock

import jax
import numpy as np
import pydantic
from jax._src import compilation_cache
from jax._src.util import HashablePartial
from jax.experimental import serialize_executable

import bayes_mlff
from bayes_mlff.parallel import devices

_ATOMS: Final = (type(None), bool, int, float, complex, str, bytes, Enum, Path, np.dtype, np.generic, type(...))
_OURS: Final = (Path(bayes_mlff.__file__).parent, Path(__file__).parents[1])
_KEPT: Final[dict[str, Callable]] = {}
_CHOOSE: Final = devices.FirstThatFits._choose


class UnknownPartError(Exception):
    """A function has a part that does not tell what it is."""


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Let all runs that are started meanwhile take what was compiled before them.

    Args:
      folder: of JAX's cache; what it holds outlasts no change of the package.
    """
    folder /= f"whole-{_sources()}"

    def known(self: devices.FirstThatFits, arguments: tuple) -> Callable:
        try:
            name = fingerprint(self._ways, self._budget, jax.tree.map(jax.typeof, arguments), _surroundings())
        except UnknownPartError:
            return _CHOOSE(self, arguments)
        if name not in _KEPT:
            # What XLA has from JAX's own cache cannot be written once more, so that it must not be found there.
            with mock.patch.object(compilation_cache, "get_executable_and_time", return_value=(None, None)):
                _KEPT[name] = _load(folder / name) or _stored(folder / name, _CHOOSE(self, arguments))
        return _KEPT[name]

    folder.mkdir(parents=True, exist_ok=True)
    with mock.patch.object(devices.FirstThatFits, "_choose", known):
        yield


def afresh() -> contextlib.AbstractContextManager:
    """Let runs compile for themselves, as all do outside of tests: for those that count it."""
    return mock.patch.object(devices.FirstThatFits, "_choose", _CHOOSE)


@functools.cache
def _sources() -> str:
    """A name for the state of the package, and of what it stands on."""
    libraries = ("jax", "jaxlib", "flax", "optax", "numpy")
    digest = hashlib.sha256(repr([sys.version, *map(metadata.version, libraries)]).encode())
    for path in (Path(__file__), *sorted(Path(bayes_mlff.__file__).parent.rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _load(path: Path) -> Callable | None:
    if not path.exists():
        return None
    places, content = pickle.loads(path.read_bytes())
    devices_of = {device.id: device for device in jax.devices()}
    # Without them JAX would take all devices of the process.
    return serialize_executable.deserialize_and_load(*content, execution_devices=[devices_of[i] for i in places])


def _stored(path: Path, compiled: Any) -> Callable:
    draft = path.with_suffix(f".{os.getpid()}")
    places = [device.id for device in compiled.runtime_executable().local_devices()]
    draft.write_bytes(pickle.dumps((places, serialize_executable.serialize(compiled))))
    draft.rename(path)
    return compiled


def _surroundings() -> tuple:
    """What else decides how JAX compiles."""
    return dict(jax.config.values), [str(device) for device in jax.devices()]


def fingerprint(*parts: Any) -> str:
    """A name for a tree of functions and values, the same in every process.

    Raises:
      UnknownPartError: if a part does not tell what it is.
    """
    digest = hashlib.sha256()
    _Reader(digest.update).read(parts)
    return digest.hexdigest()


def _content(cell: types.CellType) -> Any:
    """What a function has from around it; nothing yet if that is still to be defined."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _names(code: types.CodeType) -> Iterator[str]:
    """Global names and attributes in a function and in those that it defines."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names(part)


def _is_ours(file: str | None) -> bool:
    """Whether code is of the package or of the tests, and not of a library or made by one."""
    return file is not None and any(Path(file).is_relative_to(folder) for folder in _OURS)


def _found_by_name(function: types.FunctionType) -> dict[str, Any]:
    """What a function finds in its own module, and in modules of the package, with the names in its code."""
    found = {}
    names = sorted(set(_names(function.__code__)))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            inside = vars(value) if _is_ours(getattr(value, "__file__", None)) else {}
            found |= {f"{name}.{each}": inside[each] for each in names if each in inside}
        elif name in function.__globals__ and not _is_of_library(value):
            found[name] = value
    return found


def _is_of_library(value: Any) -> bool:
    """Whether a value is a function, a class or a type of a library, which stays what it is, or one of text."""
    if type(value).__module__ in ("typing", "types") or isinstance(value, re.Pattern | reprlib.Repr):
        return True
    if isinstance(value, types.FunctionType):
        return not _is_ours(value.__code__.co_filename)
    module = getattr(value, "__module__", None)
    library = isinstance(module, str) and module.partition(".")[0] in ("jax", "jaxlib", "numpy", "flax", "optax")
    return library and not isinstance(value, jax.Array | np.ndarray | np.generic)


class _Reader:
    """Spells out what things are made of."""

    def __init__(self, say: Callable[[bytes], None]):
        self._say, self._seen = say, {}

    def read(self, part: Any) -> None:
        """Spell a part and all of its own; of one that was met before only its number."""
        kind = type(part)
        self._say(f"<{kind.__module__}.{kind.__qualname__}".encode())
        if isinstance(part, _ATOMS):
            self._say(repr(part).encode())
        elif id(part) in self._seen:
            self._say(str(self._seen[id(part)][0]).encode())
        else:
            self._seen[id(part)] = len(self._seen), part  # kept, so that no other takes its id
            self._read_new(part)
        self._say(b">")

    def _read_new(self, part: Any) -> None:  # noqa: PLR0912 (one line for each kind of thing)
        match part:
            case jax.Array() if jax.numpy.issubdtype(part.dtype, jax.dtypes.prng_key):
                self.read(np.asarray(jax.random.key_data(part)))
            case np.ndarray() | jax.Array():
                self._say(f"{part.dtype}{part.shape}".encode() + np.asarray(part).tobytes())
            case types.FunctionType():
                cells = [_content(cell) for cell in part.__closure__ or ()]
                self._each(part.__module__, part.__code__, cells, part.__defaults__, part.__kwdefaults__)
                if _is_ours(part.__code__.co_filename):
                    self._each(_found_by_name(part))
            case types.CodeType():
                self._each(part.co_qualname, part.co_code, part.co_consts, part.co_names)
            case types.MethodType():
                self._each(part.__func__, part.__self__)
            case types.ModuleType() | type():
                self._each(part.__name__)
            case types.BuiltinFunctionType():
                self._each(part.__qualname__, part.__module__)
            case functools.partial():
                self._each(part.func, part.args, part.keywords)
            case HashablePartial():
                self._each(part.f, part.args, part.kwargs)
            case pydantic.BaseModel():
                self._each(part.model_dump())
            case Mapping():
                self._each(list(part.items()))
            case Set():
                self._each(sorted(part))
            case list() | tuple():
                self._each(*part)
            case jax.ShapeDtypeStruct() | jax.core.ShapedArray() | jax.tree_util.PyTreeDef() | jax.sharding.Mesh():
                self._say(repr(part).encode())
            case _ if hasattr(part, "__wrapped__"):
                self._each(part.__wrapped__)
            case _ if dataclasses.is_dataclass(part):
                self._each({field.name: getattr(part, field.name) for field in dataclasses.fields(part)})
            case _:
                raise UnknownPartError(f"{type(part)}")

    def _each(self, *parts: Any) -> None:
        for part in parts:
            self.read(part)

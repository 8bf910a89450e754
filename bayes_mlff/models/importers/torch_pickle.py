"""Files written by `torch.save`, read without PyTorch and without running anything they contain.

Such a file is a zip archive of a pickle and raw numbers. Unpickling runs whatever program a file names; here tensors
become arrays, objects of the packages in `INERT` become `Inert` ones, which keep what was stored and do nothing, and
every other name that is not in `ALLOWED` is an error. No package that a file names is imported.
"""

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, WeightsError

LARGEST_PICKLE: Final = 1 << 28
"""Bytes of the pickle, which holds everything but the numbers of tensors."""

LARGEST_STORAGE: Final = 1 << 31
"""Bytes of the numbers of one tensor; those of a compressed archive can be a thousand times more than it has."""

INERT: Final = ("torch", "e3nn", "mace")
"""Packages whose classes and functions are kept by name only."""


class Storage(NamedTuple):
    """A stretch of numbers that tensors are views of."""

    values: np.ndarray  # [any]


class Inert:
    """What takes the place of an object: its name, what it was made of and its attributes.

    Those of a module are found as PyTorch finds them; a list of modules or parameters can be counted and indexed.
    """

    args: tuple[Any, ...] = ()

    def __new__(cls, *args: Any) -> "Inert":
        """Keep what the object was made of."""
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        """Keep attributes."""
        if isinstance(state, dict):
            self.__dict__.update({k: v for k, v in state.items() if isinstance(k, str) and not k.startswith("__")})

    def __getattr__(self, name: str) -> Any:
        """An attribute that is registered as parameter, buffer or module."""
        for group in ("_parameters", "_buffers", "_modules"):
            found = self.__dict__.get(group) or {}
            if name in found:
                return found[name]
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def __getitem__(self, index: int) -> Any:
        """An item of a list."""
        return self._items()[index]

    def __len__(self) -> int:
        """Number of items of a list."""
        return len(self._items())

    def __bool__(self) -> bool:
        """True, however many items there are."""
        return True

    def __iter__(self) -> Iterator[Any]:
        """Items of a list."""
        return iter(self._items())

    def _items(self) -> list[Any]:
        groups = [self.__dict__.get(group) or {} for group in ("_parameters", "_modules")]
        return [value for group in groups for value in group.values()]

    def state(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Parameters and lasting buffers by name, as `state_dict` gives them."""
        passing = self.__dict__.get("_non_persistent_buffers_set") or set()
        found = {f"{prefix}{k}": v for k, v in (self.__dict__.get("_parameters") or {}).items()}
        buffers = self.__dict__.get("_buffers") or {}
        found |= {f"{prefix}{k}": v for k, v in buffers.items() if k not in passing}
        found = {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
        for name, child in (self.__dict__.get("_modules") or {}).items():
            if isinstance(child, Inert):
                found |= child.state(f"{prefix}{name}.")
        return found


def read(path: Path, *, inert: tuple[str, ...] = ()) -> Any:
    """Read a file.

    Args:
      path: written by `torch.save` of version 1.6 or later.
      inert: packages whose names are accepted.

    Raises:
      WeightsError: if it is no such file, or names a program that is not known.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, str(path), inert).load()
    except (pickle.UnpicklingError, *READER_ERRORS) as error:
        raise WeightsError(f"{path}: not a file of PyTorch: {error}") from error


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> np.ndarray:
    """A tensor as a contiguous array."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    empty = 0 in shape
    if offset < 0 or min(strides, default=0) < 0 or (not empty and last >= len(storage.values)):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} exceeds its storage of {len(storage.values)} numbers")
    if empty:
        return np.zeros(shape, storage.values.dtype)
    if np.prod([float(n) for n in shape]) > len(storage.values):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} repeats its storage of {len(storage.values)} numbers")
    values = storage.values[offset:]
    steps = tuple(step * values.itemsize for step in strides)
    return np.array(np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False))


class _Kind:
    """The type of an array's numbers; NumPy's own would take any state from the pickle."""

    def __init__(self, text: str, *_: object):
        self.dtype = np.dtype(text)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"an array of {text!r}; allowed: numbers")

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes."""
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose numbers come as bytes."""

    def __setstate__(self, state: Any) -> None:
        """Take shape, type, order and numbers."""
        version, shape, kind, fortran, content = state
        if not isinstance(kind, _Kind) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of something else than numbers")
        super().__setstate__((version, shape, kind.dtype, fortran, content))


def _array(*_: object) -> np.ndarray:
    """An empty array, which the pickle then fills."""
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes, which pickles of protocol 2 keep as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding!r}; allowed: 'latin1'")
    return text.encode(encoding)


ALLOWED: Final[dict[str, Callable[..., Any] | str]] = {
    "__builtin__.set": set,
    "builtins.set": set,
    "_codecs.encode": _encoded,
    "collections.OrderedDict": OrderedDict,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.dtype": _Kind,
    "numpy.ndarray": "ndarray",  # only handed to `_reconstruct`, which has no use for it
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.device": lambda kind, *_: str(kind),
    "torch.HalfStorage": "<f2",
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.BoolStorage": "?",
}
"""What a file may name, and what takes its place."""


class _Reader(pickle.Unpickler):
    """Unpickles numbers, text, containers and inert objects, and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, source: str, inert: tuple[str, ...]):
        names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise WeightsError(f"{source}: not a file of PyTorch: no data.pkl")
        self.folder, self.archive, self.source = names[0].removesuffix("data.pkl"), archive, source
        self.inert, self.classes = inert, dict[str, type[Inert]]()
        order = f"{self.folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise WeightsError(f"{source}: byte order is {archive.read(order)!r}; allowed: b'little'")
        size = archive.getinfo(names[0]).file_size
        if size > LARGEST_PICKLE:
            raise WeightsError(f"{source}: {names[0]} has {size} bytes; allowed: {LARGEST_PICKLE}")
        content = archive.read(names[0])
        for operation, argument, _ in pickletools.genops(content):
            # The unpickler takes memory for as many objects as the largest number names.
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
                raise WeightsError(f"{source}: {names[0]} remembers object {argument} in {len(content)} bytes")
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        """What takes the place of a name."""
        full = f"{module}.{name}"
        if full in ALLOWED:
            known = ALLOWED[full]
            # A function of its own for every mention: a pickle can set attributes of what it names.
            return known if isinstance(known, str | type) else lambda *args, call=known: call(*args)
        if module.split(".", maxsplit=1)[0] not in self.inert:
            names = ", ".join((*sorted(ALLOWED), *(f"{package}.*" for package in self.inert)))
            raise WeightsError(f"{self.source}: names {full!r}; allowed: {names}")
        if full not in self.classes:
            self.classes[full] = type(name, (Inert,), {})
        return self.classes[full]

    def persistent_load(self, pid: Any) -> Storage:
        """The numbers that lie beside the pickle: `('storage', type, file, device, size)`."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, str) or not str(key).isdigit():
            raise pickle.UnpicklingError(f"unknown reference {pid!r}")
        entry = self.archive.getinfo(f"{self.folder}data/{key}")
        if entry.file_size > LARGEST_STORAGE:
            raise pickle.UnpicklingError(f"{entry.filename} has {entry.file_size} bytes; allowed: {LARGEST_STORAGE}")
        return Storage(np.frombuffer(self.archive.read(entry), dtype))

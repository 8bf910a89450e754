"""Read files written by `torch.save` or `torch.package` without PyTorch and without executing anything they contain.

Such a file is a zip archive of pickles and raw numbers. Plain unpickling executes any program that a file names. Here
tensors become arrays, objects of the packages in `INERT` become `Inert` objects, which only store their data, and
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

import e3nn_jax as e3nn
import numpy as np

from bayes_mlff.core.errors import READER_ERRORS, WeightsError

LARGEST_PICKLE: Final = 1 << 28
"""Largest size, bytes, of the pickle, which contains everything but the numbers of tensors."""

LARGEST_STORAGE: Final = 1 << 31
"""Largest size, bytes, of one tensor; a compressed archive can expand to a thousand times its size."""

INERT: Final = ("torch", "e3nn", "mace")
"""Packages whose classes and functions are kept by name only."""


class Layout(NamedTuple):
    """Where an archive has what is read of it, below its only folder."""

    pickle: str
    numbers: str  # of the numbers with a key


SAVED: Final = Layout("data.pkl", "data/{}")
"""An archive by `torch.save`."""


class Storage(NamedTuple):
    """A block of numbers of which tensors are views."""

    values: np.ndarray  # [any]


class Inert:
    """Replacement of an object: its name, arguments and attributes.

    Attributes of a module are found as in PyTorch; a list of modules or parameters has a length and can be indexed.
    """

    args: tuple[Any, ...] = ()

    def __new__(cls, *args: Any) -> "Inert":
        """Store the arguments of the object."""
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        """Store the attributes."""
        if isinstance(state, dict):
            self.__dict__.update({k: v for k, v in state.items() if isinstance(k, str) and not k.startswith("__")})

    def __getattr__(self, name: str) -> Any:
        """An attribute registered as parameter, buffer or module."""
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
        """True, whatever the number of items."""
        return True

    def __iter__(self) -> Iterator[Any]:
        """Items of a list."""
        return iter(self._items())

    def _items(self) -> list[Any]:
        groups = [self.__dict__.get(group) or {} for group in ("_parameters", "_modules")]
        return [value for group in groups for value in group.values()]

    def state(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Parameters and persistent buffers by name, as in `state_dict`."""
        passing = self.__dict__.get("_non_persistent_buffers_set") or set()
        found = {f"{prefix}{k}": v for k, v in (self.__dict__.get("_parameters") or {}).items()}
        buffers = self.__dict__.get("_buffers") or {}
        found |= {f"{prefix}{k}": v for k, v in buffers.items() if k not in passing}
        found = {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
        for name, child in (self.__dict__.get("_modules") or {}).items():
            if isinstance(child, Inert):
                found |= child.state(f"{prefix}{name}.")
        return found


def read(path: Path, *, inert: tuple[str, ...] = (), layout: Layout = SAVED) -> Any:
    """Read a file.

    Args:
      path: written by `torch.save` of version 1.6 or later, or by `torch.package`.
      inert: packages whose names are accepted.
      layout: which pickle of the archive to read, and where its numbers are.

    Raises:
      WeightsError: if it is not such a file, or names an unknown program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, str(path), inert, layout).load()
    except (pickle.UnpicklingError, *READER_ERRORS) as error:
        raise WeightsError(f"{path}: not a file of PyTorch: {error}") from error


def irreps_of(irreps: Inert) -> e3nn.Irreps:
    """Irreps of e3nn, which are tuples of a multiplicity and a tuple of degree and parity."""
    terms = [item.args[0] for item in irreps.args[0]]
    return e3nn.Irreps([(int(mul), (int(ir.args[0][0]), int(ir.args[0][1]))) for mul, ir in terms])


def activation_name(activation: Any) -> str:
    """Name of an activation, which e3nn may have normalised."""
    return str(getattr(getattr(activation, "f", activation), "__name__", activation))


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
    """The dtype of an array; NumPy's own class would accept any state from the pickle."""

    def __init__(self, text: str, *_: object):
        self.dtype = np.dtype(text)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"an array of {text!r}; allowed: numbers")

    def __setstate__(self, state: Any) -> None:
        """Set the byte order."""
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose data are given as bytes."""

    def __setstate__(self, state: Any) -> None:
        """Set shape, dtype, order and data."""
        version, shape, kind, fortran, content = state
        if not isinstance(kind, _Kind) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of something else than numbers")
        super().__setstate__((version, shape, kind.dtype, fortran, content))


def _array(*_: object) -> np.ndarray:
    """An empty array, which the pickle then fills."""
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes from text, as pickles of protocol 2 store them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding!r}; allowed: 'latin1'")
    return text.encode(encoding)


ALLOWED: Final[dict[str, Callable[..., Any] | str]] = {
    "__builtin__.set": set,
    "builtins.set": set,
    "builtins.slice": slice,
    "_codecs.encode": _encoded,
    "collections.OrderedDict": OrderedDict,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.dtype": _Kind,
    "numpy.ndarray": "ndarray",  # only passed to `_reconstruct`, which ignores it
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
"""Names that a file may contain, and their replacements."""


class _Reader(pickle.Unpickler):
    """Unpickler for numbers, text, containers and inert objects only."""

    def __init__(self, archive: zipfile.ZipFile, source: str, inert: tuple[str, ...], layout: Layout):
        names = [name for name in archive.namelist() if name.partition("/")[2] == layout.pickle]
        if len(names) != 1:
            raise WeightsError(f"{source}: not a file of PyTorch: no {layout.pickle}")
        self.folder, self.archive, self.source = names[0].removesuffix(layout.pickle), archive, source
        self.numbers = f"{self.folder}{layout.numbers}"
        self.inert, self.classes = inert, dict[str, type[Inert]]()
        order = f"{self.folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise WeightsError(f"{source}: byte order is {archive.read(order)!r}; allowed: b'little'")
        size = archive.getinfo(names[0]).file_size
        if size > LARGEST_PICKLE:
            raise WeightsError(f"{source}: {names[0]} has {size} bytes; allowed: {LARGEST_PICKLE}")
        content = archive.read(names[0])
        for operation, argument, _ in pickletools.genops(content):
            # The unpickler allocates memory for as many objects as the largest index.
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
                raise WeightsError(f"{source}: {names[0]} remembers object {argument} in {len(content)} bytes")
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        """The replacement of a name."""
        full = f"{module}.{name}"
        if full in ALLOWED:
            known = ALLOWED[full]
            # A new function for each use, since a pickle can set attributes of named objects.
            return known if isinstance(known, str | type) else lambda *args, call=known: call(*args)
        if module.split(".", maxsplit=1)[0] not in self.inert:
            names = ", ".join((*sorted(ALLOWED), *(f"{package}.*" for package in self.inert)))
            raise WeightsError(f"{self.source}: names {full!r}; allowed: {names}")
        if full not in self.classes:
            self.classes[full] = type(name, (Inert,), {"__module__": module})
        return self.classes[full]

    def persistent_load(self, pid: Any) -> Storage:
        """Numbers stored next to the pickle: `('storage', type, file, device, size)`."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, str) or not str(key).isdigit():
            raise pickle.UnpicklingError(f"unknown reference {pid!r}")
        entry = self.archive.getinfo(self.numbers.format(key))
        if entry.file_size > LARGEST_STORAGE:
            raise pickle.UnpicklingError(f"{entry.filename} has {entry.file_size} bytes; allowed: {LARGEST_STORAGE}")
        return Storage(np.frombuffer(self.archive.read(entry), dtype))

"""Packages of NequIP with changed modules, made without nequip or PyTorch from a frozen one."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from bayes_mlff.models.importers import torch_pickle
from bayes_mlff.models.importers.nequip_files import EAGER, INERT
from bayes_mlff.models.importers.torch_pickle import Inert
from tests.support.frozen_numbers import frozen

FROZEN: Final = Path(__file__).parents[1] / "parity" / "nequip_package_reference.npz"

METADATA: Final = "package_version_id: 2\nversions: {nequip: 0.19.1}\n"

STORAGES: Final = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage", "b1": "BoolStorage"}


def content(case: str) -> bytes:
    """A package that nequip wrote, without its Python code."""
    return frozen(FROZEN)[1][f"{case}/package"].tobytes()


def modules(case: str, folder: Path) -> Inert:
    """The only model of a package, with its wrappers."""
    path = folder / "frozen.nequip.zip"
    path.write_bytes(content(case))
    return torch_pickle.read(path, inert=INERT, layout=EAGER)


def network_of(models: Inert) -> Inert:
    """The network of a package."""
    return models[0].model.func


def inert(module: str, name: str, **state: Any) -> Inert:
    """A module of a class, which the package only names."""
    made = type(name, (Inert,), {"__module__": module})()
    made.__setstate__({"_modules": {}, "_parameters": {}, "_buffers": {}, **state})
    return made


def write(models: Any, path: Path, metadata: str = METADATA) -> Path:
    """Write a package with these modules."""
    stream, storages = io.BytesIO(), list[np.ndarray]()
    _Pickler(stream, storages).dump(models)
    numbers = {EAGER.numbers.format(i): array.tobytes() for i, array in enumerate(storages)}
    return archive(path, stream.getvalue(), numbers, metadata)


def archive(path: Path, program: bytes, numbers: Mapping[str, bytes], metadata: str = METADATA) -> Path:
    """Write a package with this pickle."""
    texts = {"model/package_metadata.txt": metadata.encode(), EAGER.pickle: program, "byteorder": b"little"}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in (*texts.items(), *numbers.items()):
            file.writestr(f"any/{name}", data)
    return path


class _Name:
    """A name that is written without being looked up."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self, *_: object) -> None:
        """Never called; the pickler asks for a callable."""


class _Pickler(pickle._Pickler):  # pyright: ignore[reportAttributeAccessIssue]  # that in C has no names without objects
    """Writes inert objects as what they stand for."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # pyright: ignore[reportAttributeAccessIssue]

    def __init__(self, stream: io.BytesIO, storages: list[np.ndarray]):
        super().__init__(stream, 3)
        self.storages = storages

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Write the name of a class or function."""
        self.save_name(_Name(obj.__module__, obj.__qualname__ if obj.__module__ == "builtins" else obj.__name__))
        self.memoize(obj)

    def save_name(self, obj: _Name) -> None:
        """Write a name."""
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    dispatch[_Name] = save_name
    dispatch[type] = save_global

    def reducer_override(self, obj: Any) -> Any:
        """How objects of the package and tensors are made again."""
        if isinstance(obj, Inert):
            state = {k: v for k, v in vars(obj).items() if k != "args"}
            return (_Name(type(obj).__module__, type(obj).__name__), obj.args, state)
        if isinstance(obj, np.ndarray):
            strides = tuple(step // obj.itemsize for step in np.asarray(obj, order="C").strides)
            return (_Name("torch._utils", "_rebuild_tensor_v2"), (_Storage(obj), 0, obj.shape, strides, False))
        return NotImplemented

    def persistent_id(self, obj: Any) -> Any:
        """Reference to the numbers of a tensor."""
        if not isinstance(obj, _Storage):
            return None
        self.storages.append(obj.values)
        kind = _Name("torch", STORAGES[obj.values.dtype.str[1:]])
        return ("storage", kind, str(len(self.storages) - 1), "cpu", obj.values.size)


class _Storage:
    def __init__(self, values: np.ndarray):
        self.values = np.ascontiguousarray(values)

"""Checkpoints of SevenNet: found in the installed package `sevenn`, read without PyTorch, converted once.

A checkpoint is a zip archive of a pickle and raw numbers. Unpickling runs whatever program a file names; here only
the names in `ALLOWED` are known, all of them functions of this module or constructors of plain data, and every other
one is an error. The package itself is never imported.
"""

import hashlib
import importlib.util
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.core.errors import ConfigError, WeightsError

LAYOUT = 1
"""Of converted files; to be raised when the conversion changes, so that older ones are not found any more."""


class Origin(NamedTuple):
    """Where a published model is found."""

    path: str  # below the folder of the package
    sha256: str  # of the checkpoint


CHECKPOINTS = {
    "sevennet-0": Origin(
        "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
        "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
    ),
    "sevennet-l3i5": Origin(
        "pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth",
        "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
    ),
}
"""Models by the name used in configurations."""


class Checkpoint(NamedTuple):
    """What a checkpoint says about its model."""

    settings: dict[str, Any]  # SevenNet's configuration
    state: dict[str, np.ndarray]  # its weights


def find(name: str, key: str) -> Path:
    """The checkpoint of a model of `CHECKPOINTS` in the installed package.

    Raises:
      ConfigError: naming `key`, if the package is not installed.
      WeightsError: if its checkpoint is not the one that this package was tested with.
    """
    spec = importlib.util.find_spec("sevenn")
    folders = list(spec.submodule_search_locations or []) if spec else []
    origin = CHECKPOINTS[name]
    found = [path for folder in folders if (path := Path(folder) / origin.path).is_file()]
    if not found:
        raise ConfigError(key, name, f"{name!r} once its weights are there: pip install 'bayes-mlff[sevennet]'")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != origin.sha256:
        raise WeightsError(f"{found[0]}: SHA-256 is {digest}; allowed: {origin.sha256}")
    return found[0]


def cached(name: str) -> Path:
    """Where the converted weights of a model of `CHECKPOINTS` are kept, whether or not they are there yet.

    That is `bayes_mlff/` in `$XDG_CACHE_HOME`, or else in `~/.cache`; the name tells checkpoint and layout.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if base else Path.home() / ".cache"
    return folder / "bayes_mlff" / f"{name}-{CHECKPOINTS[name].sha256}-v{LAYOUT}.safetensors"


def read(path: Path) -> Checkpoint:
    """Read a checkpoint without running anything it contains.

    Raises:
      WeightsError: if it is no checkpoint, or names a program that is not in `ALLOWED`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Reader(archive, str(path)).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a checkpoint of SevenNet: {error}") from error
    missing = {"config", "model_state_dict"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise WeightsError(f"{path}: not a checkpoint of SevenNet: missing {sorted(missing)}")
    return Checkpoint(dict(content["config"]), dict(content["model_state_dict"]))


class _Storage(NamedTuple):
    """A stretch of numbers that tensors are views of."""

    values: np.ndarray  # [any]


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> np.ndarray:
    """A tensor as a contiguous array."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    empty = 0 in shape
    if offset < 0 or min(strides, default=0) < 0 or (not empty and last >= len(storage.values)):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} exceeds its storage of {len(storage.values)} numbers")
    if empty:
        return np.zeros(shape, storage.values.dtype)
    values = storage.values[offset:]
    steps = tuple(step * values.itemsize for step in strides)
    return np.array(np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False))


def _array(*_: object) -> np.ndarray:
    """An empty array, which the pickle then fills."""
    return np.ndarray.__new__(np.ndarray, (0,), np.int8)


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes, which pickles of protocol 2 keep as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding!r}; allowed: 'latin1'")
    return text.encode(encoding)


ALLOWED: dict[str, Callable[..., Any] | str] = {
    "_codecs.encode": _encoded,
    "collections.OrderedDict": OrderedDict,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.dtype": np.dtype,
    "numpy.ndarray": "ndarray",  # only handed to `_reconstruct`, which has no use for it
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.device": lambda kind, *_: str(kind),
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.LongStorage": "<i8",
}
"""What a checkpoint may name, and what takes its place."""


class _Reader(pickle.Unpickler):
    """Unpickles numbers, text and containers, and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, source: str):
        names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise WeightsError(f"{source}: not a checkpoint of SevenNet: no data.pkl")
        self.folder, self.archive, self.source = names[0].removesuffix("data.pkl"), archive, source
        order = f"{self.folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise WeightsError(f"{source}: byte order is {archive.read(order)!r}; allowed: b'little'")
        super().__init__(archive.open(names[0]))

    def find_class(self, module: str, name: str) -> Any:
        """What takes the place of a name."""
        full = f"{module}.{name}"
        if full not in ALLOWED:
            raise WeightsError(f"{self.source}: names {full!r}; allowed: {sorted(ALLOWED)}")
        return ALLOWED[full]

    def persistent_load(self, pid: Any) -> _Storage:
        """The numbers that lie beside the pickle: `('storage', type, file, device, size)`."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, str) or not str(key).isdigit():
            raise pickle.UnpicklingError(f"unknown reference {pid!r}")
        return _Storage(np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), dtype))

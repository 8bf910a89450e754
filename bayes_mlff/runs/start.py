"""Copies of what a run was started from: initial structure and model, with their digests, in the run directory.

A run continues from these copies, so that it depends on no file outside of its directory. They are in the folder
`start`: `structure.npz` and `model.safetensors`, which are read, `structure.extxyz` for people to look at, and
`identity.json` with the SHA-256 of both and the hash of the engine's settings. Where the run was started from labels
or a trained ensemble, they are `labels.extxyz` and `ensemble.safetensors`. Modules and files next to the
configuration that the reference uses are in its sub-folder `files`.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import ase.io
import numpy as np

from bayes_mlff.core.errors import RunDirectoryError, shown
from bayes_mlff.data.structure import ElectronicState, Structure, to_ase
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.engines.beside import Beside
from bayes_mlff.models import registry
from bayes_mlff.models.potential import Potential

FOLDER: Final = "start"
STRUCTURE: Final = "structure.npz"
MODEL: Final = "model.safetensors"
IDENTITY: Final = "identity.json"
READABLE: Final = "structure.extxyz"
LABELS: Final = "labels.extxyz"
ENSEMBLE: Final = "ensemble.safetensors"
KEPT: Final = "files"
"""Sub-folder for files that the reference uses from the folder of the configuration, under the same relative paths."""

FORMAT: Final = 1

_REST: Final = "rest"
"""Name of the array that holds all values that are not arrays, as JSON."""

_MOST_BYTES: Final = 1 << 20
"""Largest size of identity.json."""


class Start(NamedTuple):
    """Everything that a run was started from."""

    initial: InitialStructure
    potential: Potential  # for the elements of the structure
    engine_hash: str  # hash of settings and versions of the reference
    engine: str  # description of the reference in words
    base: Path  # folder of the configuration
    beside: Beside = Beside()  # modules and files in that folder that the reference uses
    labels: bytes | None = None  # labels that existed before the run, as a dataset of a run
    ensemble: bytes | None = None  # file of the ensemble from whose samples the chains started

    def taken(self) -> dict[str, bytes]:
        """Contents of the files of labels and ensemble by name; those that the run was not started from are missing."""
        pairs = {LABELS: self.labels, ENSEMBLE: self.ensemble}
        return {name: content for name, content in pairs.items() if content is not None}


def contents(start: Start) -> dict[str, bytes]:
    """Contents of the files of the folder `start` by name; the identity is last."""
    structure, model = packed(start.initial), registry.serialised(start.potential, {})
    readable = io.StringIO()
    plain = start.initial.structure._replace(electronic=ElectronicState())
    ase.io.write(readable, to_ase(plain), format="extxyz")
    identity = {
        "format": FORMAT,
        "structure": hashlib.sha256(structure).hexdigest(),
        "model": hashlib.sha256(model).hexdigest(),
        "engine": {"hash": start.engine_hash, "description": start.engine},
        "base": str(start.base),
        "kept": {name: hashlib.sha256(content).hexdigest() for name, content in start.beside.kept.items()},
        "needed": list(start.beside.needed),
        "taken": {name: hashlib.sha256(content).hexdigest() for name, content in start.taken().items()},
    }
    return {
        **{f"{KEPT}/{name}": content for name, content in start.beside.kept.items()},
        **start.taken(),
        STRUCTURE: structure,
        READABLE: readable.getvalue().encode(),
        MODEL: model,
        IDENTITY: (json.dumps(identity, indent=2) + "\n").encode(),
    }


def read(run: Path) -> Start:
    """Read what a run was started from, with every bit unchanged.

    Raises:
      RunDirectoryError: if a file is missing, damaged or was replaced.
    """
    folder = run / FOLDER
    identity = _identity(folder / IDENTITY)
    initial = unpacked(folder / STRUCTURE, verified(folder / STRUCTURE, identity["structure"]))
    verified(folder / MODEL, identity["model"])
    potential = registry.load(str(folder / MODEL))  # for the elements of the run, or of all walkers of a campaign
    engine = identity["engine"]
    kept = {name: verified(folder / KEPT / name, digest) for name, digest in identity.get("kept", {}).items()}
    beside = Beside(kept, tuple(identity.get("needed", ())))
    digests = identity.get("taken", {})
    taken = {name: verified(folder / name, digests[name]) for name in (LABELS, ENSEMBLE) if name in digests}
    about = engine["hash"], engine["description"], Path(identity["base"])
    return Start(initial, potential, *about, beside, taken.get(LABELS), taken.get(ENSEMBLE))


def base_of(start: Start, run: Path) -> Path:
    """Folder from which the reference takes modules and files: the run's copy if it is complete, else the original.

    Raises:
      RunDirectoryError: naming a file that was not copied and is no longer in its original place.
    """
    gone = [name for name in start.beside.needed if not (start.base / name).is_file()]
    if gone:
        raise RunDirectoryError(
            f"{run}: {start.base / gone[0]}, which engine.arguments name, is gone, and the run keeps no copy of it (it "
            "was too large, or outside of the folder of the configuration); put it back where it was"
        )
    own = start.beside.kept and all(Path(name).is_absolute() for name in start.beside.needed)
    return run / FOLDER / KEPT if own else start.base


def _identity(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunDirectoryError(
            f"{path} is missing: this is no run, or one that an earlier version of this program made, which did not "
            "keep structure and model; finish it with that version, or start another run"
        )
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
        given = found["structure"], found["model"], found["engine"]["hash"], found["engine"]["description"]
        kept, needed, taken = found.get("kept", {}), found.get("needed", []), found.get("taken", {})
        if not all(isinstance(text, str) for text in (*given, found["base"], *kept.values(), *needed, *taken.values())):
            raise TypeError("something other than text")
        version = found["format"]
    except (OSError, RecursionError, ValueError, LookupError, TypeError) as error:
        raise RunDirectoryError(f"{path}: damaged ({type(error).__name__}: {error}); {_RESTORE}") from error
    if version != FORMAT:
        raise RunDirectoryError(
            f"{path}: format {shown(version)}; allowed: {FORMAT}, which this version reads and writes (finish the run "
            "with the version that began it, or start a new one)"
        )
    return found


_RESTORE: Final = "restore it from a copy, or start another run"


def verified(path: Path, digest: str) -> bytes:
    """Content of a file, after checking its SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({error.strerror}); {_RESTORE}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise RunDirectoryError(
            f"{path}: not what the run was started from (its SHA-256 is not that in {IDENTITY}): damaged or replaced; "
            f"{_RESTORE}"
        )
    return content


def packed(initial: InitialStructure) -> bytes:
    """Pack an initial structure as npz: arrays unchanged, other values as JSON in an array of bytes, None left out."""
    arrays: dict[str, np.ndarray] = {}
    rest: dict[str, Any] = {}
    parts = (
        ("structure", initial.structure._asdict()),
        ("electronic", initial.structure.electronic._asdict()),
        ("initial", initial._asdict()),
    )
    for part, fields in parts:
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                arrays[f"{part}.{name}"] = value
            elif value is not None and not isinstance(value, Structure | ElectronicState):
                rest[f"{part}.{name}"] = dict(value) if isinstance(value, Mapping) else value
    arrays[_REST] = np.frombuffer(json.dumps(rest, default=_plain).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """Convert numpy numbers to Python numbers, which JSON stores exactly."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be kept")


def unpacked(path: Path, content: bytes) -> InitialStructure:
    """Content of `packed`, with every bit unchanged.

    Raises:
      RunDirectoryError: naming the path, if it is of another version.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            found: dict[str, Any] = {name: file[name] for name in file.files}
        found |= json.loads(found.pop(_REST).tobytes())
        fields: dict[str, dict[str, Any]] = {"structure": {}, "electronic": {}, "initial": {}}
        for key, value in found.items():
            part, _, name = key.partition(".")
            fields[part][name] = tuple(value) if isinstance(value, list) else value
        structure = Structure(**fields["structure"], electronic=ElectronicState(**fields["electronic"]))
        return InitialStructure(structure, **fields["initial"])
    except (ValueError, LookupError, TypeError) as error:
        raise RunDirectoryError(f"{path}: of another version of this program ({error}); {_RESTORE}") from error

"""Hostile files of weights and checkpoints; see `bad_input`."""

import hashlib
import io
import json
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import load, save

from bayes_mlff.core.errors import shown
from bayes_mlff.models import registry
from bayes_mlff.models.importers import mace_files, sevennet_files, torch_pickle
from bayes_mlff.runs import checkpoint
from bayes_mlff.testing.tiny import tiny_equiformer_v2, tiny_mace, tiny_nequip
from tests.support import nequix_file
from tests.support.bad_input import Target, damaged_bytes, damaged_tree

TINY: Final = (
    tiny_nequip(
        (1, 8),
        radial_width=2,
        num_bessels=2,
        sigma_widths=(2,),
        energy_scales=(1.0, 2.0),
        energy_shifts=(-13.6, -2041.25),
    ),
    tiny_mace((1, 8), energy_scale=1.5, energy_shifts=(-13.6, -2041.25)),
    tiny_equiformer_v2((1, 8), energy_shifts=(-13.6, -2041.25)),
)


NEQUIX: Final = (nequix_file.HEADER, nequix_file.HEADER | {"index_weights": True, "layer_norm": False})


def weight_targets() -> list[Target]:
    """Files of this package, files of PyTorch and of Nequix, and checkpoints of runs."""
    with tempfile.TemporaryDirectory() as name:
        weights, checkpoints = _weights(Path(name)), _checkpoints(Path(name))
    torch = _torch()
    pickled = st.tuples(damaged_bytes(torch) | _odd_torch(), st.integers(0, 4))
    nequix = tuple(nequix_file.content(header, nequix_file.random_leaves(header)) for header in NEQUIX)
    kept = st.tuples(damaged_bytes(checkpoints) | _odd_checkpoints(checkpoints), st.booleans())
    return [
        Target("weights", damaged_bytes(weights) | _odd_weights(weights), _use_weights, weights),
        Target("files of PyTorch", pickled, _use_torch, tuple((torch[0], reader) for reader in (0, 1))),
        Target("files of Nequix", damaged_bytes(nequix) | _odd_nequix(), _use_nequix, nequix),
        Target("checkpoints", kept, _use_checkpoint, ((checkpoints[0], False),)),
    ]


def _weights(folder: Path) -> tuple[bytes, ...]:
    written, random = [], np.random.default_rng(0)
    for config in TINY:
        shapes = jax.eval_shape(lambda config=config: registry.initialize(config, 0).params)  # nothing is compiled
        params = jax.tree.map(lambda x: random.standard_normal(x.shape).astype(x.dtype), shapes)
        registry.save(registry.Potential(config, params), folder / "a.safetensors", {"provenance": "a test"})
        written.append((folder / "a.safetensors").read_bytes())
    return tuple(written)


@st.composite
def _odd_weights(draw: st.DrawFn, files: tuple[bytes, ...]) -> bytes:
    """Sound files of arrays and metadata that are not what they should be."""
    i = draw(st.integers(0, len(files) - 1))
    arrays = dict(load(files[i]))
    name = draw(st.sampled_from(sorted(arrays)))
    metadata = TINY[i].model_dump(mode="json")
    match draw(st.sampled_from(("metadata", "metadata", "array", "drop", "add", "none"))):
        case "metadata":
            metadata = draw(damaged_tree((metadata,)))
        case "array":
            kind = draw(st.sampled_from(("f4", "f8", "f2", "i4", "bool", "u1")))
            factor = draw(st.sampled_from((1.0, np.nan, np.inf, 1e30)))
            with np.errstate(all="ignore"):
                arrays[name] = np.asarray(arrays[name] * factor, kind)
        case "drop":
            del arrays[name]
        case "add":
            arrays["extra"] = arrays[name]
        case "none":
            return save(arrays, metadata=draw(st.sampled_from((None, {}, {"config": ""}, {"config": "[" * 10000}))))
    return save(arrays, metadata={"config": _json(metadata)})


def _json(value: Any) -> str:
    """A value as JSON, or as something like it where it cannot be JSON."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = shown(value)
    return text.encode("utf-8", "replace").decode()


def _use_weights(content: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    potential = registry.load(str(path))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(potential.params))
    registry.save(potential, folder / "again.safetensors", {})
    assert registry.load(str(folder / "again.safetensors")).config == potential.config


def _archive(program: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model/data.pkl", program)
        archive.writestr("model/byteorder", b"little")
        archive.writestr("model/data/0", np.arange(6, dtype="<f4").tobytes())
    return stream.getvalue()


def tensor_program(shape: bytes = b"K\x02K\x03\x86", name: bytes = b"ctorch._utils\n_rebuild_tensor_v2\n") -> bytes:
    """A pickle of {'config': {}, 'model_state_dict': {'x': tensor}}."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    tensor = name + b"(" + storage + b"K\x00" + shape + b"K\x03K\x01\x86\x89}tR"
    return b"\x80\x02}(X\x06\x00\x00\x00config}X\x10\x00\x00\x00model_state_dict}X\x01\x00\x00\x00x" + tensor + b"su."


def _torch() -> tuple[bytes, ...]:
    module = b"\x80\x02cmace.modules.models\nScaleShiftMACE\n)\x81}X\x08\x00\x00\x00_modules}sb."
    arrays = pickle.dumps({"config": {"a": np.arange(3.0)}, "model_state_dict": {}}, 2)
    return tuple(map(_archive, (tensor_program(), module, arrays)))


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, 2)
    except RecursionError:
        return pickle.dumps({"config": 1, "model_state_dict": 2}, 2)


@st.composite
def _odd_torch(draw: st.DrawFn) -> bytes:
    """Sound archives of pickles that are not what they should be."""
    programs = (tensor_program(), pickle.dumps({"config": {"a": np.arange(3.0)}, "model_state_dict": {}}, 2))
    pieces = (
        *(
            b"cos\nsystem\n",
            b"cbuiltins\neval\n",
            b"cnumpy\ndtype\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"r\xff\xff\xff\x7f",
        ),
        *(
            b"(",
            b")",
            b"R",
            b"b",
            b"\x81",
            b"Q",
            b"t",
            b"}",
            b"]",
            b"0",
            b"2",
            b"s",
            b"u",
            b"a",
            b"e",
            b"K\xff",
            b"N",
            b".",
        ),
        *(
            b"X\xff\xff\xff\x7f",
            b"\x8a\xff",
            b"j\x00\x00\x00\x00",
            b"q\x00",
            b"h\x00",
            b"cmace\nX\n",
            b"\x82\x01",
            b"I99\n",
            b"(" * 3000,
        ),
    )
    if draw(st.booleans()):
        content = {"config": {"cutoff": 5.0}, "model_state_dict": {"a": np.arange(3.0)}, "model": {"a": [1]}}
        return _archive(_pickled(draw(damaged_tree((content,)))))
    program = draw(damaged_bytes(programs))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(program)))
        program = program[:at] + draw(st.sampled_from(pieces)) + program[at:]
    return _archive(program)


def _use_torch(value: tuple[bytes, int], folder: Path) -> None:
    content, reader = value
    path = folder / "model.model"
    path.write_bytes(content)
    readers: tuple[Callable[[Path], Any], ...] = (
        lambda file: torch_pickle.read(file, inert=torch_pickle.INERT),
        sevennet_files.read,
        mace_files.read_model,
        lambda file: mace_files.read_state(file, TINY[1]),
        sevennet_files.read_model,
    )
    readers[reader](path)


@st.composite
def _odd_nequix(draw: st.DrawFn) -> bytes:
    """Sound headers and arrays that are not what they should be."""
    header = draw(st.sampled_from(NEQUIX))
    leaves = nequix_file.random_leaves(header)
    i = draw(st.integers(0, len(leaves) - 1))
    match draw(st.sampled_from(("header", "header", "array", "drop", "add"))):
        case "header":
            arrays = b"".join(map(nequix_file.npy, leaves))
            return _json(draw(damaged_tree((header,)))).replace("\n", " ").encode() + b"\n" + arrays
        case "array":
            kind = draw(st.sampled_from(("f4", "f8", "f2", "i4", "bool", "u1", "c8", "S4", "M8[s]")))
            factor = draw(st.sampled_from((1.0, np.nan, np.inf, 1e30)))
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                leaves[i] = np.asarray(np.asarray(leaves[i] * factor, "f8").astype(kind))
        case "drop":
            del leaves[i]
        case "add":
            leaves.insert(i, draw(st.sampled_from((np.ones(()), np.ones(2), np.ones((1,) * 30), np.ones((0, 5))))))
    return nequix_file.content(header, leaves)


def _use_nequix(content: bytes, folder: Path) -> None:
    path = folder / "model.nqx"
    path.write_bytes(content)
    potential = registry.load(str(path), dtype=np.float64)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(potential.params))
    assert np.isfinite(potential.config.energy_shifts).all()


def _state() -> dict[str, Any]:
    return {"x": np.arange(6.0).reshape(2, 3), "key": jax.random.key(1)}


def _checkpoints(folder: Path) -> tuple[bytes, ...]:
    return (checkpoint.write(folder, 7, _state(), {"step": 7, "value": 0.1, "text": "a"}).read_bytes(),)


@st.composite
def _odd_checkpoints(draw: st.DrawFn, files: tuple[bytes, ...]) -> bytes:
    arrays = dict(load(files[0][32:]))
    name = draw(st.sampled_from(sorted(arrays)))
    arrays[name] = np.asarray(arrays[name], draw(st.sampled_from(("f4", "i4", "u4", "bool", "f8"))))[:1]
    state = draw(damaged_tree(({"format": checkpoint.FORMAT, "step": 7},)))
    text = _json(state)
    metadata = draw(st.sampled_from(({"state": text}, {}, None)))
    return files[0][:32] + save(arrays, metadata=metadata)


def _use_checkpoint(value: tuple[bytes, bool], folder: Path) -> None:
    content, own_checksum = value
    body = content[32:]
    (folder / "000000007.ckpt").write_bytes((hashlib.sha256(body).digest() if own_checksum else content[:32]) + body)
    arrays, _, _ = checkpoint.newest(folder)
    checkpoint.restore(_state(), arrays)

"""Checkpoints are read for what they hold, and nothing in them runs."""

import importlib.util
import io
import pickle
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.importers.sevennet_files import find, read
from bayes_mlff.models.known.entry import InPackage

SEVENNET = ENTRIES["sevennet-0"].source
assert isinstance(SEVENNET, InPackage)


class Global:
    """Pickled as the mere name of something."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call."""

    def __init__(self, module, name, *args):
        self.function, self.args = Global(module, name), args


class Storage(tuple):
    """Pickled as a reference to numbers beside the pickle."""


class Writer(pickle._Pickler):  # that of C cannot write names of what is not there
    def persistent_id(self, obj):
        return tuple(obj) if isinstance(obj, Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.args)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def tensor(shape, strides, offset=0, kind="FloatStorage", numbers=6):
    storage = Storage(("storage", Global("torch", kind), "0", "cpu", numbers))
    return Call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, {})


def write(path, content, data=None, byteorder=b"little"):
    stream = io.BytesIO()
    Writer(stream, 2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", stream.getvalue())
        archive.writestr("model/byteorder", byteorder)
        archive.writestr("model/data/0", np.arange(6, dtype="<f4").tobytes() if data is None else data)
    return path


def checkpoint(**state):
    return {"config": {"version": "0.9.1"}, "model_state_dict": state, "epoch": 3}


def test_tensors_are_views_of_their_storage(tmp_path):
    state = {
        "rows": tensor((2, 3), (3, 1)),
        "columns": tensor((3, 2), (1, 3)),
        "end": tensor((2,), (1,), offset=4),
        "one": tensor((), (), offset=5),
        "none": tensor((0,), (1,)),
    }
    got = read(write(tmp_path / "a.pth", checkpoint(**state)))
    assert got.settings == {"version": "0.9.1"}
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = {"rows": rows, "columns": rows.T, "end": rows[1, 1:], "one": np.float32(5), "none": rows[:0, 0]}
    for key, value in expected.items():
        np.testing.assert_array_equal(got.state[key], value, err_msg=key)
        assert got.state[key].dtype == np.float32


def test_numbers_of_double_precision(tmp_path):
    values = np.array([0.1, 0.2])
    path = write(tmp_path / "a.pth", checkpoint(x=tensor((2,), (1,), kind="DoubleStorage")), values.tobytes())
    np.testing.assert_array_equal(read(path).state["x"], values, strict=True)


def test_arrays_of_numpy(tmp_path):
    content = checkpoint() | {"config": {"shift": np.array([1.5, -2.0], np.float32)}}
    stream = io.BytesIO()
    pickle.Pickler(stream, 2).dump(content)
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("model/data.pkl", stream.getvalue())
    np.testing.assert_array_equal(read(tmp_path / "a.pth").settings["shift"], np.array([1.5, -2.0], np.float32))


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("sevenn.train", "Trainer"), ("numpy", "load")]
)
def test_other_programs_are_refused(tmp_path, module, name):
    path = write(tmp_path / "a.pth", checkpoint(x=Call(module, name, "true")))
    with pytest.raises(WeightsError, match=rf"names '{module}\.{name}'; allowed: "):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (checkpoint(x=tensor((3, 3), (3, 1))), "exceeds its storage"),
        (checkpoint(x=tensor((2,), (1,), offset=-1)), "exceeds its storage"),
        (checkpoint(x=tensor((2,), (-1,), offset=4)), "exceeds its storage"),
        (checkpoint(x=Storage(("storage", Global("torch", "FloatStorage"), "../0", "cpu", 6))), "unknown reference"),
        (checkpoint(x=Call("_codecs", "encode", "a", "rot13")), "rot13"),
        (checkpoint(x=Call("numpy", "ndarray", 3)), "not a file of PyTorch"),
        ({"config": {}}, "missing.*model_state_dict"),
        ([1, 2], "missing.*config"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, content, message):
    with pytest.raises(WeightsError, match=message):
        read(write(tmp_path / "a.pth", content))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.pth").write_text("text")
    with pytest.raises(WeightsError, match="not a file of PyTorch"):
        read(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="byte order is b'big'"):
        read(write(tmp_path / "b.pth", checkpoint(), byteorder=b"big"))
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("model/other", "")
    with pytest.raises(WeightsError, match=r"no data\.pkl"):
        read(tmp_path / "c.pth")


def test_checkpoints_other_than_the_tested_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    with pytest.raises(ConfigError, match=r"run\.model"):
        find("sevennet-0", "run.model", SEVENNET)
    path = tmp_path / SEVENNET.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=f"SHA-256 is .*; allowed: {SEVENNET.sha256}"):
        find("sevennet-0", "run.model", SEVENNET)

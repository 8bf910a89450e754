"""What comes from outside is read, never run; it takes no more memory than it has bytes, and is shown as text."""

import ast
import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bayes_mlff.core import settings
from bayes_mlff.core.errors import BayesMlffError, ConfigError, DataError, WeightsError
from bayes_mlff.core.paths import bounded_memory
from bayes_mlff.data import dataset
from bayes_mlff.data.labelled_files import read_extxyz
from bayes_mlff.data.molecule_sets import SGDML_KEYS, read_npz
from bayes_mlff.finetune import config as finetune_config
from bayes_mlff.models import registry
from bayes_mlff.models.importers import (
    equiformer_v2_files,
    mace_files,
    nequip_files,
    nequix_files,
    sevennet_files,
    torch_pickle,
)
from bayes_mlff.otf import config as run_config
from bayes_mlff.otf import systems
from tests.support import nequix_file
from tests.support.bad_input import repacked
from tests.support.bad_weights import TINY, tensor_program
from tests.support.nequip_package import archive as package

PACKAGE = Path(registry.__file__).parents[1]


SOURCES = sorted(PACKAGE.rglob("*.py"))


READERS = {
    "tensors": torch_pickle.read,
    "model": lambda path: torch_pickle.read(path, inert=torch_pickle.INERT),
    "sevennet": sevennet_files.read_model,
    "mace model": mace_files.read_model,
    "mace state": lambda path: mace_files.read_state(path, TINY[1]),
    "equiformer_v2": equiformer_v2_files.read_model,
    "nequix": nequix_files.read_model,
    "nequip": nequip_files.read_model,
    "registry": lambda path: registry.load(str(path)),
}


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def hostile_programs(canary: Path) -> dict[str, bytes]:
    """Pickles that would make the file `canary`, each in another way."""
    command = f"touch {canary}"
    call = text(command) + b"\x85R"
    python = f"open({str(canary)!r}, 'w').close()"
    return {
        "reduce": pickle.dumps(Evil(command), 2),
        "reduce, protocol 4": pickle.dumps(Evil(command), 4),
        "nested": pickle.dumps({"config": {"a": [(1, {"b": Evil(command)})]}, "model_state_dict": {}}, 2),
        "as a key": pickle.dumps({"config": {}, "model_state_dict": {("a", 1): Evil(command)}}, 2),
        "eval": b"\x80\x02cbuiltins\neval\n"
        + text(python.replace("open(", "__import__('builtins').open(", 1))
        + b"\x85R.",
        "exec": b"\x80\x02c__builtin__\nexec\n" + text(python) + b"\x85R.",
        "old instance": b"(" + text(command) + b"ios\nsystem\n.",
        "old object": b"(cos\nsystem\n" + text(command) + b"o.",
        "through a module": b"\x80\x02ctorch\nos.system\n" + call + b".",
        "by a dotted name": b"\x80\x04" + text("torch") + text("serialization.os.system") + b"\x93" + call + b".",
        "loader of NumPy": b"\x80\x02cnumpy\nload\n" + text(str(canary)) + b"\x85R.",
        "runpy": b"\x80\x02crunpy\nrun_path\n" + call + b".",
        "persistent": b"\x80\x02(" + text("storage") + b"cos\nsystem\n" + text(command) + b"tQ.",
        "persistent call": b"\x80\x02cos\nsystem\n" + text(command) + b"\x85RQ.",
        "build": b"\x80\x02cos\nsystem\n}" + text("__setstate__") + b"cos\nsystem\ns" + text(command) + b"b.",
        "as a class": b"\x80\x02csubprocess\nPopen\n" + text(command) + b"\x85\x81.",
        "extension": b"\x80\x02\x82\x01.",
    }


NAMES = sorted(hostile_programs(Path("x")))


def archive(path, program: bytes, **members: bytes):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": program, "byteorder": b"little", "data/0": bytes(24), **members}.items():
            file.writestr(f"model/{name}", content)
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", NAMES)
def test_programs_in_pickles_do_not_run(tmp_path, reader, name):
    canary = tmp_path / "canary"
    program = hostile_programs(canary)[name]
    archives = archive(tmp_path / "a.model", program), package(tmp_path / "a.nequip.zip", program, {})
    others = tmp_path / "b.model", tmp_path / "c.safetensors"
    for path in (*archives, *others):
        if path in others:
            path.write_bytes(program)  # as files of PyTorch before 1.6, or under another name
        if (
            reader in ("tensors", "model")
            and name in ("through a module", "by a dotted name")
            and path.name == "a.model"
        ):
            continue  # kept by name, see below
        with pytest.raises((WeightsError, ConfigError)):
            READERS[reader](path)
        assert not canary.exists()


@pytest.mark.parametrize("name", ["through a module", "by a dotted name"])
def test_names_of_known_packages_stay_names(tmp_path, name):
    canary = tmp_path / "canary"
    path = archive(tmp_path / "a.model", hostile_programs(canary)[name])
    found = torch_pickle.read(path, inert=torch_pickle.INERT)
    assert isinstance(found, torch_pickle.Inert) and found.args == (f"touch {canary}",) and not canary.exists()
    with pytest.raises(WeightsError, match="names 'torch"):
        torch_pickle.read(path)


@pytest.mark.parametrize("name", ["reduce", "nested", "eval", "exec", "old instance", "old object"])
def test_the_same_programs_run_where_nobody_watches(tmp_path, name):
    canary = tmp_path / "canary"
    pickle.loads(hostile_programs(canary)[name])
    assert canary.exists()


def test_a_pickle_cannot_change_the_functions_it_names(tmp_path):
    before = torch_pickle._tensor.__defaults__, dict(torch_pickle._tensor.__dict__)
    for state in (b"}" + text("planted") + b"K\x01s", b"N}" + text("__defaults__") + b"K\x01\x85s\x86"):
        path = archive(tmp_path / "a.model", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b.")
        torch_pickle.read(path)
    assert (torch_pickle._tensor.__defaults__, torch_pickle._tensor.__dict__) == before


@pytest.mark.parametrize("kind", ["O", "V8", "M8[s]", "U1"])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, kind):
    array = np.zeros(2, kind) if kind != "O" else np.array([Evil(f"touch {tmp_path / 'canary'}")], object)
    with pytest.raises(WeightsError):
        torch_pickle.read(archive(tmp_path / "a.model", pickle.dumps(array, 2)))
    assert not (tmp_path / "canary").exists()


def test_python_objects_in_arrays_do_not_run(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "labels.npz"
    evil = np.array([Evil(f"touch {canary}")], object)
    np.savez(path, z=evil, R=evil, E=evil, F=evil)
    with pytest.raises(DataError, match="claims object"):
        read_npz(path, keys=SGDML_KEYS)
    path.write_bytes(pickle.dumps(Evil(f"touch {canary}")))
    with pytest.raises(DataError, match="not a readable npz"):
        read_npz(path, keys=SGDML_KEYS)
    assert not canary.exists()
    np.load(tmp_path / "labels.npz", allow_pickle=True)
    assert canary.exists()


def test_tags_of_python_in_yaml_do_not_run(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "config.yaml"
    for tag in ("apply:os.system", "new:os.system", "name:os.system", "module:os", "apply:subprocess.getoutput"):
        path.write_text(f"structure: !!python/object/{tag} ['touch {canary}']\n")
        for load in (run_config.load, finetune_config.load):
            with pytest.raises(ConfigError, match="valid YAML"):
                load(path)
        with pytest.raises(ConfigError):
            settings.parse_yaml(path.read_text(), key="--set", source="x")
    assert not canary.exists()


def calls(source: str) -> set[str]:
    """What a module does that could run text from outside, and with which guard."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            found |= {
                f"import {m}" for m in modules if m in ("pickle", "shelve", "marshal", "dill", "joblib", "cloudpickle")
            }
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        last = name.rpartition(".")[2]
        if name in ("eval", "exec", "compile", "__import__") or last in ("system", "popen", "getoutput", "run_path"):
            found.add(f"{name}()")
        if given.get("shell", "False") != "False":
            found.add(f"{name}(shell)")
        if name.startswith("subprocess.") and not isinstance(node.args[0], ast.List | ast.Name):
            found.add(f"{name}(text)")
        if last in ("load", "loads") and name.startswith(("pickle.", "marshal.")):
            found.add(f"{name}()")
        if name.startswith("yaml.") and "load" in last and last != "safe_load" and given.get("Loader") != "_Loader":
            found.add(f"{name}()")
        if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            found.add(f"{name}(pickles)")
        if last == "load" and "weights_only" in given and given["weights_only"] != "True":
            found.add(f"{name}(weights_only=False)")
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("os.system(x)", {"os.system()"}),
        ("subprocess.run(f'ls {x}', shell=True)", {"subprocess.run(shell)", "subprocess.run(text)"}),
        ("subprocess.run(f'ls {x}')", {"subprocess.run(text)"}),
        ("eval(x)", {"eval()"}),
        ("yaml.load(x, Loader=yaml.UnsafeLoader)", {"yaml.load()"}),
        ("yaml.unsafe_load(x)", {"yaml.unsafe_load()"}),
        ("np.load(x)", {"np.load(pickles)"}),
        ("np.load(x, allow_pickle=True)", {"np.load(pickles)"}),
        ("from pickle import loads", {"import pickle"}),
        ("_torch().load(p, weights_only=False)", {"_torch().load(weights_only=False)"}),
        ("subprocess.run([x]); yaml.safe_load(x); np.load(x, allow_pickle=False); re.compile(x)", set()),
    ],
)
def test_dangerous_calls_are_recognised(source, expected):
    assert calls(source) == expected


TRUSTED = {
    "models/importers/torch_pickle.py": {"import pickle"},  # its unpickler is what is tested above
    "engines/worker/child.py": {"runpy.run_path()"},  # a file of this package, which the parent names
    "testing/bad_weights.py": {"import pickle"},  # writes
    "models/importers/mace_files.py": {"_torch().load(weights_only=False)"},  # behind `trust`, which is tested below
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_runs_text_from_outside(path):
    name = path.relative_to(PACKAGE).as_posix()
    assert calls(path.read_text(encoding="utf-8")) == TRUSTED.get(name, set())


def test_the_unpickler_looks_names_up_nowhere_else():
    source = ast.parse(Path(torch_pickle.__file__).read_text(encoding="utf-8"))
    (reader,) = [n for n in ast.walk(source) if isinstance(n, ast.ClassDef) and n.name == "_Reader"]
    assert {n.name for n in reader.body if isinstance(n, ast.FunctionDef)} >= {"find_class", "persistent_load"}
    assert "super().find_class" not in ast.unparse(reader) and "import_module" not in ast.unparse(source)


def test_a_template_is_opened_by_pytorch_only_if_it_is_trusted(tmp_path):
    canary = tmp_path / "canary"
    path = archive(tmp_path / "a.model", hostile_programs(canary)["reduce"])
    potential = registry.Potential(TINY[1], {})
    with pytest.raises(ConfigError, match="trust"):
        mace_files.write_models(potential.config, [potential.params], path, [tmp_path / "b.model"])
    assert not canary.exists()


MANY = 10**12


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(4)


def poscar(count: int) -> bytes:
    return f"a\n1.0\n5 0 0\n0 5 0\n0 0 5\nNa\n{count}\nDirect\n0 0 0\n".encode()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, z=np.ones(3), R=np.ones((1, 3, 3)), E=np.ones(1), F=np.ones((1, 3, 3)))
    return repacked(stream.getvalue(), lambda _, member: member.replace(b"(1, 3, 3), }", b"(999999999,)}"))


def zipped(program: bytes) -> bytes:
    stream = io.BytesIO()
    archive(stream, program)
    return stream.getvalue()


def labels(path: Path):
    return read_extxyz(path)


def start(path: Path):
    return systems.structure(path.name, base=path.parent)


ALIASES = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


DEEP = json.dumps({"config": TINY[0].model_copy(update={"num_layers": 60_000}).model_dump_json()})


BOMBS = {
    "atoms of labels": ("line 1: got '1000000000000'", "a.extxyz", f"{MANY}\nREF_energy=1\nH 0 0 0\n".encode(), labels),
    "columns of labels": (
        "line 2: got Properties=",
        "a.extxyz",
        f"1\nProperties=species:S:1:pos:R:3:x:R:{MANY}\nH 0 0 0 1\n".encode(),
        labels,
    ),
    "atoms of a structure": ("line 1: got", "a.extxyz", f"{MANY}\n\nH 0 0 0\n".encode(), start),
    "atoms of a plain structure": ("line 1: got", "a.xyz", f"{MANY}\n\nH 0 0 0\n".encode(), start),
    "atoms of a POSCAR": ("takes at most 4 GiB", "POSCAR", poscar(MANY), start),
    "fewer atoms of a POSCAR": ("takes at most 4 GiB", "POSCAR", poscar(2 * 10**9), start),
    "atoms of a dataset": (
        "at byte 0: got b'999",
        "a.extxyz",
        f"{'9' * 5000}\nstep=1\nH 0 0 0\n".encode(),
        dataset.read,
    ),
    "numbers of an array": (
        "R.npy claims float64 of shape",
        "a.npz",
        npz(),
        lambda path: read_npz(path, keys=SGDML_KEYS),
    ),
    "aliases": ("aliases are not allowed", "a.yaml", ALIASES.encode(), run_config.load),
    "numbers of weights": (
        "not a readable safetensors",
        "a.safetensors",
        safetensors(b'{"x":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (MANY, 4 * MANY)),
        lambda path: registry.load(str(path)),
    ),
    "blocks of a network": (
        "claim 60000 blocks",
        "a.safetensors",
        safetensors(b'{"__metadata__":%s,"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' % DEEP.encode()),
        lambda path: registry.load(str(path)),
    ),
    "blocks of a Nequix": (
        "claims 60000 blocks",
        "a.nqx",
        nequix_file.content(nequix_file.HEADER | {"n_layers": 60_000}, [np.ones(2)] * 50),
        lambda path: registry.load(str(path)),
    ),
    "numbers of a Nequix": (
        "claims float32 of shape .1000000000000,. where the file has 8 more bytes",
        "a.nqx",
        nequix_file.content(nequix_file.HEADER, [], nequix_file.claim((MANY,))),
        lambda path: registry.load(str(path)),
    ),
    "numbers of a tensor": (
        "exceeds its storage",
        "a.model",
        zipped(tensor_program(b"\x8a\x05\x00\x00\x00\x00\x7fK\x01\x86")),
        torch_pickle.read,
    ),
    "objects of a pickle": (
        "remembers object 268435455",
        "a.model",
        zipped(b"\x80\x02Nr\xff\xff\xff\x0f."),
        torch_pickle.read,
    ),
    "text of a pickle": (
        "not a file of PyTorch",
        "a.model",
        zipped(b"\x80\x04\x8d\xff\xff\xff\xff\xff\x00\x00\x00."),
        torch_pickle.read,
    ),
}


def seconds_and_bytes(read, message: str) -> tuple[float, int]:
    """What it costs to be refused."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with bounded_memory(1 << 30), pytest.raises(BayesMlffError, match=message):
            read()
        return time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
def test_claims_are_refused_before_memory_is_taken(tmp_path, name):
    message, file, content, read = BOMBS[name]
    (tmp_path / file).write_bytes(content)
    seconds, peak = seconds_and_bytes(lambda: read(tmp_path / file), message)
    assert seconds < 20.0 and peak < 50e6


def test_settings_that_repeat_themselves_are_refused():
    nested: list = [[]] * 50
    for _ in range(8):
        nested = [nested] * 50
    seconds, peak = seconds_and_bytes(
        lambda: run_config.parse({"structure": nested}), "at most 12 levels and 100000 values"
    )
    assert seconds < 20.0 and peak < 100e6


def test_memory_is_bounded_inside_and_only_there():
    with bounded_memory(1 << 28), pytest.raises(MemoryError):
        np.ones(1 << 27)
    assert np.ones(1 << 26).size

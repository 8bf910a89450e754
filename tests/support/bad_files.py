"""Hostile files of labels and structures, and hostile names; see `bad_input`."""

import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import ase
import ase.io
import numpy as np
from hypothesis import strategies as st

from bayes_mlff.data import dataset, neighbors
from bayes_mlff.data import structure as structures
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labelled_files import read_extxyz
from bayes_mlff.data.labels import Label, check_label
from bayes_mlff.data.molecule_sets import SGDML_KEYS, read_npz
from bayes_mlff.finetune import config as finetune_config
from bayes_mlff.finetune import frames
from bayes_mlff.models import catalogue, registry
from bayes_mlff.otf import systems
from tests.support.bad_input import XYZ, Target, anything, damaged_bytes, damaged_text, repacked

WATER: Final = ase.Atoms("OH2", [[0.0, 0.0, 0.1], [0.0, 0.76, -0.5], [0.0, -0.76, -0.5]])
SALT: Final = ase.Atoms(
    "NaCl", [[0.0, 0.0, 0.0], [2.8, 0.0, 0.0]], cell=[[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]], pbc=True
)


def file_targets() -> list[Target]:
    """Labels, structures, names of structures and models, and datasets of runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, sets, records, kinds = _labels(folder), _npz(), _dataset(folder), _structures(folder)
    by_format = st.one_of(*(st.tuples(st.just(kind), _damaged(content)) for kind, content in kinds.items()))
    names = st.tuples(st.text(max_size=20) | st.sampled_from(NAMES), st.booleans())
    logged = damaged_text(records, XYZ) | damaged_bytes(tuple(r.encode() for r in records))
    return [
        Target("labels in extended XYZ", damaged_text(texts, XYZ), _use_extxyz, tuple(t.encode() for t in texts[:2])),
        Target("labels in npz", damaged_bytes(sets) | _odd_npz(), _use_npz, sets),
        Target("structures", by_format, _use_structure, tuple(kinds.items())),
        Target("names of structures and models", names, _use_names, (("ethanol", False),)),
        Target("datasets of runs", logged, _use_dataset, tuple(r.encode() for r in records)),
    ]


def _damaged(content: bytes) -> st.SearchStrategy[bytes]:
    try:
        return damaged_text((content.decode(),), XYZ) | damaged_bytes((content,))
    except UnicodeDecodeError:
        return damaged_bytes((content,))


NAMES: Final = (
    "",
    ".",
    "..",
    "/",
    "\0",
    "x" * 5000,
    "a@0",
    "a@:",
    "-",
    "~",
    "postgres://x",
    "ethanol.xyz",
    "\ud800",
    "é/é",
)


def _frames(atoms: ase.Atoms, count: int, *, stress: bool) -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        frame = atoms.copy()
        frame.positions += rng.normal(scale=0.02, size=frame.positions.shape)
        frame.info["REF_energy"] = -10.0 + 0.1 * i
        frame.arrays["REF_forces"] = rng.normal(size=frame.positions.shape)
        if stress:
            frame.info["REF_stress"] = 0.01 * np.eye(3)
        made.append(frame)
    return made


def _labels(folder: Path) -> tuple[str, ...]:
    texts = []
    for made in (_frames(WATER, 2, stress=False), _frames(SALT, 2, stress=True)):
        ase.io.write(folder / "a.extxyz", made, format="extxyz")
        texts.append((folder / "a.extxyz").read_text())
    return (*texts, texts[0] + texts[1])


def _use_extxyz(content: bytes, folder: Path) -> None:
    path = folder / "labels.extxyz"
    path.write_bytes(content)
    for structure, label in read_extxyz(path):
        structures.check(structure)
        check_label(label, len(structure.numbers))
    _fine_tune(path)


def _fine_tune(path: Path) -> None:
    raw = {"data": {"train": str(path), "energy_unit": "hartree", "forces_unit": "kcal/mol/A"}}
    found = frames.read(finetune_config.parse(raw)).train
    assert (
        found.energy is not None and np.isfinite(found.energy).all() and np.isfinite(found.forces).all() and found.size
    )


def _arrays() -> dict[str, np.ndarray]:
    made = _frames(WATER, 3, stress=False)
    return {
        "z": made[0].numbers,
        "R": np.stack([frame.positions for frame in made]),
        "E": np.array([frame.info["REF_energy"] for frame in made]),
        "F": np.stack([frame.arrays["REF_forces"] for frame in made]),
    }


def _npz(**changes: Any) -> tuple[bytes, ...]:
    packed = []
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        kept: dict[str, Any] = {k: v for k, v in (_arrays() | changes).items() if v is not None}
        write(stream, **kept)
        packed.append(stream.getvalue())
    return tuple(packed)


@st.composite
def _odd_npz(draw: st.DrawFn) -> bytes:
    """Sound archives of arrays that are not what they should be."""
    name = draw(st.sampled_from("zREF"))
    array = _arrays()[name]
    odd: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: array.astype(object),
        lambda: array.astype(
            draw(st.sampled_from(("c16", "f2", "i8", "U8", "bool", "M8[s]", "V8", "S3", "f16", "u1")))
        ),
        lambda: array * draw(st.sampled_from((0.0, 1e4, 1e-4, 1e300, -1.0, np.nan, np.inf, 0.5))),
        lambda: array[:0],
        lambda: array[..., :1],
        lambda: array[None],
        lambda: np.asfortranarray(array),
        lambda: array[::-1].astype(">f8"),
        lambda: np.full((3, 0, 3), 1.0),
        lambda: np.array(draw(anything), object),
    )
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = draw(st.sampled_from(_npz(**{name: draw(st.sampled_from(odd))()})))
    action = draw(st.sampled_from(("keep", "keep", "header", "cut")))
    if action == "keep":
        return content
    claim = draw(st.sampled_from((b"(1000000000000,)", b"(-1,)", b"(", b"(3, 1000000000, 3)", b"{}", b"1e9")))

    def change(_: str, member: bytes) -> bytes:
        if action == "cut":
            return member[: draw(st.integers(0, len(member)))]
        start = member.find(b"(")
        return member[:start] + claim + member[start + len(claim) :]

    return repacked(content, change)


def _use_npz(content: bytes, folder: Path) -> None:
    path = folder / "labels.npz"
    path.write_bytes(content)
    found = read_npz(path, keys=SGDML_KEYS)
    assert found.numbers.min() >= 1 and np.isfinite(found.positions).all()
    _fine_tune(path)


def _structures(folder: Path) -> dict[str, bytes]:
    written = {}
    for name, kind in (
        ("a.xyz", "xyz"),
        ("a.extxyz", "extxyz"),
        ("POSCAR", "vasp"),
        ("a.cif", "cif"),
        ("a.json", "json"),
    ):
        ase.io.write(folder / name, SALT, format=kind)
        written[name] = (folder / name).read_bytes()
    for name, kind in (("a.traj", "traj"), ("a.pdb", "proteindatabank"), ("a.xsf", "xsf"), ("a.gen", "gen")):
        ase.io.write(folder / name, SALT, format=kind)
        written[name] = (folder / name).read_bytes()
    return written


def _use_structure(value: tuple[str, bytes], folder: Path) -> None:
    name, content = value
    (folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ASE's, about what it guesses
        found = systems.structure(name, base=folder)
    if len(found.numbers) < 200:
        neighbors.allocate(found, tuple(range(1, 119)), 3.0)


def _use_names(value: tuple[str, bool], folder: Path) -> None:
    name, of_model = value
    if of_model:
        registry.load(f"{name}?" if name in catalogue.NAMES else name)  # known ones may be downloaded
    else:
        systems.structure(name, base=folder)


def _dataset(folder: Path) -> tuple[str, ...]:
    texts = []
    for atoms, stress in ((WATER, None), (SALT, 0.01 * np.eye(3))):
        path = folder / f"{atoms.symbols}.extxyz"
        structure, forces = structures.from_ase(atoms), np.full((len(atoms), 3), 0.1)
        for step in range(2):
            record = LabelRecord(
                structure, Label(-1.0, forces, stress), step, 0.5 * step, "initial", 0.1, -2.0, "sha256:1", 3.0
            )
            dataset.append(path, record._replace(predicted_energy_mean=-1.1, predicted_forces_mean=forces))
        texts.append(path.read_text())
    return tuple(texts)


def _use_dataset(content: bytes, folder: Path) -> None:
    path = folder / "dataset.extxyz"
    path.write_bytes(content)
    dataset.recover(path)
    records = dataset.read(path)
    assert path.read_bytes() == content[: path.stat().st_size]
    if records:
        (folder / "again.extxyz").touch()
        for record in records:
            dataset.append(folder / "again.extxyz", record)

"""Hostile run directories, as a report, `status` or a resumed run finds them; see `bad_input`."""

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from bayes_mlff.core.errors import BayesMlffError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.report import run_data, run_summary, verdict
from bayes_mlff.runs import trajectory
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import THERMO_COLUMNS, Frame
from bayes_mlff.runs.validation import Validation
from tests.support.bad_input import NUMBERS, Target, anything, damaged_bytes, damaged_text

CONFIG: Final = "structure: x.cif\nengine: {name: ase, calculator: a:b, stress: true}\n"
PIECES: Final = (
    *NUMBERS,
    "",
    ",",
    "é",
    "x" * 3000,
    "step",
    '"',
    "null",
    "[" * 5000,
    "{}",
    "true",
    "\r",
    "\x85",
    "\u2028",
)
VALUES: Final = (None, True, "x", [], {}, -1, 0, 1e300, float("nan"), float("inf"), 10**400, "9" * 5000, 0.5)


def run_targets() -> list[Target]:
    """A run directory of which one file is damaged."""
    with tempfile.TemporaryDirectory() as name:
        sound = _write(Path(name))

    def use(value: tuple[str, bytes], folder: Path) -> None:
        for file, content in (sound | dict([value])).items():
            (folder / file).write_bytes(content)
        _use(folder)

    inputs = [
        st.tuples(st.just(file), damaged_bytes((content,)) | damaged_text((content.decode("latin-1"),), PIECES))
        for file, content in sound.items()
    ]
    events = st.tuples(st.just("events.jsonl"), _odd_events(sound["events.jsonl"]))
    arrays = st.tuples(st.just("validation.npz"), _odd_arrays())
    return [Target("run directories", st.one_of(*inputs, events, arrays), use, tuple(sound.items()))]


def _write(folder: Path) -> dict[str, bytes]:
    run, n = RunDirectory(folder), 2
    structure = Structure(np.array([11, 17]), np.array([[0.0] * 3, [2.8] * 3]), 5.6 * np.eye(3), np.ones(3, bool))
    (folder / "config.yaml").write_text(CONFIG)
    label = Label(-1.0, np.full((n, 3), 0.1), 0.01 * np.eye(3))
    first = LabelRecord(structure, label, 0, 0.0, "initial", 0.1, -2.0, "sha256:1", 3.0)
    later = first._replace(step=4, time_fs=2.0, reason="uncertain", predicted_energy_mean=-1.1)
    for record in (first, later):
        dataset.append(folder / "dataset.extxyz", record)
    run.append_frames(
        structure.numbers,
        structure.pbc,
        [Frame(i, 0.5 * i, structure.positions, structure.cell, None) for i in range(3)],
    )
    rows = np.ones((5, len(THERMO_COLUMNS)))
    rows[:, 0] = np.arange(5)
    run.append_thermo(rows)
    run.store_validation(**{name: np.arange(3.0) for name in Validation._fields})
    audit = {
        "error_ev": 0.01,
        "sigma_ev": 0.02,
        "sigma_crit_ev": 0.05,
        "threshold_ev": 0.02,
        "pit": 0.4,
        "raised": False,
    }
    events = (
        {"event": "run_started", "step": 0},
        {"event": "label", "step": 0, "engine_s": 1.0},
        {"event": "update", "step": 0, "seconds": 2.0},
        {"event": "label_refused", "step": 1, "engine_s": 1.0},
        {"event": "rolled_back", "step": 2},
        {"event": "audit", "step": 3, **audit},
        {"event": "finished", "step": 4},
    )
    lines = (json.dumps({**event, "time": 1000.0 + i}) + "\n" for i, event in enumerate(events))
    (folder / "events.jsonl").write_text("".join(lines))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def every_odd_event(sound: bytes) -> Iterator[bytes]:
    """The events of a run with one value exchanged: each value of each, for each of `VALUES`."""
    events: list[dict[str, Any]] = [json.loads(line) for line in sound.splitlines()]
    for event in events:
        for key, before in list(event.items()):
            for value in VALUES:
                event[key] = value
                yield "".join(json.dumps(e) + "\n" for e in events).encode()
            event[key] = before


@st.composite
def _odd_events(draw: st.DrawFn, sound: bytes) -> bytes:
    """Events in which some values are others."""
    events: list[dict[str, Any]] = [json.loads(line) for line in sound.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        event = draw(st.sampled_from(events))
        event[draw(st.sampled_from(sorted(event)))] = draw(st.sampled_from(VALUES))
    return "".join(json.dumps(event) + "\n" for event in events).encode()


@st.composite
def _odd_arrays(draw: st.DrawFn) -> bytes:
    """Archives of which one array is another."""
    arrays: dict[str, Any] = {name: np.arange(3.0) for name in Validation._fields}
    odd = (np.arange(2), np.full(3, np.nan), np.full(3, 1e300), np.array(1.0), np.eye(3), np.array(list("abc")))
    odd += (np.array([1j, 2, 3]), np.array([None] * 3), np.zeros(0), np.ones(3, "M8[s]"), np.ones(3, bool))
    arrays[draw(st.sampled_from(sorted(arrays)))] = draw(st.sampled_from(odd) | anything.map(_array))
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _array(value: Any) -> np.ndarray:
    made = np.empty((), object)
    made[()] = value
    return made


def _use(folder: Path) -> None:
    found: BayesMlffError | None = None
    try:
        trajectory.read(folder / "trajectory.extxyz").structure(0)
    except BayesMlffError as error:
        found = error
    run = run_data.read(folder)
    verdict.judge(run.log)
    run_summary.summarise(run.log, 0.02)
    if found is not None:
        raise found

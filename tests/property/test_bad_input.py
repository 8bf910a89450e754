"""No input makes a reader fail with anything but a named error, and what is accepted is not quietly another value."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from bayes_mlff.core import settings as core_settings
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data.labelled_files import read_extxyz
from bayes_mlff.data.molecule_sets import SGDML_KEYS, read_npz
from bayes_mlff.otf import config as run_config
from bayes_mlff.otf import systems
from tests.support import bad_runs
from tests.support.bad_input import Target, echoed, try_input
from tests.support.bad_targets import every_target

TARGETS = {target.name: target for target in every_target()}
EXAMPLES = 250


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_every_failure_is_a_named_error(name):
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def run(value):
        with tempfile.TemporaryDirectory() as folder:
            try_input(target, value, Path(folder))

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_are_accepted(name, tmp_path):
    for i, value in enumerate(TARGETS[name].sound):
        folder = tmp_path / str(i)
        folder.mkdir()
        TARGETS[name].use(value, folder)


def test_every_odd_value_of_every_event_is_refused_or_harmless(tmp_path):
    target = TARGETS["run directories"]
    tried = list(bad_runs.every_odd_event(dict(target.sound)["events.jsonl"]))
    accepted = [try_input(target, ("events.jsonl", content), tmp_path) for content in tried]
    assert len(tried) > 300 and 50 < sum(accepted) < len(tried) - 50


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), RuntimeWarning("x")])
def test_a_traceback_is_seen(error, tmp_path):
    def fail(value, folder):
        raise error

    with pytest.raises(type(error)):
        try_input(Target("any", None, fail, ()), 0, tmp_path)


@pytest.mark.parametrize("text", ["", "x" * 30_000])
def test_a_message_that_nobody_can_read_is_seen(text, tmp_path):
    def fail(value, folder):
        raise DataError(text)

    with pytest.raises(AssertionError, match="message of"):
        try_input(Target("any", None, fail, ()), 0, tmp_path)


@pytest.mark.parametrize(
    ("raw", "read", "same"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": "1e-3"}, {"a": 0.001}, True),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1}, {}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": None}, {"a": 3}, False),
    ],
)
def test_a_silent_default_is_seen(raw, read, same):
    assert echoed(raw, read) is same


RUN = "structure: a\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + "structure: b\n", "key 'structure' is there twice"),
        (RUN + "dynamics: &a {duration_ps: 1}\nsampler: *a\n", "aliases are not allowed"),
        (RUN + "<<: {seed: 1}\n", "key '<<' is not allowed"),
        (RUN + "dynamics: {duration_ps: 1:30}\n", r"dynamics\.duration_ps: got '1:30'"),
        (RUN + "seed: true\n", "seed: got True; allowed: a number"),
        (RUN + "engine: {name: ase, calculator: 'a:B', stress: 1}\n", r"engine\.stress: got 1; allowed: true or false"),
        (RUN + "? [1]\n: 2\n", "is not text"),
        (RUN + "1: 2\n", "config: got 1; allowed: keys that are text"),
        (RUN + "dynamics: {temperature_k: .inf}\n", r"dynamics\.temperature_k: got inf; .*finite"),
        (RUN + "dynamics: {duration_ps: 1e11}\n", r"dynamics\.duration_ps: got 1\d+.0; allowed: 1 to 2147483647 steps"),
        (
            RUN + "engine: {name: gpaw, hubbard: {Mn: {u_ev: 1, orbitl: d}}}\n",
            r"engine\.hubbard\.Mn\.orbitl: .*'orbital'",
        ),
        (RUN + "ase: 1\n", "ase: got 1; allowed: unknown key"),
        (
            RUN + "engine: {name: ase, calculator: 'a:B', arguments: {a: !!binary aGk=}}\n",
            "got b'hi'; allowed: text, numbers",
        ),
    ],
)
def test_settings_that_would_be_taken_for_something_else_are_refused(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        run_config.load(tmp_path / "a.yaml")


def test_numbers_and_text_in_settings_are_what_they_look_like(tmp_path):
    (tmp_path / "a.yaml").write_text("[1e-3, 010, No, 2024-01-01, 1_0, .5, -7, true, 'true', ~, .nan]")
    read = core_settings.read_yaml(tmp_path / "a.yaml")
    assert read[:-1] == [1e-3, "010", "No", "2024-01-01", "1_0", 0.5, -7, True, "true", None] and read[-1] != read[-1]
    assert isinstance(read[7], bool) and isinstance(read[6], int)


HEAD = "Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=1"
FRAME = f"1\n{HEAD}\nH 0 0 0 0 0 0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FRAME + "\n" + FRAME, "frame 1, line 4: got ''"),
        (FRAME + "2\n" + FRAME[2:], "frame 1, line 4: got 2 atoms; allowed: 1 to the 1 lines left"),
        (FRAME.replace("0\n", "0 7\n", 1), "line 3: got 8 words; allowed: 7"),
        (FRAME.replace("H 0", "Q 0"), "got 'Q'; allowed: a chemical symbol"),
        (FRAME.replace("REF_en", "lattice='5 0 0 0 5 0 0 0 5' REF_en"), "got key 'lattice'; allowed: Lattice"),
        (FRAME.replace("REF_en", "pbc='no no no' REF_en"), "got pbc 'no no no'; allowed: three of T and F"),
        (FRAME.replace("=1", "=abc"), "REF_energy is 'abc'; allowed: a number"),
        (FRAME.replace("=1", "=1e300"), r"label\.energy: got 1e\+300"),
        (FRAME.replace("H 0 0 0", "H 0 0 1e6"), r"got a coordinate of 1e\+06 Å; allowed: at most 100000"),
        (FRAME.replace("REF_energy=1", "energy_ref=1"), "lacks REF_energy; present: "),
    ],
)
def test_labels_that_would_be_taken_for_something_else_are_refused(text, message, tmp_path):
    (tmp_path / "sound.xyz").write_text(FRAME + FRAME)
    assert len(read_extxyz(tmp_path / "sound.xyz")) == 2
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(DataError, match=message):
        read_extxyz(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.array([6.7, 1.0, 1.0])}, "z is .*; allowed: atomic numbers, 1 to 118"),
        ({"E": np.array([1j, 2j])}, "E has type complex128"),
        ({"E": np.array(["a", "b"])}, "E has type <U1; allowed: real numbers"),
        ({"F": np.full((2, 3, 3), 1e300)}, "frame 0: .*above 1e.12"),
    ],
)
def test_arrays_that_would_be_taken_for_something_else_are_refused(change, message, tmp_path):
    arrays = {
        "z": np.array([8, 1, 1]),
        "R": np.eye(3)[None] * [[[1]], [[2]]],
        "E": np.zeros(2),
        "F": np.zeros((2, 3, 3)),
    }
    np.savez(tmp_path / "sound.npz", **arrays)
    assert len(read_npz(tmp_path / "sound.npz", keys=SGDML_KEYS).energies) == 2
    np.savez(tmp_path / "a.npz", **(arrays | change))
    with pytest.raises(DataError, match=message):
        read_npz(tmp_path / "a.npz", keys=SGDML_KEYS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\n\nH 0 0 0\nH 0 0 0.1\n", "atoms 0 and 1 are closer than 0.3 Å"),
        ('1\nLattice="5 0 0 5 0 0 0 0 5"\nH 0 0 0\n', "linearly independent"),
        ('1\nLattice="5 0 0 4.99 0.09 0 0 0 5"\nH 0 0 0\n', "0.1 Å between lattice planes"),
        ('2\nLattice="5 0 0 0 5 0 0 0 5"\nH 0 0 0\nH 0 0 900\n', "180 cells apart; allowed: up to 20"),
    ],
)
def test_structures_from_which_nothing_can_start_are_refused(text, message, tmp_path):
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(DataError, match=message):
        systems.structure("a.xyz", base=tmp_path)


def test_a_left_handed_cell_is_as_good_as_another(tmp_path):
    (tmp_path / "a.xyz").write_text('1\nLattice="5 0 0 0 5 0 0 0 -5"\nH 0 0 0\n')
    assert np.linalg.det(systems.structure("a.xyz", base=tmp_path).cell) < 0.0


def test_messages_stay_short_whatever_came():
    with pytest.raises(ConfigError) as caught:
        run_config.parse({"structure": "a", "engine": {"name": ["x" * 10_000] * 9}})
    assert len(str(caught.value)) < 5_000
    error = ConfigError("key", [["x" * 10_000] * 1000] * 1000, "a number")
    assert (
        len(str(error)) < 10_000 and str(error).startswith("key: got [[") and str(error).endswith("allowed: a number")
    )

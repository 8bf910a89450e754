"""A run starts from the labels and the ensemble of another run, or from labelled frames of other programs."""

import json
import os
from pathlib import Path
from unittest import mock

import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.lj import LennardJones

from bayes_mlff.api import runner
from bayes_mlff.api.observing import Silent
from bayes_mlff.core.errors import ConfigError, RunDirectoryError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data import dataset
from bayes_mlff.ensemble import saved
from bayes_mlff.otf import carried, config, systems
from bayes_mlff.otf.problem import prepare
from bayes_mlff.report import run_log, status
from bayes_mlff.runs import checkpoint
from bayes_mlff.runs import start as starts
from bayes_mlff.testing import faulty_engines
from tests.support import small_run

LJ = {"sigma": 1.0, "epsilon": 0.02, "rc": 4.0, "smooth": True}
OTHER = {"start": {"ensemble": "first"}, "dynamics": {"temperature_k": 250.0, "duration_ps": 0.01}, "seed": 2}


class Broken(Exception):  # noqa: N818 (a planned accident)
    """What ends a process early."""


class Said(Silent):
    """An observer that remembers what is said, and breaks the run off after so many labels."""

    def __init__(self, labels: float = np.inf):
        self.lines, self.left = [], labels

    def say(self, text):
        self.lines.append(text)

    def label(self, **what):
        self.left -= 1
        if self.left < 0:
            raise Broken

    @property
    def text(self):
        return "\n".join(self.lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, undrawn):
    where = tmp_path_factory.mktemp("started")
    small_run.write(where)
    with mock.patch.dict(os.environ, {faulty_engines.START: str(where)}):
        yield where


def start(folder, name, changes=None, labels=np.inf):
    """Start or continue a run of ethanol; returns its directory, what it said, and how often the reference worked."""
    raw = yaml.safe_load((folder / "config.yaml").read_text()) | {"validation_frames": 0}
    changes = changes or {}
    merged = {key: raw[key] | value for key, value in changes.items() if isinstance(raw.get(key), dict)}
    said, before = Said(labels), len(faulty_engines.calls(folder))
    runner.run(config.parse(raw | changes | merged), folder / name, base=folder, observer=said)
    return folder / name, said.text, (len(faulty_engines.calls(folder)) - before) // 2


def energies(run):
    return {record.step: (record.reason, record.label.energy) for record in dataset.read(run / "dataset.extxyz")}


@pytest.fixture(scope="module")
def first(folder):
    return start(folder, "first")[0]


@pytest.fixture(scope="module")
def second(folder, first):
    return start(folder, "second", OTHER)


def test_a_run_goes_on_from_another_at_another_temperature_without_paying_for_its_labels(first, second):
    run, said, calls = second
    known, found = energies(first), energies(run)
    assert found[0] == ("given", known[0][1])
    assert calls == len(found) - 1 > 2
    kept = dataset.read(run / "start" / "labels.extxyz")
    assert [(r.reason, r.label.energy) for r in kept] == [("given", energy) for _, energy in known.values()]
    arrays, metadata, _ = checkpoint.newest(run / "checkpoints")
    assert int(arrays[".training_set.count"]) == len(known) + calls
    assert f"{len(known)} labels of {first}; {len(known)} of them by the reference" in said
    assert "starts from the 2 samples" in said and "begins at its prior" in said
    assert metadata["offset_ev"] == checkpoint.newest(first / "checkpoints")[1]["offset_ev"]


def test_only_labels_that_it_made_are_counted(first, second):
    run, _, calls = second
    log = run_log.read(run)
    facts = status.facts(run, log)
    assert (facts["labels"]["all"], facts["labels"]["given"], facts["labels"]["initial"]) == (
        calls,
        len(energies(first)),
        0,
    )
    assert dict(status.rows(run, log))["started from"].startswith(f"{len(energies(first))} labels")
    assert facts["system"]["formula"] == "C2H6O"
    assert "Labels that existed before the run" in (run / "report.html").read_text()


def test_chains_start_at_the_samples_with_their_energies(first):
    begun, ensemble = starts.read(first), saved.load(first)
    arrays, metadata, _ = checkpoint.newest(first / "checkpoints")
    problem = prepare(config.load(first / "config.yaml"), begun.initial.structure, begun.potential)
    made = carried.parameters(ensemble, problem, metadata["offset_ev"], None)
    np.testing.assert_allclose(made, arrays[".params"], rtol=0, atol=2e-5)
    np.testing.assert_array_equal(made[:, :-1], arrays[".params"][:, :-1])


def test_the_first_update_begins_at_the_samples(folder, first):
    changes = {"sampler": {"step_size": 1e-8}, "dynamics": {"duration_ps": 0.0005}, "audits": {"interval_ps": 0.0}}
    run, _, _ = start(folder, "still", {"start": {"ensemble": "first"}} | changes)
    apart = np.abs(np.asarray(saved.load(run).samples) - np.asarray(saved.load(first).samples)).max()
    between = np.abs(np.diff(np.asarray(saved.load(first).samples), axis=0)).max()
    assert apart < 0.01 and between > 0.1


def test_an_interrupted_start_ends_as_an_undisturbed_one_and_needs_the_first_run_no_more(folder, first, second):
    with pytest.raises(Broken):
        start(folder, "broken", OTHER, labels=3)
    first.rename(folder / "elsewhere")
    try:
        run, said, _ = start(folder, "broken", OTHER)
        assert f"{first} is gone: the copy in the run directory is used" in said
    finally:
        (folder / "elsewhere").rename(first)
    assert energies(run) == energies(second[0])
    one, other = (checkpoint.newest(path / "checkpoints")[0] for path in (run, second[0]))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_what_it_starts_from_may_not_change(folder, first, second):
    with pytest.raises(RunDirectoryError, match="another start than the configuration is now: nothing is named now"):
        start(folder, "second", {**OTHER, "start": None})
    longer = json.loads(json.dumps(OTHER)) | {"start": {"ensemble": "second"}}
    with pytest.raises(RunDirectoryError, match=f"another start than {second[0]} is now: other labels; other samples"):
        start(folder, "second", longer)
    stored = config.load(second[0] / "config.yaml")
    changed = stored.model_copy(update={"start": None})
    with pytest.raises(ConfigError, match="start: got None"):
        runner.resume(changed, second[0], observer=Silent())


def test_it_goes_on_from_the_last_frame_with_its_velocities(folder, first):
    changes = OTHER | {
        "structure": "first/trajectory.extxyz",
        "dynamics": {"temperature_k": 250.0, "duration_ps": 0.001},
    }
    run, said, calls = start(folder, "third", changes)
    found = energies(run)
    assert found[0][0] == "initial" and calls == len(found)
    assert "velocities" in said
    last = ase.io.read(first / "trajectory.extxyz")
    np.testing.assert_allclose(dataset.read(run / "dataset.extxyz")[0].structure.positions, last.positions, atol=1e-12)


@pytest.fixture(scope="module")
def frames(folder):
    """Frames of ethanol with labels of the reference, as another program may write them."""
    own, known = np.random.default_rng(0), systems.structure("ethanol", base=Path())
    made = []
    for _ in range(6):
        atoms = ase.Atoms(known.numbers, known.positions + own.normal(0.0, 0.02, known.positions.shape))
        atoms.calc = LennardJones(**LJ)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info["E"], atoms.arrays["F"] = energy * KCAL_MOL_PER_EV, forces * KCAL_MOL_PER_EV
        made.append(atoms)
    return made


def given(folder, name, frames):
    ase.io.write(folder / name, frames, format="extxyz")
    keys = {"xyz_energy_key": "E", "xyz_forces_key": "F", "energy_unit": "kcal/mol", "forces_unit": "kcal/mol/A"}
    return {"labels": {"file": name, **keys}}


SHORT = {"dynamics": {"duration_ps": 0.001}}


def test_own_frames_are_learnt_after_one_of_them_was_calculated_again(folder, frames):
    begin = given(folder, "own.extxyz", [*frames, frames[0]])
    with pytest.raises(Broken):
        start(folder, "own", SHORT | {"start": begin}, labels=0)
    (folder / "own.extxyz").unlink()
    run, said, calls = start(folder, "own", SHORT | {"start": begin})
    log = run_log.read(run)
    compared = dataset.read(run / "compared.extxyz")
    assert [r.reason for r in compared] == ["compared"] and energies(run)[0][0] == "initial"
    assert calls == len(log.labels) - 1  # the first label and the compared one were paid for before
    assert log.given == 6 and "is gone" in said
    assert int(checkpoint.newest(run / "checkpoints")[0][".training_set.count"]) == 6 + len(log.labels)
    np.testing.assert_allclose(compared[0].structure.positions, frames[3].positions, atol=1.0)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [("E", lambda x: x + 20.0, "energy .* by the reference"), ("F", lambda x: -x, "forces of .* by the reference")],
)
def test_labels_of_another_level_are_refused_with_both_numbers(folder, frames, key, change, said):
    others = [atoms.copy() for atoms in frames]
    for atoms in others:
        values = atoms.info if key == "E" else atoms.arrays
        values[key] = change(values[key])
    begin = given(folder, f"other{key}.extxyz", others)
    with pytest.raises(ConfigError, match=f"start: .*labels as the reference gives them.*{said}"):
        start(folder, f"other{key}", SHORT | {"start": begin})
    run = folder / f"other{key}"
    assert not (run / "dataset.extxyz").exists() and len(dataset.read(run / "compared.extxyz")) == 1
    assert not any((run / "checkpoints").glob("*.ckpt"))


def test_a_first_structure_among_own_frames_is_what_is_compared(folder, frames):
    known = systems.structure("ethanol", base=Path())
    atoms = frames[0].copy()
    atoms.positions = known.positions
    atoms.calc = LennardJones(**LJ)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = None
    atoms.info["E"], atoms.arrays["F"] = energy * KCAL_MOL_PER_EV + 20.0, forces * KCAL_MOL_PER_EV
    with pytest.raises(ConfigError, match=r"start: .*energy .* by the reference"):
        start(folder, "same", SHORT | {"start": given(folder, "same.extxyz", [atoms, *frames])})
    assert not (folder / "same" / "compared.extxyz").exists()
    assert energies(folder / "same")[0][0] == "initial"

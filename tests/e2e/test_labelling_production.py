"""Uncertain replicas of a production go on as on-the-fly runs with the reference of the run."""

import json
from unittest import mock

import ase.io
import numpy as np
import pytest
import yaml

import bayes_mlff
from bayes_mlff.api import door, labelling, producer
from bayes_mlff.core.errors import ConfigError, RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.report import run_log
from bayes_mlff.testing import faulty_engines
from tests.support import small_run

SETTINGS = {
    "replicas": 2,
    "seed": 5,
    "threshold": "0.044 eV",
    "on_uncertain": "label",
    "equilibration": {"duration_ps": 0.002, "chunk_steps": 8, "trajectory_every": 3},
    "dynamics": {"duration_ps": 0.004, "chunk_steps": 8, "trajectory_every": 2},
}
"""4 steps, then 8; an uncertain replica equilibrates for a multiple of three steps."""

pytestmark = pytest.mark.usefixtures("undrawn")


class Broken(Exception):  # noqa: N818 (a planned accident)
    """What ends a process early."""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("labelled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "start_jax", lambda chains, running: None)
        patch.setattr(producer.selfcheck, "ensure", lambda say: None)
        patch.setenv(faulty_engines.START, str(where))
        yield where


@pytest.fixture(scope="module")
def source(folder):
    """A run of ethanol, of which some steps are uncertain at the threshold of the production."""
    raw = yaml.safe_load(small_run.write(folder).read_text()) | {"validation_frames": 0}
    raw["dynamics"]["duration_ps"] = 0.01
    return bayes_mlff.run(raw, folder / "source").path


@pytest.fixture(scope="module")
def whole(folder, source):
    """A production that nobody disturbed, and how often the reference worked for it."""
    before = len(faulty_engines.calls(folder))
    made = bayes_mlff.produce(source, folder / "whole", **json.loads(json.dumps(SETTINGS)))
    return made, (len(faulty_engines.calls(folder)) - before) // 2


def test_uncertain_replicas_go_on_from_where_they_stopped_with_velocities(whole, source):
    made, calls = whole
    goes_on = made.summary["on_the_fly"]
    assert {each["replica"] for each in goes_on} == {1, 2} and all(each["finished"] for each in goes_on)
    assert sum(each["labels"] for each in goes_on) == calls > 2
    stopped = {
        (each["replica"], name): each["stopped"]["step"]
        for name, part in made.summary["parts"].items()
        for each in part["replicas"]
        if each["stopped"] is not None
    }
    assert len(stopped) == 2
    for (replica, name), step in stopped.items():
        own = made.path / "replicas" / str(replica) / ("" if name == "dynamics" else name)
        last, first = ase.io.read(own / "stopped.extxyz"), dataset.read(own / "on_the_fly" / "dataset.extxyz")[0]
        assert last.info["step"] == step and np.abs(last.get_momenta()).max() > 0.1
        np.testing.assert_allclose(first.structure.positions, last.positions, rtol=0, atol=1e-12)
        begun = run_log.read(own / "on_the_fly")
        wanted = (3 * -(-(4 - step) // 3)) if name == "equilibration" else 8 - step
        assert begun.settings.n_steps == wanted and begun.reached == wanted
    text = (made.path / "summary.txt").read_text()
    assert f"replica 1 goes on from step {goes_on[0]['begin']} of the" in text and "all steps are done" in text


def test_each_run_starts_from_the_labels_of_the_one_before(whole, source):
    made, _ = whole
    known = len(dataset.read(source / "dataset.extxyz"))
    for each in made.summary["on_the_fly"]:
        assert run_log.read(made.path / each["directory"]).given == known
        known += each["labels"]


def test_the_dynamics_of_a_replica_that_stopped_in_the_equilibration_follow_it(whole):
    made, _ = whole
    pairs = [(each["replica"], each["part"]) for each in made.summary["on_the_fly"]]
    for replica, part in pairs:
        if part != "equilibration":
            continue
        own = made.path / "replicas" / str(replica)
        last = ase.io.read(own / "equilibration" / "on_the_fly" / "trajectory.extxyz")
        first = dataset.read(own / "on_the_fly" / "dataset.extxyz")[0]
        np.testing.assert_allclose(first.structure.positions, last.positions, rtol=0, atol=1e-12)
        assert run_log.read(own / "on_the_fly").settings.n_steps == 8
    assert "equilibration" in [part for _, part in pairs], "the threshold of this test shows nothing of this"


def test_it_goes_on_after_every_interruption_to_the_same_end(folder, source, whole):
    path, raw, broken = folder / "broken", json.loads(json.dumps(SETTINGS)), 0
    while True:
        try:
            with mock.patch.object(labelling._AsOfRun, "label", _breaks_after(1)):
                made = bayes_mlff.produce(source, path, **raw)
            break
        except Broken:
            broken += 1
    assert broken >= 2
    assert made.summary == whole[0].summary
    for each in made.summary["on_the_fly"]:
        one, other = (dataset.read(run / each["directory"] / "dataset.extxyz") for run in (path, whole[0].path))
        assert [r.label.energy for r in one] == [r.label.energy for r in other]


def _breaks_after(labels):
    left = [labels]

    def label(self, **what):
        left[0] -= 1
        if left[0] < 0:
            raise Broken

    return label


def test_what_cannot_be_labelled_is_refused_before_anything_is_done(folder, source, tmp_path):
    raw = json.loads(json.dumps(SETTINGS))
    file, scheduled = source / "ensemble.safetensors", {"schedule": [{"duration_ps": 0.004, "temperature_k": 100.0}]}
    refused = {
        "on_uncertain: got 'label'; .*only the directory of a run knows": (file, {"structure": "ethanol"}),
        "on_uncertain: got 'label'; .*and these are others": (source, {"supercell": [2, 1, 1]}),
        "on_uncertain: got 'label'; .*has no σ": (source, {"model": "pretrained", "threshold": None}),
        "dynamics.schedule: .*none with on_uncertain: label": (
            source,
            {"dynamics": scheduled, "equilibration": None},
        ),
    }
    for said, (where, changes) in refused.items():
        with pytest.raises(ConfigError, match=said):
            bayes_mlff.produce(where, tmp_path / "refused", **(raw | changes))
    assert not (tmp_path / "refused").exists()
    asked, elsewhere = producer.kept(folder / "whole"), source.rename(folder / "elsewhere")
    try:
        with pytest.raises(RunDirectoryError, match="no run there any more, which on_uncertain: label needs"):
            labelling.check_engine(*asked)
    finally:
        elsewhere.rename(source)

"""A run starts from the labels and the ensemble of another, or from labelled frames of another program."""

import shutil

import ase
import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from bayes_mlff.api import runner
from bayes_mlff.api.console import ConsoleObserver
from bayes_mlff.core.errors import ConfigError, DataError, RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.models import registry
from bayes_mlff.otf import config
from bayes_mlff.report import run_log, status
from bayes_mlff.runs import checkpoint
from tests.support import small_run

LJ = {"sigma": 1.0, "epsilon": 0.02, "rc": 4.0, "smooth": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, undrawn):
    return tmp_path_factory.mktemp("started")


def start(folder, name, **changes):
    """Start or continue a run of ethanol; returns its directory and what it said."""
    raw = yaml.safe_load(small_run.write(folder).read_text())
    raw |= {
        "validation_frames": 0,
        "engine": {"name": "ase", "calculator": "ase.calculators.lj:LennardJones", "arguments": LJ},
    }
    sections = {key: raw[key] | value for key, value in changes.items() if isinstance(raw.get(key), dict)}
    parsed = config.parse(raw | changes | sections)
    with (folder / "said.txt").open("w") as file:
        said = Console(record=True, width=300, file=file)
        with ConsoleObserver(said, parsed) as observer:
            runner.run(parsed, folder / name, base=folder, observer=observer)
    return folder / name, said.export_text()


@pytest.fixture(scope="module")
def first(folder):
    return start(folder, "first")[0]


@pytest.fixture(scope="module")
def second(folder, first):
    return start(
        folder, "second", start={"ensemble": "first"}, dynamics={"temperature_k": 250.0, "duration_ps": 0.01}, seed=2
    )


def test_it_goes_on_from_a_run_without_paying_for_its_labels_again(first, second):
    run, said = second
    before, after = dataset.read(first / "dataset.extxyz"), dataset.read(run / "dataset.extxyz")
    assert (after[0].reason, after[0].engine_seconds) == ("given", 0.0)
    assert after[0].label.energy == before[0].label.energy
    print(said)

"""A complete run that costs seconds: a tiny untrained network, two chains, a Lennard-Jones-like reference."""

from pathlib import Path

import pytest

from bayes_mlff.core import settings
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.models import registry
from bayes_mlff.otf import config, systems
from bayes_mlff.otf.loop import Session
from bayes_mlff.otf.problem import prepare
from bayes_mlff.otf.rundir import RunDirectory
from bayes_mlff.otf.start import Start, contents
from bayes_mlff.testing.tiny import tiny_nequip

TINY = tiny_nequip((1, 6, 8), hidden_irreps="4x0e+4x1o", num_layers=2, energy_shifts=(-1.0, -2.0, -3.0))


class Silent:
    """An observer that remembers the calls."""

    def __init__(self):
        self.labels, self.chunks, self.notices = [], [], []

    def chunk(self, **what):
        self.chunks.append(what)

    def label(self, **what):
        self.labels.append(what)

    def notice(self, **what):
        self.notices.append(what)

    def update(self, **what):
        pass


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    registry.save(registry.initialize(TINY, 0), path, {})
    return path


@pytest.fixture(scope="session")
def tiny_problem(tiny_model):
    raw = {
        "structure": "ethanol",
        "model": str(tiny_model),
        "threshold": "0.004 eV",
        "sampler": {
            "chains": 2,
            "steps": 30,
            "cold_steps": 5,
            "ramp_steps": 5,
            "batch_size": 2,
            "prior_scale": 0.5,
            "initial_spread": 1.0,
        },
        "guards": {"storm_labels": 1000},  # this network knows nothing, so that nearly every step is labelled
        "dynamics": {"duration_ps": 0.02, "temperature_k": 900.0, "chunk_steps": 8, "trajectory_every": 4},
        "engine": {"name": "ase", "calculator": "ase.calculators.emt:EMT"},
    }
    parsed = config.parse(raw)
    structure = systems.structure("ethanol", base=Path())
    return prepare(parsed, structure, registry.load(str(tiny_model)))


@pytest.fixture
def open_session(tiny_problem):
    """Make a session on a run directory, with any engine."""
    opened = []

    def make(path: Path, engine, problem=tiny_problem) -> Session:
        run = RunDirectory(path)
        if not run.config.exists():
            initial = InitialStructure(problem.structure)
            begun = Start(initial, problem.potential, engine.settings_hash, engine.description, path.parent)
            run.create(settings.dump(problem.config), contents(begun))
        run.open()
        opened.append(run)
        return Session(problem, engine, run, Silent())

    yield make
    for run in opened:
        run.close()

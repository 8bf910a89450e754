"""A complete run that costs seconds: a tiny untrained network, two chains, a Lennard-Jones-like reference."""

from pathlib import Path
from unittest import mock

import jax
import pytest
from matplotlib.figure import Figure

from bayes_mlff.core import settings
from bayes_mlff.data import dataset
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.models import registry
from bayes_mlff.otf import config, systems
from bayes_mlff.otf.loop import Session
from bayes_mlff.otf.problem import prepare
from bayes_mlff.runs import checkpoint
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.start import Start, contents
from tests.support import child_runs, compiled, small_run
from tests.support.child_runs import Surroundings
from tests.support.tiny_runs import TINY, Silent


@pytest.fixture(scope="session", autouse=True)
def compiled_once():
    """Runs of the same settings share what they compiled."""
    with compiled.shared(Path(jax.config.jax_compilation_cache_dir)):
        yield


@pytest.fixture
def compiled_afresh():
    """But for tests that look at what is compiled."""
    with compiled.afresh():
        yield


def _empty_pictures():
    """Pictures are made up, but not drawn, which takes a quarter of a second each."""
    return mock.patch.object(Figure, "savefig", lambda self, file, **_: file.write(b"\x89PNG"))


@pytest.fixture(scope="module")
def undrawn():
    """The runs of a module write empty pictures."""
    with _empty_pictures():
        yield


@pytest.fixture
def undrawn_here():
    """The runs of a test write empty pictures, for tests of what others have drawn."""
    with _empty_pictures():
        yield


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
        "prior": {"scale": 0.5},
        "sampler": {
            "chains": 2,
            "steps": 30,
            "cold_steps": 5,
            "ramp_steps": 5,
            "batch_size": 2,
            "initial_spread": 1.0,
        },
        # This network knows nothing, so that nearly every step is labelled and every error is large.
        "guards": {"storm_labels": 1000, "label_thresholds": 1000.0, "sigma_ratio": 1e4},
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


class Lab:
    """Folders in which runs are started, disturbed and compared."""

    def __init__(self, root: Path, cache: Path):
        self.root, self.cache = root, cache
        self.config = small_run.write(root)

    def run(self, folder: Path, *arguments: str, **around) -> child_runs.Outcome:
        """Start or continue the run of a folder, made if it is missing."""
        folder.mkdir(exist_ok=True)
        arguments = arguments or ("run", str(self.config), "-o", "run")
        return child_runs.run(folder, arguments, Surroundings(cache=self.cache, **around))


@pytest.fixture(scope="session")
def lab(tmp_path_factory, pytestconfig) -> Lab:
    """One for all tests; what JAX has compiled is kept from session to session."""
    root, kept = tmp_path_factory.mktemp("lab"), getattr(pytestconfig, "cache", None)
    return Lab(root, root / "cache" if kept is None else kept.mkdir("compiled"))


@pytest.fixture(scope="session")
def whole(lab) -> Path:
    """Folder of the run that nobody disturbed."""
    folder = lab.root / "whole"
    outcome = lab.run(folder, record=True)
    assert outcome.code == 0, outcome.output
    assert 4 <= len(dataset.read(folder / "run" / "dataset.extxyz")) <= 20, "the settings of this test ask too rarely"
    assert len(checkpoint.newest(folder / "run" / "checkpoints")[1]["sizes"]) == 2
    return folder

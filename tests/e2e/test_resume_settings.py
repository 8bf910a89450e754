"""Resuming with other settings, random frames at the end, a trial label, and buffers that have to grow."""

import json

import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.emt import EMT
from rich.console import Console

from bayes_mlff.api import runner
from bayes_mlff.api.console import ConsoleObserver
from bayes_mlff.api.observing import Silent
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import dataset, neighbors
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.otf import config, cost
from bayes_mlff.otf.problem import prepare

pytestmark = pytest.mark.usefixtures("undrawn_here")  # `finished_run`, which is of the module, is drawn


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, tiny_problem):
    """A short run with random frames, made as the command line makes it."""
    path = tmp_path_factory.mktemp("settings") / "run"
    raw = tiny_problem.config.model_dump(mode="json")
    raw["dynamics"] |= {"duration_ps": 0.01, "trajectory_every": 1}
    raw["validation_frames"] = 2
    raw["threshold"] = "0.01 eV"  # so that there are frames without a label
    runner.run(config.parse(raw), path, base=path.parent, observer=Silent())
    return path


def edit(path, **changes):
    """Change keys of the user's copy of the configuration, sections merged."""
    file = path / "config.yaml"
    raw = yaml.safe_load(file.read_text())
    for key, value in changes.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(raw))
    return config.load(file)


def events(path, name):
    lines = (json.loads(line) for line in (path / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def copy_of(path, target):
    import shutil

    return shutil.copytree(path, target)


def test_random_frames_are_labelled_by_the_engine(finished_run):
    arrays = np.load(finished_run / "validation.npz")
    records = dataset.read(finished_run / "validation.extxyz")
    assert len(records) == len(arrays["step"]) == 2
    frames = {f.info["step"]: f for f in ase.io.read(finished_run / "trajectory.extxyz", index=":")}
    assert not {record.step for record in records} & {r.step for r in dataset.read(finished_run / "dataset.extxyz")}
    calculator = EnsembleCalculator(finished_run)
    for i, record in enumerate(records):
        atoms = frames[record.step]
        atoms.calc = EMT()
        assert record.label.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert arrays["reference_ev"][i] == pytest.approx(record.label.energy + record.energy_offset, abs=1e-9)
        error = calculator.get_property("forces", frames[record.step]) - record.label.forces
        assert arrays["force_error_ev_a"][i] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
        assert arrays["pretrained_force_error_ev_a"][i] != arrays["force_error_ev_a"][i]
    assert np.isfinite(arrays["predicted_ev"]).all() and (arrays["sigma_ev"] > 0).all()
    assert (finished_run / "report.html").is_file()


def test_allowed_changes_take_effect_and_are_logged(finished_run, tmp_path):
    path = copy_of(finished_run, tmp_path / "longer")
    changed = edit(path, dynamics={"duration_ps": 0.014}, validation_frames=0)
    runner.resume(changed, path, observer=Silent())
    steps = np.genfromtxt(path / "thermo.csv", delimiter=",", names=True)["step"]
    np.testing.assert_array_equal(steps, np.arange(1, 29))
    logged = {e["key"]: (e["before"], e["after"]) for e in events(path, "setting")}
    assert logged == {"dynamics.duration_ps": (0.01, 0.014), "validation_frames": (2, 0)}
    runner.resume(changed, path, observer=Silent())
    assert len(events(path, "setting")) == 2, "a change is logged once"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 5}, "seed"),
        ({"sampler": {"chains": 4}}, "sampler.chains"),
        ({"engine": {"calculator": "ase.calculators.lj:LennardJones"}}, "engine"),
    ],
)
def test_what_makes_another_run_is_refused_before_anything_changes(finished_run, tmp_path, change, key):
    path = copy_of(finished_run, tmp_path / "other")
    before = {p.name: p.read_bytes() for p in path.iterdir() if p.suffix in (".csv", ".extxyz")}
    changed = edit(path, **change)
    with pytest.raises(ConfigError) as caught:
        runner.resume(changed, path, observer=Silent())
    assert caught.value.key == key
    assert before == {p.name: p.read_bytes() for p in path.iterdir() if p.suffix in (".csv", ".extxyz")}


def test_check_pays_for_a_label_only_when_asked(tiny_problem, tmp_path, capsys):
    for label in (False, True):
        observer = ConsoleObserver(Console(width=200), tiny_problem.config)
        runner.check(tiny_problem.config, base=tmp_path, observer=observer, label=label)
        said = capsys.readouterr().out
        assert "ms per MD step" in said and "MiB per label" in said
        assert ("one label:" in said) == label


def test_the_predicted_cost_is_of_the_order_of_the_run(tiny_problem):
    """Four times the models and fifty times the steps must show."""
    few = cost.measure(tiny_problem)
    sampler = tiny_problem.config.sampler
    larger = sampler.model_copy(update={"chains": 4 * sampler.chains, "steps": 50 * sampler.steps})
    more = tiny_problem.config.model_copy(update={"sampler": larger})
    many = cost.measure(prepare(more, tiny_problem.structure, tiny_problem.potential))
    assert 20.0 < many.update_s / few.update_s < 1000.0
    assert many.memory_bytes >= few.memory_bytes > 1 << 20 and many.label_bytes == few.label_bytes > 100
    labels = more.max_labels
    assert few.run_s(more, labels=labels, label_s=1e6) == pytest.approx(labels * 1e6, rel=0.1)


def test_a_run_whose_neighbour_buffers_are_too_small_grows_them(open_session, tmp_path, tiny_problem, monkeypatch):
    allocate = neighbors.allocate

    def scant(*args, slack=None, **settings):
        spec, state = allocate(*args, slack=1.0 if slack is None else slack, **settings)
        if slack is None:
            spec = spec._replace(capacity=spec.capacity - 3)
            state = state._replace(graph=shrunk(state.graph, spec.capacity))
        return spec, state

    monkeypatch.setattr(neighbors, "allocate", scant)
    session = open_session(tmp_path / "run", make_engine(tiny_problem.config.engine))
    final = session.finish(session.resume())
    grown = events(tmp_path / "run", "neighbors_grown")
    assert grown and final.host.spec.capacity == grown[-1]["capacity"]
    thermo = np.genfromtxt(tmp_path / "run" / "thermo.csv", delimiter=",", names=True)
    np.testing.assert_array_equal(thermo["step"], np.arange(1, tiny_problem.config.n_steps + 1))


def shrunk(graph, capacity):
    """Fewer neighbour slots, as too small a first allocation would have."""
    return graph._replace(
        neighbors=graph.neighbors[:, :capacity],
        shifts=graph.shifts[:, :capacity],
        edge_mask=graph.edge_mask[:, :capacity],
    )

"""An on-the-fly run of an alloy whose cell moves: labels with stress, frames with their lattice, exact resumption."""

import shutil

import ase.io
import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError, EngineSetupError
from bayes_mlff.data import dataset
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.models import registry
from bayes_mlff.otf import config, loop
from bayes_mlff.otf.problem import prepare
from tests.support import alloy
from tests.support.tiny_runs import NPT as RAW
from tests.support.tiny_runs import WITH_STRESS as ENGINE


def problem(**changes):
    return prepare(config.parse(RAW | changes), alloy.structure(), registry.initialize(alloy.MODEL, 0))


@pytest.fixture(scope="module")
def alloy_problem():
    return problem()


@pytest.mark.parametrize("posterior", ["chains", "laplace"])
def test_an_npt_run_learns_stress_moves_its_cell_and_resumes_exactly(open_session, posterior, tmp_path):
    alloy_problem = problem(posterior=posterior)
    whole = open_session(tmp_path / "whole", make_engine(alloy_problem.config.engine), alloy_problem)
    commits = []

    def commit(state):
        commits.append(state.host.step)
        if len(commits) == 3:  # what a kill would leave: everything written but the checkpoint
            shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        loop.Session._commit(whole, state)

    whole._commit = commit
    final = whole.finish(whole.resume())
    records = dataset.read(tmp_path / "whole" / "dataset.extxyz")
    assert len(records) >= 3
    training_set = final.device.training_set
    for i, record in enumerate(records):
        np.testing.assert_allclose(training_set.stress[i], record.label.stress, rtol=1e-6)
        np.testing.assert_allclose(training_set.graphs.cell[i], record.structure.cell, rtol=1e-6)
        assert bool(training_set.has_stress[i])
    assert all(r.predicted_stress_mean is not None and (r.predicted_stress_sigma > 0).all() for r in records[1:])
    assert float(final.device.md.stress[0, 1]) == pytest.approx(float(final.device.md.stress[1, 0]), abs=1e-4)

    frames = ase.io.read(tmp_path / "whole" / "trajectory.extxyz", index=":")
    thermo = np.genfromtxt(tmp_path / "whole" / "thermo.csv", delimiter=",", names=True)
    volumes = {int(row["step"]): row["volume_a3"] for row in thermo}
    assert [f.info["step"] for f in frames] == [5, 10, 15, 20, 25, 30]
    assert len({f.get_volume() for f in frames}) == len(frames)
    for frame in frames:
        assert frame.get_volume() == pytest.approx(volumes[frame.info["step"]], rel=1e-6)
        assert np.isfinite(frame.get_stress()).all()
    np.testing.assert_allclose(frames[-1].cell.array, final.device.md.cell, rtol=1e-6, atol=1e-7)
    for record in records[1:]:
        assert abs(np.linalg.det(record.structure.cell)) == pytest.approx(volumes[record.step], rel=1e-6)
    assert np.isfinite(thermo["pressure_gpa"]).all() and np.isfinite(thermo["conserved_ev"]).all()

    again = open_session(tmp_path / "cut", make_engine(alloy_problem.config.engine), alloy_problem)
    continued = again.finish(again.resume())
    for name in ("position", "momentum", "cell", "stress", "work", "strain", "step"):
        np.testing.assert_array_equal(getattr(continued.device.md, name), getattr(final.device.md, name), err_msg=name)
    assert int(final.device.md.step) == 30
    for name in ("thermo.csv", "trajectory.extxyz"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_label_without_stress_stops_the_run(open_session, alloy_problem, tmp_path):
    silent = make_engine(config.parse(RAW | {"dynamics": {}, "engine": ENGINE | {"stress": False}}).engine)
    session = open_session(tmp_path / "run", silent, alloy_problem)
    with pytest.raises(EngineSetupError, match="gave no stress"):
        session.start()


def test_npt_is_refused_for_what_it_cannot_do():
    with pytest.raises(ConfigError, match=r"engine\.stress"):
        problem(engine=ENGINE | {"stress": False})
    with pytest.raises(ConfigError, match="periodic in three directions"):
        prepare(
            config.parse(RAW),
            alloy.structure()._replace(pbc=np.array([True, True, False])),
            registry.initialize(alloy.MODEL, 0),
        )
    with pytest.raises(ConfigError) as caught:
        problem(dynamics=RAW["dynamics"] | {"barostat": {"cell": "orthorhombic"}})
    assert caught.value.key == "dynamics.barostat.cell"


def test_stress_is_learnt_at_constant_cell_where_the_engine_gives_it():
    langevin = RAW["dynamics"] | {"ensemble": "nvt", "thermostat": "langevin", "schedule": []}
    assert problem(dynamics=langevin).with_stress
    assert not problem(dynamics=langevin, engine=ENGINE | {"stress": False}).with_stress

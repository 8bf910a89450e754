"""A trigger on forces, added by one row: it stops dynamics, is guarded, calibrated, logged and kept like the first."""

import json

import numpy as np
import pytest
from tests.support.force_trigger import criterion

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data import dataset, readings
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.otf import criteria
from bayes_mlff.report import run_log, run_summary


@pytest.fixture
def watched(tiny_problem, monkeypatch):
    """A problem whose energies never ask for a label, while forces do."""
    monkeypatch.setattr(criteria, "ROWS", [*criteria.ROWS, lambda _: criterion(0.5)])
    guards = tiny_problem.config.guards.model_copy(update={"sigma_ratio": 1e9, "label_sigmas": 1e12})
    audits = tiny_problem.config.audits.model_copy(update={"interval_ps": 0.003})
    dynamics = tiny_problem.config.dynamics.model_copy(update={"duration_ps": 0.01})
    config = tiny_problem.config.model_copy(update={"guards": guards, "audits": audits, "dynamics": dynamics})
    return tiny_problem._replace(config=config, threshold_ev=1e6)


def events(run, name):
    found = [json.loads(line) for line in run.events.read_text().splitlines()]
    return [event for event in found if event["event"] == name]


def test_forces_ask_for_labels_and_everything_says_so(watched, open_session, tmp_path, monkeypatch):
    session = open_session(tmp_path / "run", make_engine(watched.config.engine), watched)
    state = session.resume()
    while int(state.device.training_set.count) < 3:
        state = session.advance(state)
    state = session.resume()  # from the checkpoint, with both calibrations
    state = session.finish(state)
    records = dataset.read(session.run.dataset)[1:]
    asked = [r for r in records if r.reason == "uncertain"]
    assert len(asked) > 2
    for record in records:
        energy, force = (readings.find(record.readings, name) for name in ("energy", "force"))
        assert energy.value < energy.limit and (record.reason == "audit" or force.value > force.limit)
    assert [state.host.calibrations[name].n for name in ("energy", "force")] == [len(records)] * 2
    thermo = np.genfromtxt(session.run.thermo, delimiter=",", names=True)
    beyond = {int(step) for step in thermo["step"][thermo["sigma_f_ev_a"] > thermo["sigma_f_crit_ev_a"]]}
    assert {r.step for r in asked} <= beyond <= {r.step for r in records}
    audits = events(session.run, "audit")
    assert {event["trigger"] for event in audits} == {"energy", "force"}
    of_force = next(event for event in audits if event["trigger"] == "force")
    assert {"error_ev_a", "sigma_ev_a", "sigma_crit_ev_a", "threshold_ev_a"} <= set(of_force)
    shown = session.observer.chunks[-1]["readings"]
    assert [(r.name, r.unit) for r in shown] == [("energy", "eV"), ("force", "eV/Å")]
    summary = run_summary.summarise(run_log.read(tmp_path / "run"), 1e6)
    assert summary.finished and summary.labels == len(records) + 1
    # A run that goes on without the trigger would write other columns into the same file.
    monkeypatch.setattr(criteria, "ROWS", criteria.ROWS[:1])
    longer = watched.config.model_copy(
        update={"dynamics": watched.config.dynamics.model_copy(update={"duration_ps": 0.02})}
    )
    session.run.close()
    again = open_session(tmp_path / "run", make_engine(watched.config.engine), watched._replace(config=longer))
    with pytest.raises(RunDirectoryError, match=r"columns .*sigma_f_ev_a.*other triggers"):
        again.finish(again.resume())


def test_forces_far_above_their_limit_trip_the_guard_by_name(watched, open_session, tmp_path):
    guards = watched.config.guards.model_copy(update={"sigma_ratio": 1e9})
    problem = watched._replace(config=watched.config.model_copy(update={"guards": guards}))
    session = open_session(tmp_path / "run", make_engine(problem.config.engine), problem)
    state = session.resume()
    while int(state.device.training_set.count) < 2:
        state = session.advance(state)
    low = guards.model_copy(update={"sigma_ratio": 1e-3})
    session.problem = problem._replace(config=problem.config.model_copy(update={"guards": low}))
    session._dynamics._problem = session.problem
    state = session.advance(state)
    (back,) = events(session.run, "rolled_back")
    assert "largest σ of the force on an atom is" in back["reason"] and "kcal/mol/Å" in back["reason"]
    assert "guards.sigma_ratio" in back["reason"] and "σ of the energy" not in back["reason"]

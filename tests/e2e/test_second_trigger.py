"""Triggers on forces and on the energy per atom: they stop dynamics, are guarded, calibrated, logged and kept apart."""

import json

import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import dataset, readings
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.ensemble import energy_scale, error_law, statistics
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf import regions
from bayes_mlff.otf.changes import check_changes
from bayes_mlff.otf.problem import prepare
from bayes_mlff.report import page, run_data, run_log, run_summary, status, trigger_figures, verdict

HYDROXYL = {
    "kind": "force",
    "name": "hydroxyl",
    "threshold": "0.5 eV/Å",
    "threshold_temperature_k": 600.0,
    "confidence": 0.9,
    "calibration": {"a": 4.0, "b": 4.0},
    "within": {"of": [3], "radius_angstrom": 1.3},
}
RAMP = [{"duration_ps": 0.01, "temperature_k": 300.0, "end_temperature_k": 1500.0}]
EACH = {"kind": "energy_per_atom", "threshold": "100 eV/atom"}


@pytest.fixture
def watched(tiny_problem):
    """A problem whose energies never ask for a label, while forces near the hydroxyl hydrogen do."""
    config = tiny_problem.config
    changed = configuration.parse(
        config.model_dump(mode="json")
        | {
            "threshold": "1e6 eV",
            "threshold_temperature_k": 600.0,
            "triggers": [HYDROXYL, EACH],
            "guards": {"sigma_ratio": 1e9, "label_sigmas": 1e12, "storm_labels": 1000},
            "audits": {"interval_ps": 0.003},
            "dynamics": config.dynamics.model_dump(mode="json") | {"duration_ps": 0.01, "schedule": RAMP},
        }
    )
    # The σ of energies that the chains learn with stays that of the tiny problem, which they can follow.
    further = regions.checked(changed.triggers, tiny_problem.structure, 0.0)
    return tiny_problem._replace(config=changed, threshold_ev=1e6, energy_sigma_ev=1e5, further=further)


def grown(time_fs):
    """Factor of thresholds for 600 K."""
    return np.sqrt((300.0 + 1200.0 * time_fs / 10.0) / 600.0)


def events(run, name):
    found = [json.loads(line) for line in run.events.read_text().splitlines()]
    return [event for event in found if event["event"] == name]


def test_forces_ask_for_labels_and_everything_says_so(watched, open_session, tmp_path):
    session = open_session(tmp_path / "run", make_engine(watched.config.engine), watched)
    state = session.resume()
    while int(state.device.training_set.count) < 3:
        state = session.advance(state)
    state = session.resume()  # from the checkpoint, with all calibrations
    state = session.finish(state)
    records = dataset.read(session.run.dataset)[1:]
    asked = [r for r in records if r.reason == "uncertain"]
    assert len(asked) > 2 and all(r.asked == ("hydroxyl",) for r in asked)
    again, prior = error_law.init(4.0, 4.0), watched.config.calibration
    whole = error_law.init(prior.a, prior.b, floor=watched.energy_sigma_ev)
    for record in records:
        energy, force, each = (readings.find(record.readings, name) for name in ("energy", "hydroxyl", EACH["kind"]))
        assert energy.value < energy.limit and (record.reason == "audit" or force.value > force.limit)
        assert each.value == pytest.approx(energy.value / 9) and each.atom is None
        distance = np.linalg.norm(record.structure.positions - record.structure.positions[3], axis=1)
        sigma = np.linalg.norm(record.predicted_forces_sigma, axis=1)
        assert distance[force.atom] <= 1.3 and force.value == pytest.approx(sigma[force.atom], rel=1e-5)
        factor = grown(record.time_fs)
        limit = error_law.critical_sigma(again, 0.5 * factor, confidence=0.9, dof=force.dof)
        assert force.limit == pytest.approx(limit, 1e-3)
        exceeds = error_law.exceedance_probability(whole, energy.value, 1e6 * factor)
        assert record.confidence == pytest.approx(1.0 - exceeds, abs=1e-12)
        assert energy.limit == pytest.approx(error_law.critical_sigma(whole, 1e6 * factor), 1e-5)
        whole = error_law.update(whole, energy_scale.error(record), energy.value)
        again = error_law.update(again, statistics.force_error(record, force), force.value, dof=force.dof)
    assert state.host.calibrations["hydroxyl"].each.s == pytest.approx(again.each.s)
    assert state.host.calibrations["energy"].each.n == state.host.calibrations[EACH["kind"]].each.n == len(records)
    thermo = np.genfromtxt(session.run.thermo, delimiter=",", names=True)
    above = thermo["trigger_sigma_hydroxyl_ev_a"] > thermo["trigger_limit_hydroxyl_ev_a"]
    assert {r.step for r in asked} <= {int(s) for s in thermo["step"][above]} <= {r.step for r in records}
    audits = events(session.run, "audit")
    assert {event["trigger"] for event in audits} == {"energy", "hydroxyl", EACH["kind"]}
    of_force = next(event for event in audits if event["trigger"] == "hydroxyl")
    for event in audits:
        factor = 1.0 if event["trigger"] == EACH["kind"] else grown(event["step"] * 0.5)
        found = next(event[f"threshold_{unit}"] for unit in ("ev", "ev_a", "ev_atom") if f"threshold_{unit}" in event)
        assert found == pytest.approx({"energy": 1e6, "hydroxyl": 0.5, EACH["kind"]: 100.0}[event["trigger"]] * factor)
    quiet = thermo[np.isin(thermo["step"], [r.step for r in records], invert=True)][1:]
    limits = quiet["sigma_crit_ev"] / grown(quiet["time_fs"])
    assert np.unique(quiet["sigma_crit_ev"]).size == quiet.size and np.unique(np.round(limits)).size <= len(records) + 1
    assert {"error_ev_a", "sigma_ev_a", "sigma_crit_ev_a", "threshold_ev_a", "atom", "dof"} <= set(of_force)
    assert session.observer.labels[-1]["reason"] in ("uncertain: hydroxyl", "audit", "audit: hydroxyl")
    shown = session.observer.chunks[-1]["readings"]
    assert [(r.name, r.unit) for r in shown] == [("energy", "eV"), ("hydroxyl", "eV/Å"), (EACH["kind"], "eV/atom")]
    told_by_report_and_status(tmp_path / "run", len(asked), len(records))
    others = watched.config.model_copy(update={"triggers": ()})
    with pytest.raises(ConfigError, match="triggers: got"):
        check_changes(watched.config, others)


def told_by_report_and_status(path, asked, labels):
    log = run_log.read(path)
    summary = run_summary.summarise(log, 1e6)
    assert summary.finished and summary.labels == labels + 1
    rows = dict(verdict.rows(verdict.judge(log)))
    assert rows["Labels requested by"].startswith(f"energy: 0, 0 of them alone; hydroxyl: {asked}, {asked} of them")
    assert "trusted audits" in rows["Trigger energy_per_atom, audits"] and "95%" in rows["Trigger hydroxyl, coverage"]
    told = dict(status.rows(path, log))
    assert (
        "0.5 eV/Å at 600 K, growing as √T with 90% confidence; σ" in told["trigger hydroxyl"]
        and "eV/Å allowed" in told["trigger hydroxyl"]
    )
    facts = {each["name"]: each for each in status.facts(path, log)["triggers"]}
    assert facts["hydroxyl"]["labels_requested"] == asked and facts["hydroxyl"]["limit"] > 0.0
    data = run_data.read(path)
    for settings in data.config.triggers:  # replayed: the bounds are those that the run had
        assert np.isfinite(trigger_figures.labels_of(data, settings, 9).half_width).all()
    text = page.write_report(path, threshold_ev=1e6, title="x", run=run_data.read(path)).read_text()
    assert (
        "Trigger hydroxyl, threshold 0.5 eV/Å at 600 K" in text
        and "not be replayed" not in text
        and "requested above the red line" in text
    )


def test_forces_far_above_their_limit_trip_the_guard_by_name(watched, open_session, tmp_path):
    session = open_session(tmp_path / "run", make_engine(watched.config.engine), watched)
    state = session.resume()
    while int(state.device.training_set.count) < 2:
        state = session.advance(state)
    guards = watched.config.guards.model_copy(update={"sigma_ratio": 1e-3})
    session.problem = watched._replace(config=watched.config.model_copy(update={"guards": guards}))
    session._dynamics._problem = session.problem
    state = session.advance(state)
    (back,) = events(session.run, "rolled_back")
    assert "σ of the force on an atom within 1.3 Å of H 3 is" in back["reason"] and "eV/Å" in back["reason"]
    assert "guards.sigma_ratio" in back["reason"] and "σ of the energy is" not in back["reason"]


def test_atoms_that_do_not_exist_are_refused_before_anything_is_paid(watched):
    wrong = [HYDROXYL | {"within": {"of": [9], "radius_angstrom": 1.0}}]
    raw = watched.config.model_dump(mode="json") | {"triggers": wrong}
    with pytest.raises(ConfigError, match=r"triggers.0.within.of: .*there is no atom 9"):
        prepare(configuration.parse(raw), watched.structure, watched.potential)

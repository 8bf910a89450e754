"""Planted faults end to end: what explodes is left, what lies is not learnt, what was paid for is paid once.

The ensemble is a Lennard-Jones potential with a fixed σ, the reference the same potential, so that labels come from
audits alone unless a test makes σ large."""

import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from rich.console import Console

from bayes_mlff.core import settings
from bayes_mlff.core.errors import EngineSetupError, RunStoppedError
from bayes_mlff.data import dataset
from bayes_mlff.otf import loop
from bayes_mlff.report import run_log, verdict
from bayes_mlff.runs import checkpoint
from tests.support.planted_runs import (
    EPSILON,
    QUIET,
    SIGMA,
    TETRAHEDRON,
    Interrupted,
    breaks_at,
    dies,
    engine_of,
    events,
    fails,
    finish,
    frames,
    jumps,
    make_problem,
    thermo,
)
from tests.support.tiny_runs import Silent


@pytest.fixture(scope="module")
def lost_once(tmp_path_factory):
    """An uninterrupted run that loses a position at step 37 and goes on from its trusted state."""
    from bayes_mlff.runs.directory import RunDirectory

    problem = make_problem(begin=breaks_at(37))
    path = tmp_path_factory.mktemp("lost") / "run"
    run = RunDirectory(path)
    run.create(settings.dump(problem.config))
    run.open()
    engine = engine_of(problem)
    session = loop.Session(problem, engine, run, Silent())
    state = session.finish(session.resume())
    run.close()
    return problem, path, state, engine.calls, session.observer


def test_a_lost_position_leads_back_to_the_last_label_and_on(lost_once):
    problem, path, state, _, observer = lost_once
    (event,) = events(path, "rolled_back")
    assert event["step"] == 37 and "not finite" in event["reason"]
    trusted = max(r.step for r in dataset.read(path / "dataset.extxyz") if r.step < 37)
    assert event["trusted_step"] == trusted > 0
    table = thermo(path)
    np.testing.assert_array_equal(table["step"], np.arange(1, problem.config.n_steps + 1))
    assert np.isfinite(table["potential_ev"]).all() and np.isnan(table["sigma_ev"][36])
    assert np.isfinite(np.delete(table["sigma_ev"], 36)).all()
    where = frames(path)
    np.testing.assert_array_equal(where[37], where[trusted])
    assert not np.allclose(where[38], where[trusted + 1]), "the velocities are the old ones"
    assert table["potential_ev"][36] == table["potential_ev"][trusted - 1]
    assert [s.step for s in state.host.setbacks] == [37]
    assert int(state.device.md.step) == problem.config.n_steps
    assert any("back to step" in notice["text"] for notice in observer.notices)


@pytest.mark.parametrize("where", ["before the roll-back", "after it"])
def test_a_run_killed_around_a_roll_back_continues_bit_for_bit(lost_once, open_session, tmp_path, monkeypatch, where):
    problem, whole, state, calls, _ = lost_once
    path = tmp_path / "run"
    first = engine_of(problem)
    session = open_session(path, first, problem)
    original = loop.Session._commit

    def commit(self, new):
        if new.host.setbacks and where == "before the roll-back":
            raise Interrupted
        if new.host.setbacks and new.host.step > 37:
            raise Interrupted
        original(self, new)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Session, "_commit", commit)
        with pytest.raises(Interrupted):
            finish(session)
    session.run.close()
    second = engine_of(problem)
    final = finish(open_session(path, second, problem))
    assert first.calls + second.calls == calls
    for name in ("thermo.csv", "trajectory.extxyz"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    np.testing.assert_array_equal(final.device.md.momentum, state.device.md.momentum)
    assert final.host == state.host


def test_an_exploded_start_is_not_learnt_and_stops_with_a_list(open_session, tmp_path):
    crowded = TETRAHEDRON * 0.5
    problem = make_problem(positions=crowded)
    engine = engine_of(problem)
    session = open_session(tmp_path / "run", engine, problem)
    with pytest.raises(RunStoppedError, match=r"guards\.max_rollbacks") as caught:
        finish(session)
    assert str(caught.value).count("guards.temperature_ratio") == 5, caught.value
    assert len(dataset.read(tmp_path / "run" / "dataset.extxyz")) == engine.calls == 1
    assert len(events(tmp_path / "run", "rolled_back")) == problem.config.guards.max_rollbacks


def test_stop_instead_of_roll_back(open_session, tmp_path):
    problem = make_problem(begin=breaks_at(37), guards={"on_failure": "stop"})
    with pytest.raises(RunStoppedError, match=r"step 37: .*not finite.*guards.on_failure"):
        finish(open_session(tmp_path / "run", engine_of(problem), problem))
    assert not events(tmp_path / "run", "rolled_back")


def test_drift_in_nve_leads_back_with_the_kinetic_energy_kept(open_session, tmp_path):
    def feeds(integrator):
        def begin(md):
            faster = jnp.where((md.step > 20) & (md.step < 60), 1.03, 1.0).astype(md.momentum.dtype)
            return integrator.begin(md.set(momentum=md.momentum * faster))

        return begin

    nve = {"ensemble": "nve", "duration_ps": 0.06}
    problem = make_problem(
        begin=feeds, dynamics=nve, audits={"interval_ps": 0.0}, guards={"drift_kcal_mol_atom_ps": 0.2}
    )
    state = finish(open_session(tmp_path / "run", engine_of(problem), problem))
    tripped = events(tmp_path / "run", "rolled_back")
    assert tripped and all("guards.drift" in event["reason"] for event in tripped)
    table = thermo(tmp_path / "run")
    row = int(tripped[0]["step"]) - 1
    assert table["total_ev"][row] == pytest.approx(table["total_ev"][0], abs=1e-3), "not the energy of the start"
    assert table["total_ev"][row - 1] > table["total_ev"][0] + 0.02
    assert len(state.host.setbacks) == len(tripped)


def test_a_healthy_run_in_nve_does_not_trip(open_session, tmp_path):
    problem = make_problem(dynamics={"ensemble": "nve"}, audits={"interval_ps": 0.0})
    assert not finish(open_session(tmp_path / "run", engine_of(problem), problem)).host.setbacks


def test_parameters_that_are_not_finite_stop_the_run(open_session, tmp_path):
    problem = make_problem(chains_finite=False)
    with pytest.raises(RunStoppedError, match=r"step 0: a chain became non-finite; a smaller sampler\.step_size"):
        finish(open_session(tmp_path / "run", engine_of(problem), problem))


def test_one_failed_geometry_is_left_and_the_run_goes_on(open_session, tmp_path):
    problem = make_problem()
    state = finish(open_session(tmp_path / "run", engine_of(problem, fails, lambda call: call == 4), problem))
    (event,) = events(tmp_path / "run", "rolled_back")
    assert event["kind"] == "reference" and "planted failure" in event["reason"]
    records = dataset.read(tmp_path / "run" / "dataset.extxyz")
    assert event["step"] not in {r.step for r in records}
    assert state.host.step == problem.config.n_steps and len(records) > 4


def test_failures_in_a_row_stop_with_the_last_errors(open_session, tmp_path):
    problem = make_problem()
    engine = engine_of(problem, fails, lambda call: call > 3)
    session = open_session(tmp_path / "run", engine, problem)
    with pytest.raises(RunStoppedError, match="3 reference calculations in a row") as caught:
        finish(session)
    session.run.close()
    assert str(caught.value).count("planted failure") == 3 and engine.calls == 6
    healed = engine_of(problem)
    assert finish(open_session(tmp_path / "run", healed, problem)).host.step == problem.config.n_steps


def test_a_broken_set_up_always_stops(open_session, tmp_path):
    def broken(inner, structure):
        raise EngineSetupError("no licence")

    problem = make_problem()
    with pytest.raises(EngineSetupError, match="no licence"):
        finish(open_session(tmp_path / "run", engine_of(problem, broken, lambda call: call == 3), problem))
    assert not events(tmp_path / "run", "rolled_back")


def test_a_jumped_energy_is_refused_kept_and_asked_for_once_more(open_session, tmp_path):
    problem = make_problem()
    engine = engine_of(problem, jumps, lambda call: call == 3)
    state = finish(open_session(tmp_path / "run", engine, problem))
    (refused,) = dataset.read(tmp_path / "run" / "rejected.extxyz", repeats=True)
    records = dataset.read(tmp_path / "run" / "dataset.extxyz")
    (again,) = [r for r in records if r.step == refused.step]
    assert "contradict" in refused.reason
    assert refused.label.energy - again.label.energy == pytest.approx(0.3)
    assert int(state.device.training_set.count) == len(records) == engine.calls - 1
    assert not state.host.setbacks
    judged = verdict.judge(run_log.read(tmp_path / "run"))
    assert judged.refused == 1


@pytest.mark.parametrize("die_at", [4, 5])
def test_a_refused_label_is_not_paid_for_twice(open_session, tmp_path, die_at):
    """Calls 3 and 4 lie; the process dies at call 4, after one refusal, or at 5, after the roll-back."""
    problem = make_problem()

    def fault(inner, structure):
        return jumps(inner, structure) if engine.calls in lies else dies(inner, structure)

    lies = {3, 4}
    engine = engine_of(problem, fault, lambda call: call in lies)
    whole = finish(open_session(tmp_path / "whole", engine, problem))
    calls = engine.calls
    lies = {3, 4} - {die_at}
    engine = engine_of(problem, fault, lambda call: call in lies or call == die_at)
    session = open_session(tmp_path / "run", engine, problem)
    with pytest.raises(Interrupted):
        finish(session)
    session.run.close()
    paid = engine.calls - 1
    lies = {1} if die_at == 4 else set()
    engine = engine_of(problem, fault, lambda call: call in lies)
    final = finish(open_session(tmp_path / "run", engine, problem))
    assert paid + engine.calls == calls
    refused = dataset.read(tmp_path / "run" / "rejected.extxyz", repeats=True)
    assert [r.step for r in refused] == [refused[0].step] * 2
    np.testing.assert_array_equal(final.device.md.momentum, whole.device.md.momentum)
    assert final.host == whole.host
    assert (tmp_path / "run" / "thermo.csv").read_bytes() == (tmp_path / "whole" / "thermo.csv").read_bytes()


def test_a_reference_that_has_changed_for_good_stops_with_a_diagnosis(open_session, tmp_path):
    problem = make_problem()
    engine = engine_of(problem, jumps, lambda call: call >= 3)
    with pytest.raises(RunStoppedError, match="in a row") as caught:
        finish(open_session(tmp_path / "run", engine, problem))
    assert "contradict" in str(caught.value) and engine.calls == 2 + 2 * 3


def test_a_storm_of_labels_stops_before_it_is_paid_for(open_session, tmp_path):
    problem = make_problem(sigma=1.0, guards={"storm_labels": 5, "storm_steps": 20})
    engine = engine_of(problem)
    with pytest.raises(RunStoppedError, match=r"5 reference calls within the last 20 steps.*calibration"):
        finish(open_session(tmp_path / "run", engine, problem))
    assert engine.calls == 5
    assert "storm_labels" in events(tmp_path / "run", "stopped")[0]["reason"]


def test_audits_are_labelled_learnt_and_the_same_after_a_kill(open_session, tmp_path):
    problem = make_problem()
    whole = finish(open_session(tmp_path / "whole", engine_of(problem), problem))
    audited = [r.step for r in dataset.read(tmp_path / "whole" / "dataset.extxyz") if r.reason == "audit"]
    assert len(audited) >= 5 and whole.host.calibration.each.n == len(audited)
    assert [e["step"] for e in events(tmp_path / "whole", "audit")] == audited
    session = open_session(tmp_path / "run", engine_of(problem, dies, lambda call: call == 4), problem)
    with pytest.raises(Interrupted):
        finish(session)
    session.run.close()
    final = finish(open_session(tmp_path / "run", engine_of(problem), problem))
    assert final.host == whole.host
    assert audited == [r.step for r in dataset.read(tmp_path / "run" / "dataset.extxyz") if r.reason == "audit"]


def test_no_audits_if_switched_off(open_session, tmp_path):
    problem = make_problem(audits={"interval_ps": 0.0})
    engine = engine_of(problem)
    finish(open_session(tmp_path / "run", engine, problem))
    assert engine.calls == 1


@pytest.mark.usefixtures("compiled_afresh")
def test_audits_and_guards_compile_nothing(open_session, tmp_path, count_compilations):
    problem = make_problem()
    session = open_session(tmp_path / "run", engine_of(problem), problem)
    state = session.resume()
    while int(state.device.training_set.count) < 2:
        state = session.advance(state)
    with count_compilations() as compiled:
        session.finish(state)
    assert compiled.value == 0


def test_an_over_confident_ensemble_is_found_and_its_intervals_widened(open_session, tmp_path):
    """Errors of ten σ (a right ensemble has 1.8 beforehand) below the trigger: three audits suffice."""
    problem = make_problem(wrong=10 * QUIET / 5, sigma=QUIET / 5)
    state = finish(open_session(tmp_path / "run", engine_of(problem), problem))
    raised, law = events(tmp_path / "run", "calibration_raised"), state.host.calibration
    audits = [e["step"] for e in events(tmp_path / "run", "audit")]
    assert raised and audits.index(raised[0]["step"]) < 3
    assert float(law.each.s[0]) / max(float(law.each.n[0]), 1.0) > 10.0
    said = verdict.sentence(verdict.judge(run_log.read(tmp_path / "run")))
    assert said.startswith("not yet")


def test_a_reference_that_changes_a_little_is_found_by_audits(open_session, tmp_path):
    """Another ε from call 5 on: a shift of 1.5 thresholds is too small for a lie, too large for σ.

    As these chains learn nothing, every step is labelled once σ is raised, and the storm is read for its cause.
    """
    problem = make_problem(guards={"storm_labels": 15})
    other = LennardJones(epsilon=1.005 * EPSILON, sigma=SIGMA, rc=50.0)

    def changed(inner, structure):
        from bayes_mlff.data.structure import to_ase

        result, atoms = inner.label(structure), to_ase(structure)
        label = result.label._replace(energy=other.get_potential_energy(atoms), forces=other.get_forces(atoms))
        return result._replace(label=label)

    with pytest.raises(RunStoppedError, match="have shifted against the offset"):
        finish(open_session(tmp_path / "run", engine_of(problem, changed, lambda call: call >= 5), problem))
    audits = [e["step"] for e in events(tmp_path / "run", "audit")]
    raised = [e["step"] for e in events(tmp_path / "run", "calibration_raised")]
    assert raised and 3 <= audits.index(raised[0]) < 3 + 3
    assert not events(tmp_path / "run", "rolled_back")


def test_a_healthy_run_is_not_disturbed(open_session, tmp_path):
    problem = make_problem(wrong=QUIET, dynamics={"duration_ps": 0.1})
    finish(open_session(tmp_path / "run", engine_of(problem), problem))
    for name in ("rolled_back", "label_refused", "calibration_raised"):
        assert not events(tmp_path / "run", name)


def test_a_checkpoint_of_another_format_is_refused_by_name(lost_once, open_session, tmp_path, monkeypatch):
    problem, *_ = lost_once
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 1)
        session = open_session(tmp_path / "run", engine_of(problem), problem)
        session.start()
        session.run.close()
    with pytest.raises(Exception, match=f"format 1; allowed: {checkpoint.FORMAT},"):
        finish(open_session(tmp_path / "run", engine_of(problem), problem))


def test_the_console_says_what_happened(lost_once, capsys):
    from bayes_mlff.api.console import ConsoleObserver

    problem, *_ = lost_once
    ConsoleObserver(Console(width=200), problem.config).notice(step=37, text="back to step 20: planted [/red]")
    assert "0.018 ps  back to step 20: planted [/red]" in capsys.readouterr().out

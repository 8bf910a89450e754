"""Planted faults end to end: what explodes is left, what lies is not learnt, what was paid for is paid once.

The ensemble is a Lennard-Jones potential with a fixed σ, the reference the same potential, so that labels come from
audits alone unless a test makes σ large.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from rich.console import Console

from bayes_mlff.core import settings
from bayes_mlff.core.errors import EngineFailedError, EngineSetupError, RunStoppedError
from bayes_mlff.data import dataset
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.otf import config, loop
from bayes_mlff.otf.problem import make_integrator, prepare
from bayes_mlff.report import run_data, verdict
from bayes_mlff.runs import checkpoint
from bayes_mlff.sghmc.run import Info
from tests.support.tiny_runs import TINY, Silent

EPSILON, SIGMA = 0.2, 1.4
THRESHOLD = 0.004
QUIET = 5e-4
"""σ below the first critical one, which is 0.224 thresholds."""

TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * SIGMA * 2 ** (1 / 6) / np.sqrt(8)


class Interrupted(BaseException):
    """Stands for a kill."""


class Planted:
    """The reference, with a fault at chosen calls; counts from 1."""

    def __init__(self, inner, fault=None, at=lambda call: False):
        self._inner, self._fault, self._at, self.calls = inner, fault, at, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def label(self, structure):
        self.calls += 1
        if self._at(self.calls):
            return self._fault(self._inner, structure)
        return self._inner.label(structure)


def fails(inner, structure):
    raise EngineFailedError("planted failure")


def dies(inner, structure):
    raise Interrupted


def jumps(inner, structure):
    """Energy and forces of different origin."""
    result = inner.label(structure)
    return result._replace(label=result.label._replace(energy=result.label.energy + 0.3))


def lennard_jones(positions, dtype):
    n = positions.shape[0]
    apart = positions[:, None, :] - positions[None, :, :] + jnp.eye(n, dtype=dtype)[:, :, None]
    inverse = (SIGMA**2 / jnp.sum(apart**2, axis=-1)) ** 3
    return 2.0 * EPSILON * jnp.sum(jnp.where(jnp.eye(n, dtype=bool), jnp.zeros([], dtype), inverse**2 - inverse))


_PREPARED = []


def prepared(parsed):
    """Functions that do not depend on what the tests vary, made once."""
    if not _PREPARED:
        structure = Structure(np.full(4, 6), TETRAHEDRON, np.zeros((3, 3)), np.zeros(3, bool))
        _PREPARED.append(prepare(parsed, structure, registry.initialize(TINY, 0)))
    return _PREPARED[0]


def make_problem(*, sigma=QUIET, wrong=0.0, begin=None, positions=TETRAHEDRON, chains_finite=True, **changes):
    """A run of four carbon atoms; `wrong` is the standard deviation of a planted, rapidly changing energy error."""
    raw = {
        "structure": "four.xyz",
        "threshold": f"{THRESHOLD} eV",
        "seed": changes.pop("seed", 0),
        "sampler": {"chains": 2, "steps": 30, "cold_steps": 5, "ramp_steps": 5},
        "dynamics": {"duration_ps": 0.05, "temperature_k": 300.0, "chunk_steps": 8, "trajectory_every": 1}
        | changes.pop("dynamics", {}),
        "engine": {
            "name": "ase",
            "calculator": "ase.calculators.lj:LennardJones",
            "arguments": {"epsilon": EPSILON, "sigma": SIGMA, "rc": 50.0},
        },
        "audits": {"interval_ps": 0.004},
    } | changes
    parsed = config.parse(raw)
    structure = Structure(np.full(4, 6), np.array(positions), np.zeros((3, 3)), np.zeros(3, bool))
    problem = prepared(parsed)._replace(
        config=parsed, structure=structure, integrator=make_integrator(parsed.dynamics, structure)
    )

    def evaluate(params, graph):
        dtype = graph.positions.dtype
        energy, slope = jax.value_and_grad(lennard_jones)(graph.positions, dtype)
        energy = energy + 2.0**0.5 * wrong * jnp.sin(1e4 * jnp.sum(graph.positions))
        one = jnp.full((1,), sigma, dtype)
        return Predictive(
            energy[None], one, -slope[None], jnp.full_like(slope, 0.01)[None], None, None, energy[None, None]
        )

    def predict(params, graphs):
        dtype = graphs.positions.dtype
        energy, slope = jax.vmap(jax.value_and_grad(lennard_jones), in_axes=(0, None))(graphs.positions, dtype)
        return Prediction(energy, -slope, None, jnp.ones_like(slope[..., 0]))

    def update(params, state, training_set, n_steps=30):
        nothing = jnp.zeros((2, 1), params.dtype)
        return (params if chains_finite else params * jnp.nan), state, Info(nothing, nothing, nothing == 0.0)

    integrator = problem.integrator if begin is None else problem.integrator._replace(begin=begin(problem.integrator))
    return problem._replace(
        evaluate=evaluate, predict=predict, chains=problem.chains._replace(update=update), integrator=integrator
    )


def breaks_at(step):
    """An integrator that loses a position at one step."""

    def wrap(integrator):
        def begin(md):
            moved = integrator.begin(md)
            lost = jnp.where(md.step == step - 1, jnp.nan, 0.0).astype(moved.position.dtype)
            return moved.set(position=moved.position + lost)

        return begin

    return wrap


def engine_of(problem, *fault):
    return Planted(make_engine(problem.config.engine), *fault)


def finish(session):
    state = session.finish(session.resume())
    session.run.close()
    return state


def events(path, name):
    lines = (json.loads(line) for line in (path / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def thermo(path):
    return np.genfromtxt(path / "thermo.csv", delimiter=",", names=True)


def frames(path):
    import ase.io

    return {atoms.info["step"]: atoms.positions for atoms in ase.io.read(path / "trajectory.extxyz", index=":")}


# -- guards and the way back ------------------------------------------------------------------------------------


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
    with pytest.raises(RunStoppedError, match="params not finite"):
        finish(open_session(tmp_path / "run", engine_of(problem), problem))


# -- a reference that fails or lies ------------------------------------------------------------------------------


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
    judged = verdict.judge(run_data.read(tmp_path / "run"))
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


# -- audits -----------------------------------------------------------------------------------------------------


def test_audits_are_labelled_learnt_and_the_same_after_a_kill(open_session, tmp_path):
    problem = make_problem()
    whole = finish(open_session(tmp_path / "whole", engine_of(problem), problem))
    audited = [r.step for r in dataset.read(tmp_path / "whole" / "dataset.extxyz") if r.reason == "audit"]
    assert len(audited) >= 5 and whole.host.calibration.n == len(audited)
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
    raised = events(tmp_path / "run", "calibration_raised")
    audits = [e["step"] for e in events(tmp_path / "run", "audit")]
    assert raised and audits.index(raised[0]["step"]) < 3
    assert state.host.calibration.s / max(state.host.calibration.n, 1) > 10.0
    said = verdict.sentence(verdict.judge(run_data.read(tmp_path / "run")))
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


# -- what a user sees -------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_format_is_refused_by_name(lost_once, open_session, tmp_path, monkeypatch):
    problem, *_ = lost_once
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 1)
        session = open_session(tmp_path / "run", engine_of(problem), problem)
        session.start()
        session.run.close()
    with pytest.raises(Exception, match="format 1; allowed: 2"):
        finish(open_session(tmp_path / "run", engine_of(problem), problem))


def test_the_console_says_what_happened(lost_once, capsys):
    from bayes_mlff.cli.console import ConsoleObserver

    problem, *_ = lost_once
    ConsoleObserver(Console(width=200), problem.config).notice(step=37, text="back to step 20: planted [/red]")
    assert "0.018 ps  back to step 20: planted [/red]" in capsys.readouterr().out

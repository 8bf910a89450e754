"""The loop end to end over a cheap real calculator: accounting, interruption, and what a user sees."""

import json
from unittest import mock

import ase.io
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from bayes_mlff.cli.app import app
from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError, EngineFailedError, RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.data.structure import to_ase
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.ensemble import error_law, saved
from bayes_mlff.ensemble import files as files_of
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.ensemble.triggers import on_energy
from bayes_mlff.models import registry
from bayes_mlff.otf import course, criteria, loop
from bayes_mlff.otf.state import Setback
from bayes_mlff.posterior import energy_zero
from bayes_mlff.report import run_log, run_summary
from bayes_mlff.runs.directory import RunDirectory
from tests.support.tiny_runs import Silent


class Interrupted(BaseException):
    """Stands for a kill: not an Exception, so that nothing can catch it on the way."""


class Counting:
    """An engine that counts its calls and can fail or die at one of them."""

    def __init__(self, inner, *, die_at=None, fail_at=None):
        self._inner, self.calls, self._die_at, self._fail_at = inner, 0, die_at, fail_at

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def label(self, structure):
        self.calls += 1
        if self.calls == self._die_at:
            raise Interrupted
        if self.calls == self._fail_at:
            raise EngineFailedError("planted")
        return self._inner.label(structure)


@pytest.fixture(scope="module")
def reference_run(tmp_path_factory, tiny_problem):
    """An uninterrupted run: its directory and final state."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run = RunDirectory(path)
    run.create(settings.dump(tiny_problem.config))
    run.open()
    engine = Counting(make_engine(tiny_problem.config.engine))
    session = loop.Session(tiny_problem, engine, run, Silent())
    state = session.finish(session.resume())
    run.close()
    return path, state, engine.calls, session.observer


def files(path):
    return {name: (path / name).read_bytes() for name in ("thermo.csv", "trajectory.extxyz")}


def same_labels(left, right):
    a, b = dataset.read(left / "dataset.extxyz"), dataset.read(right / "dataset.extxyz")
    assert [r.step for r in a] == [r.step for r in b]
    for x, y in zip(a, b, strict=True):
        assert x.label.energy == y.label.energy
        np.testing.assert_array_equal(x.structure.positions, y.structure.positions)
        assert x.predicted_energy_mean == y.predicted_energy_mean


def test_one_reference_call_for_each_label_and_every_step_is_recorded(reference_run, tiny_problem):
    path, state, calls, observer = reference_run
    records = dataset.read(path / "dataset.extxyz")
    assert calls == len(records) == int(state.device.training_set.count)
    assert len(records) >= 3, "the threshold of this test no longer makes the run ask"
    thermo = np.genfromtxt(path / "thermo.csv", delimiter=",", names=True)
    np.testing.assert_array_equal(thermo["step"], np.arange(1, tiny_problem.config.n_steps + 1))
    assert np.isfinite(thermo["potential_ev"]).all()
    asked = thermo["sigma_ev"] > thermo["sigma_crit_ev"]
    assert {int(s) for s in thermo["step"][asked]} == {r.step for r in records if r.reason == "uncertain"}
    assert sum(c["steps"] for c in observer.chunks) == tiny_problem.config.n_steps


def test_a_labelled_step_is_finished_with_the_reference(reference_run):
    path, *_ = reference_run
    records = {r.step: r for r in dataset.read(path / "dataset.extxyz")}
    thermo = np.genfromtxt(path / "thermo.csv", delimiter=",", names=True)
    for row in thermo:
        record = records.get(int(row["step"]))
        if record is not None:
            assert row["potential_ev"] == pytest.approx(record.label.energy + record.energy_offset, rel=1e-6)
    assert records[0].energy_offset == pytest.approx(records[0].pretrained_energy - records[0].label.energy)


def test_calibration_uses_every_label_but_the_first(reference_run):
    path, state, *_ = reference_run
    records = [r for r in dataset.read(path / "dataset.extxyz") if r.reason == "uncertain"]
    z = [(r.predicted_energy_mean - r.label.energy - r.energy_offset) / r.predicted_energy_sigma for r in records]
    law = state.host.calibration
    assert law.each.n == len(records)
    same_scale = int(np.flatnonzero(law.ratios == 1.0)[0])
    assert law.each.s[same_scale] == pytest.approx(np.sum(np.square(z)), rel=1e-6)
    assert law.floor == pytest.approx(0.1 * 0.004)


@pytest.mark.parametrize("where", ["first label", "second label", "learning", "recording"])
def test_an_interrupted_run_continues_bit_for_bit(reference_run, open_session, tmp_path, monkeypatch, where):
    whole, state, calls, _ = reference_run
    path = tmp_path / "run"
    paid = 0

    def engine(**faults):
        from bayes_mlff.engines.ase_engine import AseSettings

        return Counting(make_engine(AseSettings(name="ase", calculator="ase.calculators.emt:EMT")), **faults)

    first = engine(die_at={"first label": 1, "second label": 2}.get(where))
    session = open_session(path, first)
    with monkeypatch.context() as patch:
        if where == "learning":
            original = loop.Session._learn

            def dies(self, state, record):
                if record.step > 0:
                    raise Interrupted
                return original(self, state, record)

            patch.setattr(loop.Session, "_learn", dies)
        if where == "recording":
            patch.setattr(loop.Session, "_commit", _die_after(loop.Session._commit, 2))
        with pytest.raises(Interrupted):
            session.finish(session.resume())
    session.run.close()
    paid += first.calls - (first._die_at is not None)
    second = engine()
    again = open_session(path, second)
    final = again.finish(again.resume())
    paid += second.calls
    assert paid == calls, "a label was lost or paid for twice"
    assert files(path) == files(whole)
    same_labels(path, whole)
    np.testing.assert_array_equal(final.device.params, state.device.params)
    np.testing.assert_array_equal(final.device.md.momentum, state.device.md.momentum)
    assert final.host == state.host


def _die_after(original, times):
    left = [times]

    def commit(self, state):
        if left[0] == 0:
            raise Interrupted
        left[0] -= 1
        original(self, state)

    return commit


def test_a_failed_label_leaves_the_run_resumable(reference_run, open_session, tmp_path, tiny_problem):
    _, state, *_ = reference_run
    path = tmp_path / "run"
    guards = tiny_problem.config.guards.model_copy(update={"on_failure": "stop"})
    stopping = tiny_problem._replace(config=tiny_problem.config.model_copy(update={"guards": guards}))
    session = open_session(path, Counting(make_engine(tiny_problem.config.engine), fail_at=2), stopping)
    with pytest.raises(loop.RunStoppedError, match="planted"):
        session.finish(session.resume())
    session.run.close()
    again = open_session(path, make_engine(tiny_problem.config.engine))
    final = again.finish(again.resume())
    np.testing.assert_array_equal(final.device.params, state.device.params)


def test_chains_go_on_until_they_fit_the_newest_label_to_half_of_the_threshold(open_session, tmp_path, tiny_problem):
    sampler = tiny_problem.config.sampler.model_copy(update={"rounds": 3})
    config = tiny_problem.config.model_copy(update={"sampler": sampler})
    session = open_session(tmp_path / "once", make_engine(config.engine))  # of one round
    state = session.start()
    (record,) = dataset.read(session.run.dataset)
    graph = jax.tree.map(lambda x: x[0], state.device.training_set.graphs)
    energy = tiny_problem.scale(state.host.offset_ev).reference_to_network(record.label.energy)
    error = session._learner.updates.misfit(state.device.params, graph, energy)
    for times, rounds in ((2.2, {1}), (1.8, {2, 3})):
        problem = tiny_problem._replace(config=config, threshold_ev=times * error)
        session = open_session(tmp_path / f"{times}", make_engine(config.engine), problem)
        session.start()
        events = [json.loads(line) for line in session.run.events.read_text().splitlines()]
        assert {e["rounds"] for e in events if e["event"] == "update"} <= rounds


@pytest.mark.parametrize("between", [0, 3, 9])  # a chunk has 8 steps
def test_labels_that_uncertainty_asks_for_keep_their_distance(open_session, tmp_path, tiny_problem, between):
    guards = tiny_problem.config.guards.model_copy(update={"sigma_ratio": 1e12, "label_sigmas": 1e12})
    config = tiny_problem.config.model_copy(update={"min_steps_between_labels": between, "guards": guards})
    problem = tiny_problem._replace(config=config)
    session = open_session(tmp_path / "run", make_engine(config.engine), problem)
    session.triggers = lambda host: on_energy(1e-9)  # every step is uncertain
    session.finish(session.resume())
    records = dataset.read(session.run.dataset)
    waited = np.diff([r.step for r in records])[[r.reason == "uncertain" for r in records[1:]]]
    assert len(waited) > 2
    np.testing.assert_array_equal(waited, between + 1)


@pytest.mark.parametrize(
    ("step", "labels", "setbacks", "left"),
    [
        (0, [0], [], 15),
        (9, [0], [], 6),
        (15, [0], [], 0),
        (100, [0, 90], [], 5),
        (180, [0, 100], [180], 15),  # back at the geometry of step 100
        (101, [0, 100, 110], [], 8),  # paid for, but not learnt before the run was killed
        (109, [0, 100, 110], [], 0),
        (101, [0, 100, -110], [], 14),  # an audit, which is due whatever σ
    ],
)
def test_uncertainty_is_silent_after_a_label_and_after_the_return_to_one(
    open_session, tmp_path, tiny_problem, step, labels, setbacks, left
):
    config = tiny_problem.config.model_copy(update={"min_steps_between_labels": 15})
    session = open_session(tmp_path / "run", make_engine(config.engine), tiny_problem._replace(config=config))
    host = session.resume().host._replace(step=step, setbacks=tuple(Setback(s, "guard", "planted") for s in setbacks))
    session._reference.labels = {abs(s): mock.Mock(reason="audit" if s < 0 else "uncertain") for s in labels}
    assert course.silent_steps(session.problem, host, session._reference) == left


def test_rows_of_thermo_are_spaced_but_for_labels_and_the_last_step(open_session, tmp_path, tiny_problem):
    audits = tiny_problem.config.audits.model_copy(update={"interval_ps": 0.003})
    guards = tiny_problem.config.guards.model_copy(update={"label_sigmas": 1e12})
    for every in (1, 7):
        dynamics = tiny_problem.config.dynamics.model_copy(update={"thermo_every": every})
        config = tiny_problem.config.model_copy(update={"dynamics": dynamics, "audits": audits, "guards": guards})
        problem = tiny_problem._replace(config=config)
        session = open_session(tmp_path / f"{every}", make_engine(config.engine), problem)
        session.triggers = lambda host: on_energy(1e3)  # audits alone
        session.finish(session.resume())
    whole, kept = (np.loadtxt(tmp_path / n / "thermo.csv", delimiter=",", skiprows=1) for n in "17")
    labelled = [r.step for r in dataset.read(tmp_path / "7" / "dataset.extxyz")]
    n_steps = tiny_problem.config.n_steps
    wanted = [step for step in whole[:, 0] if step % 7 == 0 or step in labelled or step == n_steps]
    assert any(step % 7 for step in labelled) and len(wanted) < n_steps and n_steps % 7
    np.testing.assert_array_equal(kept, whole[np.isin(whole[:, 0], wanted)])
    run = run_log.read(tmp_path / "7")
    assert run.reached == n_steps and run_summary.summarise(run, 0.004).finished


def test_max_labels_stops_resumably(open_session, tmp_path, tiny_problem):
    few = tiny_problem._replace(config=tiny_problem.config.model_copy(update={"max_labels": 1}))
    session = open_session(tmp_path / "run", make_engine(tiny_problem.config.engine), few)
    with pytest.raises(loop.RunStoppedError, match="max_labels"):
        session.finish(session.resume())


def test_chains_are_exported_as_models(open_session, tmp_path, tiny_problem):
    state = open_session(tmp_path / "run", make_engine(tiny_problem.config.engine)).resume()
    arguments = ["export", str(tmp_path / "run"), str(tmp_path / "chains")]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    paths = sorted((tmp_path / "chains").iterdir())
    assert [path.name for path in paths] == ["chain_0.safetensors", "chain_1.safetensors"]
    numbers = tiny_problem.structure.numbers
    chains = energy_zero.split(state.device.params)
    assert np.unique(chains.zero).size == len(paths)
    for path, chain, zero in zip(paths, np.asarray(chains.weights), np.asarray(chains.zero), strict=True):
        exported = registry.load(str(path))
        np.testing.assert_array_equal(exported.flat()[0], chain)
        wanted = tiny_problem.isolated_ev - state.host.offset_ev + float(zero)  # on the reference's scale
        assert exported.isolated_energy(numbers) == pytest.approx(wanted, rel=1e-12)
    assert "empty folder" in str(CliRunner().invoke(app, arguments).exception)
    (tmp_path / "a.model").write_bytes(b"anything")
    for options, said in (
        (["--template", str(tmp_path / "a.model")], "--what: got 'model'; allowed: ensemble or chains with nequip"),
        (["--what", "model"], "files of mace alone"),
        (["--what", "chains", "--template", str(tmp_path / "a.model")], "--template"),
        (["--what", "everything"], "--what: got 'everything'; allowed: one of ensemble, chains, model"),
    ):
        refused = CliRunner().invoke(app, [*arguments[:2], str(tmp_path / "b"), *options])
        assert isinstance(refused.exception, ConfigError) and said in str(refused.exception)
    assert not (tmp_path / "b").exists()
    assert CliRunner().invoke(app, [*arguments[:2], str(tmp_path / "c"), "--what", "ensemble"]).exit_code == 0
    exported, kept = saved.load(tmp_path / "c"), saved.load(tmp_path / "run")
    assert saved.same(exported, kept) and exported.provenance == kept.provenance
    said = CliRunner().invoke(app, [*arguments[:2], "--to", "ase", "-o", str(tmp_path / "d")], catch_exceptions=False)
    assert "the first structure of the run" in said.output and "values up to" in said.output
    started = ase.io.read(tmp_path / "d" / "start.extxyz")
    np.testing.assert_allclose(started.positions, tiny_problem.structure.positions, atol=1e-7)
    assert started.get_temperature() > 0.0 and saved.same(saved.load(tmp_path / "d" / "ensemble.safetensors"), kept)


def test_the_calculator_of_a_run_says_what_the_run_itself_predicts(open_session, tmp_path, tiny_problem):
    """At a labelled geometry, with the weights that the run had when it came there."""
    session = open_session(tmp_path / "run", make_engine(tiny_problem.config.engine))
    state, compared = session.resume(), 0
    while compared < 2:
        calculator, before = EnsembleCalculator(session.run.path), state
        state = session.advance(state)
        record = dataset.read(session.run.dataset)[-1]
        if int(state.device.training_set.count) == int(before.device.training_set.count):
            continue
        compared += 1
        atoms = to_ase(record.structure)
        calculator.calculate(atoms)
        found, on_reference = calculator.results, record.predicted_energy_mean - record.energy_offset
        assert found["energy"] == pytest.approx(on_reference, abs=2e-5)
        assert found["energy_sigma_uncalibrated"] == pytest.approx(record.predicted_energy_sigma, rel=1e-3)
        np.testing.assert_allclose(found["forces"], record.predicted_forces_mean, atol=1e-4)
        assert np.mean(found["chain_energy"]) == pytest.approx(found["energy"], abs=2e-5)
        sigma, threshold = found["energy_sigma_uncalibrated"], tiny_problem.threshold_ev
        wanted = error_law.exceedance_probability(before.host.calibration, sigma, threshold)
        assert found["probability_above_threshold"] == pytest.approx(wanted, rel=1e-9)
        (trigger,) = criteria.triggers(tiny_problem, before.host)
        asked = sigma > float(trigger.limit)
        assert asked == (found["probability_above_threshold"] > 1.0 - tiny_problem.config.confidence)


def test_every_kept_checkpoint_has_its_ensemble_and_the_end_of_a_run_a_copy(reference_run):
    path, state, *_ = reference_run
    names = sorted(p.name for p in (path / "checkpoints").iterdir())
    steps = sorted({name.partition(".")[0] for name in names})
    assert names == sorted(f"{step}.{end}" for step in steps for end in ("ckpt", "ensemble.safetensors"))
    final = saved.load(path)
    np.testing.assert_array_equal(final.samples, energy_zero.split(state.device.params).weights)
    assert final.online == (state.host.calibration, "0.004 eV", 0.95)
    assert (path / "ensemble.safetensors").read_bytes() == files_of.find(path).read_bytes()
    assert final.provenance["labels"] == str(int(state.device.training_set.count))


def test_what_was_not_learnt_anew_is_not_written_anew(open_session, tmp_path, tiny_problem):
    session = open_session(tmp_path / "run", make_engine(tiny_problem.config.engine))
    state = session.resume()
    folder, moved = session.run.checkpoints, state._replace(host=state.host._replace(step=5))
    session._commit(moved)
    first, second = (folder / f"{step:09d}.ensemble.safetensors" for step in (0, 5))
    assert first.samefile(second)
    changed = error_law.update(state.host.calibration, 0.1, 0.1)
    session._commit(moved._replace(host=moved.host._replace(step=6, calibrations={"energy": changed})))
    third = folder / "000000006.ensemble.safetensors"
    assert not first.exists() and not third.samefile(second)
    assert saved.load(third).online.law == changed
    session.run.close()
    again = open_session(tmp_path / "run", make_engine(tiny_problem.config.engine))
    before = third.stat().st_ino
    again.resume()
    assert third.stat().st_ino == before  # found as it should be
    third.write_bytes(b"damaged")
    again.run.close()
    resumed = open_session(tmp_path / "run", make_engine(tiny_problem.config.engine)).resume()
    np.testing.assert_array_equal(saved.load(third).samples, energy_zero.split(resumed.device.params).weights)


def test_two_processes_cannot_share_a_run(open_session, tmp_path, tiny_problem):
    open_session(tmp_path / "run", make_engine(tiny_problem.config.engine))
    with pytest.raises(RunDirectoryError, match="another process"):
        RunDirectory(tmp_path / "run").open()


@pytest.mark.usefixtures("compiled_afresh")
def test_chunk_and_update_compile_once(open_session, tmp_path, tiny_problem, count_compilations):
    """After the first label of a run nothing compiles any more, however many labels follow."""
    session = open_session(tmp_path / "run", make_engine(tiny_problem.config.engine))
    state = session.resume()
    while int(state.device.training_set.count) < 2:
        state = session.advance(state)
    with count_compilations() as compiled:
        final = session.finish(state)
    assert int(final.device.training_set.count) > 2
    assert compiled.value == 0


@pytest.mark.parametrize(
    ("arguments", "code", "phrase"),
    [
        (["--system", "methanol"], 2, "ethanol"),
        (["run", "missing.yaml"], 2, "existing YAML"),
        (["resume", "nowhere"], 2, "existing YAML"),
    ],
)
def test_the_command_line_refuses_by_name(arguments, code, phrase, capsys, monkeypatch):
    from bayes_mlff.cli import app as cli

    monkeypatch.setattr("sys.argv", ["bayes-mlff", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert phrase in " ".join(capsys.readouterr().err.split())


def test_help_names_the_sub_commands():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for name in ("init", "check", "run", "resume", "status", "report", "schema", "finetune", "models"):
        assert name in result.output

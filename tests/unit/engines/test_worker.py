"""A calculator in a process of its own: its numbers arrive unchanged and its accidents end at the process."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from ase.build import bulk

from bayes_mlff.core.errors import (
    EngineFailedError,
    EngineRetryError,
    EngineSetupError,
)
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.engine import Engine
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.worker import engine as worker
from bayes_mlff.engines.worker import process as worker_process
from bayes_mlff.engines.worker.child import OutputCheck
from bayes_mlff.engines.worker.engine import WorkerEngine, WorkerSettings
from bayes_mlff.engines.worker.process import WorkerProcess, child_environment, find_python
from tests.support.faulty_programs import PLANTED, copper


def wait_until_dead(pid: int) -> bool:
    """True if a process ends within two seconds; a zombie without a parent to bury it has ended."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def test_numbers_arrive_to_the_last_bit_with_the_hash_of_the_engine_inside(tmp_path):
    here = AseSettings(calculator="ase.calculators.emt:EMT", stress=True)
    there = WorkerSettings(calculator="ase.calculators.emt:EMT", stress=True, threads=2)
    with make_engine(here) as inside, make_engine(there, tmp_path) as outside:
        assert isinstance(outside, Engine)
        outside.check(copper())
        assert outside.settings_hash == inside.settings_hash
        for seed in (0, 1):
            a, b = inside.label(copper(seed)), outside.label(copper(seed))
            assert a.label.energy == b.label.energy and b.attempts == 1
            np.testing.assert_array_equal(a.label.forces, b.label.forces)
            np.testing.assert_array_equal(a.label.stress, b.label.stress)
            np.testing.assert_array_equal(b.structure.positions, copper(seed).positions)
        assert outside.save_state() is None


def test_the_child_works_in_the_run_directory_once_that_exists(planted, tmp_path):
    with WorkerEngine(planted(), tmp_path / "later") as engine:
        engine.check(copper())
        first = engine._process
        (tmp_path / "later").mkdir()
        engine.label(copper())
        assert not first.usable and engine._process.usable
        assert (tmp_path / "later" / "engine" / "worker.stderr").is_file()
    assert not engine._process


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("abort", r"died of SIGABRT without an answer; end of .*worker\.stderr: .*heap corrupted"),
        ("exit", r"exited with status 0 without an answer"),
        ("hang", r"no answer within 1 s; the process was killed"),
    ],
)
def test_a_dead_or_silent_child_is_replaced_and_at_last_reported(planted, tmp_path, fault, said):
    settings = planted(f"once {fault}", timeout_s=1.0)
    with make_engine(settings, tmp_path / "run") as engine:
        result = engine.label(copper())
    assert result.attempts == 2 and result.label.energy == 0.5 * np.sum(copper().positions ** 2)
    with make_engine(planted(fault, timeout_s=1.0), tmp_path / "run") as engine:
        with pytest.raises(EngineFailedError, match=rf"(?s)attempt 1 of 2: .*attempt 2 of 2: .*{said}"):
            engine.label(copper())
        with pytest.raises(EngineFailedError):  # it is still usable, that is, it fails again in the same way
            engine.label(copper())


def test_a_child_that_dies_while_it_is_set_up_is_an_error_of_set_up(planted, tmp_path):
    with (
        make_engine(planted("dies early"), tmp_path / "run") as engine,
        pytest.raises(EngineSetupError, match=r"(?s)SIGABRT.*out of luck"),
    ):
        engine.check(copper())
    with make_engine(planted("refuses"), tmp_path / "run") as engine:
        with pytest.raises(EngineSetupError, match=r"engine\.arguments: .*KeyError.*no such keyword"):
            engine.check(copper())
        with pytest.raises(EngineSetupError, match=r"KeyError.*no such keyword"):
            engine.label(copper())


def test_noise_on_stdout_and_a_read_from_stdin_disturb_nothing(planted, tmp_path):
    with make_engine(planted("noise"), tmp_path / "run") as engine:
        assert engine.label(copper()).attempts == 1
        assert engine.label(copper(1)).attempts == 1
    assert b"garbage" in (tmp_path / "run" / "engine" / "worker.stderr").read_bytes()


def test_noise_before_the_protocol_starts_is_skipped(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('Welcome!'); print('[1]'); print('{\"id\": 77}', flush=True)")
    settings = WorkerSettings(calculator="ase.calculators.emt:EMT", environment={"PYTHONPATH": str(tmp_path)})
    with make_engine(settings, tmp_path) as engine:
        assert engine.label(copper()).attempts == 1


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("nan", EngineFailedError, "not finite"),
        ("shape", EngineFailedError, "shape"),
        ("text", EngineFailedError, "unusable result"),
        ("own", EngineFailedError, "attempt 2 of 2: OwnError: not converged"),
        ("failed", EngineFailedError, "attempt 2 of 2: CalculationFailed: scf"),
        ("setup", EngineSetupError, "no pseudopotential"),
        ("executable", EngineSetupError, r"FileNotFoundError: pw\.x"),
        ("bug", EngineFailedError, "KeyError: 'a bug of the calculator'; File"),
    ],
)
def test_errors_are_told_apart(planted, tmp_path, fault, error, said):
    with make_engine(planted(fault), tmp_path / "run") as engine, pytest.raises(error, match=said):
        engine.label(copper())


def test_a_named_exception_is_tried_again(planted, tmp_path):
    settings = planted("bug", retry_exceptions=("builtins:LookupError",))
    with make_engine(settings, tmp_path / "run") as engine, pytest.raises(EngineFailedError, match="attempt 2 of 2"):
        engine.label(copper())


def test_an_answer_for_an_old_geometry_is_refused(planted, tmp_path):
    with make_engine(planted("stale"), tmp_path / "run") as engine:
        engine.label(copper(0))
        with pytest.raises(EngineFailedError, match="another geometry"):
            engine.label(copper(1))


@pytest.mark.parametrize("fault", ["family", "stubborn"])
def test_grandchildren_end_with_the_child_even_if_they_do_not_want_to(planted, tmp_path, fault, monkeypatch):
    monkeypatch.setattr(worker_process, "GRACE_S", 0.3)
    with make_engine(planted(fault, timeout_s=2.0, retries=()), tmp_path / "run") as engine:
        if fault == "family":  # ended by the time-out
            with pytest.raises(EngineFailedError, match="no answer"):
                engine.label(copper())
        else:  # ended by closing the engine
            engine.label(copper())
    assert wait_until_dead(int((tmp_path / "run" / "engine" / "grandchild").read_text()))


@pytest.mark.parametrize("fault", ["family", "stubborn"])
def test_the_child_and_its_stubborn_family_end_when_this_process_is_killed(tmp_path, fault):
    """A process that owns a child, in the middle of a calculation or after it, is killed and cannot clean up."""
    (tmp_path / "planted_engine.py").write_text(PLANTED)
    code = f"""
        import json, os, time
        from pathlib import Path
        from bayes_mlff.engines.worker.process import WorkerProcess
        child = WorkerProcess({sys.executable!r}, dict(os.environ), Path({str(tmp_path)!r}))
        child.ask({{"op": "start", "calculator": "planted_engine:Faulty", "output": None}}, 60.0)
        print(child.pid, flush=True)
        atoms = dict(numbers=[29] * 2, positions=[[0, 0, 0], [0, 0, 2.5]])
        how = dict(op="label", arguments={{"fault": "{fault}"}}, moments=None, fresh=True, stress=False)
        child.ask({{"geometry": atoms, **how}}, 60.0)
        print("answered", flush=True)
        time.sleep(60.0)
    """
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env=environment, text=True
    )
    child = int(owner.stdout.readline())
    limit = time.monotonic() + 20.0
    while not (tmp_path / "grandchild").exists() or not (tmp_path / "grandchild").read_text():
        assert time.monotonic() < limit
        time.sleep(0.02)
    if fault == "stubborn":
        assert owner.stdout.readline() == "answered\n"
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert wait_until_dead(child)
    grandchild = int((tmp_path / "grandchild").read_text())
    assert any(wait_until_dead(grandchild) for _ in range(30)), "an orphan"


def test_an_interrupted_question_ends_the_child(planted, tmp_path, monkeypatch):
    with WorkerEngine(planted("hang"), tmp_path / "run") as engine:
        engine.check(copper())
        pid = engine._process.pid
        previous = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                engine.label(copper())
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert not engine._process.usable and wait_until_dead(pid)


def test_a_large_request_fits_through_the_pipe_and_a_reader_that_never_reads_times_out(tmp_path):
    settings = WorkerSettings(calculator="ase.calculators.lj:LennardJones", arguments={"rc": 3.0})
    atoms = bulk("Ar", cubic=True, a=5.3).repeat(8)
    atoms.rattle(0.01, seed=0)
    with make_engine(settings, tmp_path) as engine:
        assert engine.label(from_ase(atoms)).label.forces.shape == (2048, 3)
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\nexec sleep 60\n")
    deaf.chmod(0o755)
    process = WorkerProcess(str(deaf), dict(os.environ), tmp_path)
    start = time.monotonic()
    with pytest.raises(EngineRetryError, match=r"no answer within 0\.2 s"):
        process.ask({"op": "x" * 1_000_000}, 0.2)
    assert time.monotonic() - start < 5.0 and not process.usable


def test_missing_packages_and_interpreters_are_named(tmp_path):
    for calculator, said in (
        ("no_such_engine.ase:X", r"no_such_engine\.ase': /\S+ has none of this name$"),
        ("ase.calculators.calculator:Emt", r"module 'ase\.calculators\.calculator' has no 'Emt'"),
    ):
        with (
            make_engine(WorkerSettings(calculator=calculator), tmp_path) as engine,
            pytest.raises(EngineSetupError, match=said),
        ):
            engine.check(copper())
    with pytest.raises(EngineSetupError, match=r"engine\.python: got '/no/python'"):
        make_engine(WorkerSettings(calculator="a:B", python="/no/python"))


def test_the_environment_has_the_threads_and_another_python_not_our_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    same = child_environment(find_python(None), 3, {"X": "y"})
    assert same["PYTHONPATH"] == "/ours" and same["X"] == "y"
    assert same["OMP_NUM_THREADS"] == same["MKL_NUM_THREADS"] == same["OPENBLAS_NUM_THREADS"] == "3"
    other = child_environment("/usr/bin/python3", 1, {})
    assert "PYTHONPATH" not in other and other["PATH"] == os.environ["PATH"]


def test_the_child_needs_no_more_than_ase(tmp_path):
    """None of this package's modules, nor JAX, is imported there; its folder is not on the path."""
    (tmp_path / "modules_engine.py").write_text(
        "import sys\nfrom ase.calculators.calculator import Calculator\n"
        "class E(Calculator):\n    implemented_properties = ['energy', 'forces']\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        bad = [m for m in sys.modules if m.split('.')[0] in ('bayes_mlff', 'jax', 'pydantic')]\n"
        "        assert not bad, bad\n        assert not [p for p in sys.path if p.endswith('dft')], sys.path\n"
    )
    settings = WorkerSettings(calculator="modules_engine:E", environment={"PYTHONPATH": str(tmp_path)})
    with make_engine(settings, tmp_path) as engine:
        engine.check(copper())


@pytest.mark.parametrize(
    ("fault", "said"), [("unconverged", r"'SCF run NOT converged' in program\.out"), ("silent", "was not written")]
)
@pytest.mark.parametrize("name", ["ase", "worker"])
def test_a_program_that_admits_in_its_output_only_is_not_believed(planted, tmp_path, monkeypatch, fault, said, name):
    options = {"output_file": "program.out", "unconverged_pattern": "SCF run NOT converged"}
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for text in ("", "SCF run NOT converged, long ago\n"):  # what earlier calls wrote does not count
        for folder in (tmp_path, tmp_path / "run" / "engine"):
            folder.mkdir(exist_ok=True)
            (folder / "program.out").write_text(text)
        for behaviour in ("writes", fault):
            settings = planted(behaviour, **options)
            if name == "ase":
                settings = AseSettings(calculator=settings.calculator, arguments=settings.arguments, **options)
            with make_engine(settings, tmp_path / "run") as engine:
                if behaviour == "writes":
                    engine.label(copper())
                    continue
                with pytest.raises(EngineFailedError, match=said):
                    engine.label(copper())


def test_an_output_file_that_was_replaced_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "out"
    path.write_text("converged " * 10)
    watch = OutputCheck(str(path), "NOT converged")
    path.unlink()
    path.write_text("NOT converged " + "." * 200)
    assert "NOT converged" in watch.complaint()
    watch = OutputCheck(str(path), "NOT converged")
    path.write_text(path.read_text())  # the very same again, as a deterministic program does
    assert "NOT converged" in watch.complaint()
    watch = OutputCheck(str(path), "NOT converged")
    path.write_text("NOT converged at once, then " + "." * 400)
    assert "NOT converged" in watch.complaint()
    with pytest.raises(ValueError, match="go together"):
        WorkerSettings(calculator="a:B", output_file="x")
    with pytest.raises(ValueError, match="regular expression"):
        WorkerSettings(calculator="a:B", output_file="x", unconverged_pattern="(")


def test_chgnet_says_that_it_is_no_reference():
    with worker_engine_of_chgnet() as engine:
        assert "not DFT" in engine.description


def worker_engine_of_chgnet() -> Engine:
    from bayes_mlff.engines.chgnet import ChgnetSettings

    engine = make_engine(ChgnetSettings())
    assert isinstance(engine._engine, worker.WorkerEngine)
    return engine

"""A calculator in a process of its own: its numbers arrive unchanged and its accidents end at the process."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import ase
import numpy as np
import pytest
from ase.build import bulk

from bayes_mlff.core.errors import (
    ConfigError,
    DataError,
    EngineFailedError,
    EngineRetryError,
    EngineSetupError,
)
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.engines.ase_engine import AseSettings, level_hash
from bayes_mlff.engines.engine import Engine
from bayes_mlff.engines.gpaw import install as install_gpaw
from bayes_mlff.engines.gpaw import settings as gpaw_settings
from bayes_mlff.engines.gpaw.engine import GpawEngine
from bayes_mlff.engines.gpaw.settings import GpawSettings, Hubbard, gpaw_arguments
from bayes_mlff.engines.moments import moment_remarks, moments_of_elements
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.worker import engine as worker
from bayes_mlff.engines.worker import process as worker_process
from bayes_mlff.engines.worker.child import OutputCheck
from bayes_mlff.engines.worker.engine import WorkerEngine, WorkerSettings
from bayes_mlff.engines.worker.process import WorkerProcess, child_environment, find_python

PLANTED = textwrap.dedent("""
    import os, subprocess, sys, time
    import numpy as np
    from ase.calculators.calculator import CalculationFailed, Calculator, CalculatorSetupError, all_changes

    class OwnError(Exception):
        pass

    class Springs(Calculator):
        implemented_properties = ["energy", "forces", "stress"]

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            r = atoms.positions
            self.results = {"energy": 0.5 * np.sum(r * r), "forces": -r, "stress": 1e-3 * np.arange(6) * np.sum(r)}

    class Faulty(Springs):
        def __init__(self, fault="none", label=None, soft=False, **kwargs):
            if fault == "refuses":
                raise KeyError("no such keyword")
            if fault == "dies early":
                os.write(2, b"out of luck")
                os.abort()
            super().__init__(**kwargs)
            self.fault, self.moments = fault, None

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            fault = self.fault
            if fault.startswith("once "):
                fault = "none" if os.path.exists("before") else fault[5:]
                open("before", "w").close()
            if fault == "stale" and self.results:
                return
            super().calculate(atoms, properties, system_changes)
            start = np.array(atoms.get_initial_magnetic_moments())
            self.moments = start if self.moments is None else self.moments
            self.results["magmoms"] = 0.9 * self.moments
            if fault == "flips" and os.path.exists("flip"):
                self.results["magmoms"][0] *= -1
            if fault == "abort":
                os.write(2, b"heap corrupted")
                os.abort()
            if fault == "exit":
                sys.exit(0)
            if fault == "hang":
                time.sleep(3600)
            if fault in ("family", "stubborn"):
                code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
                child = subprocess.Popen([sys.executable, "-c", code])
                with open("grandchild", "w") as file:
                    file.write(str(child.pid))
                if fault == "family":
                    time.sleep(3600)
            if fault == "noise":
                print('{"id": 2, "energy": 0.0}')
                os.write(1, b"\\xff\\x00 garbage without an end")
                subprocess.run(["echo", '{"id": 2}'])
                assert sys.stdin.read() == ""
            if fault == "nan":
                self.results["forces"][1, 2] = np.nan
            if fault == "shape":
                self.results["forces"] = self.results["forces"][:-1]
            if fault == "text":
                self.results["energy"] = np.array("very low")
            if fault == "own":
                raise OwnError("not converged")
            if fault == "failed":
                raise CalculationFailed("scf")
            if fault == "setup":
                raise CalculatorSetupError("no pseudopotential")
            if fault == "executable":
                raise FileNotFoundError("pw.x")
            if fault == "bug":
                raise KeyError("a bug of the calculator")
            said = {"writes": "converged", "unconverged": "SCF run NOT converged", "silent": ""}
            if fault in said:
                with open("program.out", "a") as file:
                    file.write(said[fault])

        def get_property(self, name, atoms=None, allow_calculation=True):
            if self.fault == "stale" and self.results:
                return self.results[name]
            return super().get_property(name, atoms, allow_calculation)
""")


def copper(seed: int = 0) -> Structure:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return from_ase(atoms)


@pytest.fixture
def planted(tmp_path):
    """Make settings of a child with one fault; it works in the folder `run/engine`."""
    (tmp_path / "run").mkdir()
    (tmp_path / "planted_engine.py").write_text(PLANTED)

    def settings(fault: str = "none", **changes) -> WorkerSettings:
        return WorkerSettings(
            calculator="planted_engine:Faulty",
            arguments={"fault": fault},
            environment={"PYTHONPATH": str(tmp_path)},
            **({"timeout_s": 20.0} | changes),
        )

    return settings


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
    assert any(wait_until_dead(grandchild) for _ in range(12)), "an orphan"


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


# -- magnetic moments --------------------------------------------------------------------------------------------


def test_moments_are_carried_to_a_new_calculator_and_a_flip_is_remarked(planted, tmp_path):
    settings = planted("flips", initial_magmoms=(2.0, 2.0, -2.0, 0.0))
    folder = tmp_path / "run" / "engine"
    with WorkerEngine(settings, tmp_path / "run") as engine:
        first = engine.label(copper(0))
        assert not [line for line in first.diagnostics if "moments" in line]
        state = engine.save_state()
        assert engine._moments == pytest.approx((1.8, 1.8, -1.8, 0.0))
        (folder / "flip").touch()
        again = engine.label(copper(1))
        assert "Cu 0: +1.80 to -1.80;" in again.diagnostics[-1] and "Cu 1" not in again.diagnostics[-1]
        (folder / "flip").unlink()
    with WorkerEngine(settings, tmp_path / "run") as resumed:
        resumed.restore_state(state)
        resumed.label(copper(1))
        assert resumed._moments == pytest.approx((1.62, 1.62, -1.62, 0.0))
        resumed.restore_state(None)
        resumed.label(copper(1))
        assert resumed._moments == pytest.approx((1.8, 1.8, -1.8, 0.0))
    with WorkerEngine(settings.model_copy(update={"arguments": {}}), tmp_path / "run") as other:
        with pytest.raises(DataError, match="another level of theory"):
            other.restore_state(state)
        with pytest.raises(DataError, match="another engine"):
            other.restore_state(b"\x93NUMPY")


def test_a_retry_starts_from_the_initial_moments(planted, tmp_path):
    settings = planted("none", initial_magmoms=(2.0, 0.0, 0.0, 0.0))
    with WorkerEngine(settings, tmp_path / "run") as engine:
        engine.label(copper())
        engine._settings = planted("failed", retries=({"fault": "none"},))
        assert engine.label(copper(1)).attempts == 2
        assert engine._moments == pytest.approx((1.8, 0.0, 0.0, 0.0))
        for carry, expected in ((True, 1.62), (False, 1.8)):
            engine._settings = planted("none", reuse_calculator=False, carry_moments=carry)
            engine.label(copper(2))
            assert engine._moments == pytest.approx((expected, 0.0, 0.0, 0.0))


def test_remarks_on_moments():
    structure = copper()
    for before, now, jumps, count in (
        (None, (1.0, 1.0, 1.0, 1.0), True, 0),
        ((1.0, 1.0, 1.0, 1.0), None, True, 0),
        ((4.0, -4.0, 0.0, 0.0), (3.2, -3.2, 0.0, 0.0), False, 0),
        ((4.0, -4.0, 0.0, 0.0), (3.2, -3.2, 0.0, 0.0), True, 2),
        ((4.0, -4.0, 0.05, 0.0), (4.4, -4.4, -0.05, 0.0), True, 0),
        ((4.0, -4.0, 0.0, 0.0), (-4.0, -4.0, 0.0, 0.0), False, 1),
    ):
        remarks = moment_remarks(before, now, structure, jumps=jumps)
        assert sum(remark.count(" to ") for remark in remarks) == count


def lamno3(seed: int | None = None) -> Structure:
    """Four Mn in two planes along c, both at the cell's faces and moved across them when rattled."""
    positions = [(0.5, 0, 0), (0.5, 0, 0.5), (0, 0.5, 0), (0, 0.5, 0.5), (0.99, 0.05, 0.25)]
    atoms = ase.Atoms("Mn4La", scaled_positions=positions, cell=[5.5367, 5.7473, 7.6929], pbc=True)
    if seed is not None:
        atoms.rattle(0.1, seed=seed)
        atoms.wrap()
    return from_ase(atoms)


def test_planes_alternate_along_c():
    for structure in (lamno3(), lamno3(0), lamno3(1), lamno3(2)):
        moments = moments_of_elements({"Mn": 4.0}, "A-AFM", structure)
        assert moments == (4.0, -4.0, 4.0, -4.0, 0.0)
    assert moments_of_elements({"Mn": 4.0}, "ferromagnetic", lamno3()) == (4.0, 4.0, 4.0, 4.0, 0.0)
    turned = lamno3()._replace(pbc=np.array([True, True, False]))
    single = lamno3()._replace(positions=lamno3().positions * [1, 1, 0])
    for structure, said in ((turned, "periodic along c"), (single, "found 1"), (copper(), "Mn")):
        with pytest.raises(ConfigError, match=said):
            moments_of_elements({"Mn": 4.0}, "A-AFM", structure)


# -- GPAW without GPAW -------------------------------------------------------------------------------------------


def test_gpaw_settings_become_the_arguments_of_its_calculator():
    settings = GpawSettings(hubbard={"Mn": Hubbard(u_ev=4.0)}, magmoms={"Mn": 4.0}, magnetic_order="A-AFM")
    arguments = gpaw_arguments(settings)
    assert arguments["mode"] == {"name": "pw", "ecut": 400.0} and arguments["setups"] == {"Mn": ":d,4.0,0"}
    assert arguments["kpts"] == [[0.25, 0.25, 0.25]] and arguments["symmetry"] == "off"
    assert arguments["occupations"] == {"name": "fermi-dirac", "width": 0.05}
    assert gpaw_arguments(GpawSettings(kpts=(2, 2, 2)))["kpts"] == {"size": [2, 2, 2], "gamma": True}
    assert settings.subtract_net_force and not GpawSettings(cutoff_ev=600).subtract_net_force
    assert not GpawSettings(subtract_net_force=False).subtract_net_force
    assert GpawSettings.model_validate(settings.model_dump(mode="json")) == settings
    for bad in (
        {"magnetic_order": "A-AFM"},
        {"stress": "pulay-corrected", "cutoff_ev": 900},
        {"stress": "raw", "pulay_virial_ev": [1.0] * 6},
        {"stress": "pulay-corrected", "pulay_virial_ev": [1.0] * 3},
        {"stress": "pulay-corrected", "pulay_virial_ev": [float("nan")] * 6},
        {"kpts": [0, 1, 1]},
        {"kpts": []},
        {"hubbard": {"Mn": {"u_ev": -1}}},
        {"cutoff": 400},
    ):
        with pytest.raises(ValueError, match="for GpawSettings"):
            GpawSettings.model_validate(bad)


def test_without_gpaw_the_message_says_how_to_get_it(tmp_path):
    with make_engine(GpawSettings(environment={"PYTHONPATH": str(tmp_path)}), tmp_path) as engine:
        (tmp_path / "gpaw.py").write_text("import _gpaw_is_not_compiled")
        command = (
            rf"gpaw.install --python {sys.executable}, or .*GPAW_CONFIG=siteconfig\.py {sys.executable} -m pip install "
            "gpaw gpaw-data"
        )
        with pytest.raises(EngineSetupError, match=command):
            engine.check(copper())
    # ASE itself imports the package for its list of file formats.
    assert not {"gpaw.dft", "gpaw.calculator", "_gpaw"} & set(sys.modules)


@pytest.mark.parametrize(
    ("settings", "structure", "said"),
    [
        ({"magmoms": (1.0,)}, copper(), r"engine\.magmoms.*4 numbers"),
        ({"magmoms": {"Mn": 4.0}}, copper(), r"engine\.magmoms.*Cu"),
        ({"hubbard": {"Mn": {"u_ev": 4.0}}}, copper(), r"engine\.hubbard.*'Mn'.*Cu"),
        ({"stress": "raw"}, copper()._replace(pbc=np.zeros(3, bool)), r"engine\.stress"),
        ({}, copper()._replace(pbc=np.zeros(3, bool), cell=np.zeros((3, 3))), "box"),
        (
            {},
            copper()._replace(pbc=np.array([True, True, False]), cell=3.6 * np.diag([1.0, 1.0, 0.0])),
            "three cell vectors",
        ),
    ],
)
def test_what_does_not_fit_the_structure_is_refused_before_anything_starts(settings, structure, said):
    engine = GpawEngine(GpawSettings.model_validate(settings))
    with pytest.raises(ConfigError, match=said):
        engine.check(structure)
    assert engine._worker._process is None


@pytest.fixture
def fake_gpaw(tmp_path):
    """Make a package `gpaw` whose stress is wrong by 100/ecut in xx and half of that in yy, eV/Å³."""
    (tmp_path / "run").mkdir()
    (tmp_path / "planted_engine.py").write_text(PLANTED)
    (tmp_path / "gpaw.py").write_text(
        "import os\nfrom planted_engine import Springs\n"
        "class KohnShamConvergenceError(Exception):\n    pass\n"
        "class GPAW(Springs):\n"
        "    def __init__(self, mode, mixer=None, **kwargs):\n"
        "        super().__init__()\n        self.ecut, self.mixer = mode['ecut'], mixer\n"
        "        open('calls', 'a').write(f'{mode[\"ecut\"]} {mixer}\\n')\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        super().calculate(*args, **kwargs)\n"
        "        if os.path.exists('hard') and self.mixer is None:\n            raise KohnShamConvergenceError('no')\n"
        "        self.results['stress'] = self.results['stress'] + [100 / self.ecut, 50 / self.ecut, 0, 0, 0, 0]\n"
    )
    return tmp_path / "run"


def gpaw_like(fake_gpaw, **changes) -> GpawEngine:
    engine = GpawEngine(GpawSettings(environment={"PYTHONPATH": str(fake_gpaw.parent)}, **changes), fake_gpaw)
    return engine


def test_the_stress_is_corrected_by_one_calculation_for_all_and_the_state_remembers(fake_gpaw):
    calls = fake_gpaw / "engine" / "calls"
    right = [
        1e-3 * copper(k).positions.sum() * np.array([[0.0, 5.0, 4.0], [5.0, 1.0, 3.0], [4.0, 3.0, 2.0]]) for k in (0, 1)
    ]
    missing = np.diag([100.0, 50.0, 0.0]) / 800
    with gpaw_like(fake_gpaw, stress="pulay-corrected") as engine:
        assert engine.save_state() is None
        for k in (0, 1):
            result = engine.label(copper(k))
            np.testing.assert_allclose(result.label.stress, right[k] + missing, atol=1e-12)
            assert any("Pulay correction of -10.01 GPa found" in line for line in result.diagnostics) == (k == 0)
        assert calls.read_text().split("\n")[:-1] == ["800.0 None", "400.0 None", "400.0 None"]  # afresh for each
        state = engine.save_state()
    with gpaw_like(fake_gpaw, stress="pulay-corrected") as engine:
        engine.restore_state(state)
        np.testing.assert_allclose(engine.label(copper(1)).label.stress, right[1] + missing, atol=1e-12)
        assert calls.read_text().count("800.0") == 1
        engine.restore_state(None)
        engine.label(copper(1))
        assert calls.read_text().count("800.0") == 2
    volume = np.linalg.det(copper(1).cell)
    known = tuple(volume * x for x in (-0.125, -0.0625, 0.0, 0.0, 0.0, 0.0))
    with gpaw_like(fake_gpaw, stress="pulay-corrected", pulay_virial_ev=known) as engine:
        for _ in range(2):
            result = engine.label(copper(1))
            np.testing.assert_allclose(result.label.stress, right[1] + missing, atol=1e-12)
            assert not any("found" in line for line in result.diagnostics)
            engine.restore_state(None)
        larger = copper(1)._replace(cell=1.1 * copper(1).cell)
        stress = engine.label(larger).label.stress
        np.testing.assert_allclose(stress, right[1] + (2.0 - 1.1**-3) * missing, atol=1e-12)
        assert calls.read_text().count("800.0") == 2 and "given, found at 800 eV" in engine.description
        with pytest.raises(DataError, match="another level of theory"):
            engine.restore_state(state)
    with gpaw_like(fake_gpaw, stress="raw") as engine:
        np.testing.assert_allclose(engine.label(copper(1)).label.stress, right[1] + 2 * missing, atol=1e-12)
        with pytest.raises(DataError, match="another level of theory"):
            engine.restore_state(state)
    with gpaw_like(fake_gpaw) as engine:
        assert engine.label(copper()).label.stress is None


def test_gpaws_own_convergence_error_leads_to_more_damping_and_then_back(fake_gpaw):
    (fake_gpaw / "engine").mkdir()
    (fake_gpaw / "engine" / "hard").touch()
    with gpaw_like(fake_gpaw) as engine:
        result = engine.label(copper())
        assert result.attempts == 2 and "attempt 1 of 3: KohnShamConvergenceError: no" in result.diagnostics
        (fake_gpaw / "engine" / "hard").unlink()
        assert engine.label(copper(1)).attempts == 1
    calls = (fake_gpaw / "engine" / "calls").read_text().split("\n")
    assert [line.split()[1] for line in calls[:-1]] == ["None", "{'backend':", "None"]
    with gpaw_like(fake_gpaw, max_attempts=1) as engine:
        (fake_gpaw / "engine" / "hard").touch()
        with pytest.raises(EngineFailedError, match="attempt 1 of 1"):
            engine.label(copper())


PLANTED_MPIEXEC = """#!{python}
import os, subprocess, sys
command, count = sys.argv[3:], int(sys.argv[2])
if os.path.exists("fails"):
    sys.exit(42)
ranks = [subprocess.Popen(command, env=os.environ | {{"RANK": str(i)}}) for i in range(count)]
sys.exit(max(rank.wait() for rank in ranks))
"""


def test_several_processes_share_each_label_and_one_replies(fake_gpaw, monkeypatch):
    place = fake_gpaw.parent
    (place / "gpaw").mkdir()
    (place / "gpaw.py").rename(place / "gpaw" / "__init__.py")
    (place / "gpaw" / "mpi.py").write_text("import os\nclass world:\n    rank = int(os.environ['RANK'])\n")
    (place / "_gpaw.py").write_text("Communicator = None\n")
    mpiexec = place / "mpiexec"
    mpiexec.write_text(PLANTED_MPIEXEC.format(python=sys.executable))
    mpiexec.chmod(0o755)
    monkeypatch.setattr(gpaw_settings, "_mpiexec", lambda python: str(mpiexec))
    monkeypatch.setattr(gpaw_settings, "usable_cores", lambda: 2)
    with gpaw_like(fake_gpaw) as alone, gpaw_like(fake_gpaw, processes=3) as together:
        assert together.description == f"{alone.description}, 3 processes"
        expected, got = alone.label(copper()), together.label(copper())
        np.testing.assert_array_equal(got.label.forces, expected.label.forces)
        together.label(copper(1))
        assert together.settings_hash == alone.settings_hash
        (fake_gpaw / "engine" / "fails").touch()
        with pytest.raises(EngineFailedError, match=r"mpiexec -n 3 ended with status 42 and no result"):
            together.label(copper())
    calls = (fake_gpaw / "engine" / "calls").read_text().split("\n")[:-1]
    assert len(calls) == 1 + 2 * 3
    assert "2 processes" in gpaw_like(fake_gpaw, processes="auto", kpts=[4, 1, 1]).description
    assert "processes" not in gpaw_like(fake_gpaw, processes="auto").description  # one k-point
    (place / "_gpaw.py").write_text("")
    assert "processes" not in gpaw_like(fake_gpaw, processes="auto", kpts=[4, 1, 1]).description
    with pytest.raises(EngineSetupError, match=r"engine\.processes: got 3; no GPAW built with MPI"):
        gpaw_like(fake_gpaw, processes=3)


def test_the_hash_follows_the_level_of_theory():
    def of(**changes) -> str:
        engine = GpawEngine(GpawSettings(**changes))
        engine._worker._hash = level_hash(engine._worker._settings, "1", "gpaw 1")  # what the child would say
        return engine.settings_hash

    assert of() == of(timeout_s=5.0) == of(threads=2) == of(max_attempts=1)
    other = [of(cutoff_ev=500), of(stress="raw"), of(stress="pulay-corrected"), of(magmoms={"Cu": 1.0}), of(xc="LDA")]
    assert len({of(), *other}) == 6


def test_the_installer_refuses_what_cannot_work(monkeypatch):
    console = type("Quiet", (), {"print": lambda *_, **__: None})()
    with pytest.raises(EngineSetupError, match="executable Python"):
        install_gpaw.install("/no/python", console)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineSetupError, match=r"no g\+\+.*apt-get install g\+\+"):
        install_gpaw.install(sys.executable, console)


def test_chgnet_says_that_it_is_no_reference():
    with worker_engine_of_chgnet() as engine:
        assert "not DFT" in engine.description


def worker_engine_of_chgnet() -> Engine:
    from bayes_mlff.engines.chgnet import ChgnetSettings

    engine = make_engine(ChgnetSettings())
    assert isinstance(engine._engine, worker.WorkerEngine)
    return engine

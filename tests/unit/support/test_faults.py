"""The kit that plants faults: accidents strike where they are told to, and faulty engines are seen through."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, CalculatorSetupError
from ase.calculators.emt import EMT

from bayes_mlff.core.errors import ConfigError, EngineFailedError, EngineSetupError
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.ase_engine import AseEngine, AseSettings
from bayes_mlff.engines.verified import VerifiedEngine
from bayes_mlff.testing import faulty_engines
from bayes_mlff.testing.faulty_engines import FaultyCalculator, FaultyEngine
from tests.support.faults import POINTS, Fault, accident, main


def ethanol(seed: int = 0):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_faults_are_read_by_name():
    assert Fault.parse("kill@label_synced") == Fault("label_synced", 1, None)
    assert Fault.parse("ENOSPC@any_write:7") == Fault("any_write", 7, errno.ENOSPC)
    for wrong in ("kill@nowhere", "kill", "EINVAL@any_write", "kill@label_synced:x", "kill@label_synced:-1"):
        with pytest.raises(ConfigError, match=r"label_synced|kill or one of"):
            Fault.parse(wrong)


@pytest.mark.parametrize("way", ["text", "bytes", "descriptor"])
def test_a_full_disk_takes_half_and_then_what_was_removed(tmp_path, way):
    (tmp_path / "old").write_bytes(b"x" * 10)
    path = tmp_path / "new"

    def write(data: bytes) -> None:
        if way == "text":
            with path.open("a") as file:
                file.write(data.decode())
        elif way == "bytes":
            with open(path, "ab") as file:
                file.write(data)
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            finally:
                os.close(descriptor)

    with accident(Fault("any_write", 2, errno.ENOSPC), tmp_path):
        write(b"a" * 4)
        with pytest.raises(OSError, match="No space left"):
            write(b"b" * 6)
        assert path.read_bytes() == b"aaaabbb"
        with pytest.raises(OSError, match="No space left"):
            write(b"c" * 6)
        (tmp_path / "old").unlink()
        write(b"d" * 8)
        with pytest.raises(OSError, match="No space left"):
            write(b"e" * 6)
    write(b"f")
    assert path.read_bytes() == b"aaaabbb" + b"d" * 8 + b"ee" + b"f"


def test_a_read_only_disk_can_be_read_and_other_folders_are_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    kept = tmp_path / "run" / "kept"
    kept.write_text("kept")
    with accident(Fault("any_open", 1, errno.EROFS), tmp_path / "run"):
        for change in (lambda: kept.write_text(""), kept.unlink, lambda: os.truncate(kept, 0), lambda: kept.open("r+")):
            with pytest.raises(OSError, match="Read-only"):
                change()
        assert kept.read_text() == "kept"
        (tmp_path / "elsewhere").write_text("free")
    assert io.open is open


def test_what_is_done_to_files_is_recorded(tmp_path):
    with accident(None, tmp_path) as plan:
        with (tmp_path / "a.tmp").open("wb") as file:
            file.write(b"1")
            file.flush()
            os.fsync(file.fileno())
        (tmp_path / "a.tmp").replace(tmp_path / "a")
        os.truncate(tmp_path / "a", 0)
        (tmp_path / "a").unlink()
    expected = [("open", "a.tmp"), ("write", "a.tmp"), ("fsync", "a.tmp"), ("replace", "a"), ("truncate", "a")]
    assert [tuple(operation) for operation in plan.seen] == [*expected, ("unlink", "a")]


@pytest.mark.parametrize(("moment", "content"), [("before", b""), ("half", b"12"), ("after", b"1234")])
def test_a_kill_leaves_what_had_been_written(tmp_path, monkeypatch, moment, content):
    """In a process of its own, of course."""
    code = f"""
        from pathlib import Path
        from tests.support import faults
        faults.POINTS["here"] = faults.Point("write", "file", "{moment}")
        with faults.accident(faults.Fault("here"), Path(".")):
            with open("file", "wb", buffering=0) as file:
                file.write(b"1234")
            print("survived")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL and ended.stdout == b""
    assert (tmp_path / "file").read_bytes() == content


def test_every_point_says_where_it_is():
    for name, point in POINTS.items():
        if point.operation == "call":
            module, _, path = point.target.partition(":")
            found = sys.modules.get(module) or __import__(module, fromlist=["x"])
            for part in path.split("."):
                found = getattr(found, part)
            assert callable(found), name
        else:
            assert point.operation in ("open", "write", "fsync", "replace", "link", "unlink"), name


@pytest.fixture
def calculator(tmp_path):
    return FaultyCalculator("ase.calculators.emt:EMT", folder=str(tmp_path))


def test_a_faulty_calculator_without_a_plan_is_the_calculator_itself_and_counts(calculator, tmp_path):
    for seed in (0, 1):
        planned, plain = ethanol(seed), ethanol(seed)
        planned.calc, plain.calc = calculator, EMT()
        assert planned.get_potential_energy() == plain.get_potential_energy()
        np.testing.assert_array_equal(planned.get_forces(), plain.get_forces())
    logged = faulty_engines.calls(tmp_path)
    assert [(line["call"], line["done"]) for line in logged] == [(1, False), (1, True), (2, False), (2, True)]
    assert logged[0]["geometry"] == faulty_engines.fingerprint(ethanol(0).positions) != logged[2]["geometry"]
    again = FaultyCalculator("ase.calculators.emt:EMT", folder=str(tmp_path))
    with (tmp_path / faulty_engines.CALLS).open("a") as file:
        file.write('{"call": 3, "do')
    assert len(faulty_engines.calls(tmp_path)) == 4
    assert again.implemented_properties == EMT.implemented_properties


@pytest.mark.parametrize(
    ("fault", "error"),
    [("unconverged", CalculationFailed), ("failed", CalculationFailed), ("licence", CalculatorSetupError)],
)
def test_a_faulty_calculator_raises_at_the_planned_calls(calculator, tmp_path, fault, error):
    faulty_engines.plan(tmp_path, {2: fault, 3: fault})
    for number in (1, 2, 3, 4):
        atoms = ethanol(number)
        atoms.calc = calculator
        if number in (2, 3):
            with pytest.raises(error):
                atoms.get_forces()
        else:
            assert np.isfinite(atoms.get_forces()).all()
    done = [line["call"] for line in faulty_engines.calls(tmp_path) if line["done"]]
    assert done == [1, 4]


@pytest.mark.parametrize(
    ("fault", "said"), [("nan", "not finite"), ("shape", "shape"), ("stale", "another geometry"), ("failed", "planned")]
)
def test_a_run_sees_through_a_faulty_calculator(tmp_path, fault, said):
    settings = AseSettings(
        calculator="bayes_mlff.testing.faulty_engines:FaultyCalculator",
        arguments={"calculator": "ase.calculators.emt:EMT", "folder": str(tmp_path)},
        retries=(),
    )
    faulty_engines.plan(tmp_path, {2: fault})
    with VerifiedEngine(AseEngine(settings), min_distance_angstrom=0.5) as engine:
        engine.label(from_ase(ethanol(0)))
        with pytest.raises(EngineFailedError, match=said):
            engine.label(from_ase(ethanol(1)))
        assert engine.label(from_ase(ethanol(2))).converged


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("nan", EngineFailedError, "not finite"),
        ("shape", EngineFailedError, "shape"),
        ("stale", EngineFailedError, "another geometry"),
        ("unconverged", EngineFailedError, "unconverged"),
        ("failed", EngineFailedError, "planned"),
        ("licence", EngineSetupError, "licence"),
        ("crash", RuntimeError, "planned crash"),
    ],
)
def test_a_run_sees_through_a_faulty_engine(fault, error, said):
    inner = AseEngine(AseSettings(calculator="ase.calculators.emt:EMT"))
    faulty = FaultyEngine(inner, {2: fault, 3: fault})
    with VerifiedEngine(faulty, min_distance_angstrom=0.5) as engine:
        engine.label(from_ase(ethanol(0)))
        for seed in (1, 2):
            with pytest.raises(error, match=said):
                engine.label(from_ase(ethanol(seed)))
        assert engine.label(from_ase(ethanol(3))).converged
    assert faulty.calls == 4 and engine.settings_hash == inner.settings_hash


def test_a_crash_ends_the_process_and_is_counted_as_begun(tmp_path):
    faulty_engines.plan(tmp_path, {1: "crash"})
    code = f"""
        from ase.build import molecule
        from bayes_mlff.testing.faulty_engines import FaultyCalculator
        atoms = molecule("H2O")
        atoms.calc = FaultyCalculator("ase.calculators.emt:EMT", folder={str(tmp_path)!r})
        atoms.get_forces()
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGSEGV
    assert json.loads(Path(tmp_path / "calls.jsonl").read_text())["done"] is False


def test_the_command_line_runs_another_until_the_accident(tmp_path):
    command = [sys.executable, "-m", "tests.support.faults"]
    arguments = ["kill@any_write:1", ".", "--", "init", "new.yaml"]
    ended = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    whole = subprocess.run([*command, "EIO@any_fsync", *arguments[1:-1], "whole.yaml"], cwd=tmp_path, check=True)
    assert whole.returncode == 0
    text = (tmp_path / "whole.yaml").read_bytes()
    assert 0 < len((tmp_path / "new.yaml").read_bytes()) < len(text)
    assert text.startswith((tmp_path / "new.yaml").read_bytes())
    with pytest.raises(ConfigError, match="RUN_DIRECTORY -- ARGUMENTS"):
        main(["kill@any_write:1", "run", "init"])

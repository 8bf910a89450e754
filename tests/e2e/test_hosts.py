"""Two processes do the run of one; when one of them dies, the other ends, too."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from bayes_mlff.core.errors import BayesMlffError, ConfigError, EngineFailedError
from bayes_mlff.data import dataset
from bayes_mlff.models import registry
from bayes_mlff.parallel import hosts
from bayes_mlff.runs.process_folder import run_directory
from bayes_mlff.testing.tiny import tiny_nequip

COMMAND = """
import itertools, os
from tests.support import light_imports, one_context
from bayes_mlff.models import selfcheck
selfcheck.ensure = lambda say=None: False  # compiles whole models
from bayes_mlff.parallel import hosts
hosts.SILENCE_S = 10
from bayes_mlff.cli.app import main
from ase.calculators import emt
calculate, process = emt.EMT.calculate, os.environ.get("JAX_PROCESS_ID", "0")
def noted(self, *arguments):
    calculate(self, *arguments)
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(process + " ")
emt.EMT.calculate = noted
barrier, barriers = hosts.barrier, itertools.count()
def dying():
    if next(barriers) == 8:
        os._exit(7)
    barrier()
if os.environ.get("DIES") == process:
    hosts.barrier = dying
main()
"""

CONFIG = """
structure: ethanol
model: {model}
threshold: 100 eV
sampler: {{chains: 2, steps: 10, cold_steps: 2, ramp_steps: 2, batch_size: 2, step_size: 1.0e-2}}
dynamics: {{duration_ps: {duration_ps}, chunk_steps: 5, trajectory_every: 2}}
audits: {{interval_ps: 0.0015}}
engine: {{name: ase, calculator: "ase.calculators.emt:EMT"}}
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(folder: Path, processes: int, *arguments: str, **environment: str):
    """Start the command line in several processes, with one folder for what all tests compile."""
    common = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    common |= {"JAX_ENABLE_COMPILATION_CACHE": "true", "XDG_CACHE_HOME": str(folder.parent)}
    common |= {"CALLS": str(folder / "calls"), "PYTHONPATH": str(Path(__file__).parents[2])}
    if processes > 1:
        common |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            env=common | ({"JAX_PROCESS_ID": str(i)} if processes > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]


def ends(children, timeout_s=240.0):
    """Exit statuses and outputs."""
    deadline = time.monotonic() + timeout_s
    try:
        outputs = [child.communicate(timeout=max(1.0, deadline - time.monotonic()))[0] for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], outputs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, for all tests."""
    folder = tmp_path_factory.mktemp("hosts")
    smallest = tiny_nequip((1, 6, 8), hidden_irreps="2x0e", edge_l_max=0, energy_shifts=(-1.0, -2.0, -3.0))
    registry.save(registry.initialize(smallest, 0), folder / "tiny.safetensors", {})
    return folder


def configured(place, name, duration_ps):
    folder = place / name
    folder.mkdir(exist_ok=True)
    text = CONFIG.format(model=place / "tiny.safetensors", duration_ps=duration_ps)
    (folder / "config.yaml").write_text(text)
    return folder


def arguments(folder):
    return "run", str(folder / "config.yaml"), "--output", str(folder / "run")


@pytest.fixture(scope="module")
def alone(place):
    """The run in one process."""
    folder = configured(place, "one", 0.01)
    codes, outputs = ends(start(folder, 1, *arguments(folder)))
    assert codes == [0], outputs
    return folder


def assert_same_run(folder, alone):
    assert set((folder / "calls").read_text().split()) == {"0"}, "another process has called the reference"
    expected, got = (dataset.read(path / "run" / "dataset.extxyz") for path in (alone, folder))
    assert [r.step for r in got] == [r.step for r in expected] and len(got) >= 3
    np.testing.assert_allclose([r.label.energy for r in got], [r.label.energy for r in expected], rtol=0, atol=1e-4)
    thermo, other = (np.loadtxt(path / "run" / "thermo.csv", delimiter=",", skiprows=1) for path in (alone, folder))
    assert thermo.shape == other.shape and len(thermo) == 20
    np.testing.assert_allclose(other[:, 2:8], thermo[:, 2:8], rtol=2e-4, atol=1e-4)


def test_two_processes_do_the_run_of_one(place, alone):
    folder = configured(place, "two", 0.01)
    codes, outputs = ends(start(folder, 2, *arguments(folder)))
    assert codes == [0, 0], outputs
    assert "finished in" in outputs[0] and "finished in" not in outputs[1]
    assert_same_run(folder, alone)


@pytest.mark.slow
def test_copies_of_the_run_directory_suffice_to_resume(place, alone):
    folder = configured(place, "halves", 0.005)
    codes, outputs = ends(start(folder, 2, *arguments(folder)))
    assert codes == [0, 0], outputs
    stored = folder / "run" / "config.yaml"
    stored.write_text(stored.read_text().replace("duration_ps: 0.005", "duration_ps: 0.01"))
    codes, outputs = ends(start(folder, 2, "resume", str(folder / "run")))
    assert codes == [0, 0], outputs
    assert_same_run(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_when_a_process_dies_the_other_ends_with_an_error(place, dies):
    folder = configured(place, f"death of {dies}", 0.01)
    codes, outputs = ends(start(folder, 2, *arguments(folder), DIES=str(dies)), timeout_s=120.0)
    assert codes[dies] == 7 and codes[1 - dies] not in (0, -9), outputs


def test_what_is_told_arrives_as_it_was():
    said = [1.0 / 3.0, None, "Å", b"\x00\xff", np.arange(6.0).reshape(2, 3), np.array([True]), {"dtype": 1}]
    told = json.loads(
        json.dumps([*said, np.float32(0.5), np.bool_(True)], default=hosts._encoded), object_hook=hosts._decoded
    )
    for got, sent in zip(told, [*said, 0.5, True], strict=True):
        assert type(got) is type(sent)
        np.testing.assert_array_equal(got, sent)


@pytest.mark.parametrize("error", [EngineFailedError("no label"), ConfigError("key", 1, "2")])
def test_errors_of_the_first_process_are_raised_in_all(error, monkeypatch):
    def fail():
        raise error

    told = []
    monkeypatch.setattr(hosts, "_told", lambda message: told.append(message) or told[0])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process, kind in enumerate((type(error), EngineFailedError)):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with pytest.raises(BayesMlffError, match=str(error)) as caught:
            hosts.shared(fail)
        assert isinstance(caught.value, kind) == (process == 0 or kind is type(error))


@pytest.mark.parametrize("missing", ["JAX_NUM_PROCESSES", "JAX_PROCESS_ID"])
def test_a_coordinator_without_the_other_variables_is_refused(missing, monkeypatch):
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv(missing)
    with pytest.raises(ConfigError, match=missing):
        hosts.join()


def test_with_one_process_there_is_nothing_to_share(tmp_path):
    hosts.barrier()
    assert hosts.first() and hosts.shared(lambda: 3) == 3
    with run_directory(tmp_path / "run") as path:
        assert path == tmp_path / "run"

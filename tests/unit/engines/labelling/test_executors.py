"""Configurations of executors: what they mean, what is refused, and Parsl's on this machine."""

import importlib
import os
import subprocess
import sys
import time

import pytest

from bayes_mlff.core.errors import ConfigError, EngineSetupError
from bayes_mlff.core.settings import Section, validate
from bayes_mlff.engines.labelling import clusters
from bayes_mlff.engines.labelling.dispatcher import Dispatcher
from bayes_mlff.engines.labelling.executors import is_broken, make_executor
from bayes_mlff.engines.labelling.settings import ExecutorSettings, LocalSettings, ParslSettings
from bayes_mlff.engines.registry import make_engine
from tests.support.labelling import calculations, counted, crystal


class Campaign(Section):
    executor: ExecutorSettings = LocalSettings()


def read(**values) -> ExecutorSettings:
    return validate(Campaign, {"executor": values}).executor


def test_places_are_what_can_be_calculated_at_once():
    assert validate(Campaign, {}).executor.places == 1
    assert read(kind="local", workers=3).places == 3
    assert read(kind="parsl", max_blocks=2, nodes_per_block=3, workers_per_node=4).places == 24
    assert read(kind="parsl", config="my_parsl:config").places is None
    assert read(kind="imported", executor="a:B").places is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "slurm"}, "executor.kind: got 'slurm'; allowed: one of local, parsl, imported"),
        ({"kind": "local", "workers": 0}, "executor.workers: got 0"),
        ({"kind": "local", "worker": 2}, "did you mean 'workers'"),
        ({"kind": "parsl", "walltime": "1 h"}, "executor.walltime: got '1 h'"),
        ({"kind": "parsl", "provider": "pbs"}, "executor.provider: got 'pbs'; allowed: 'slurm' or 'local'"),
        ({"kind": "parsl", "config": "a:b", "max_blocks": 2}, "config, or max_blocks without it"),
        ({"kind": "parsl", "config": "my_parsl.py"}, "an import path"),
        ({"kind": "parsl", "linger_s": 5}, "executor.linger_s: got 5"),
        ({"kind": "parsl", "min_blocks": 2}, "min_blocks of at most max_blocks, 1"),
        ({"kind": "imported"}, "executor.executor: got None; allowed: this key is required"),
        ({"kind": "imported", "executor": "dask"}, "an import path"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named(values, said):
    with pytest.raises(ConfigError) as error:
        read(**values)
    assert said in str(error.value)


def test_parsl_is_missed_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(EngineSetupError, match=r"pip install 'bayes-mlff\[parsl\]'"):
        make_executor(ParslSettings(), base=None, work=tmp_path)


def test_parsl_says_in_several_ways_that_it_is_broken():
    errors = pytest.importorskip("parsl.executors.errors"), pytest.importorskip("parsl.jobs.errors")
    assert is_broken(errors[0].BadStateException(None, RuntimeError()))
    assert is_broken(errors[1].TooManyJobFailuresError("no")) and not is_broken(RuntimeError())


def test_a_job_is_described_as_configured(tmp_path):
    pytest.importorskip("parsl")
    settings = ParslSettings(
        partition="small",
        account="physics",
        walltime="00:30:00",
        max_blocks=3,
        nodes_per_block=2,
        workers_per_node=4,
        cores_per_node=16,
        worker_init="module load dft",
        scheduler_options="#SBATCH --mem=8G",
    )
    (executor,) = clusters.parsl_config(settings, tmp_path).executors
    provider = executor.provider
    assert (provider.walltime, provider.max_blocks, provider.nodes_per_block) == ("00:30:00", 3, 2)
    assert "#SBATCH --partition=small\n#SBATCH --account=physics\n" in provider.scheduler_options
    assert provider.scheduler_options.startswith("#SBATCH --mem=8G\n") and "exclusive" not in provider.scheduler_options
    assert provider.worker_init.rstrip().endswith("module load dft") and executor.max_workers_per_node == 4
    assert type(provider.launcher).__name__ == "SrunLauncher" and "--hb_threshold=600 " in executor.launch_cmd
    assert executor.heartbeat_threshold == clusters.LOST_AFTER_S


def test_labels_by_parsl_also_if_its_interchange_is_killed(tmp_path):
    parsl = pytest.importorskip("parsl")
    (tmp_path / "my_parsl.py").write_text(
        "from pathlib import Path\nfrom bayes_mlff.engines.labelling import clusters, settings\n"
        "def config():\n"
        "    described = settings.ParslSettings(provider='local', min_blocks=1, linger_s=60)\n"
        "    return clusters.parsl_config(described, Path(__file__).parent)\n"
    )
    engine = counted(tmp_path)
    with make_engine(engine) as own:
        found, expected = own.settings_hash, own.label(crystal(0)).label.energy
    (tmp_path / "ledger").unlink()
    with Dispatcher(
        ParslSettings(config="my_parsl:config"),
        engine,
        settings_hash=found,
        spool=tmp_path / "spool",
        base=tmp_path,
        in_flight=2,
    ) as labels:
        trial = labels.try_out(crystal(0))
        assert trial is not None and trial.where != f"{os.uname().nodename}:{os.getpid()}"
        arrived, deadline = {}, time.monotonic() + 200.0
        for number, tag in enumerate(("a", "b", "c")):
            executor = parsl.dfk().executors["labels"]
            if tag == "b":  # while it has nothing to do
                executor.interchange_proc.kill()
                while not executor.bad_state_is_set and time.monotonic() < deadline:
                    time.sleep(0.1)
            labels.submit(tag, crystal(number))
            if tag == "c":
                executor.interchange_proc.kill()
            while labels.pending and time.monotonic() < deadline:
                labels.wait(1.0)
                arrived |= {arrival.tag: arrival.outcome for arrival in labels.done()}
    assert arrived["a"].value().label.energy == expected and set(arrived) == {"a", "b", "c"}
    assert len(calculations(tmp_path)) == 3


def test_the_interchange_ends_with_its_driver(tmp_path):
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'from bayes_mlff.engines.labelling import interchange\\n"
        "interchange.end_with_driver(); print(1, flush=True)\\nimport time; time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        driver.kill()
    for _ in range(200):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError("it goes on")

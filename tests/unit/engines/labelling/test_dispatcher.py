"""No label is lost or paid twice, whatever becomes of workers, executors and drivers."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError, EngineRetryError, EngineSetupError
from bayes_mlff.engines.labelling import dispatcher as dispatching
from bayes_mlff.engines.labelling.dispatcher import Arrival, Dispatcher
from bayes_mlff.engines.labelling.settings import ExecutorBase, ImportedSettings, LocalSettings
from bayes_mlff.engines.registry import make_engine
from tests.support import labelling as faulty
from tests.support.labelling import DEADLY, HOPELESS, LOST, SLOW, calculations, counted, crystal

THREAD = ImportedSettings(executor="concurrent.futures:ThreadPoolExecutor", arguments={"max_workers": 1})


def executor(name: str, **arguments) -> ImportedSettings:
    return ImportedSettings(executor=f"tests.support.labelling:{name}", arguments=arguments)


@pytest.fixture
def dispatcher(tmp_path):
    """Make dispatchers of one spool and one ledger."""

    def make(settings: ExecutorBase = THREAD, calculator=None, **more) -> Dispatcher:
        engine = counted(tmp_path, **(calculator or {}))
        with make_engine(engine) as own:
            found = own.settings_hash
        return Dispatcher(settings, engine, settings_hash=found, spool=tmp_path / "spool", **more)

    return make


def collected(dispatcher: Dispatcher, timeout_s: float = 60.0) -> list[Arrival]:
    """All arrivals until nothing is asked for any more."""
    arrived, deadline = dispatcher.done(), time.monotonic() + timeout_s
    while dispatcher.pending:
        assert time.monotonic() < deadline, "nothing arrives"
        dispatcher.wait(1.0)
        arrived += dispatcher.done()
    return arrived


def test_labels_arrive_in_order_and_are_those_of_the_engine(dispatcher, tmp_path):
    with dispatcher() as labels:
        assert labels.try_out(crystal(0)).problem is None and calculations(tmp_path) == []
        for seed in (3, 1, 2):
            labels.submit(("walker", seed), crystal(seed))
        assert labels.pending == 3
        arrived = collected(labels)
        assert not labels.wait(0.0) and labels.done() == []
    assert [arrival.tag[1] for arrival in arrived] == [3, 1, 2]
    assert all(arrival.attempts == 1 and arrival.waited_s > 0.0 for arrival in arrived)
    with make_engine(counted(tmp_path)) as engine:
        for arrival in arrived:
            engine.restore_state(None)
            expected = engine.label(crystal(arrival.tag[1])).label
            assert np.array_equal(arrival.outcome.value().label.forces, expected.forces)


def test_nothing_is_paid_twice(dispatcher, tmp_path):
    with dispatcher() as labels:
        labels.submit("first", crystal(0))
        labels.submit("same", crystal(0))
        assert labels.pending == 2
        arrived = collected(labels)
        labels.submit("again", crystal(0))
        assert labels.wait(0.0)
        arrived += labels.done()
    with dispatcher() as labels:
        labels.submit("after a restart", crystal(0))
        (last,) = labels.done()
        assert last.attempts == 0 and labels.pending == 0
    assert len({arrival.outcome.value().label.energy for arrival in (*arrived, last)}) == 1
    assert [arrival.tag for arrival in arrived] == ["first", "same", "again"] and len(calculations(tmp_path)) == 1
    with dispatcher() as labels:
        labels.stored(last.outcome)
        labels.submit("forgotten", crystal(0))
        collected(labels)
    assert len(calculations(tmp_path)) == 2


def test_a_geometry_without_a_label_is_one_arrival_of_many(dispatcher, tmp_path):
    with dispatcher() as labels:
        labels.submit("bad", crystal(0, HOPELESS))
        labels.submit("good", crystal(0))
        bad, good = collected(labels)
    assert (bad.outcome.kind, good.outcome.kind) == ("failed", "label") and len(calculations(tmp_path)) == 2


def test_what_is_held_back_can_be_withdrawn(dispatcher, tmp_path):
    with dispatcher(in_flight=1, calculator={"seconds": 0.3}) as labels:
        labels.submit("under way", crystal(0, SLOW))
        for tag, seed in (("a", 1), ("b", 1), ("c", 2)):
            labels.submit(tag, crystal(seed))
        time.sleep(0.1)
        with pytest.raises(ValueError, match="'c' already"):
            labels.submit("c", crystal(3))
        assert not labels.cancel("under way") and not labels.cancel("unknown")
        assert labels.cancel("a") and labels.cancel("c") and not labels.cancel("c")
        assert [arrival.tag for arrival in collected(labels)] == ["under way", "b"]
    assert len(calculations(tmp_path)) == 2


@pytest.mark.parametrize("after", [False, True], ids=["before it is calculated", "after it is stored"])
def test_a_lost_label_is_asked_for_again(dispatcher, tmp_path, after):
    with dispatcher(executor("Losing", losses=2, after=after)) as labels:
        labels.submit("a", crystal(0))
        (arrival,) = collected(labels)
    assert arrival.outcome.kind == "label" and len(calculations(tmp_path)) == 1
    assert arrival.attempts == (1 if after else 3)
    assert "attempt 1 was lost: OSError: lost contact" in arrival.remarks


def test_a_label_that_is_always_lost_fails_by_name_and_others_do_not(dispatcher, tmp_path):
    with dispatcher(executor("Losing", losses=1), attempts=1) as labels:
        labels.submit("a", crystal(0))
        labels.submit("b", crystal(1))
        lost, other = collected(labels)
    assert (lost.tag, lost.outcome.kind, other.outcome.kind) == ("a", "lost", "label")
    assert lost.outcome.message == "lost 1 times, at last: OSError: lost contact"
    with dispatcher() as labels:  # nothing that was lost is kept
        labels.submit("a", crystal(0))
        assert collected(labels)[0].outcome.kind == "label"
    assert len(calculations(tmp_path)) == 2


def test_an_interrupted_worker_does_not_interrupt_the_driver(dispatcher, tmp_path):
    with dispatcher(attempts=2) as labels:
        labels.submit("a", crystal(0, LOST))
        (arrival,) = collected(labels)
    assert arrival.outcome.kind == "lost" and "KeyboardInterrupt: the end of the worker" in arrival.outcome.message
    assert len(calculations(tmp_path)) == 2


def test_a_broken_executor_is_replaced(dispatcher, tmp_path, monkeypatch):
    monkeypatch.setattr(faulty.Breaking, "breaks", 2)
    monkeypatch.setattr(faulty.Breaking, "made", 0)
    with dispatcher(executor("Breaking")) as labels:
        for seed in range(4):
            labels.submit(seed, crystal(seed))
        arrived = collected(labels)
    assert sorted(arrival.tag for arrival in arrived) == [0, 1, 2, 3] and faulty.Breaking.made == 3
    assert all(arrival.outcome.kind == "label" and arrival.attempts == 1 for arrival in arrived)
    assert len(calculations(tmp_path)) == 4


@pytest.mark.parametrize("name", ["Breaking", "Refusing"])
def test_an_executor_that_breaks_again_and_again_is_an_error(dispatcher, tmp_path, monkeypatch, name):
    monkeypatch.setattr(faulty.Breaking, "breaks", 99)
    with dispatcher(executor(name)) as labels:
        labels.submit("a", crystal(0))
        with pytest.raises(EngineSetupError, match=r"executor: it broke 3 times in a row.*(nodes are down|is closed)"):
            collected(labels)
    assert calculations(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (executor("Dead"), "cannot run a first task.*dead at the start"),
        (executor("raises"), "does not start: RuntimeError: no such queue"),
        (executor("crystal", seed=0), "makes a Structure; allowed"),
        (executor("nothing"), "has no 'nothing'"),
        (ImportedSettings(executor="no_such_package:Thing"), "no_such_package"),
    ],
    ids=["dead", "does not start", "no executor", "no name", "no module"],
)
def test_an_executor_that_cannot_work_is_named_before_anything_is_paid(dispatcher, tmp_path, settings, said):
    with pytest.raises(EngineSetupError, match=said), dispatcher(settings) as labels:
        labels.try_out(crystal(0))
    assert calculations(tmp_path) == []


def test_a_worker_with_another_method_is_refused(tmp_path):
    labels = Dispatcher(THREAD, counted(tmp_path), settings_hash="sha256:0", spool=tmp_path / "spool")
    with labels, pytest.raises(EngineSetupError, match=r"settings_hash sha256:\w+, the driver's sha256:0"):
        labels.try_out(crystal(0))
    assert calculations(tmp_path) == []


def test_a_long_queue_is_not_waited_for(dispatcher):
    settings = executor("Deaf").model_copy(update={"start_timeout_s": 0.01})
    with dispatcher(settings) as labels:
        assert labels.try_out(crystal(0)) is None
        labels.submit("a", crystal(0))
        assert not labels.wait(0.01) and labels.done() == [] and labels.pending == 1
        assert labels.cancel("a") and labels.pending == 0


def test_a_structure_that_cannot_be_pickled_is_refused(dispatcher):
    unplain = crystal(0)
    unplain = unplain._replace(labels=(each for each in "abcd"))
    with dispatcher() as labels:
        with pytest.raises(ConfigError, match="can be pickled"):
            labels.submit("a", unplain)
        assert labels.pending == 0


def test_a_full_disk_does_not_lose_what_has_arrived(dispatcher, tmp_path, monkeypatch):
    def full(self, outcome) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dispatching.Spool, "put", full)
    with dispatcher() as labels:
        labels.submit("a", crystal(0))
        (arrival,) = collected(labels)
    assert arrival.outcome.kind == "label" and sum("could not be stored" in each for each in arrival.remarks) == 2


def test_a_killed_worker_costs_only_its_own_label(dispatcher, tmp_path):
    calculator = {"spare": str(tmp_path / "spared"), "seconds": 2.0}
    with dispatcher(LocalSettings(workers=2), calculator) as labels:
        assert labels.try_out(crystal(0)).where != f"{os.uname().nodename}:{os.getpid()}"
        labels.submit("slow", crystal(0, SLOW))
        labels.submit("dies once", crystal(0, DEADLY))
        labels.submit("waits", crystal(1))
        arrived = {arrival.tag: arrival for arrival in collected(labels)}
    assert {tag: arrival.attempts for tag, arrival in arrived.items()} == {"slow": 1, "dies once": 2, "waits": 1}
    assert all(arrival.outcome.kind == "label" for arrival in arrived.values())
    assert "WorkerDiedError" in arrived["dies once"].remarks[0] and len(calculations(tmp_path)) == 4


def test_a_geometry_that_kills_every_worker_fails_by_name(dispatcher, tmp_path):
    with dispatcher(LocalSettings(), attempts=2) as labels:
        labels.submit("deadly", crystal(0, DEADLY))
        labels.submit("other", crystal(0))
        deadly, other = collected(labels)
    assert deadly.tag == "deadly" and other.outcome.kind == "label" and len(calculations(tmp_path)) == 3
    with pytest.raises(EngineRetryError, match="lost 2 times, at last: WorkerDiedError: the worker process"):
        deadly.outcome.value()


def alive(pid: int) -> bool:
    """False if a process has ended, perhaps without a parent to bury it."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ends(pid: int) -> bool:
    """True if a process ends within ten seconds."""
    for _ in itertools.takewhile(lambda _: alive(pid), range(200)):
        time.sleep(0.05)
    return not alive(pid)


def begun(folder) -> int:
    """Process id of the first calculation, once it has begun."""
    for _ in range(600):
        if calculations(folder):
            return calculations(folder)[0]
        time.sleep(0.05)
    raise AssertionError("nothing was calculated")


def test_workers_find_this_package_where_it_is_whatever_earlier_configurations_have_taken_away(dispatcher, monkeypatch):
    root = Path(dispatching.__file__).resolve().parents[3]
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != root]
    monkeypatch.setattr(sys, "path", others)
    with dispatcher(LocalSettings()) as labels:
        labels.submit("one", crystal(0))
        [arrival] = collected(labels)
    assert arrival.outcome.kind == "label" and sys.path == others


def test_leaving_does_not_wait_for_labels(dispatcher, tmp_path):
    with dispatcher(LocalSettings()) as labels:
        labels.submit("slow", crystal(0, SLOW))
        labels.submit("held back", crystal(1))
        worker, start = begun(tmp_path), time.monotonic()
    assert time.monotonic() - start < 30.0 and ends(worker)


DRIVER = """
import pathlib, sys, time
from bayes_mlff.engines.labelling.dispatcher import Dispatcher
from bayes_mlff.engines.labelling.settings import LocalSettings
from bayes_mlff.engines.registry import make_engine
from tests.support.labelling import SLOW, counted, crystal

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    with make_engine(counted(folder)) as engine:
        found = engine.settings_hash
    with Dispatcher(LocalSettings(), counted(folder), settings_hash=found, spool=folder / "spool") as labels:
        labels.submit("slow", crystal(0, SLOW))
        labels.wait(60.0)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_workers_end_with_the_driver(tmp_path, number):
    (tmp_path / "driver.py").write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, str(tmp_path / "driver.py"), str(tmp_path)], env=environment) as driver:
        worker = begun(tmp_path)
        assert alive(worker)
        driver.send_signal(number)
    assert ends(worker)

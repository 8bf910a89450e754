"""A label that was written is read to the last bit; a file that is torn or damaged is set aside."""

import subprocess
import sys

import numpy as np
import pytest

from bayes_mlff.core.errors import EngineFailedError, EngineRetryError, EngineSetupError
from bayes_mlff.data.electronic import ElectronicState
from bayes_mlff.data.labels import Label
from bayes_mlff.engines.engine import EngineResult, Settled
from bayes_mlff.engines.labelling import spool as spools
from bayes_mlff.engines.labelling.outcome import Outcome, key_of
from bayes_mlff.engines.labelling.spool import Spool
from tests.support.labelling import crystal

ASKED = crystal(0)._replace(masses=np.full(4, 60.0))
KEY = key_of("sha256:0", ASKED)


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "new" / "spool")
    made.make()
    return made


def labelled(stress: bool = True) -> Outcome:
    random = np.random.default_rng(0)
    label = Label(-1.0 / 3.0, random.normal(size=(4, 3)) * 1e-17, random.normal(size=(3, 3)) if stress else None)
    moved = ASKED._replace(positions=ASKED.positions + 1e-12)
    result = EngineResult(label, moved, True, 0.1, 2, ("attempt 1 of 2: μ", "fresh"), Settled(1, None))
    return Outcome(KEY, "label", result, "", 0.1, "host:1", ("a remark",))


@pytest.mark.parametrize("stress", [True, False])
def test_every_number_comes_back_to_the_last_bit(spool, stress):
    written = labelled(stress)
    spool.put(written)
    assert spool.pending() == (KEY,) and spool.holds(KEY)
    read, remarks = spool.take(KEY, ASKED)
    assert remarks == () and read._replace(result=None) == written._replace(result=None)
    for found, expected in ((read.result, written.result), (read.result.label, written.result.label)):
        for name, value in expected._asdict().items():
            if name not in ("label", "structure"):
                assert np.array_equal(getattr(found, name), value), name
    assert np.array_equal(read.result.structure.positions, written.result.structure.positions)
    assert np.array_equal(read.result.structure.masses, ASKED.masses)  # what was asked for, with the geometry evaluated
    spool.drop(KEY)
    assert spool.pending() == () and spool.take(KEY, ASKED).outcome is None


def test_errors_come_back_as_what_they_were(spool):
    for kind, error in (("failed", EngineFailedError), ("setup", EngineSetupError), ("lost", EngineRetryError)):
        spool.put(Outcome(KEY, kind, None, "no convergence", 3.0, "host:1"))
        outcome = spool.take(KEY, ASKED).outcome
        assert outcome is not None and outcome.paid == (kind == "failed")
        with pytest.raises(error, match="no convergence"):
            outcome.value()
    assert labelled().value().attempts == 2


@pytest.mark.parametrize("damage", ["empty", "torn in the header", "torn", "one bit", "another key", "a later version"])
def test_a_damaged_file_is_set_aside_and_said(spool, damage):
    spool.put(labelled())
    path = spool.folder / f"{KEY}.label"
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "empty": b"",
        "torn in the header": content[:40],
        "torn": content[:middle],
        "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "another key": content,
        "a later version": content.replace(b"label 1 ", b"label 2 ", 1),
    }[damage]
    key = KEY if damage != "another key" else "f" * 64
    (spool.folder / f"{key}.label").write_bytes(damaged)
    outcome, remarks = spool.take(key, ASKED)
    assert outcome is None and "set aside" in remarks[0] and key in remarks[0]
    assert not spool.holds(key) and (spool.folder / f"{key}.label.damaged1").read_bytes() == damaged
    assert spool.take(key, ASKED) == (None, ())
    (spool.folder / f"{key}.label").write_bytes(damaged)
    spool.take(key, ASKED)
    assert (spool.folder / f"{key}.label.damaged2").exists()


def test_a_full_disk_leaves_what_was_there(spool, monkeypatch):
    spool.put(labelled())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spools.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        spool.put(Outcome(KEY, "failed", None, "other", 0.0, ""))
    assert spool.take(KEY, ASKED).outcome.kind == "label"
    assert [path.name for path in spool.folder.iterdir()] == [f"{KEY}.label"]


def test_a_key_depends_on_all_that_a_method_reads_and_on_nothing_else():
    state = ElectronicState(charge=0, info={"kpts": 2})
    asked = ASKED._replace(electronic=state)
    nudged = asked.positions.copy()
    nudged[0, 0] = np.nextafter(nudged[0, 0], 9.0)
    others = [
        asked._replace(positions=nudged),
        asked._replace(cell=asked.cell * 1.01),
        asked._replace(pbc=np.array([True, True, False])),
        asked._replace(numbers=asked.numbers + 1),
        asked._replace(electronic=state._replace(charge=1)),
        asked._replace(electronic=state._replace(multiplicity=1)),
        asked._replace(electronic=state._replace(moments=np.zeros(4))),
        asked._replace(electronic=state._replace(charges=np.zeros(4))),
        asked._replace(electronic=state._replace(tags=np.zeros(4, np.int64))),
        asked._replace(electronic=state._replace(info={"kpts": 3})),
    ]
    keys = {key_of("sha256:0", each) for each in (asked, *others)} | {key_of("sha256:1", asked)}
    assert len(keys) == len(others) + 2
    same = asked._replace(masses=None, labels=np.array(list("abcd")), fixed=np.zeros((4, 3), bool))
    assert key_of("sha256:0", same) == key_of("sha256:0", asked)
    assert key_of("sha256:0", asked._replace(positions=np.asfortranarray(asked.positions))) in keys


def test_one_process_at_a_time_calculates_a_label_and_the_lock_ends_with_it(spool):
    holding = (
        "import pathlib, sys, time\nfrom bayes_mlff.engines.labelling.spool import Spool\n"
        "with Spool(pathlib.Path(sys.argv[1])).alone(sys.argv[2]):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(spool.folder), KEY], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        tries = []

        def slept(seconds: float) -> None:
            tries.append(seconds)
            if len(tries) == 3:
                other.kill()
                other.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spools.time, "sleep", slept)
            with spool.alone(KEY) as remarks:
                assert remarks == () and len(tries) >= 3
                spool.put(labelled())
    assert [path.name for path in spool.folder.iterdir()] == [f"{KEY}.label"]


def test_a_file_system_without_locks_is_said(spool, monkeypatch):
    def missing(file, flags) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(spools.fcntl, "lockf", missing)
    with spool.alone(KEY) as remarks:
        assert "has no locks" in remarks[0]

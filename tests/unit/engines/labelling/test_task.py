"""What a worker does: a label, or an error as a value, on the disk before it answers; without JAX."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.engines.labelling import task as tasks
from bayes_mlff.engines.labelling.spool import Spool
from bayes_mlff.engines.labelling.task import Method, Task, label, method_of, try_out
from bayes_mlff.engines.registry import make_engine
from tests.support.labelling import HOPELESS, calculations, counted, crystal

EMT = AseSettings(calculator="ase.calculators.emt:EMT")


@pytest.fixture(autouse=True)
def no_engines(monkeypatch):
    """Engines of earlier tests are not used."""
    monkeypatch.setattr(tasks, "_ENGINES", {})


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool")
    made.make()
    return made


def method(settings, base=None) -> Method:
    with make_engine(settings, base=base) as engine:
        return method_of(settings, base, engine.settings_hash)


def task(spool: Spool, asked, settings=EMT, base=None) -> Task:
    return Task(method(settings, base), asked, str(spool.folder))


def test_a_label_needs_no_jax(spool):
    path = spool.folder / "task"
    path.write_bytes(pickle.dumps(task(spool, crystal(0))))
    code = (
        "import pickle, sys\n"
        "for name in ('jax', 'jaxlib', 'flax', 'optax', 'jax_md', 'e3nn_jax', 'chex'): sys.modules[name] = None\n"
        "task = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "from bayes_mlff.engines.labelling.task import label, try_out\n"
        "assert try_out(task.method, task.spool, task.structure).problem is None\n"
        "print(label(task).value().label.energy.hex())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    outcome = label(task(spool, crystal(0)))  # from the spool, which that process wrote
    assert outcome.where != tasks._here() and done.stdout.strip() == outcome.value().label.energy.hex()


def test_labels_do_not_depend_on_earlier_ones(tmp_path):
    asked = [crystal(seed) for seed in range(3)]
    found = []
    for number, order in enumerate(([0, 1, 2], [2, 0, 1], [1, 2, 0])):
        spool = Spool(tmp_path / str(number))
        spool.make()
        settings = counted(tmp_path)
        labels = {index: label(task(spool, asked[index], settings)).value().label for index in order}
        found.append([labels[index] for index in range(3)])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert one.energy == two.energy and np.array_equal(one.forces, two.forces)


def test_what_is_paid_is_on_the_disk_and_not_paid_again(spool, tmp_path):
    settings = counted(tmp_path)
    good, bad = task(spool, crystal(0), settings), task(spool, crystal(0, HOPELESS), settings)
    for each, kind in ((good, "label"), (bad, "failed")):
        before = len(calculations(tmp_path))
        first = pickle.loads(pickle.dumps(label(each)))
        assert first.kind == kind and first.key == each.key and spool.holds(each.key)
        assert label(each).message == first.message and len(calculations(tmp_path)) == before + 1
    assert "no convergence" in label(bad).message
    assert not list(spool.folder.glob("*.lock"))


def test_a_damaged_label_is_calculated_again(spool, tmp_path):
    asked = task(spool, crystal(0), counted(tmp_path))
    label(asked)
    (spool.folder / f"{asked.key}.label").write_bytes(b"torn")
    outcome = label(asked)
    assert outcome.kind == "label" and "set aside" in outcome.remarks[0] and len(calculations(tmp_path)) == 2
    assert spool.take(asked.key, asked.structure).outcome is not None


def test_what_a_killed_worker_had_written_is_not_paid_again(spool, tmp_path):
    asked = task(spool, crystal(0), counted(tmp_path))
    first = label(asked)
    path = spool.folder / f"{asked.key}.label"
    left = [spool.folder / f".{path.name}.{worker}.tmp" for worker in ("host.1", "host.2")]
    content = path.read_bytes()
    path.unlink()
    left[0].write_bytes(content[:-1])  # killed while it wrote
    left[1].write_bytes(content)  # killed while the disk was busy
    assert label(asked).where == first.where and len(calculations(tmp_path)) == 1
    assert spool.pending() == (asked.key,) and not any(each.exists() for each in left)
    path.unlink()
    left[0].write_bytes(content[:-1])
    assert label(asked).kind == "label" and len(calculations(tmp_path)) == 2 and not left[0].exists()


def test_what_is_not_paid_is_not_kept(spool, tmp_path, monkeypatch):
    wrong = task(spool, crystal(0), counted(tmp_path))
    other = wrong._replace(method=wrong.method._replace(settings_hash="sha256:0"))
    outcome = label(other)
    assert outcome.kind == "setup" and "settings_hash" in outcome.message and "sha256:0" in outcome.message
    monkeypatch.setattr(tasks, "make_engine", lambda *args, **kwargs: 1 / 0)
    tasks._ENGINES.clear()
    outcome = pickle.loads(pickle.dumps(label(wrong)))
    assert outcome.kind == "lost" and "ZeroDivisionError" in outcome.message
    assert calculations(tmp_path) == [] and spool.pending() == ()


def test_a_label_survives_a_spool_that_its_worker_cannot_write(spool, monkeypatch):
    def full(self, outcome) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "put", full)
    outcome = label(task(spool, crystal(0)))
    assert outcome.kind == "label" and "could not be stored" in outcome.remarks[0]


def test_a_worker_that_does_not_see_the_files_says_so(spool, tmp_path):
    asked = task(spool, crystal(0))
    gone = asked._replace(spool=str(tmp_path / "gone"))
    elsewhere = asked._replace(method=asked.method._replace(base=str(tmp_path / "gone")))
    for each in (gone, elsewhere):
        outcome = label(each)
        assert outcome.kind == "setup" and str(tmp_path / "gone") in outcome.message
        assert "no folder" in (try_out(each.method, each.spool, each.structure).problem or "")


def test_a_calculator_beside_the_configuration_is_used(spool, tmp_path):
    (tmp_path / "my_labels.py").write_text(
        "from ase.calculators.emt import EMT\ndef make(**arguments):\n    return EMT(**arguments)\n"
    )
    settings = AseSettings(calculator="my_labels:make")
    assert label(task(spool, crystal(0), settings, tmp_path)).kind == "label"


def test_the_trial_names_what_is_wrong(spool, tmp_path):
    good = try_out(method(EMT), str(spool.folder), crystal(0))
    assert good.problem is None and good.settings_hash == method(EMT).settings_hash and "numpy" in good.versions
    unknown = Method('{"name": "ase", "calculator": "no_such:Thing"}', None, "sha256:0")
    assert "no_such" in (try_out(unknown, str(spool.folder), crystal(0)).problem or "")
    later = Method('{"name": "ase", "calculator": "a:B", "added_later": 1}', None, "sha256:0")
    assert "added_later" in (try_out(later, str(spool.folder), crystal(0)).problem or "")
    assert "settings_hash" in (
        try_out(method(EMT)._replace(settings_hash="sha256:0"), str(spool.folder), crystal(0)).problem or ""
    )
    lacking = try_out(method(EMT), str(spool.folder), crystal(0, "U"))
    assert lacking.problem is None or "U" in lacking.problem  # EMT says it when it calculates
    assert calculations(tmp_path) == []


def test_methods_that_cannot_be_labelled_in_parallel_are_refused():
    pulay = GpawSettings(stress="pulay-corrected")
    with pytest.raises(ConfigError, match=r"engine\.pulay_virial_ev"):
        method_of(pulay, None, "sha256:0")
    given = GpawSettings(stress="pulay-corrected", pulay_virial_ev=(1.0, 1.0, 1.0, 0.0, 0.0, 0.0))
    assert "pulay_virial_ev" in method_of(given, None, "sha256:0").settings


def test_settings_that_are_no_plain_data_are_refused():
    unplain = AseSettings.model_construct(calculator="a:B", arguments={"lock": object()})
    with pytest.raises(ConfigError, match="plain data"):
        method_of(unplain, None, "sha256:0")

"""A JAX that computes wrong numbers is refused before anything depends on it, and a right one is asked once."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core.errors import BrokenInstallationError
from bayes_mlff.models import selfcheck, selfcheck_operations


@pytest.fixture(scope="module")
def predictions():
    return {case.model: selfcheck.evaluate(case.model, case.structure, np.float32) for case in selfcheck.cases()}


@pytest.fixture
def quick(monkeypatch, tmp_path, predictions):
    """The real predictions, made once, without the process for the operations; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(selfcheck, "evaluate", lambda model, structure, dtype: predictions[model])
    monkeypatch.setattr(selfcheck, "_operations", list)
    return monkeypatch


def test_this_installation_is_right(quick):
    quick.undo()
    assert selfcheck._operations() == []


def test_shipped_models_agree_in_float32_with_a_wide_margin(quick):
    deviations = selfcheck.check()
    assert set(deviations) == {"mace-perovskite-small", "nequip-md17-small"}
    assert 0.0 < max(deviations.values()) < 0.2 * selfcheck.TOLERANCE


def test_a_crystal_with_stress_and_a_molecule_are_stored():
    crystal, molecule = selfcheck.cases()
    assert crystal.structure.is_periodic and crystal.stress.shape == (3, 3) and np.abs(crystal.stress).max() > 1e-3
    assert molecule.stress is None and not molecule.structure.pbc.any()
    for case in (crystal, molecule):
        assert case.forces.shape == case.structure.positions.shape and np.abs(case.forces).max() > 0.5
        np.testing.assert_allclose(case.forces.sum(axis=0), 0.0, atol=1e-10)  # written in float64


@pytest.mark.parametrize("field", ["energy", "forces", "stress"])
def test_a_deviation_of_any_result_is_refused(quick, field):
    case = selfcheck.cases()[0]
    wrong = case._replace(**{field: getattr(case, field) * 1.001})
    quick.setattr(selfcheck, "cases", lambda: [wrong])
    with pytest.raises(
        BrokenInstallationError, match=rf"mace-perovskite-small deviates by 0\.00.*jax {jax.__version__}"
    ):
        selfcheck.check()


def test_numbers_that_are_none_are_refused(quick, predictions):
    nan = {k: v._replace(energy=v.energy * np.float32(np.nan)) for k, v in predictions.items()}
    quick.setattr(selfcheck, "evaluate", lambda model, structure, dtype: nan[model])
    with pytest.raises(BrokenInstallationError, match=r"deviates by nan.*platform cpu, device \w"):
        selfcheck.check()


def test_it_is_asked_once_for_each_version_and_device(quick):
    said = []
    assert selfcheck.ensure(said.append) and not selfcheck.ensure(said.append) and len(said) == 1
    (done,) = (selfcheck.cache_folder()).iterdir()
    stored = json.loads(done.read_text())
    assert stored["jax"] == jax.__version__ and stored["deviations"].keys() == {c.model for c in selfcheck.cases()}
    for name in ("bayes-mlff", "jax", "jaxlib", "device", "XLA_FLAGS"):
        with pytest.MonkeyPatch.context() as patch:
            changed = selfcheck._installation() | {name: "another"}
            patch.setattr(selfcheck, "_installation", lambda changed=changed: changed)
            assert selfcheck.ensure() and not selfcheck.ensure()


def test_other_stored_values_ask_again(quick):
    assert selfcheck.ensure()
    text = selfcheck._reference()
    quick.setattr(selfcheck, "_reference", lambda: text + " ")
    assert selfcheck.ensure()


def test_a_broken_installation_is_not_remembered_as_right(quick):
    quick.setattr(selfcheck, "_operations", lambda: ["something is wrong"])
    for _ in range(2):
        with pytest.raises(BrokenInstallationError, match="something is wrong"):
            selfcheck.ensure()


def test_a_cache_that_cannot_be_written_does_not_matter(quick, tmp_path):
    (tmp_path / "file").write_text("")
    quick.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert selfcheck.ensure() and selfcheck.ensure()


class Wrong:
    """jax.numpy with one function that errs by a thousandth."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        right = getattr(jnp, name)
        return (lambda *args, **kw: right(*args, **kw) * 1.001) if name == self._name else right


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sum", ["matrix-vector products", "gradients of", "rank 6", "rank 7", "rank 8"]),
        ("dot", ["gradients of matrix-vector products"]),
    ],
)
def test_a_wrong_operation_is_found(monkeypatch, name, expected):
    assert selfcheck_operations.failures() == []
    monkeypatch.setattr(selfcheck_operations, "jnp", Wrong(name))
    found = selfcheck_operations.failures()
    assert len(found) == len(expected) and all(a in b for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", r"simple operations crash \(exit status -6"),
        ("import sys; sys.exit('no such device')", "crash.*exit status 1: no such device"),
        ("import time; time.sleep(60)", "hang"),
        ("print('sums of rank 7')", "sums of rank 7 are wrong"),
    ],
)
def test_crashes_hangs_and_wrong_operations_are_refused(quick, tmp_path, program, message):
    quick.undo()
    path = tmp_path / "operations.py"
    path.write_text(program)
    quick.setattr(selfcheck_operations, "__file__", str(path))
    quick.setattr(selfcheck, "TIMEOUT_S", 1.0 if "sleep" in program else 30.0)
    with pytest.raises(BrokenInstallationError, match=f"JAX computes wrong numbers here: .*{message}"):
        selfcheck.check()


def test_the_operations_need_nothing_but_jax():
    assert "bayes_mlff" not in Path(selfcheck_operations.__file__).read_text(encoding="utf-8")

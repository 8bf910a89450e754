"""Magnetic moments go from label to label, and a flip is said."""

import pytest

from bayes_mlff.core.errors import (
    DataError,
)
from bayes_mlff.engines.moments import moment_remarks
from bayes_mlff.engines.worker.engine import WorkerEngine
from tests.support.faulty_programs import copper


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

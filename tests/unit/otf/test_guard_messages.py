"""What is said of a guard that has tripped: the numbers that were compared, and nothing that contradicts itself."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_mlff.core.numbers import apart
from bayes_mlff.core.units import KCAL_MOL
from bayes_mlff.data import neighbors
from bayes_mlff.data.labels import Label
from bayes_mlff.ensemble.energy_scale import EnergyScale
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.triggers import on_energy
from bayes_mlff.md import chunk as chunks
from bayes_mlff.md.chunk import Stop, no_limits
from bayes_mlff.md.integrators import kinetic_energy
from bayes_mlff.otf import guards
from bayes_mlff.otf.plausibility import Expectation, objections
from tests.support.guard_states import md, predictive, problem, real, structure

NUMBER = re.compile(r"([-\d.e+]+) (?:kcal/mol|Å³|Å), allowed at (most|least) ([-\d.e+]+)")
FIELDS = {
    Stop.SIGMA: ("statistics", "statistics"),
    Stop.CLOSE: ("distance", "distance"),
    Stop.HOT: ("kinetic", "kinetic"),
    Stop.VOLUME: ("volume", "volume_max"),
    Stop.DRIFT: ("drift", None),
}
UNIT = {Stop.SIGMA: KCAL_MOL, Stop.HOT: KCAL_MOL, Stop.DRIFT: KCAL_MOL}


class FewOfChunk(NamedTuple):
    """The fields of a chunk of which is said why it ended."""

    compared: chunks.Compared
    predictive: Predictive
    md: object


def compared(**values):
    return chunks.Compared(*(np.float32(values.get(name, 1.0)) for name in chunks.Compared._fields))


def said(stop, values=None, allowed=None, **parts):
    few = FewOfChunk(compared(**(values or {})), parts.get("predictive", predictive()), parts.get("state", md()))
    return guards.tripped(stop, few, no_limits(jnp.float32)._replace(**(allowed or {})), on_energy(0.0))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(FIELDS)),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(1, 2**20) | st.integers(1, 3),
)
def test_a_message_never_contradicts_itself(bit, limit, ulps):
    """Limit and value may differ in the last bit only: what is printed differs, too, and the right way round."""
    limit = np.float32(limit)
    value = (limit.view(np.int32) + np.int32(-ulps if bit == Stop.CLOSE else ulps)).view(np.float32)
    field, bound = FIELDS[bit]
    allowed = {} if bound is None else {bound: limit}
    text = said(bit, {field: value, "drift_allowed": limit}, allowed)
    first, which, second = NUMBER.search(text).groups()
    assert (float(first) < float(second)) if which == "least" else (float(first) > float(second)), text
    assert which == ("least" if bit == Stop.CLOSE else "most")
    unit = UNIT.get(bit, 1.0)
    assert float(first) == pytest.approx(float(value) / unit, rel=1e-2)
    assert float(second) == pytest.approx(float(limit) / unit, rel=1e-2)
    assert text.count("guards.") == 1


def test_a_volume_that_is_too_small_is_compared_with_the_smallest():
    text = said(Stop.VOLUME, {"volume": 19.999999}, {"volume_min": np.float32(20.0), "volume_max": np.float32(45.0)})
    assert "allowed at least 20" in text and "19.99999" in text and "45" not in text


def test_several_reasons_are_all_said():
    text = said(Stop.HOT | Stop.CLOSE | Stop.UNCERTAIN, {"kinetic": 2.0, "distance": 0.2},
                {"kinetic": np.float32(1.0), "distance": np.float32(0.5)})  # fmt: skip
    assert text.count("; ") == 1 and "at 0.2 Å, allowed at least 0.5" in text and "46.12" in text
    assert said(Stop.UNCERTAIN | Stop.AUDIT) is None


@pytest.mark.parametrize(
    ("spoilt", "name"),
    [
        ({"predictive": predictive(energy=np.nan)}, "the predicted energy"),
        ({"predictive": predictive(sigma=np.inf)}, "its σ"),
        ({"predictive": predictive()._replace(forces_mean=jnp.full((1, 2, 3), np.nan))}, "a predicted force"),
        ({"state": md().set(position=jnp.full((2, 3), np.nan))}, "a position"),
        ({"state": md().set(cell=jnp.full((3, 3), np.inf))}, "the cell"),
        ({}, "a momentum"),
    ],
)
def test_what_was_not_finite_is_said(spoilt, name):
    assert said(Stop.NON_FINITE, **spoilt).startswith(f"not finite: {name}")


def test_the_compared_kinetic_energy_is_that_of_the_complete_step():
    """The recorded one of a step that stopped lacks its second half kick."""
    force = jnp.asarray([[40.0, 0, 0], [-40.0, 0, 0]])
    start = md()
    _, around = neighbors.allocate(structure(), (6,), 3.0, dtype=np.float64)
    integrator = problem(dynamics={"ensemble": "nve", "timestep_fs": 2.0}).integrator
    pushed = predictive()._replace(forces_mean=force[None])
    limits, triggers = no_limits(jnp.float64)._replace(kinetic=real(1e-3)), on_energy(real(np.inf))
    zero = chunks.empty_chunk(start, around, jax.eval_shape(lambda: pushed), triggers, 3)
    found = chunks.conclude(zero, start, around, pushed, integrator, triggers, limits)
    complete = float(kinetic_energy(integrator.finish(start, force)))
    assert Stop(int(found.stop)) == Stop.HOT
    assert float(found.compared.kinetic) == pytest.approx(complete)
    assert abs(float(found.thermo.kinetic[0]) - complete) > 0.01, "no half kick"
    assert f"the kinetic energy is {complete / KCAL_MOL:.4g} kcal/mol" in guards.tripped(
        Stop.HOT, found, limits, triggers
    )


# -- labels --------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.floats(1.0, 1.0 + 1e-3), st.booleans())
def test_a_label_just_beyond_its_limits_is_said_to_be_beyond(factor, forces):
    """20 σ and 20 thresholds are allowed; a hair more is printed as more, though three digits would round it away."""
    factor = np.nextafter(factor, 2.0) * (1.0 + 1e-9)
    still = np.zeros((2, 3))
    expected = Expectation(0.0, 0.02 if not forces else 1e9, still, still + 0.02)
    wrong = 0.4 * factor
    label = Label(0.0, still + wrong) if forces else Label(-wrong, still)
    (reason,) = objections(
        structure(), label, scale=EnergyScale(0.0), threshold_ev=0.02, expected=expected, before=None
    )
    size, times, most, largest = re.search(
        r"([\d.]+) eV(?:/A)? \(([\d.]+) calibrated sigma\), allowed ([\d.]+) sigma or ([\d.]+) eV", reason
    ).groups()
    assert float(size) > float(largest) and float(times) > float(most), reason


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_two_numbers_are_printed_in_their_order(value, limit):
    first, second = (float(text) for text in apart(value, limit))
    assert (first < second, first > second) == (value < limit, value > limit)


def test_few_digits_where_few_do():
    assert apart(17.56123, 12.0) == ("17.56", "12")
    assert apart(17.56123, 17.56) == ("17.561", "17.56")
    assert apart(float("inf"), 3.0, 3) == ("inf", "3")

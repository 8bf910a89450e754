"""Schedules: values inside, between and after segments, in either precision, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.md.conditions import conditions
from bayes_mlff.md.schedule import Segment, build, constant, growth, temperature

SEGMENTS = (
    Segment(duration_ps=1.0, temperature_k=300.0),
    Segment(until_ps=3.0, temperature_k=400.0, end_temperature_k=600.0, end_pressure_gpa=2.0),
    Segment(duration_ps=0.5, temperature_k=100.0),
)
EXPECTED = [  # time in ps, K, GPa
    (0.0, 300.0, -1.0),
    (0.999, 300.0, -1.0),
    (1.0, 400.0, -1.0),
    (1.5, 450.0, -0.25),
    (2.5, 550.0, 1.25),
    (3.0, 100.0, 2.0),
    (3.5, 100.0, 2.0),
    (900.0, 100.0, 2.0),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_inside_between_and_after_segments(dtype):
    schedule = build(SEGMENTS, temperature_k=1.0, pressure_gpa=-1.0)
    evaluate = jax.jit(lambda time: conditions(schedule, time))
    for time_ps, kelvin, pressure in EXPECTED:
        got = evaluate(jnp.asarray(1000.0 * time_ps, dtype))
        assert got.temperature_k.dtype == got.pressure_gpa.dtype == dtype
        assert float(got.temperature_k) == pytest.approx(kelvin, rel=1e-6)
        assert float(got.pressure_gpa) == pytest.approx(pressure, rel=1e-5)


def test_temperatures_on_the_host_are_those_of_the_dynamics_and_thresholds_grow_with_their_root():
    schedule = build(SEGMENTS, temperature_k=1.0, pressure_gpa=-1.0)
    times, expected = 1000.0 * np.array([row[0] for row in EXPECTED]), np.array([row[1] for row in EXPECTED])
    np.testing.assert_allclose(temperature(schedule, times), expected, rtol=1e-12)
    np.testing.assert_allclose(growth(schedule, 400.0, times), np.sqrt(expected / 400.0), rtol=1e-12)
    np.testing.assert_array_equal(growth(schedule, None, times), np.ones(len(times)))
    assert growth(constant(300.0), 1200.0, np.array(7.0)) == 0.5


def test_no_segments_are_constant_conditions():
    for schedule in (build((), temperature_k=350.0, pressure_gpa=0.5), constant(350.0, 0.5)):
        for time in (0.0, 1e9):
            got = conditions(schedule, jnp.asarray(time))
            assert (float(got.temperature_k), float(got.pressure_gpa)) == (350.0, 0.5)


@pytest.mark.parametrize("until", [0.5, 1.0])
def test_a_schedule_never_goes_backwards(until):
    backwards = (SEGMENTS[0], Segment(until_ps=until, temperature_k=10.0))
    with pytest.raises(ConfigError, match="never goes backwards") as caught:
        build(backwards, temperature_k=1.0, pressure_gpa=0.0, key="here")
    assert caught.value.key == "here.1.until_ps"


@pytest.mark.parametrize("ends", [{}, {"duration_ps": 1.0, "until_ps": 1.0}])
def test_a_segment_has_one_end(ends):
    with pytest.raises(ConfigError, match="one of duration_ps and until_ps"):
        build([Segment(temperature_k=10.0, **ends)], temperature_k=1.0, pressure_gpa=0.0)

"""Temperature and pressure as piecewise linear functions of time."""

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import numpy as np
from pydantic import AfterValidator, Field

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Positive, Section
from bayes_mlff.md.ranges import PRESSURE

SHORTEST: Final = 1e-6
"""Shortest segment as a fraction of the time at its end; shorter ones cannot be resolved in float32."""


def _bearable(value: float) -> float:
    low, high = PRESSURE
    if not low <= value <= high:
        raise ValueError(f"{low:g} to {high:g} GPa (1 GPa is 10 kbar)")
    return value


Pressure = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_bearable)]


class Segment(Section):
    """A segment of a schedule; its end is given by either `duration_ps` or `until_ps`."""

    duration_ps: Positive | None = Field(
        default=None, description="Length of the segment, ps; a segment has this or until_ps."
    )
    until_ps: Positive | None = Field(
        default=None, description="Time at which the segment ends, ps from the start of the run."
    )
    temperature_k: Positive = Field(description="Temperature at the beginning of the segment, K.")
    end_temperature_k: Positive | None = Field(
        default=None,
        description="Temperature at the end of the segment, K, reached linearly; null means that it is constant.",
    )
    pressure_gpa: Pressure | None = Field(
        default=None,
        description="Pressure at the beginning of the segment, GPa; null means that at the end of the segment before.",
    )
    end_pressure_gpa: Pressure | None = Field(
        default=None,
        description="Pressure at the end of the segment, GPa, reached linearly; null means that it is constant.",
    )


class Schedule(NamedTuple):
    """m consecutive segments without gaps, starting at time 0; values may jump between segments."""

    begin_fs: np.ndarray  # [m]
    end_fs: np.ndarray  # [m]
    temperature_k: np.ndarray  # [m, 2] at the beginning and the end of each segment
    pressure_gpa: np.ndarray  # [m, 2] at the beginning and the end of each segment


def constant(temperature_k: float, pressure_gpa: float = 0.0) -> Schedule:
    """Make a schedule of constant temperature and pressure."""
    return Schedule(
        np.zeros(1),
        np.full(1, np.inf),
        np.full((1, 2), temperature_k, np.float64),
        np.full((1, 2), pressure_gpa, np.float64),
    )


def temperature(schedule: Schedule, time_fs: np.ndarray) -> np.ndarray:
    """Target temperature, K, at times [...], fs, on the host; inside jit see `conditions`."""
    time = np.asarray(time_fs, np.float64)
    i = np.minimum(np.searchsorted(schedule.end_fs, time, side="right"), len(schedule.end_fs) - 1)
    share = np.clip((time - schedule.begin_fs[i]) / (schedule.end_fs[i] - schedule.begin_fs[i]), 0.0, 1.0)
    first, last = schedule.temperature_k[i, 0], schedule.temperature_k[i, 1]
    return first + share * (last - first)


def growth(schedule: Schedule, reference_k: float | None, time_fs: np.ndarray) -> np.ndarray:
    """Factors √(T/T_ref) [...] of thresholds that are meant at a temperature, at times [...], fs; 1 without one.

    In the harmonic approximation every quadratic term of the energy has kT/2 on average (equipartition), so that
    forces, which are linear in displacements, grow as √T.
    """
    if reference_k is None:
        return np.ones(np.shape(time_fs))
    return np.sqrt(temperature(schedule, time_fs) / reference_k)


def build(
    segments: Sequence[Segment], *, temperature_k: float, pressure_gpa: float, key: str = "dynamics.schedule"
) -> Schedule:
    """Make a schedule from consecutive segments.

    Args:
      segments: in order of time; if empty, the two conditions below are constant.
      temperature_k: temperature if there are no segments, K.
      pressure_gpa: pressure if there are no segments, and until a segment sets one, GPa.
      key: dotted configuration key of the list, for error messages.

    Returns:
      The schedule; after the last segment its final values remain.

    Raises:
      ConfigError: naming the segment, if its end is missing, given twice, or not after its beginning.
    """
    if not segments:
        return constant(temperature_k, pressure_gpa)
    ends: list[float] = []
    temperatures, pressures = [], []
    now = 0.0
    for i, segment in enumerate(segments):
        if (segment.duration_ps is None) == (segment.until_ps is None):
            given = {"duration_ps": segment.duration_ps, "until_ps": segment.until_ps}
            raise ConfigError(f"{key}.{i}", given, "one of duration_ps and until_ps")
        if segment.until_ps is not None and segment.until_ps <= now:
            raise ConfigError(
                f"{key}.{i}.until_ps", segment.until_ps, f"more than {now:g}, since a schedule never goes backwards"
            )
        before, now = now, segment.until_ps if segment.until_ps is not None else now + (segment.duration_ps or 0.0)
        if (now - before) < SHORTEST * now:
            raise ConfigError(f"{key}.{i}", now - before, f"at least {SHORTEST * now:g} ps after {before:g} ps")
        ends.append(now * 1000.0)
        temperatures.append((segment.temperature_k, segment.end_temperature_k or segment.temperature_k))
        first = pressure_gpa if segment.pressure_gpa is None else segment.pressure_gpa
        pressure_gpa = first if segment.end_pressure_gpa is None else segment.end_pressure_gpa
        pressures.append((first, pressure_gpa))
    return Schedule(np.array([0.0, *ends[:-1]]), np.array(ends), np.array(temperatures), np.array(pressures))

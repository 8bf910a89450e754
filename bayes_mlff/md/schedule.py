"""Temperature and pressure as functions of time: constant or linear from one point in time to the next."""

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import AfterValidator, Field

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Positive, Section
from bayes_mlff.md.ranges import PRESSURE

SHORTEST: Final = 1e-6
"""Length of a segment in units of the time at its end, which float32 still tells apart."""


def _bearable(value: float) -> float:
    low, high = PRESSURE
    if not low <= value <= high:
        raise ValueError(f"{low:g} to {high:g} GPa (1 GPa is 10 kbar)")
    return value


Pressure = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_bearable)]


class Segment(Section):
    """A stretch of a schedule; it lasts for `duration_ps` or ends at `until_ps`, one of which is given."""

    duration_ps: Positive | None = Field(default=None, description="How long the segment lasts.")
    until_ps: Positive | None = Field(default=None, description="When the segment ends, counted from the start.")
    temperature_k: Positive
    end_temperature_k: Positive | None = Field(default=None, description="Reached linearly; by default constant.")
    pressure_gpa: Pressure | None = Field(default=None, description="By default that at the end of the one before.")
    end_pressure_gpa: Pressure | None = Field(default=None, description="Reached linearly; by default constant.")


class Schedule(NamedTuple):
    """m segments that follow each other without a gap, the first from time 0; values jump between segments."""

    begin_fs: np.ndarray  # [m]
    end_fs: np.ndarray  # [m]
    temperature_k: np.ndarray  # [m, 2] at the beginning and the end of each segment
    pressure_gpa: np.ndarray  # [m, 2] likewise


class Conditions(NamedTuple):
    """What holds at one time."""

    temperature_k: jax.Array  # []
    pressure_gpa: jax.Array  # []


def constant(temperature_k: float, pressure_gpa: float = 0.0) -> Schedule:
    """The same conditions for ever."""
    return Schedule(
        np.zeros(1),
        np.full(1, np.inf),
        np.full((1, 2), temperature_k, np.float64),
        np.full((1, 2), pressure_gpa, np.float64),
    )


def build(
    segments: Sequence[Segment], *, temperature_k: float, pressure_gpa: float, key: str = "dynamics.schedule"
) -> Schedule:
    """Put segments one after the other.

    Args:
      segments: in order of time; with none the conditions below hold for ever.
      temperature_k: K, where there are no segments.
      pressure_gpa: GPa, where there are no segments and until one sets its own.
      key: dotted configuration key of the list, for error messages.

    Returns:
      The schedule; after its last segment the last values stay.

    Raises:
      ConfigError: naming the segment, if it has no end or two, or ends before it begins.
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


def conditions(schedule: Schedule, time_fs: jax.Array) -> Conditions:
    """Evaluate a schedule inside jit.

    Args:
      schedule: as `build` returns it.
      time_fs: [] time since the start of the run, fs, in the dtype of the result.
    """
    begin, end, temperature, pressure = (jnp.asarray(x, time_fs.dtype) for x in schedule)
    i = jnp.minimum(jnp.searchsorted(end, time_fs, side="right"), end.shape[0] - 1)
    share = jnp.clip((time_fs - begin[i]) / (end[i] - begin[i]), 0.0, 1.0)
    return Conditions(*(x[i, 0] + share * (x[i, 1] - x[i, 0]) for x in (temperature, pressure)))

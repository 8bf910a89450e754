"""Temperature and pressure at one time of a schedule, inside jit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_mlff.md.schedule import Schedule


class Conditions(NamedTuple):
    """Temperature and pressure at one time."""

    temperature_k: jax.Array  # []
    pressure_gpa: jax.Array  # []


def conditions(schedule: Schedule, time_fs: jax.Array) -> Conditions:
    """Evaluate a schedule inside jit.

    Args:
      schedule: from `build`.
      time_fs: [] fs, in the dtype of the result.
    """
    begin, end, temperature, pressure = (jnp.asarray(x, time_fs.dtype) for x in schedule)
    i = jnp.minimum(jnp.searchsorted(end, time_fs, side="right"), end.shape[0] - 1)
    share = jnp.clip((time_fs - begin[i]) / (end[i] - begin[i]), 0.0, 1.0)
    return Conditions(*(x[i, 0] + share * (x[i, 1] - x[i, 0]) for x in (temperature, pressure)))

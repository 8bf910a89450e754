"""Triggers: a label is requested if a statistic of the prediction, such as σ of the energy, is above its limit.

A trigger has three forms. A `Statistic` is code: how a number is computed from a prediction, and for which error it is
the σ. A `Criterion` adds the configuration, which is constant during a run: the largest acceptable error, the
confidence, the prior of the calibration. A `Trigger` adds the limit that follows from the present calibration; it is a
pytree whose only array is that limit, so that a new limit needs no new compilation of the dynamics.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp

from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.readings import ENERGY, Reading
from bayes_mlff.ensemble import calibration, energy_scale
from bayes_mlff.ensemble.calibration import Calibration
from bayes_mlff.ensemble.predictive import Predictive


class Statistic(NamedTuple):
    """A number that measures the uncertainty of a prediction; one for each kind of trigger."""

    name: str  # in files and settings
    said: str  # name in messages, such as 'σ of the energy'
    unit: str  # unit of value, limit and error: a key of `readings.SHOWN`
    columns: tuple[str, str]  # columns of thermo.csv for value and limit
    value: Callable[[Predictive, jax.Array], jax.Array]  # (one structure, mask of its atoms [n] bool) -> [], under jit
    error: Callable[[LabelRecord], float]  # predicted minus reference; `value` is its uncalibrated σ


@partial(jax.tree_util.register_dataclass, data_fields=("limit",), meta_fields=("statistic",))
@dataclass(frozen=True)
class Trigger:
    """A statistic and the limit above which a geometry is labelled."""

    statistic: Statistic
    limit: jax.Array | float  # [], or [r] for r replicas; for the uncalibrated statistic


class Criterion(NamedTuple):
    """Accuracy that a run requires for the error of one statistic."""

    statistic: Statistic
    threshold: float  # largest acceptable error, in the unit of the statistic
    confidence: float  # required probability that the error is below the threshold
    prior: Calibration  # calibration before the first label
    decay: float  # see `calibration.update`

    def limit(self, state: Calibration) -> float:
        """Largest value of the statistic that needs no label, with the present calibration."""
        return float(calibration.critical_sigma(state, self.threshold, confidence=self.confidence))

    def trigger(self, state: Calibration) -> Trigger:
        """The trigger with the present limit."""
        return Trigger(self.statistic, self.limit(state))


def values(triggers: tuple[Trigger, ...], predictive: Predictive, atoms: jax.Array) -> jax.Array:
    """Statistics [t] of a prediction for one structure; `atoms` [n] bool is false on padding."""
    return jnp.stack([trigger.statistic.value(predictive, atoms) for trigger in triggers])


def limits(triggers: tuple[Trigger, ...], dtype: jnp.dtype) -> jax.Array:
    """Limits [t] of triggers."""
    return jnp.stack([jnp.asarray(trigger.limit, dtype) for trigger in triggers])


def on_device(triggers: tuple[Trigger, ...], dtype: jnp.dtype, *, silent: bool = False) -> tuple[Trigger, ...]:
    """Convert limits to arrays; with `silent` they are infinite, so that no label is requested."""
    return tuple(Trigger(t.statistic, jnp.asarray(jnp.inf if silent else t.limit, dtype)) for t in triggers)


def readings(triggers: tuple[Trigger, ...], predictive: Predictive, atoms: jax.Array) -> tuple[Reading, ...]:
    """Values of the statistics with their limits, for files and messages."""
    return tuple(
        Reading(t.statistic.name, float(t.statistic.value(predictive, atoms)), float(t.limit), t.statistic.unit)
        for t in triggers
    )


def _energy_sigma(predictive: Predictive, atoms: jax.Array) -> jax.Array:
    del atoms  # σ is that of the total energy
    return predictive.energy_sigma[0]


ENERGY_SIGMA: Final = Statistic(
    ENERGY, "σ of the energy", "eV", ("sigma_ev", "sigma_crit_ev"), _energy_sigma, energy_scale.error
)


def on_energy(limit: jax.Array | float) -> tuple[Trigger, ...]:
    """Only the trigger on σ of the total energy, with limit [] or [r] eV; an infinite limit never requests a label."""
    return (Trigger(ENERGY_SIGMA, limit),)

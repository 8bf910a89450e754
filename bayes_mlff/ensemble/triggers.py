"""Triggers: which statistic of a prediction asks for a label, against which limit, in which unit, how calibrated.

A trigger passes through three forms. A `Statistic` is a row of code: how the number follows from a prediction, and
which error it stands for. A `Criterion` adds what the configuration says and holds through a run: the error to hold,
the confidence, the prior of the calibration. A `Trigger` adds the limit that follows from the calibration at one time;
it is a pytree whose only array is that limit, so that it enters compiled dynamics without compiling it anew.
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
    """A number that tells how uncertain a prediction is; one for each kind of trigger."""

    name: str  # in files and settings
    said: str  # in messages, such as 'σ of the energy'
    unit: str  # of value, limit and error: a key of `readings.SHOWN`
    columns: tuple[str, str]  # of thermo.csv, for value and limit
    value: Callable[[Predictive, jax.Array], jax.Array]  # (of one structure, [n] bool, its atoms) -> [], under jit
    error: Callable[[LabelRecord], float]  # predicted minus reference, of what `value` is the uncalibrated σ


@partial(jax.tree_util.register_dataclass, data_fields=("limit",), meta_fields=("statistic",))
@dataclass(frozen=True)
class Trigger:
    """A statistic and the limit above which a geometry is labelled."""

    statistic: Statistic
    limit: jax.Array | float  # [] uncalibrated, or [r] of as many replicas


class Criterion(NamedTuple):
    """What a run promises of one statistic's errors."""

    statistic: Statistic
    threshold: float  # error to hold, in the unit of the statistic
    confidence: float  # probability with which it is held
    prior: Calibration  # before the first label
    decay: float  # of `calibration.update`

    def limit(self, state: Calibration) -> float:
        """Largest value of the statistic that needs no label, with the calibration of this time."""
        return float(calibration.critical_sigma(state, self.threshold, confidence=self.confidence))

    def trigger(self, state: Calibration) -> Trigger:
        """The trigger with the limit of this time."""
        return Trigger(self.statistic, self.limit(state))


def values(triggers: tuple[Trigger, ...], predictive: Predictive, atoms: jax.Array) -> jax.Array:
    """Statistics [t] of a prediction of one structure with `atoms` [n] bool."""
    return jnp.stack([trigger.statistic.value(predictive, atoms) for trigger in triggers])


def limits(triggers: tuple[Trigger, ...], dtype: jnp.dtype) -> jax.Array:
    """Limits [t] of triggers."""
    return jnp.stack([jnp.asarray(trigger.limit, dtype) for trigger in triggers])


def on_device(triggers: tuple[Trigger, ...], dtype: jnp.dtype, *, silent: bool = False) -> tuple[Trigger, ...]:
    """Triggers whose limits are arrays, and infinite where they must not ask for anything."""
    return tuple(Trigger(t.statistic, jnp.asarray(jnp.inf if silent else t.limit, dtype)) for t in triggers)


def readings(triggers: tuple[Trigger, ...], predictive: Predictive, atoms: jax.Array) -> tuple[Reading, ...]:
    """Values beside limits, for files and messages."""
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
    """The trigger on σ of the total energy alone, [] or [r] eV; an infinite limit never asks."""
    return (Trigger(ENERGY_SIGMA, limit),)

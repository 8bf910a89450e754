"""Triggers: a label is requested if a statistic of the prediction, such as σ of the energy, is above its limit.

A trigger has three forms. A `Statistic` is code: how numbers are computed from a prediction, and for which error they
are the σ. A `Criterion` adds the configuration, which is constant during a run: the largest acceptable error, the
confidence, the prior of the calibration. A `Trigger` adds the limit that follows from the present calibration; it is a
pytree whose only arrays are limits, so that a new limit needs no new compilation of the dynamics.

A statistic may have several candidates, such as the σ of the force on each atom of a region: the one that is highest
above its limit counts, and the error is that of the same candidate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.readings import ENERGY, SHOWN, Reading
from bayes_mlff.ensemble import energy_scale, error_law
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.predictive import Predictive

COMPONENTS: Final = tuple(np.linspace(1.0, 3.0, 9).tolist())
"""Effective numbers of components for which limits of vectors are computed. Between them they are interpolated
linearly, which asks for a label up to 0.1 % of the limit too early and never too late, since limits are concave."""


class Spread(NamedTuple):
    """Uncertainty of the candidates of a statistic."""

    sigma: jax.Array  # [m] in the unit of the statistic, not calibrated; 0 where there is no candidate
    dof: jax.Array  # [m] effective number of components of the error


class Measured(NamedTuple):
    """The candidate that counts, of one statistic or of each."""

    sigma: jax.Array  # [] or [t]
    dof: jax.Array  # [] or [t]
    place: jax.Array  # [] or [t] int32, index of the candidate


class Statistic(NamedTuple):
    """Numbers that measure the uncertainty of a prediction; one for each trigger."""

    name: str  # in files and settings
    said: str  # name in messages, such as 'σ of the energy'
    unit: str  # unit of value, limit and error: a key of `readings.SHOWN`
    columns: tuple[str, str]  # columns of thermo.csv for value and limit
    value: Callable[[Predictive, Graph], Spread]  # of one structure, under jit
    error: Callable[[LabelRecord, Reading], float]  # predicted minus reference, or the norm of such a vector
    of_atoms: bool = False  # candidates are atoms, and errors norms of vectors, of which limits depend on `dof`
    shown: tuple[str, float] | None = None  # unit that users see, and the factor that leads to it; None: `SHOWN`

    @property
    def shown_unit(self) -> tuple[str, float]:
        """Unit that users see, and the factor that leads to it."""
        return SHOWN[self.unit] if self.shown is None else self.shown


@partial(jax.tree_util.register_dataclass, data_fields=("limit", "wider"), meta_fields=("statistic",))
@dataclass(frozen=True)
class Trigger:
    """A statistic and the limit above which a geometry is labelled."""

    statistic: Statistic
    limit: jax.Array | np.ndarray | float  # [], or [r] for r replicas; uncalibrated, of one component; see `at`
    wider: jax.Array | np.ndarray | None = None  # [9] or [r, 9] factors of it for `COMPONENTS`; None: one component

    def at(self, step: jax.Array | int) -> "Trigger":
        """The trigger in a step of a chunk, from 0: limits may have a further last axis [length], one for each step."""
        if isinstance(self.limit, float | int) or np.ndim(self.limit) == 0:
            return self
        return Trigger(self.statistic, self.limit[step], None if self.wider is None else self.wider[step])

    def limit_of(self, dof: float | np.ndarray) -> np.ndarray:
        """Limit for errors with these effective numbers of components, on the host."""
        factor = 1.0 if self.wider is None else np.interp(dof, COMPONENTS, np.asarray(self.wider, np.float64))
        return np.broadcast_to(np.asarray(self.limit, np.float64) * factor, np.shape(dof))


class Criterion(NamedTuple):
    """Accuracy that a run requires for the error of one statistic."""

    statistic: Statistic
    threshold: float | np.ndarray  # largest acceptable error, in the unit of the statistic; or [length], see `trigger`
    confidence: float  # required probability that the error is below the threshold
    prior: ErrorLaw  # law of its errors before the first label
    decay: float  # see `error_law.update`

    def limit(self, law: ErrorLaw) -> float | np.ndarray:
        """Largest value of the statistic with one component that needs no label, with the present calibration."""
        return error_law.critical_sigma(law, self.threshold, confidence=self.confidence)

    def trigger(self, law: ErrorLaw) -> Trigger:
        """The trigger with the present limit; with one for each step of a chunk if the threshold is [length]."""
        limit = self.limit(law)
        if not self.statistic.of_atoms:
            return Trigger(self.statistic, limit)
        each = np.asarray(self.threshold)[..., None]
        limits = error_law.critical_sigma(law, each, confidence=self.confidence, dof=COMPONENTS)
        return Trigger(self.statistic, limit, np.asarray(limits) / np.asarray(limit)[..., None])


def measure(triggers: tuple[Trigger, ...], predictive: Predictive, graph: Graph) -> Measured:
    """Values [t] of the statistics for one structure; padding is no candidate."""
    found = [_highest(trigger, trigger.statistic.value(predictive, graph)) for trigger in triggers]
    return jax.tree.map(lambda *each: jnp.stack(each), *found)


def _highest(trigger: Trigger, spread: Spread) -> Measured:
    """The candidate with the largest ratio of σ to its limit."""
    place = jnp.argmax(spread.sigma / _factor(trigger, spread.dof)).astype(jnp.int32)
    return Measured(spread.sigma[place], spread.dof[place], place)


def _factor(trigger: Trigger, dof: jax.Array) -> jax.Array:
    """Factors of the limit for effective numbers of components [...], under jit."""
    if trigger.wider is None:
        return jnp.ones_like(dof)
    nodes, factors = jnp.asarray(COMPONENTS, dof.dtype), jnp.asarray(trigger.wider, dof.dtype)
    return jnp.interp(dof, nodes, factors)


def limits(triggers: tuple[Trigger, ...], measured: Measured) -> jax.Array:
    """Limits [t] of triggers for measured statistics."""
    dof = measured.dof
    return jnp.stack([jnp.asarray(t.limit, dof.dtype) * _factor(t, dof[i]) for i, t in enumerate(triggers)])


def on_device(triggers: tuple[Trigger, ...], dtype: jnp.dtype, *, silent: bool = False) -> tuple[Trigger, ...]:
    """Convert limits to arrays; with `silent` they are infinite, so that no label is requested."""

    def converted(t: Trigger) -> Trigger:
        wider = None if t.wider is None else jnp.asarray(t.wider, dtype)
        limit = jnp.asarray(t.limit, dtype)
        return Trigger(t.statistic, jnp.full_like(limit, jnp.inf) if silent else limit, wider)

    return tuple(map(converted, triggers))


def readings(triggers: tuple[Trigger, ...], measured: Measured) -> tuple[Reading, ...]:
    """Values of the statistics with their limits, for files and messages."""
    sigma, dof, place = (np.asarray(each) for each in measured)

    def reading(i: int, t: Trigger) -> Reading:
        atom = int(place[i]) if t.statistic.of_atoms else None
        limit = float(t.limit_of(float(dof[i])))
        return Reading(t.statistic.name, float(sigma[i]), limit, t.statistic.unit, float(dof[i]), atom)

    return tuple(reading(i, t) for i, t in enumerate(triggers))


def _energy_sigma(predictive: Predictive, graph: Graph) -> Spread:
    del graph  # σ is that of the total energy
    return Spread(predictive.energy_sigma, jnp.ones_like(predictive.energy_sigma))


def _energy_error(record: LabelRecord, reading: Reading) -> float:
    del reading
    return energy_scale.error(record)


ENERGY_SIGMA: Final = Statistic(
    ENERGY, "σ of the energy", "eV", ("sigma_ev", "sigma_crit_ev"), _energy_sigma, _energy_error
)


def on_energy(limit: jax.Array | float) -> tuple[Trigger, ...]:
    """Only the trigger on σ of the total energy, with limit [] or [r] eV; an infinite limit never requests a label."""
    return (Trigger(ENERGY_SIGMA, limit),)

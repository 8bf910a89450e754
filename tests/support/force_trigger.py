"""A second trigger, which only tests have: the largest σ of the force on an atom."""

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.ensemble import calibration
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.triggers import Criterion, Statistic


def _of_atoms(sigma):
    return (sigma**2).sum(axis=-1)


def _value(predictive: Predictive, atoms: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.max(jnp.where(atoms, _of_atoms(predictive.forces_sigma[0]), 0.0)))


def _error(record: LabelRecord) -> float:
    atom = int(np.argmax(_of_atoms(record.predicted_forces_sigma)))
    return float(np.linalg.norm((record.predicted_forces_mean - record.label.forces)[atom]))


FORCE = Statistic("force", "largest σ of the force on an atom", "eV/Å", ("sigma_f_ev_a", "sigma_f_crit_ev_a"),
                  _value, _error)  # fmt: skip


def criterion(threshold: float) -> Criterion:
    return Criterion(FORCE, threshold, 0.9, calibration.init(4.0, 4.0), 1.0)

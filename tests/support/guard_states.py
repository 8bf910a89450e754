"""What guards look at: two atoms in a cell, and the few fields of problem and state that they read."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data import neighbors
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.md.integrators import initial_state
from bayes_mlff.otf import config
from bayes_mlff.otf.integrator import make_integrator
from bayes_mlff.otf.state import HostState

CELL = np.diag([3.0, 3.2, 3.4])
PAIR = np.array([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]])


class FewFields(NamedTuple):
    """The fields of a problem that guards look at."""

    config: config.RunConfig
    structure: Structure
    threshold_ev: float
    integrator: object
    further: tuple = ()
    energy_sigma_ev: float = 0.0  # the law of errors is then one of Student's t


class FewArrays(NamedTuple):
    """The fields of a device state that guards look at."""

    md: object
    trusted: object
    params: jax.Array = jnp.ones((2, 3))


class State(NamedTuple):
    device: FewArrays
    host: HostState


def structure():
    return Structure(np.array([6, 6]), PAIR, CELL, np.ones(3, bool))


def md(temperature=300.0, seed=0):
    cell = jnp.asarray(CELL)
    return initial_state(jnp.asarray(PAIR), np.array([6, 6]), temperature, jax.random.key(seed), cell=cell)


def problem(**changes):
    raw = {
        "structure": "x.xyz",
        "threshold": "0.02 eV",
        "dynamics": {"timestep_fs": 0.5} | changes.pop("dynamics", {}),
    }
    parsed = config.parse(raw | changes)
    return FewFields(parsed, structure(), 0.02, make_integrator(parsed.dynamics, structure()))


def host(step=0, **changes):
    return HostState(step, 0.0, {"energy": error_law.init()}, neighbors.NeighborSpec(3.0, 0.5, 8, (1, 1, 1)), **changes)


def predictive(energy=1.0, sigma=0.01):
    zero = jnp.zeros((1, 2, 3))
    return Predictive(
        jnp.full((1,), energy),
        jnp.full((1,), sigma),
        zero,
        zero + 0.1,
        None,
        None,
        jnp.full((2, 1), energy),
        jnp.full((1, 2), 3.0),
    )


def real(x):
    return jnp.asarray(x, jnp.float64)

"""Velocity Verlet and Langevin steps, split where the force is evaluated.

A step is `begin` (half kick, drift, and for Langevin the thermostat in the middle of the drift), one force
evaluation, and `finish` (half kick). The force may come from the model or, when the model is not trusted, from
the reference method. Sub-steps are those of jax-md (Schoenholz and Cubuk 2020); the Langevin splitting is BAOAB
(Leimkuhler and Matthews 2013, J. Chem. Phys. 138, 174102).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_masses

from bayes_mlff.core import units

# jax-md is imported where it is used: its import runs computations, which would fix the number of devices.


class MDState(Protocol):
    """jax-md's `NVTLangevinState`, whose dataclass type checkers cannot see; time is in Å·sqrt(amu/eV)."""

    position: jax.Array  # [n, 3] Å
    momentum: jax.Array  # [n, 3] sqrt(amu·eV)
    force: jax.Array  # [n, 3] eV/Å
    mass: jax.Array  # [n, 1] amu
    rng: jax.Array  # [] key of the thermostat

    def set(self, **changes: Any) -> Self:
        """Copy with other values of the named fields."""
        ...


class Integrator(NamedTuple):
    """The two halves of a step."""

    begin: Callable[[MDState], MDState]
    finish: Callable[[MDState, jax.Array], MDState]


def langevin(timestep_fs: float, temperature_k: float, friction_per_fs: float) -> Integrator:
    """Constant-temperature dynamics.

    Args:
      timestep_fs: fs.
      temperature_k: K.
      friction_per_fs: 1/fs.
    """
    from jax_md import simulate

    dt = timestep_fs * units.FS
    gamma = friction_per_fs / units.FS

    def begin(state: MDState) -> MDState:
        state = simulate.momentum_step(state, dt / 2)
        state = simulate.position_step(state, _shift, dt / 2)
        state = simulate.stochastic_step(state, dt, units.KB * temperature_k, gamma)
        return simulate.position_step(state, _shift, dt / 2)

    return Integrator(begin, _finish(dt))


def velocity_verlet(timestep_fs: float) -> Integrator:
    """Constant-energy dynamics with a time step in fs."""
    from jax_md import simulate

    dt = timestep_fs * units.FS

    def begin(state: MDState) -> MDState:
        return simulate.position_step(simulate.momentum_step(state, dt / 2), _shift, dt)

    return Integrator(begin, _finish(dt))


def _finish(dt: float) -> Callable[[MDState, jax.Array], MDState]:
    from jax_md import simulate

    def finish(state: MDState, force: jax.Array) -> MDState:
        return simulate.momentum_step(state.set(force=force), dt / 2)

    return finish


def _shift(position: jax.Array, displacement: jax.Array) -> jax.Array:
    """Positions are never wrapped, so that stored lattice translations stay true."""
    return position + displacement


def initial_state(positions: jax.Array, numbers: np.ndarray, temperature_k: float, key: jax.Array) -> MDState:
    """Atoms at rest positions with Maxwell-Boltzmann momenta, no net momentum and zero force.

    Args:
      positions: [n, 3] Å.
      numbers: [n] atomic numbers; the masses are ASE's standard ones.
      temperature_k: K.
      key: used for the momenta, and carried on for the thermostat.
    """
    from jax_md import simulate

    mass = jnp.asarray(atomic_masses[numbers], positions.dtype)[:, None]
    key_momenta, key_state = jax.random.split(key)
    zero = jnp.zeros_like(positions)
    make: Any = simulate.NVTLangevinState  # its constructor is invisible to type checkers
    state = cast(MDState, make(positions, zero, zero, mass, key_state))
    return simulate.initialize_momenta(state, key_momenta, units.KB * temperature_k)


def kinetic_energy(state: MDState) -> jax.Array:
    """Kinetic energy, eV."""
    return 0.5 * jnp.sum(state.momentum**2 / state.mass)

"""Integrators of molecular dynamics, with steps split where the forces are evaluated.

A step is `begin` (half kick, drift, and a thermostat in the middle of the drift), one evaluation, and `finish`
(half kick). Forces and stress may come from the model or, when the model is not trusted, from the reference
method. Sub-steps are those of jax-md (Schoenholz and Cubuk 2020). Thermostats: Langevin with BAOAB splitting
(Leimkuhler and Matthews 2013, J. Chem. Phys. 138, 174102), and stochastic velocity rescaling (Bussi, Donadio and
Parrinello 2007, J. Chem. Phys. 126, 014101). Steps that change the cell are in `md.barostat`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_masses

from bayes_mlff.core import units
from bayes_mlff.md.conditions import Conditions, conditions
from bayes_mlff.md.schedule import Schedule, constant

# jax-md is imported where it is used: its import runs computations, which would fix the number of devices.


class MDState(NamedTuple):
    """Complete state of the dynamics; momenta use the time unit Å·sqrt(amu/eV), time is counted in steps."""

    position: jax.Array  # [n, 3] Å
    momentum: jax.Array  # [n, 3] sqrt(amu·eV)
    force: jax.Array  # [n, 3] eV/Å
    mass: jax.Array  # [n, 1] amu
    rng: jax.Array  # [] random key of thermostat and barostat
    cell: jax.Array  # [3, 3] Å, rows
    stress: jax.Array  # [3, 3] eV/Å³, tension positive, without kinetic part; zero if not evaluated
    strain: jax.Array  # [3, 3] symmetric A of the last step, cell_new = cell_old·exp(A) up to a rotation
    work: jax.Array  # [2] eV, done by thermostat and barostat: the sum and its rounding error (Kahan)
    step: jax.Array  # [] int32, number of finished steps
    free: jax.Array | None = None  # [n, 3] bool, False where a coordinate is fixed; None: all are free

    def set(self, **changes: Any) -> "MDState":
        """Copy with other values of the named fields; jax-md's sub-steps call this method."""
        return self._replace(**changes)


class Finish(Protocol):
    """Second half of a step."""

    def __call__(self, state: MDState, force: jax.Array, stress: jax.Array | None = None) -> MDState:
        """Use forces [n, 3] eV/Å and, if known, the stress [3, 3] eV/Å³ at the geometry that `begin` returned."""
        ...


class Integrator(NamedTuple):
    """The two halves of a step. A step should conserve potential + kinetic energy - `total_work`."""

    begin: Callable[[MDState], MDState]
    finish: Finish
    conserves_momentum: bool = False
    needs_stress: bool = False

    def degrees_of_freedom(self, n_atoms: int, fixed: np.ndarray | None = None) -> int:
        """Number of thermal momentum components: without those of the centre of mass if its momentum is conserved.

        Args:
          n_atoms: number of atoms n.
          fixed: [n, 3] True where a coordinate is fixed; None: none is. Along an axis with a fixed coordinate the
            momentum of the centre of mass is not conserved.
        """
        held = np.zeros((n_atoms, 3), bool) if fixed is None else np.asarray(fixed, bool)
        lost = int(np.sum(kept_axes(held))) if self.conserves_momentum else 0
        return int(held.size - np.sum(held)) - lost


def kept_axes(fixed: np.ndarray) -> np.ndarray:
    """Axes [3] bool along which the net momentum of several atoms is conserved by the forces between them.

    Args:
      fixed: [n, 3] True where a coordinate is fixed.
    """
    return ~np.any(fixed, axis=0) & (len(fixed) > 1)


class Thermostat(NamedTuple):
    """Couples the momenta to a heat bath for one time step, and counts the heat as work."""

    apply: Callable[[MDState, jax.Array], MDState]  # (state, kT [] eV)
    conserves_momentum: bool


def friction_thermostat(timestep_fs: float, friction_per_fs: float) -> Thermostat:
    """Exact Ornstein-Uhlenbeck step of every momentum.

    Args:
      timestep_fs: time step of the integrator, fs.
      friction_per_fs: friction γ, 1/fs; momenta decay as exp(-γt).
    """
    from jax_md import simulate

    def apply(state: MDState, kt: jax.Array) -> MDState:
        after = _held(simulate.stochastic_step(state, timestep_fs * units.FS, kt, friction_per_fs / units.FS))
        return add_work(after, kinetic_energy(after) - kinetic_energy(state))

    return Thermostat(apply, conserves_momentum=False)


def rescaling_thermostat(timestep_fs: float, time_fs: float) -> Thermostat:
    """Stochastic velocity rescaling, exact over the time step (Bussi et al. 2007, eq. A7).

    Args:
      timestep_fs: time step of the integrator, fs.
      time_fs: relaxation time of the kinetic energy, fs.
    """
    keep = float(np.exp(-timestep_fs / time_fs))

    def apply(state: MDState, kt: jax.Array) -> MDState:
        dtype = state.momentum.dtype
        key, key_normal, key_rest = jax.random.split(state.rng, 3)
        normal = jax.random.normal(key_normal, (), dtype)
        rest = _squares(key_rest, state, dtype)
        kinetic = kinetic_energy(state)
        fresh = (1.0 - keep) * kt / (2.0 * kinetic)
        square = keep + fresh * (rest + normal**2) + 2.0 * normal * jnp.sqrt(keep * fresh)
        factor = jnp.sqrt(square) * jnp.where(normal + jnp.sqrt(keep / fresh) < 0.0, -1.0, 1.0)
        return add_work(state.set(momentum=factor * state.momentum, rng=key), (square - 1.0) * kinetic)

    return Thermostat(apply, conserves_momentum=True)


def _squares(key: jax.Array, state: MDState, dtype: jnp.dtype) -> jax.Array:
    """Sum of squares of N(0, 1) numbers, one fewer than the degrees of freedom."""
    if state.free is None:
        return 2.0 * jax.random.gamma(key, (3 * state.position.shape[0] - 4) / 2, (), dtype)
    several = len(state.free) > 1
    freedom = jnp.sum(state.free) - (jnp.sum(jnp.all(state.free, axis=0)) if several else 0)
    half = 0.5 * (freedom.astype(dtype) - 1.0)
    return jnp.where(half > 0.0, 2.0 * jax.random.gamma(key, jnp.maximum(half, 0.5), (), dtype), 0.0)


def langevin(timestep_fs: float, temperature_k: float | Schedule, friction_per_fs: float) -> Integrator:
    """Constant-temperature dynamics, BAOAB.

    Args:
      timestep_fs: time step of the integrator, fs.
      temperature_k: temperature of the bath, K, or a schedule of it.
      friction_per_fs: friction γ, 1/fs; momenta decay as exp(-γt).
    """
    return thermostatted(timestep_fs, temperature_k, friction_thermostat(timestep_fs, friction_per_fs))


def velocity_rescaling(timestep_fs: float, temperature_k: float | Schedule, time_fs: float) -> Integrator:
    """Constant-temperature dynamics by stochastic velocity rescaling: all momenta are scaled by the same factor.

    Args:
      timestep_fs: time step of the integrator, fs.
      temperature_k: temperature of the bath, K, or a schedule of it.
      time_fs: relaxation time of the kinetic energy, fs.
    """
    return thermostatted(timestep_fs, temperature_k, rescaling_thermostat(timestep_fs, time_fs))


def thermostatted(timestep_fs: float, temperature_k: float | Schedule, thermostat: Thermostat) -> Integrator:
    """Velocity Verlet with a thermostat, made for the same time step, in the middle of the drift."""
    schedule = temperature_k if isinstance(temperature_k, Schedule) else constant(temperature_k)

    def begin(state: MDState) -> MDState:
        kt = units.KB * now(schedule, state, timestep_fs).temperature_k
        state = drift(kick(state, timestep_fs / 2), timestep_fs / 2)
        return drift(thermostat.apply(state, kt), timestep_fs / 2)

    return Integrator(begin, finish(timestep_fs), thermostat.conserves_momentum)


def velocity_verlet(timestep_fs: float) -> Integrator:
    """Constant-energy dynamics (velocity Verlet) with a time step in fs."""

    def begin(state: MDState) -> MDState:
        return drift(kick(state, timestep_fs / 2), timestep_fs)

    return Integrator(begin, finish(timestep_fs), conserves_momentum=True)


def finish(timestep_fs: float) -> Finish:
    """Second half kick, at constant cell."""

    def complete(state: MDState, force: jax.Array, stress: jax.Array | None = None) -> MDState:
        state = kick(state.set(force=force), timestep_fs / 2)
        return state.set(step=state.step + 1, stress=state.stress if stress is None else stress)

    return complete


def kick(state: MDState, time_fs: float) -> MDState:
    """Change the momenta under constant forces for `time_fs`, fs."""
    from jax_md import simulate

    return _held(simulate.momentum_step(state, time_fs * units.FS))


def _held(state: MDState) -> MDState:
    """Set the momenta of fixed coordinates to zero, so that these coordinates do not change by a single bit."""
    if state.free is None:
        return state
    return state.set(momentum=jnp.where(state.free, state.momentum, 0.0))


def drift(state: MDState, time_fs: float) -> MDState:
    """Move the atoms with constant momenta; positions are never wrapped, so that stored lattice shifts stay valid."""
    from jax_md import simulate

    return simulate.position_step(state, lambda position, displacement: position + displacement, time_fs * units.FS)


def now(schedule: Schedule, state: MDState, timestep_fs: float) -> Conditions:
    """Temperature and pressure of the step that begins, or has begun, from `state`."""
    return conditions(schedule, state.step.astype(state.position.dtype) * timestep_fs)


def add_work(state: MDState, work: jax.Array) -> MDState:
    """Add work [] eV by compensated summation (Kahan 1965, Commun. ACM 8, 40)."""
    total, lost = state.work
    work = work + lost
    new = total + work
    return state.set(work=jnp.stack([new, work - (new - total)]))


def initial_state(
    positions: jax.Array,
    numbers: np.ndarray,
    temperature_k: float,
    key: jax.Array,
    *,
    cell: jax.Array | None = None,
    masses: np.ndarray | jax.Array | None = None,
    free: jax.Array | None = None,
) -> MDState:
    """Atoms at given positions with Maxwell-Boltzmann momenta, no net momentum, and zero force and stress.

    Args:
      positions: [n, 3] Å.
      numbers: [n] atomic numbers.
      temperature_k: temperature of the momenta, K.
      key: random key for the momenta and, split from it, for thermostat and barostat.
      cell: [3, 3] Å, rows, not singular; by default unit vectors, for structures that are not periodic.
      masses: [n] amu; by default ASE's standard ones.
      free: [n, 3] bool, False where a coordinate is fixed; the net momentum is removed along axes without fixed ones.
    """
    dtype = positions.dtype
    mass = jnp.asarray(atomic_masses[numbers] if masses is None else masses, dtype)[:, None]
    key_momenta, key_state = jax.random.split(key)
    moves = jnp.ones(positions.shape, bool) if free is None else free
    return MDState(
        position=positions,
        momentum=_thermal(key_momenta, mass, moves, units.KB * temperature_k),
        force=jnp.zeros_like(positions),
        mass=mass,
        rng=key_state,
        cell=jnp.eye(3, dtype=dtype) if cell is None else cell,
        stress=jnp.zeros((3, 3), dtype),
        strain=jnp.zeros((3, 3), dtype),
        work=jnp.zeros(2, dtype),
        step=jnp.zeros([], jnp.int32),
        free=free,
    )


def _thermal(key: jax.Array, mass: jax.Array, free: jax.Array, kt: float) -> jax.Array:
    """Momenta [n, 3] at temperature kT, eV, for free coordinates; the centre of mass is at rest along unfixed axes.

    The velocity of the centre of mass is subtracted; subtracting the mean momentum instead would heat light atoms.
    """
    drawn = jnp.sqrt(mass * kt) * jax.random.normal(key, free.shape, mass.dtype)
    drawn = jnp.where(free, drawn, 0.0)
    net = jnp.where(jnp.all(free, axis=0) & (len(free) > 1), jnp.sum(drawn, axis=0), 0.0)
    return drawn - mass / jnp.sum(mass) * net[None, :]


def centre_velocity(state: MDState) -> jax.Array:
    """Velocity [1, 3] sqrt(eV/amu) of the centre of mass, zero along axes with a fixed coordinate."""
    net = jnp.sum(state.momentum, axis=0, keepdims=True) / jnp.sum(state.mass)
    return net if state.free is None else jnp.where(jnp.all(state.free, axis=0, keepdims=True), net, 0.0)


def kinetic_energy(state: MDState) -> jax.Array:
    """Kinetic energy, eV."""
    return 0.5 * jnp.sum(state.momentum**2 / state.mass)


def total_work(state: MDState) -> jax.Array:
    """Work done on the system by thermostat and barostat since the start, eV."""
    return state.work[0] + state.work[1]

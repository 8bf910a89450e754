"""Steps at constant pressure: stochastic rescaling of the whole cell.

Isotropic: Bernetti and Bussi 2020, J. Chem. Phys. 153, 114107; anisotropic: Del Tatto, Raiteri, Bernetti and Bussi
2022, Appl. Sci. 12, 1139; used here in the following form. In a step the rows h of the cell and the positions are
multiplied by exp(A) with a symmetric A, the momenta p by exp(-A). A = ε/3 + B: ε is the change of ln V, and B has no
trace. With W = Σ p pᵀ/m - V σ (its trace is three times volume times internal pressure), external pressure P,
compressibility β and barostat time τ,

- λ = sqrt(V) moves by β/(2τλ)·(tr W/3 - P V + kT/2) dt + sqrt(kT β dt/(2τ)) ξ, noise that does not depend on λ;
- B = s/(2kT) dev W + sqrt(s) dev Ξ, with s = 2 kT β dt/(3 τ V_m), Ξ a matrix of normal numbers and V_m the geometric
  mean of old and new volume, so that the step and its reverse have the same s.

This diffusion on the cells has the stationary density V exp(-(U + K + P V)/kT) with respect to the invariant measure
dh/V³. Volumes are thus distributed as in the isotropic ensemble, shapes as in that of a flexible cell under
hydrostatic pressure, V⁻² exp(-(U + K + P V)/kT) dh (Martyna, Tobias and Klein 1994, J. Chem. Phys. 101, 4177).

A step is symmetric in time: half kick, draw A, rescale by A/2, drift with the thermostat in its middle, rescale by
A/2, evaluate, half kick. A depends on stress and momenta at its beginning, the A of the reversed step on those at its
end, so that one evaluation a step gives the ratio of the two probabilities. Its logarithm is booked as work of the
barostat; the energy that is left is then conserved as well as the time step allows, also under a schedule.
"""

from collections.abc import Callable
from typing import Final, Literal

import jax
import jax.numpy as jnp

from bayes_mlff.core import units
from bayes_mlff.data.graph import volume
from bayes_mlff.otf.integrators import Integrator, MDState, Thermostat, add_work, drift, finish, kick, now
from bayes_mlff.otf.schedule import Schedule

CellMotion = Literal["flexible", "orthorhombic", "isotropic"]

_SERIES_TERMS: Final = 8
"""Of the exponential: exact to float64 for strains below 0.1 in a step, which no useful step exceeds."""


def cell_rescaling(
    timestep_fs: float,
    schedule: Schedule,
    thermostat: Thermostat,
    *,
    time_fs: float,
    compressibility_per_gpa: float,
    cell: CellMotion = "flexible",
) -> Integrator:
    """Constant temperature and pressure.

    Where the thermostat keeps the centre of mass at rest, kT/V stands in for its pressure, so that N atoms of an
    ideal gas have volumes distributed as V^N exp(-P V/kT) with either thermostat.

    Args:
      timestep_fs: fs.
      schedule: temperature (positive) and pressure.
      thermostat: made for the same time step.
      time_fs: barostat time τ, fs; longer is gentler.
      compressibility_per_gpa: β, 1/GPa; enters only as β/τ and changes no average, so a rough value does.
      cell: "flexible" changes all lengths and angles; the first vector keeps its direction and the second its plane.
        "orthorhombic" scales along x, y and z, "isotropic" alike in all directions.

    Returns:
      An integrator whose `begin` needs the stress of the present geometry in the state, and `finish` that of the new.
    """
    mobility = compressibility_per_gpa / units.GPA * timestep_fs / time_fs  # Å³/eV
    resting = 1.0 if thermostat.conserves_momentum else 0.0
    deviator = _DEVIATORS[cell]
    complete = finish(timestep_fs)

    def scales(state: MDState) -> tuple[jax.Array, jax.Array]:
        present = now(schedule, state, timestep_fs)
        return units.KB * present.temperature_k, units.GPA * present.pressure_gpa

    def root_mean(tensor: jax.Array, size: jax.Array, kt: jax.Array, pressure: jax.Array) -> jax.Array:
        """Mean change of λ from a cell of volume `size`."""
        push = jnp.trace(tensor) / 3.0 - pressure * size + (0.5 + resting) * kt
        return 0.5 * mobility / jnp.sqrt(size) * push

    def variances(kt: jax.Array, middle: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Variance of λ and that of B for V_m = `middle`."""
        return 0.5 * mobility * kt, 2.0 * mobility * kt / (3.0 * middle)

    def begin(state: MDState) -> MDState:
        kt, pressure = scales(state)
        state = kick(state, timestep_fs / 2)
        size, tensor, dtype = volume(state.cell), internal_tensor(state), state.cell.dtype
        key, key_root, key_shape = jax.random.split(state.rng, 3)
        mean = root_mean(tensor, size, kt, pressure)
        root = mean + jnp.sqrt(0.5 * mobility * kt) * jax.random.normal(key_root, (), dtype)
        growth = 2.0 * jnp.log1p(root / jnp.sqrt(size))
        root_variance, variance = variances(kt, size * jnp.exp(0.5 * growth))
        drive = variance / (2.0 * kt) * deviator(tensor)
        shape = drive + jnp.sqrt(variance) * deviator(jax.random.normal(key_shape, (3, 3), dtype))
        odds = _odds(root, -mean, root_variance) + _odds(shape, -drive, variance)
        strain = growth / 3.0 * jnp.eye(3, dtype=dtype) + shape
        start = state.cell
        state = add_work(state.set(rng=key, strain=strain), kt * odds)
        state = drift(rescale(state, 0.5 * strain), timestep_fs / 2)
        state = drift(thermostat.apply(state, kt), timestep_fs / 2)
        state = rescale(state, 0.5 * strain)
        return turn_back(state, start) if cell == "flexible" else state

    def finish_step(state: MDState, force: jax.Array, stress: jax.Array | None = None) -> MDState:
        if stress is None:
            raise ValueError("stress: got None; allowed: [3, 3], which a moving cell needs after every step")
        kt, pressure = scales(state)
        state = state.set(stress=stress)
        size, tensor, growth = volume(state.cell), internal_tensor(state), jnp.trace(state.strain)
        root = -jnp.sqrt(size) * jnp.expm1(-0.5 * growth)
        shape = state.strain - growth / 3.0 * jnp.eye(3, dtype=stress.dtype)
        root_variance, variance = variances(kt, size * jnp.exp(-0.5 * growth))
        drive = variance / (2.0 * kt) * deviator(tensor)
        odds = _odds(root, root_mean(tensor, size, kt, pressure), root_variance) + _odds(shape, drive, variance)
        against_pressure = pressure * size * jnp.expm1(-growth)
        measure = (0.5 + resting) * growth
        return complete(add_work(state, against_pressure + kt * (measure - odds)), force, stress)

    return Integrator(begin, finish_step, thermostat.conserves_momentum, needs_stress=True)


def internal_tensor(state: MDState) -> jax.Array:
    """Volume times the tensor of internal pressure, W = Σ p pᵀ/m - V σ, [3, 3] eV."""
    kinetic = _product(state.momentum.T, state.momentum / state.mass)
    return kinetic - volume(state.cell) * state.stress


def internal_pressure(state: MDState) -> jax.Array:
    """Mean of the diagonal of the internal pressure, eV/Å³, positive under compression."""
    return jnp.trace(internal_tensor(state)) / (3.0 * volume(state.cell))


def rescale(state: MDState, strain: jax.Array) -> MDState:
    """Multiply cell and positions by exp(strain [3, 3] symmetric), momenta by its inverse."""
    stretch = _exponential(strain)
    return state.set(
        cell=_product(state.cell, stretch),
        position=_product(state.position, stretch),
        momentum=_product(state.momentum, _exponential(-strain)),
    )


def turn_back(state: MDState, cell: jax.Array) -> MDState:
    """Turn everything so that the first vector is along that of `cell` and the second in its plane."""
    turn = _product(_axes(state.cell).T, _axes(cell))
    return state.set(
        cell=_product(state.cell, turn),
        position=_product(state.position, turn),
        momentum=_product(state.momentum, turn),
        strain=_product(turn.T, _product(state.strain, turn)),
    )


def _axes(cell: jax.Array) -> jax.Array:
    """Right-handed orthonormal rows: along the first vector, in the plane of the first two, normal to it."""
    first = cell[0] / jnp.linalg.norm(cell[0])
    second = cell[1] - jnp.sum(cell[1] * first) * first
    second = second / jnp.linalg.norm(second)
    return jnp.stack([first, second, jnp.cross(first, second)])


def _odds(change: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """Part of a log-probability ratio: the terms with `mean` of |change + mean|²/(2 variance)."""
    return jnp.sum(mean * (2.0 * change + mean)) / (2.0 * variance)


def _exponential(matrix: jax.Array) -> jax.Array:
    unit = jnp.eye(3, dtype=matrix.dtype)
    result = unit
    for i in range(_SERIES_TERMS, 0, -1):
        result = unit + _product(matrix, result) / i
    return result


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product in full precision: accelerators would round the factors to ten bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _traceless(matrix: jax.Array) -> jax.Array:
    return matrix - jnp.trace(matrix) / 3.0 * jnp.eye(3, dtype=matrix.dtype)


_DEVIATORS: Final[dict[CellMotion, Callable[[jax.Array], jax.Array]]] = {
    "flexible": lambda matrix: _traceless(0.5 * (matrix + matrix.T)),
    "orthorhombic": lambda matrix: _traceless(jnp.diag(jnp.diag(matrix))),
    "isotropic": jnp.zeros_like,
}
"""Part of a tensor that changes the shape of the cell, in the ways that are allowed."""

"""Constant-pressure dynamics by stochastic cell rescaling.

Isotropic: Bernetti and Bussi 2020, J. Chem. Phys. 153, 114107; anisotropic: Del Tatto, Raiteri, Bernetti and Bussi
2022, Appl. Sci. 12, 1139; used here in the following form. In a step the rows h of the cell and the positions are
multiplied by exp(A) with a symmetric A, the momenta p by exp(-A). A = ε/3 + B: ε is the change of ln V, and B is
traceless. With W = Σ p pᵀ/m - V σ (its trace is three times volume times internal pressure), external pressure P,
compressibility β and barostat time τ,

- λ = sqrt(V) moves by β/(2τλ)·(tr W/3 - P V + kT/2) dt + sqrt(kT β dt/(2τ)) ξ, noise that does not depend on λ;
- B = s/(2kT) dev W + sqrt(s) dev Ξ, with s = 2 kT β dt/(3 τ V_m), Ξ a matrix of N(0, 1) numbers and V_m the geometric
  mean of the old and the new volume, so that a step and its reverse have the same s.

This diffusion on the cells has the stationary density V exp(-(U + K + P V)/kT) with respect to the invariant measure
dh/V³. Volumes are thus distributed as in the isotropic ensemble, shapes as in that of a flexible cell under
hydrostatic pressure, V⁻² exp(-(U + K + P V)/kT) dh (Martyna, Tobias and Klein 1994, J. Chem. Phys. 101, 4177).

If only d of the three cell vectors are free, the strain acts only in their span. With the projector Π onto it
A = ε/d Π + B, B = Π B Π traceless; exp(A) changes nothing perpendicular to the span, so that fixed cell
vectors must be perpendicular to the free ones. In the above tr W/3 becomes tr(Π W)/d, which is the derivative of
-(U + K) with respect to ε, and dev W the traceless part of Π W Π. ε is still the change of ln V, so λ moves as before:
its variance is that of ε²V/4, that of a component of B is again Var(ε)/d, hence s = 2 kT β dt/(d τ V_m), with which
the noise is the same for all free strains. exp(A) changes V by the factor exp(ε), the volume of configurations of
N atoms by exp(Nε), that of their momenta by its inverse. With L, the length or area of the free vectors h, the
stationary density is L exp(-(U + K + P V)/kT) for the invariant measure dh/L^d: L exp(-P V/kT) dL/L times L^N for an
ideal gas, and L^(1-d) exp(-(U + K + P V)/kT) dh for shapes.

A step is symmetric in time: half kick, draw A, rescale by A/2, drift with the thermostat in its middle, rescale by
A/2, evaluate, half kick. A depends on the stress and momenta at the beginning of the step, the A of the reversed step
on those at its end, so that one evaluation per step gives the ratio of the two probabilities. Its logarithm is counted
as work of the barostat; energy minus work is then conserved up to the error of the time step, also under a schedule.
"""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import units
from bayes_mlff.data.graph import volume
from bayes_mlff.md.integrators import Integrator, MDState, Thermostat, add_work, drift, finish, kick, now
from bayes_mlff.md.schedule import Schedule

CellMotion = Literal["flexible", "orthorhombic", "isotropic"]

_SERIES_TERMS: Final = 8
"""Terms of the series of exp(A): exact to float64 for strains below 0.1 per step, which no useful step exceeds."""

SKEW: Final = 1e-4
"""Largest fraction of a fixed cell vector along the free ones that is accepted as rounding in a file: with it, a strain
of 1 % of a free vector displaces atoms across a cell of 20 Å by 2e-5 Å."""


class Span(NamedTuple):
    """Subspace of strains of a cell with one or two free vectors."""

    free: np.ndarray  # [3] bool
    projection: np.ndarray  # [3, 3] onto the span of the free vectors
    normal: np.ndarray  # [3] unit vector perpendicular to two free vectors; has no meaning for one free vector

    def projector(self, like: jax.Array) -> jax.Array:
        """The projection in the dtype of an array."""
        return jnp.asarray(self.projection, like.dtype)


def span_of(cell: np.ndarray, free: np.ndarray) -> Span | None:
    """Compute the span of the free cell vectors.

    Args:
      cell: [3, 3] Å, rows; fixed vectors must be perpendicular to the free ones within `SKEW`.
      free: [3] True for vectors that may change.

    Returns:
      The span; None if all vectors are free.

    Raises:
      ValueError: if none is free, or a fixed vector is not perpendicular to the free ones.
    """
    free = np.asarray(free, bool)
    if free.all():
        return None
    if not free.any() or skew(cell, free) > SKEW:
        raise ValueError(f"free: got {free.tolist()}; allowed: vectors perpendicular to those that are held")
    _, _, axes = np.linalg.svd(cell[free])
    within = axes[: int(free.sum())]
    return Span(free, _exact(within.T @ within), _exact(axes[2]))


def _exact(values: np.ndarray) -> np.ndarray:
    """Restore zeros and ones that rounding has changed, so that perpendicular vectors are multiplied by exactly one."""
    nearest = np.round(values)
    return np.where(np.abs(values - nearest) < 1e-14, nearest, values)


def skew(cell: np.ndarray, free: np.ndarray) -> float:
    """Largest fraction of the length of a fixed vector that lies in the span of the free ones."""
    _, _, axes = np.linalg.svd(cell[free])
    held = cell[~np.asarray(free, bool)]
    if not held.size:
        return 0.0
    inside = np.linalg.norm(held @ axes[: int(np.sum(free))].T, axis=1)
    return float(np.max(inside / np.linalg.norm(held, axis=1)))


def cell_rescaling(
    timestep_fs: float,
    schedule: Schedule,
    thermostat: Thermostat,
    *,
    time_fs: float,
    compressibility_per_gpa: float,
    cell: CellMotion = "flexible",
    span: Span | None = None,
) -> Integrator:
    """Make an integrator for constant temperature and pressure.

    If the thermostat keeps the centre of mass at rest, kT/V is added in place of its pressure, so that N atoms of an
    ideal gas have volumes distributed as V^N exp(-P V/kT) with either thermostat.

    Args:
      timestep_fs: time step of the integrator, fs.
      schedule: temperature (positive) and pressure.
      thermostat: made for the same time step.
      time_fs: barostat time τ, fs; a longer time couples more weakly.
      compressibility_per_gpa: β, 1/GPa; enters only as β/τ and changes no average, so a rough value is sufficient.
      cell: "flexible" changes all lengths and angles; the first vector keeps its direction and the second its plane.
        "orthorhombic" scales along x, y and z separately, "isotropic" equally in all directions.
      span: from `span_of`, if not all cell vectors are free; the fixed ones do not change by a single bit.

    Returns:
      An integrator; `begin` needs the stress of the old geometry in the state, and `finish` that of the new geometry.
    """
    pace = compressibility_per_gpa / units.GPA * timestep_fs / time_fs
    steps = _Steps(timestep_fs, schedule, thermostat, pace, _Strains(span, cell))
    return Integrator(steps.begin, steps.finish, thermostat.conserves_momentum, needs_stress=True)


def internal_tensor(state: MDState) -> jax.Array:
    """Volume times the internal pressure tensor, W = Σ p pᵀ/m - V σ, [3, 3] eV."""
    kinetic = _product(state.momentum.T, state.momentum / state.mass)
    return kinetic - volume(state.cell) * state.stress


def rescale(state: MDState, strain: jax.Array) -> MDState:
    """Multiply cell and positions by exp(strain [3, 3] symmetric), momenta by its inverse."""
    stretch = _exponential(strain)
    return state.set(
        cell=_product(state.cell, stretch),
        position=_product(state.position, stretch),
        momentum=_product(state.momentum, _exponential(-strain)),
    )


def turn_back(state: MDState, cell: jax.Array) -> MDState:
    """Rotate the system: first cell vector along that of `cell`, second one in the plane of the first two of `cell`."""
    turn = _product(_axes(state.cell).T, _axes(cell))
    return state.set(
        cell=_product(state.cell, turn),
        position=_product(state.position, turn),
        momentum=_product(state.momentum, turn),
        strain=_product(turn.T, _product(state.strain, turn)),
    )


def hold(state: MDState, cell: jax.Array, span: Span, *, turn: bool) -> MDState:
    """Set fixed vectors exactly to those of `cell` and project free ones onto their span, which removes rounding.

    With `turn` and two free vectors, the system is also rotated in their plane: the first is along that of `cell`.
    """
    free = jnp.asarray(span.free)[:, None]
    onto = span.projector(cell)
    state = state.set(cell=jnp.where(free, _product(state.cell, onto), cell))
    if not turn or np.sum(span.free) != 2:
        return state
    first, normal = int(np.argmax(span.free)), jnp.asarray(span.normal, cell.dtype)

    def plane(vectors: jax.Array) -> jax.Array:
        along = vectors[first] / jnp.linalg.norm(vectors[first])
        return jnp.stack([along, jnp.cross(normal, along)])

    # Exactly one along a normal that is x, y or z: a rotation made of three axes would round it.
    turned = _product(plane(state.cell).T, plane(cell)) + (jnp.eye(3, dtype=cell.dtype) - onto)
    return state.set(
        cell=jnp.where(free, _product(_product(state.cell, turned), onto), cell),
        position=_product(state.position, turned),
        momentum=_product(state.momentum, turned),
        strain=_product(turned.T, _product(state.strain, turned)),
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


_SYMMETRIC: Final[dict[CellMotion, Callable[[jax.Array], jax.Array] | None]] = {
    "flexible": lambda matrix: 0.5 * (matrix + matrix.T),
    "orthorhombic": lambda matrix: jnp.diag(jnp.diag(matrix)),
    "isotropic": None,
}
"""Part of a tensor that strains the cell in an allowed way; None: only the volume changes."""


class _Strains(NamedTuple):
    """The strains that a barostat may apply."""

    span: Span | None
    motion: CellMotion

    @property
    def ways(self) -> float:
        """Number of free cell vectors d."""
        return 3.0 if self.span is None else float(np.sum(self.span.free))

    def unit(self, dtype: jnp.dtype) -> jax.Array:
        """Projector [3, 3] onto the span of the free vectors."""
        return jnp.eye(3, dtype=dtype) if self.span is None else jnp.asarray(self.span.projection, dtype)

    def confined(self, tensor: jax.Array) -> jax.Array:
        """The part of a tensor in the span of the free vectors."""
        onto = self.unit(tensor.dtype)
        return tensor if self.span is None else _product(_product(onto, tensor), onto)

    def deviator(self, tensor: jax.Array) -> jax.Array:
        """Part of a confined tensor that changes the shape of the cell in an allowed way."""
        symmetric = _SYMMETRIC[self.motion]
        if symmetric is None or self.ways == 1.0:
            return jnp.zeros_like(tensor)
        part = symmetric(tensor)
        return part - jnp.trace(part) / self.ways * self.unit(part.dtype)


class _Steps(NamedTuple):
    """The two halves of a step of `cell_rescaling`; symbols are those of the module's docstring."""

    timestep_fs: float
    schedule: Schedule
    thermostat: Thermostat
    mobility: float  # β dt/τ, Å³/eV
    strains: "_Strains"

    @property
    def resting(self) -> float:
        """Multiple of kT/V that replaces the pressure of the centre of mass if that is at rest."""
        return 1.0 if self.thermostat.conserves_momentum else 0.0

    def scales(self, state: MDState) -> tuple[jax.Array, jax.Array]:
        """Present kT, eV, and external pressure, eV/Å³."""
        present = now(self.schedule, state, self.timestep_fs)
        return units.KB * present.temperature_k, units.GPA * present.pressure_gpa

    def root_mean(self, tensor: jax.Array, size: jax.Array, kt: jax.Array, pressure: jax.Array) -> jax.Array:
        """Mean change of λ in a step that begins with volume `size`."""
        push = jnp.trace(tensor) / self.strains.ways - pressure * size + (0.5 + self.resting) * kt
        return 0.5 * self.mobility / jnp.sqrt(size) * push

    def variances(self, kt: jax.Array, middle: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Variances of the change of λ and of B, for V_m = `middle`."""
        return 0.5 * self.mobility * kt, 2.0 * self.mobility * kt / (self.strains.ways * middle)

    def begin(self, state: MDState) -> MDState:
        """Half kick, draw of A, and the drift between two rescalings by A/2."""
        kt, pressure = self.scales(state)
        state = kick(state, self.timestep_fs / 2)
        key, strain, odds = self._draw(state, kt, pressure)
        start, half = state.cell, self.timestep_fs / 2
        state = add_work(state.set(rng=key, strain=strain), kt * odds)
        state = drift(rescale(state, 0.5 * strain), half)
        state = drift(self.thermostat.apply(state, kt), half)
        state = rescale(state, 0.5 * strain)
        turn = self.strains.motion == "flexible"
        if self.strains.span is not None:
            return hold(state, start, self.strains.span, turn=turn)
        return turn_back(state, start) if turn else state

    def _draw(self, state: MDState, kt: jax.Array, pressure: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draw A: next key, A [3, 3], and its log-probability without terms that the reversed step has, too."""
        strains, dtype = self.strains, state.cell.dtype
        size, tensor = volume(state.cell), strains.confined(internal_tensor(state))
        key, key_root, key_shape = jax.random.split(state.rng, 3)
        mean = self.root_mean(tensor, size, kt, pressure)
        root = mean + jnp.sqrt(0.5 * self.mobility * kt) * jax.random.normal(key_root, (), dtype)
        growth = 2.0 * jnp.log1p(root / jnp.sqrt(size))
        root_variance, variance = self.variances(kt, size * jnp.exp(0.5 * growth))
        drive = variance / (2.0 * kt) * strains.deviator(tensor)
        noise = strains.deviator(strains.confined(jax.random.normal(key_shape, (3, 3), dtype)))
        shape = drive + jnp.sqrt(variance) * noise
        odds = _odds(root, -mean, root_variance) + _odds(shape, -drive, variance)
        return key, growth / strains.ways * strains.unit(dtype) + shape, odds

    def finish(self, state: MDState, force: jax.Array, stress: jax.Array | None = None) -> MDState:
        """Count the work of the barostat, from the probability of the reversed step, and do the last half kick."""
        if stress is None:
            raise ValueError("stress: got None; allowed: [3, 3], which a moving cell needs after every step")
        strains = self.strains
        kt, pressure = self.scales(state)
        state = state.set(stress=stress)
        size, tensor = volume(state.cell), strains.confined(internal_tensor(state))
        growth = jnp.trace(state.strain)
        root = -jnp.sqrt(size) * jnp.expm1(-0.5 * growth)
        shape = state.strain - growth / strains.ways * strains.unit(stress.dtype)
        root_variance, variance = self.variances(kt, size * jnp.exp(-0.5 * growth))
        drive = variance / (2.0 * kt) * strains.deviator(tensor)
        mean = self.root_mean(tensor, size, kt, pressure)
        odds = _odds(root, mean, root_variance) + _odds(shape, drive, variance)
        against_pressure = pressure * size * jnp.expm1(-growth)
        measure = (0.5 + self.resting) * growth
        done = add_work(state, against_pressure + kt * (measure - odds))
        return finish(self.timestep_fs)(done, force, stress)

"""Guards: states from which a run must not continue, the roll-back to the last trusted state, and when a run stops."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bayes_mlff.core import units
from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.core.numbers import apart
from bayes_mlff.core.units import KCAL_MOL, KCAL_MOL_PER_EV
from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.chunk import TRIPS, Chunk, Limits, Stop
from bayes_mlff.md.conditions import conditions
from bayes_mlff.md.integrators import Integrator, MDState, centre_velocity, initial_state, kinetic_energy
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.md.settings import DynamicsConfig
from bayes_mlff.otf.config import GuardsConfig, RunConfig
from bayes_mlff.otf.criteria import Criterion, criteria
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.state import Anchor, HostState, RunState, Setback

COLDEST_K = 300.0
"""Smallest temperature for the limit, since a relaxing structure heats up even at a lower scheduled temperature."""

HEALTHY_TAIL = 1e-12
"""Largest probability, in equilibrium, of a kinetic energy above the limit."""

UNSOUND = "a position, momentum, force, cell or stress is not finite"
"""Reason for not committing a state."""

_SETTINGS = {
    Stop.SIGMA: "guards.sigma_ratio",
    Stop.CLOSE: "guards.min_distance_angstrom",
    Stop.HOT: "guards.temperature_ratio",
    Stop.VOLUME: "guards.volume_ratio",
    Stop.DRIFT: "guards.drift_kcal_mol_atom_ps",
}
"""Setting of the limit for each bit."""


def hottest_k(dynamics: DynamicsConfig, time_fs: float) -> float:
    """Highest temperature scheduled from the start until a time, at least `COLDEST_K`."""
    known = [COLDEST_K, dynamics.initial_temperature_k]
    if dynamics.ensemble != "nve":
        known.append(_highest(dynamics.conditions(), time_fs))
    return max(known)


def _highest(schedule: Schedule, time_fs: float) -> float:
    """Highest temperature of a schedule until a time; segments are linear, so only their ends and that time matter."""
    highest = 0.0
    for begin, end, (first, last) in zip(schedule.begin_fs, schedule.end_fs, schedule.temperature_k, strict=True):
        if begin <= time_fs:
            share = min(1.0, (time_fs - begin) / (end - begin))
            highest = max(highest, float(first), float(first + share * (last - first)))
    return highest


def limits(
    problem: Problem,
    state: RunState,
    *,
    steps: int,
    triggers: tuple[Trigger, ...],
    audit: int,
    known: Mapping[str, list[float]],
) -> Limits:
    """Limits of the next chunk.

    Args:
      problem: constants of the run.
      state: state at the start of the chunk.
      steps: largest number of steps of the chunk.
      triggers: triggers with the limits of the chunk.
      audit: number of the step in the chunk, from 1, that is an audit; 0 = none.
      known: values of the statistics at the labels so far, by name.
    """
    config, host = problem.config, state.host
    highest = [
        config.guards.sigma_ratio * _usual(criterion, trigger, known.get(criterion.statistic.name, []))
        for criterion, trigger in zip(criteria(problem), triggers, strict=True)
    ]
    found = bounds(
        config.guards,
        config.dynamics,
        problem.structure,
        problem.integrator,
        step=host.step,
        steps=steps,
        # A user may lower the temperature and resume; a state that the reference has confirmed is never too hot.
        confirmed_ev=float(kinetic_energy(state.device.trusted)),
        highest=highest,
        anchor=host.anchor,
        dtype=state.device.md.position.dtype,
    )
    return found._replace(audit=jnp.asarray(audit, jnp.int32))


def bounds(
    guards: GuardsConfig,
    dynamics: DynamicsConfig,
    structure: Structure,
    integrator: Integrator,
    *,
    step: int,
    steps: int,
    confirmed_ev: float,
    highest: list[float],
    anchor: Anchor | None,
    dtype: jnp.dtype,
) -> Limits:
    """Limits of the next chunk, without audits.

    Args:
      guards: settings of the guards.
      dynamics: settings of the dynamics.
      structure: initial structure.
      integrator: integrator of the dynamics.
      step: number of steps before the chunk.
      steps: largest number of steps of the chunk.
      confirmed_ev: kinetic energy, eV, that is not too hot whatever is scheduled.
      highest: largest statistic of each trigger, in its unit.
      anchor: start of the measurement of the drift; None: the chunk's first step.
      dtype: of the dynamics.
    """
    n_atoms = len(structure.numbers)
    freedom = integrator.degrees_of_freedom(n_atoms, structure.fixed)
    ratio = max(guards.temperature_ratio, float(stats.chi2.isf(HEALTHY_TAIL, freedom)) / max(freedom, 1))
    scheduled = 0.5 * freedom * units.KB * hottest_k(dynamics, (step + steps) * dynamics.timestep_fs)
    kinetic = ratio * max(scheduled, confirmed_ev)
    volume = abs(float(np.linalg.det(neighbors.complete_cell(structure.cell, structure.pbc))))
    drift = guards.drift_kcal_mol_atom_ps * KCAL_MOL * n_atoms if dynamics.ensemble == "nve" else np.inf
    anchor = anchor or Anchor(step, np.nan)

    def real(value: float) -> jax.Array:
        return jnp.asarray(value, dtype)

    return Limits(
        audit=jnp.zeros([], jnp.int32),
        statistics=jnp.asarray(highest, dtype),
        distance=real(guards.min_distance_angstrom),
        kinetic=real(kinetic),
        volume_min=real(volume / guards.volume_ratio),
        volume_max=real(volume * guards.volume_ratio),
        conserved=real(anchor.conserved_ev),
        drift=real(drift),
        drift_per_step=real(0.0 if np.isinf(drift) else drift * dynamics.timestep_fs / 1000.0),
        age=jnp.asarray(step - anchor.step, jnp.int32),
    )


def _usual(criterion: Criterion, trigger: Trigger, known: list[float]) -> float:
    """Scale of a statistic for its limit: the largest of the present limits, the first one and the median at labels.

    With the median, a model that is uncertain everywhere is not taken for an explosion. Infinite before any label.
    """
    usual = float(np.median(known)) if known else np.inf
    return max(float(np.max(trigger.limit)), float(criterion.limit(criterion.prior)), usual)


def anchored(config: RunConfig, host: HostState, chunk: Chunk, alone: int) -> Anchor | None:
    """Start of the drift measurement after a chunk in which the model took `alone` steps before any label."""
    if config.dynamics.ensemble != "nve" or host.anchor is not None or alone < 1:
        return host.anchor
    first = (np.float64(x[0]) for x in (chunk.thermo.potential, chunk.thermo.kinetic, chunk.thermo.work))
    potential, kinetic, work = first
    return Anchor(host.step + 1, float(potential + kinetic - work))


def tripped(stop: Stop, chunk: Chunk, allowed: Limits, triggers: tuple[Trigger, ...]) -> str | None:
    """Why the run cannot continue from the last step of a chunk with these triggers; None if it can.

    If neighbours are missing, σ and distances have no meaning: the chunk is first repeated with larger lists.
    """
    found = stop & TRIPS
    if Stop.NEIGHBOR_OVERFLOW in stop:
        found &= Stop.NON_FINITE | Stop.HOT | Stop.VOLUME
    if not found:
        return None
    said = [_lost(chunk)] if Stop.NON_FINITE in found else []
    for bit, key in _SETTINGS.items():
        if bit in found:
            reasons = _uncertain(chunk, allowed, triggers) if bit is Stop.SIGMA else [_exceeded(bit, chunk, allowed)]
            said += [f"{reason} ({key})" for reason in reasons]
    return "; ".join(said)


def _uncertain(chunk: Chunk, limits: Limits, triggers: tuple[Trigger, ...]) -> list[str]:
    """Messages about statistics above their limits."""
    values = np.atleast_1d(np.asarray(chunk.compared.statistics))
    highest = np.broadcast_to(np.asarray(limits.statistics), values.shape)
    said = []
    for trigger, value, limit in zip(triggers, values, highest, strict=True):
        if value > limit:
            unit, factor = trigger.statistic.shown_unit
            number, allowed = apart(factor * float(value), factor * float(limit), 3)
            said.append(f"{trigger.statistic.said} is {number} {unit}, allowed at most {allowed}")
    return said


def _exceeded(bit: Stop, chunk: Chunk, limits: Limits) -> str:
    """Message with the value that was compared and its limit."""
    compared, kcal = chunk.compared, KCAL_MOL_PER_EV
    size, smallest = float(compared.volume), float(limits.volume_min)
    what, unit, value, limit, digits = {
        Stop.CLOSE: ("the nearest two atoms are at", "Å", float(compared.distance), float(limits.distance), 3),
        Stop.HOT: (
            "the kinetic energy is",
            "kcal/mol",
            kcal * float(compared.kinetic),
            kcal * float(limits.kinetic),
            4,
        ),
        Stop.VOLUME: ("the volume is", "Å³", size, smallest if size < smallest else float(limits.volume_max), 4),
        Stop.DRIFT: (
            "the conserved energy has drifted by",
            "kcal/mol",
            kcal * float(compared.drift),
            kcal * float(compared.drift_allowed),
            4,
        ),
    }[bit]
    said, allowed = apart(value, limit, digits)
    return f"{what} {said} {unit}, allowed at {'least' if value < limit else 'most'} {allowed}"


def _lost(chunk: Chunk) -> str:
    """Message about values in the last step of a chunk that are not finite."""
    predictive, md = chunk.predictive, chunk.md
    parts = {
        "the predicted energy": predictive.energy_mean,
        "its σ": predictive.energy_sigma,
        "a predicted force": predictive.forces_mean,
        "a predicted stress": 0.0 if predictive.stress_mean is None else predictive.stress_mean,
        "a position": md.position,
        "the cell": md.cell,
        "a momentum": md.momentum,
    }
    names = [name for name, values in parts.items() if not np.isfinite(np.asarray(values)).all()]
    return f"not finite: {', '.join(names or ['a momentum at the end of the step'])}"


def not_finite(state: RunState) -> tuple[str, ...]:
    """Names of the parts of a state that contain NaN or infinity: 'md', 'params', 'calibration'."""
    parts = {
        "md": _moving(state.device.md),
        "params": (state.device.params,),
        "calibration": tuple(np.hstack((*law.each, law.log_weight)) for law in state.host.calibrations.values()),
    }
    return tuple(name for name, arrays in parts.items() if not _all_finite(arrays))


def is_finite(md: MDState) -> bool:
    """Whether positions, momenta, forces, cell and stress are finite."""
    return _all_finite(_moving(md))


def _moving(md: MDState) -> tuple[jax.Array, ...]:
    return md.position, md.momentum, md.force, md.cell, md.stress


def _all_finite(arrays: Iterable[ArrayLike]) -> bool:
    return all(np.isfinite(np.asarray(a)).all() for a in arrays)


def permit(guards: GuardsConfig, host: HostState, setback: Setback, last_label: int) -> None:
    """Allow one more roll-back, or stop the run.

    Args:
      guards: settings of the guards.
      host: state before the roll-back.
      setback: reason for the roll-back.
      last_label: step of the last accepted label.

    Raises:
      RunStoppedError: with the recent roll-backs and what the user can do.
    """
    lately = [s for s in host.setbacks if s.step > setback.step - guards.rollback_steps]
    failed = [s for s in host.setbacks if s.kind == "reference" and s.step > last_label]
    advice = {
        "guard": "a lower dynamics.temperature_k, a smaller dynamics.timestep_fs (in a new run), or more "
        "sampler.steps often help",
        "reference": "see what the reference says; its settings of convergence may be changed and the run resumed",
    }[setback.kind]
    here = f"step {setback.step}: {setback.reason}"
    stands = f"the run stands at step {host.step}"
    if guards.on_failure == "stop":
        raise RunStoppedError(f"{here}; {stands}; {advice}; or set guards.on_failure to rollback")
    if setback.kind == "reference" and len(failed) + 1 >= guards.max_failures:
        raise RunStoppedError(
            f"{len(failed) + 1} reference calculations in a row gave no label (guards.max_failures); {stands}; "
            f"{advice}:\n" + _listed([*failed, setback])
        )
    if len(lately) + 1 > guards.max_rollbacks:
        raise RunStoppedError(
            f"{len(lately)} roll-backs within {guards.rollback_steps} steps and one more to come "
            f"(guards.max_rollbacks); {stands}; {advice}:\n" + _listed([*lately, setback])
        )


def _listed(setbacks: list[Setback]) -> str:
    return "\n".join(f"  step {s.step}: {s.reason}" for s in setbacks[-5:])


def back(problem: Problem, trusted: MDState, step: int, count: int) -> MDState:
    """The trusted state with new velocities.

    Args:
      problem: constants of the run.
      trusted: state after the last accepted label.
      step: number of the step that rolls back; step numbers never decrease.
      count: number of earlier roll-backs, which with the seed determines the velocities.

    Returns:
      Velocities of the scheduled temperature; in nve with the kinetic energy and the centre-of-mass velocity of the
      trusted state. The change of the kinetic energy is counted as work.
    """
    dynamics = problem.config.dynamics
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(problem.config.seed), 2), count)
    temperature = dynamics.initial_temperature_k
    if dynamics.ensemble != "nve":
        time_fs = jnp.asarray(step * dynamics.timestep_fs, trusted.position.dtype)
        temperature = float(conditions(dynamics.conditions(), time_fs).temperature_k)
    fresh = initial_state(
        trusted.position,
        problem.structure.numbers,
        temperature,
        key,
        cell=trusted.cell,
        masses=trusted.mass[:, 0],
        free=trusted.free,
    )
    before, after = float(kinetic_energy(trusted)), float(kinetic_energy(fresh))
    if dynamics.ensemble == "nve" and after > 0.0:
        carried = trusted.mass * centre_velocity(trusted)
        shared = 0.5 * float(jnp.sum(carried**2 / trusted.mass))
        scale = np.sqrt(max(before - shared, 0.0) / after)
        fresh = fresh.set(momentum=fresh.momentum * jnp.asarray(scale, fresh.momentum.dtype) + carried)
        after = before
    work = trusted.work.at[0].add(after - before)
    return trusted.set(momentum=fresh.momentum, rng=fresh.rng, work=work, step=jnp.asarray(step, trusted.step.dtype))


def neighbors_of(md: MDState, state: NeighborState, spec: NeighborSpec) -> NeighborState:
    """Neighbours of a geometry after a jump; an overflow of the previous geometry is reset."""
    moved = neighbors.move(state, md.position, md.cell)._replace(overflow=jnp.zeros([], bool))
    return neighbors.update(moved, spec)


def rewritten(chunk: Chunk, md: MDState) -> Chunk:
    """Replace the last step of a chunk by the return to `md`; σ is nan there, since there is no prediction."""
    last = int(chunk.steps) - 1

    def put(buffer: jax.Array, value: object) -> np.ndarray:
        array = np.array(buffer)
        array[last] = np.asarray(value)
        return array

    frames = chunk.frames._replace(
        positions=put(chunk.frames.positions, md.position),
        cell=put(chunk.frames.cell, md.cell),
        momenta=put(chunk.frames.momenta, md.momentum),
    )
    thermo = chunk.thermo._replace(
        statistics=put(chunk.thermo.statistics, np.nan),
        dof=put(chunk.thermo.dof, np.nan),
        place=put(chunk.thermo.place, np.nan),
        sigma_force_max=put(chunk.thermo.sigma_force_max, np.nan),
    )
    return chunk._replace(frames=frames, thermo=thermo)

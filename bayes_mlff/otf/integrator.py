"""The integrator that a configuration asks for, refused where it does not fit the structure."""

import numpy as np

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import Structure
from bayes_mlff.md import ranges
from bayes_mlff.md.barostat import SKEW, Span, cell_rescaling, skew, span_of
from bayes_mlff.md.integrators import (
    Integrator,
    friction_thermostat,
    rescaling_thermostat,
    thermostatted,
    velocity_verlet,
)
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.md.settings import BarostatConfig, DynamicsConfig
from bayes_mlff.md.vacuum import VECTORS
from bayes_mlff.models import architectures
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.otf import motion as motions


def refuse_direct_forces(dynamics: DynamicsConfig, architecture: ArchitectureConfig) -> None:
    """Refuse dynamics that need forces which are the gradient of the energy, where a network gives them directly.

    Without that the energy of a trajectory at constant energy drifts, and at constant pressure the stress, which is
    always the gradient's, belongs to other forces than those that move the atoms.

    Raises:
      ConfigError: naming the ensemble.
    """
    if architectures.of(architecture).conservative(architecture):
        return
    reasons = {"nve": "energy, which would drift", "npt": "energy, of which the stress is the gradient"}
    why = reasons.get(dynamics.ensemble)
    if why is not None:
        allowed = f"nvt: the forces of this model are not the gradient of its {why}"
        raise ConfigError("dynamics.ensemble", dynamics.ensemble, allowed)


def make_integrator(dynamics: DynamicsConfig, structure: Structure, schedule: Schedule | None = None) -> Integrator:
    """Make the configured integrator for a structure.

    Args:
      dynamics: settings of the dynamics.
      structure: initial structure.
      schedule: conditions in the place of those of `dynamics`, which are checked; may be traced.

    Raises:
      ConfigError: if the ensemble needs another kind of structure.
    """
    step, wanted = dynamics.timestep_fs, dynamics.conditions()
    if dynamics.ensemble == "nve":
        return velocity_verlet(step)
    if dynamics.thermostat == "bussi" and len(structure.numbers) < 2:
        raise ConfigError(
            "dynamics.thermostat", "bussi", "langevin for a single atom, whose momentum velocity rescaling keeps"
        )
    thermostat = (
        rescaling_thermostat(step, dynamics.thermostat_time_fs)
        if dynamics.thermostat == "bussi"
        else friction_thermostat(step, dynamics.friction_per_fs)
    )
    if dynamics.ensemble != "npt":
        return thermostatted(step, wanted if schedule is None else schedule, thermostat)
    barostat = dynamics.barostat
    if motions.fixed(structure).any():
        allowed = "nvt or nve for a structure with held coordinates, which a cell that changes would move"
        raise ConfigError("dynamics.ensemble", "npt", allowed)
    if not structure.is_periodic:
        raise ConfigError(
            "dynamics.ensemble",
            "npt",
            f"a structure that is periodic in three directions, and not in {structure.pbc.tolist()}; for a slab or a "
            "wire: a cell vector and pbc along its vacuum too, and dynamics.barostat.free with the vectors that are "
            "not along it, such as [a, b]",
        )
    if barostat.cell == "orthorhombic" and np.any(structure.cell - np.diag(np.diag(structure.cell))):
        raise ConfigError("dynamics.barostat.cell", barostat.cell, "flexible or isotropic, or a cell along x, y and z")
    ranges.check_noise(
        step,
        time_fs=barostat.time_fs,
        compressibility_per_gpa=barostat.compressibility_per_gpa,
        temperature_k=max(dynamics.initial_temperature_k, float(wanted.temperature_k.max())),
        volume_a3=abs(float(np.linalg.det(structure.cell))),
    )
    return cell_rescaling(
        step,
        wanted if schedule is None else schedule,
        thermostat,
        time_fs=barostat.time_fs,
        compressibility_per_gpa=barostat.compressibility_per_gpa,
        cell=barostat.cell,
        span=_span(barostat, structure),
    )


def _span(barostat: BarostatConfig, structure: Structure) -> Span | None:
    """Span of the free cell vectors.

    Raises:
      ConfigError: if a fixed vector is not perpendicular to them.
    """
    free = np.array([name in barostat.free for name in VECTORS])
    leaning = skew(structure.cell, free)
    if leaning > SKEW:
        raise ConfigError(
            "dynamics.barostat.free",
            f"[{', '.join(barostat.free)}]",
            "vectors that are perpendicular to all others, which would not stay as they are otherwise; now a held one "
            f"leans by {np.degrees(np.arcsin(min(1.0, leaning))):.3g}° towards the free ones (for a slab: a cell whose "
            "vector along the vacuum is normal to its plane, which changes nothing but how images of the slab lie "
            "across the vacuum)",
        )
    return span_of(structure.cell, free)

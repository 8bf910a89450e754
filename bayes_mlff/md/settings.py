"""Settings of molecular dynamics: ensemble, thermostat, barostat, schedule, and what is stored."""

from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from bayes_mlff.core.changes import changes
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Count, Positive, Section
from bayes_mlff.md import ranges
from bayes_mlff.md import schedule as schedules
from bayes_mlff.md.schedule import Pressure, Schedule, Segment

LONGEST_STEPS: Final = 2**31 - 1
"""Largest number of MD steps of a run; they are counted in int32."""

Thermostat = Literal["langevin", "bussi"]


class BarostatConfig(Section):
    """Barostat of npt: stochastic cell rescaling."""

    cell: Literal["flexible", "orthorhombic", "isotropic"] = Field(
        default="flexible",
        description="What of the cell may change: flexible for lengths and angles, orthorhombic for the lengths along "
        "x, y and z, isotropic for the volume alone.",
    )
    time_fs: Positive = Field(default=1000.0, description="Relaxation time of the pressure, fs.")
    compressibility_per_gpa: Positive = Field(
        default=0.02,
        description="Rough isothermal compressibility of the material, 1/GPa (metals 0.01, liquids 0.5); it sets how "
        "fast the cell moves and not its average.",
    )
    free: tuple[Literal["a", "b", "c"], ...] = Field(
        default=("a", "b", "c"),
        description="Cell vectors that may change; for a slab those in its plane, so that the vacuum keeps its width.",
    )

    @field_validator("free")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("one, two or all of a, b, c, each once")
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _of_a_material(self) -> "BarostatConfig":
        ranges.check_compressibility(self.compressibility_per_gpa)
        return self


class DynamicsConfig(Section):
    """Molecular dynamics."""

    ensemble: Literal["nve", "nvt", "npt"] = Field(
        default="nvt",
        description="Ensemble: nve for constant energy, nvt for constant temperature, npt for constant temperature and "
        "pressure.",
    )
    thermostat: Thermostat = Field(
        default="langevin",
        description="Thermostat of nvt and npt: langevin (friction and noise) or bussi (stochastic velocity "
        "rescaling).",
    )
    duration_ps: Positive = Field(default=10.0, description="Simulated time of the whole run, ps.")
    timestep_fs: float = Field(default=0.5, gt=0.0, le=10.0, description="Time step of the integrator, fs.")
    temperature_k: float = Field(
        default=300.0, ge=0.0, description="Temperature of the thermostat and of velocities that are drawn, K."
    )
    friction_per_fs: Positive = Field(
        default=0.01, description="Friction coefficient of the langevin thermostat, 1/fs."
    )
    thermostat_time_fs: Positive = Field(default=100.0, description="Relaxation time of the bussi thermostat, fs.")
    pressure_gpa: Pressure = Field(
        default=0.0, description="Pressure of npt on the whole cell, with any vacuum in it, GPa."
    )
    barostat: BarostatConfig = Field(
        default=BarostatConfig(), description="Barostat of npt: stochastic cell rescaling."
    )
    schedule: tuple[Segment, ...] = Field(
        default=(),
        description="Segments {duration_ps or until_ps, temperature_k, end_temperature_k, pressure_gpa, "
        "end_pressure_gpa} that take the place of constant conditions; the values at the end of the last one stay.",
    )
    chunk_steps: Count = Field(
        default=500, description="Largest number of MD steps that the device takes before results are looked at."
    )
    trajectory_every: Count = Field(default=10, description="Number of MD steps between stored frames.")
    thermo_every: Count = Field(default=1, description="Number of MD steps between rows of thermo.csv.")
    masses: dict[str, Positive] = Field(
        default={},
        description="Masses of elements, amu, in place of the standard ones, e.g. {H: 2.014} for deuterium.",
    )
    velocities: Literal["auto", "file", "draw"] = Field(
        default="auto",
        description="First velocities: file takes those of the structure's file, draw draws them at the first "
        "temperature, auto takes those of the file where it has some and draws them otherwise.",
    )
    skin_angstrom: Positive = Field(
        default=0.5, description="Distance beyond the cutoff up to which neighbours are listed, Å."
    )
    memory_gib: Positive | None = Field(
        default=None,
        description="Memory of each device that evaluating the chains may take, GiB: with less of it they are "
        "evaluated in groups or one by one. null means most of what the device has free.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "DynamicsConfig":
        self.conditions()
        steps = self.duration_ps * 1000.0 / self.timestep_fs
        if not 1.0 <= steps <= LONGEST_STEPS:
            raise ConfigError("dynamics.duration_ps", self.duration_ps, f"1 to {LONGEST_STEPS} steps of timestep_fs")
        ranges.check_thermostat(
            self.thermostat_used,
            self.timestep_fs,
            friction_per_fs=self.friction_per_fs,
            time_fs=self.thermostat_time_fs,
        )
        pressures = [self.pressure_gpa] + [p for s in self.schedule for p in (s.pressure_gpa, s.end_pressure_gpa)]
        if self.ensemble != "npt" and any(p not in (None, 0.0) for p in pressures):
            raise ConfigError("dynamics.ensemble", self.ensemble, "npt, since a pressure is given")
        if self.ensemble == "nve" and self.schedule:
            raise ConfigError("dynamics.schedule", "segments", "none in nve, which has no thermostat")
        if self.temperature_k == 0.0 and (self.ensemble == "npt" or self.thermostat_used == "bussi"):
            what = "npt" if self.ensemble == "npt" else "thermostat: bussi"
            raise ConfigError("dynamics.temperature_k", self.temperature_k, f"more than 0 for {what}")
        if self.ensemble == "npt":
            ranges.check_barostat(
                self.timestep_fs,
                time_fs=self.barostat.time_fs,
                compressibility_per_gpa=self.barostat.compressibility_per_gpa,
                pressures_gpa=[p for p in pressures if p is not None],
            )
        return self

    def conditions(self) -> Schedule:
        """Temperature and pressure over time.

        Raises:
          ConfigError: if a segment of the schedule is not valid.
        """
        return schedules.build(self.schedule, temperature_k=self.temperature_k, pressure_gpa=self.pressure_gpa)

    @property
    def thermostat_used(self) -> Thermostat | None:
        """The thermostat; None for nve."""
        return None if self.ensemble == "nve" else self.thermostat

    @property
    def unused(self) -> tuple[str, ...]:
        """Dotted keys that are not at their defaults although the ensemble or the schedule makes them idle."""
        idle = {"langevin": ["thermostat_time_fs"], "bussi": ["friction_per_fs"]}.get(
            self.thermostat_used or "", ["thermostat", "friction_per_fs", "thermostat_time_fs"]
        )
        idle += [] if self.ensemble == "npt" else ["barostat"]
        idle += ["temperature_k"] if self.schedule else []
        changed = (change.key for change in changes(DynamicsConfig(), self))
        return tuple(f"dynamics.{key}" for key in changed if key.partition(".")[0] in idle)

    @property
    def initial_temperature_k(self) -> float:
        """Temperature of the initial velocities, K."""
        return self.schedule[0].temperature_k if self.schedule else self.temperature_k

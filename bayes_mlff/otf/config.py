"""The configuration of a run: one YAML file, validated before anything is paid for."""

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from bayes_mlff.core import settings, units
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Count, Positive, Section, Seed
from bayes_mlff.data.structure_files import StructureSettings
from bayes_mlff.engines.pyscf.engine import PyscfSettings
from bayes_mlff.engines.registry import EngineSettings
from bayes_mlff.ensemble.calibration import largest_critical_sigma
from bayes_mlff.md import ranges
from bayes_mlff.md import schedule as schedules
from bayes_mlff.md.schedule import Pressure, Schedule, Segment

MOST_CHAINS: Final = 1024
"""Sets of weights that are held at a time."""

LONGEST_STEPS: Final = 2**31 - 1
"""MD steps of a run, which are counted in int32."""


class CalibrationConfig(Section):
    """Gamma prior on the precision of the predicted errors."""

    a: Positive = Field(default=3.0, description="Shape; 3 for NequIP, 1.5 for MACE.")
    b: Positive = Field(default=10.0, description="Rate.")
    decay: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Weight kept by earlier errors at each label; 1 = all."
    )


class SamplerConfig(Section):
    """SGHMC chains."""

    chains: int = Field(default=8, ge=2, le=MOST_CHAINS, description="Independent chains, one sample each.")
    steps: Count = Field(default=2000, ge=10, multiple_of=10, description="Steps of every chain after each label.")
    rounds: Count = Field(
        default=1,
        description="At most so many times `steps` after a label: the chains go on while their mean energy of that "
        "label is off by more than half of the threshold.",
    )
    step_size: Positive | None = Field(
        default=None,
        description="First step size γ0 of the falling cosine; without it that of the model's architecture, 0.001 for "
        "nequip, 0.001 for mace.",
    )
    batch_size: Count = Field(default=5, description="Labels in a minibatch.")
    friction: float = Field(default=0.1, gt=0.0, le=1.0, description="α.")
    cold_steps: int = Field(
        default=400,
        ge=0,
        lt=2**31,
        description="Steps at temperature 0; four fifths of all where the model has much to learn.",
    )
    ramp_steps: Count = Field(default=100, description="Steps from temperature 0 to 1.")
    prior_scale: Positive | None = Field(
        default=None,
        description="Standard deviation σ_TL of the prior around the pretrained weights; without it that of the "
        "model's architecture, 0.2 for nequip, 0.5 for mace.",
    )
    initial_spread: float = Field(
        default=0.25, ge=0.0, le=1.0, description="Chains start at draws from the prior narrowed by this factor."
    )
    memory_gib: Positive | None = Field(
        default=None,
        description="Memory of each device for intermediate results of an update, which does less at once to keep to "
        "it; by default most of what the device has free.",
    )
    energy_sigma_fraction: Positive = Field(default=0.1, description="Energy σ of the likelihood over the threshold.")
    stress_sigma_kcal_mol_a3: Positive = Field(
        default=0.1 / 16.0, description="Stress σ of the likelihood, kcal/mol/Å³; used where stress is learnt."
    )

    @model_validator(mode="after")
    def _warm(self) -> "SamplerConfig":
        if self.steps <= self.cold_steps + self.ramp_steps:
            raise ValueError("steps must exceed cold_steps + ramp_steps, or no sample is taken at temperature 1")
        return self


class BarostatConfig(Section):
    """Stochastic cell rescaling, for `ensemble: npt`."""

    cell: Literal["flexible", "orthorhombic", "isotropic"] = Field(
        default="flexible", description="What may change: lengths and angles, lengths along x, y, z, or the volume."
    )
    time_fs: Positive = Field(default=1000.0, description="Relaxation time of the cell.")
    compressibility_per_gpa: Positive = Field(
        default=0.02, description="Rough value of the material, 1/GPa; sets the speed only (metals 0.01, liquids 0.5)."
    )
    free: tuple[Literal["a", "b", "c"], ...] = Field(
        default=("a", "b", "c"),
        description="Cell vectors that may change; for a slab those in its plane, so that its vacuum stays as it is.",
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

    ensemble: Literal["langevin", "bussi", "nve", "npt"] = Field(
        default="langevin", description="Constant temperature by friction or by velocity rescaling; nve; or npt."
    )
    thermostat: Literal["langevin", "bussi"] = Field(default="langevin", description="Of npt.")
    duration_ps: Positive = 10.0
    timestep_fs: float = Field(default=0.5, gt=0.0, le=10.0)
    temperature_k: float = Field(default=300.0, ge=0.0, description="Of the thermostat and of the first velocities.")
    friction_per_fs: Positive = Field(default=0.01, description="Langevin friction.")
    thermostat_time_fs: Positive = Field(default=100.0, description="Relaxation time of velocity rescaling.")
    pressure_gpa: Pressure = Field(default=0.0, description="Of npt; on the whole cell, with any vacuum in it.")
    barostat: BarostatConfig = BarostatConfig()
    schedule: tuple[Segment, ...] = Field(
        default=(),
        description="Segments {duration_ps or until_ps, temperature_k, end_temperature_k, pressure_gpa, "
        "end_pressure_gpa} in place of constant conditions; the last values stay.",
    )
    chunk_steps: Count = Field(default=500, description="Steps between two looks from the host, at most.")
    trajectory_every: Count = Field(default=10, description="Steps between stored frames.")
    thermo_every: Count = Field(default=1, description="Steps between rows of thermo.csv.")
    masses: dict[str, Positive] = Field(
        default={},
        description="Masses of elements, amu, in place of the standard ones, e.g. {H: 2.014} for deuterium.",
    )
    velocities: Literal["auto", "file", "draw"] = Field(
        default="auto",
        description="First velocities: those of the structure's file, or drawn at the first temperature; auto takes "
        "those of the file where it has them.",
    )
    skin_angstrom: Positive = Field(default=0.5, description="Neighbours are kept this far beyond the cutoff.")
    memory_gib: Positive | None = Field(
        default=None,
        description="Memory of each device for evaluating the chains, which takes them in groups or one by one to keep "
        "to it; by default most of what the device has free.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "DynamicsConfig":
        self.conditions()
        steps = self.duration_ps * 1000.0 / self.timestep_fs
        if not 1.0 <= steps <= LONGEST_STEPS:
            raise ConfigError("dynamics.duration_ps", self.duration_ps, f"1 to {LONGEST_STEPS} steps of timestep_fs")
        kind = self.thermostat if self.ensemble == "npt" else self.ensemble
        ranges.check_thermostat(
            kind, self.timestep_fs, friction_per_fs=self.friction_per_fs, time_fs=self.thermostat_time_fs
        )
        pressures = [self.pressure_gpa] + [p for s in self.schedule for p in (s.pressure_gpa, s.end_pressure_gpa)]
        if self.ensemble != "npt" and any(p not in (None, 0.0) for p in pressures):
            raise ConfigError("dynamics.ensemble", self.ensemble, "npt, since a pressure is given")
        if self.ensemble == "nve" and self.schedule:
            raise ConfigError("dynamics.schedule", "segments", "none in nve, which has no thermostat")
        if self.ensemble in ("bussi", "npt") and self.temperature_k == 0.0:
            raise ConfigError("dynamics.temperature_k", self.temperature_k, f"more than 0 for {self.ensemble}")
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
          ConfigError: if the schedule is no schedule.
        """
        return schedules.build(self.schedule, temperature_k=self.temperature_k, pressure_gpa=self.pressure_gpa)

    @property
    def initial_temperature_k(self) -> float:
        """Temperature of the first velocities."""
        return self.schedule[0].temperature_k if self.schedule else self.temperature_k


class GuardsConfig(Section):
    """What a run refuses to go on from, and what it does then."""

    on_failure: Literal["rollback", "stop"] = Field(
        default="rollback",
        description="When a guard trips or a geometry gets no label: back to the last state that the reference "
        "confirmed, with new velocities; or stop.",
    )
    max_rollbacks: Count = Field(default=5, description="Stop instead of rolling back more often than this ...")
    rollback_steps: Count = Field(default=1000, description="... within so many steps.")
    max_failures: Count = Field(default=3, description="Stop when the reference fails this often in a row.")
    sigma_ratio: float = Field(
        default=20.0,
        gt=1.0,
        description="Largest energy σ over the critical one (the largest of the present critical σ, the first one, and "
        "the usual σ of the labels so far).",
    )
    min_distance_angstrom: float = Field(default=0.5, ge=0.0, description="Closest that two atoms may come.")
    temperature_ratio: float = Field(
        default=6.0,
        gt=1.0,
        description="Largest temperature over the highest one scheduled so far (at least 300 K); a few atoms, whose "
        "temperature fluctuates more, get more room.",
    )
    volume_ratio: float = Field(
        default=1.5, gt=1.0, description="Largest and, inverted, smallest volume over that of the first cell."
    )
    drift_kcal_mol_atom_ps: Positive = Field(
        default=0.5,
        description="Largest drift of the conserved energy in nve between two labels; for less than a picosecond "
        "as much as in one.",
    )
    label_sigmas: Positive = Field(
        default=20.0, description="A label whose error exceeds this many calibrated σ and ..."
    )
    label_thresholds: Positive = Field(
        default=20.0,
        description="... this many thresholds (for forces per Å) is not learnt, unless it fits to the label before it.",
    )
    storm_labels: Count = Field(default=40, description="Stop when more reference calls than this are made ...")
    storm_steps: Count = Field(default=100, description="... within so many steps.")


class AuditsConfig(Section):
    """Labels at random times, which alone tell without bias how often the model is wrong."""

    interval_ps: float = Field(default=1.0, ge=0.0, allow_inf_nan=False, description="Mean time between; 0 = none.")
    false_alarm: float = Field(
        default=0.01,
        gt=0.0,
        le=0.5,
        description="Probability, over a whole run, that audits find a calibration too confident that is right.",
    )


class RunConfig(Section):
    """Everything that defines a run."""

    structure: StructureSettings = Field(
        description="'ethanol', the path of any file that ASE reads, or {file: PATH, format: NAME, index: FRAME, ...}."
    )
    model: str = Field(
        default="nequip-md17-small", description="Name of a shipped model, or path of a .safetensors file."
    )
    threshold: str = Field(default="0.5 kcal/mol", description="Error of the total energy to hold, with its unit.")
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1.0, description="Label when the error may exceed it more often."
    )
    max_labels: Count = Field(default=500, description="Stop, resumably, when this many labels have been paid for.")
    min_steps_between_labels: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Steps after a label in which uncertainty asks for no other, since neighbours in time are much "
        "alike; the stated confidence holds at 0 only.",
    )
    validation_frames: int = Field(
        default=0, ge=0, lt=2**31, description="Random frames of the trajectory to label at the end."
    )
    seed: Seed = 0
    calibration: CalibrationConfig = CalibrationConfig()
    sampler: SamplerConfig = SamplerConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    guards: GuardsConfig = GuardsConfig()
    audits: AuditsConfig = AuditsConfig()
    engine: EngineSettings = PyscfSettings()

    @field_validator("structure", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @field_validator("threshold")
    @classmethod
    def _quantity(cls, value: str) -> str:
        try:
            units.parse_energy(value, n_atoms=1, key="threshold")
        except ConfigError as error:
            raise ValueError(f"allowed: {error.allowed}") from error
        return value

    @model_validator(mode="after")
    def _stress_for_npt(self) -> "RunConfig":
        if self.dynamics.ensemble == "npt" and not self.engine_gives_stress:
            raise ConfigError(
                "dynamics.ensemble",
                "npt",
                "an ensemble of constant cell, or an engine that gives the stress (ase with engine.stress: true)",
            )
        return self

    @model_validator(mode="after")
    def _labels_must_become_unnecessary(self) -> "RunConfig":
        prior, fraction = self.calibration, self.sampler.energy_sigma_fraction
        largest = largest_critical_sigma(prior.a, prior.b, prior.decay, confidence=self.confidence)
        if fraction >= largest:
            raise ConfigError(
                "sampler.energy_sigma_fraction",
                fraction,
                f"less than {largest:.3g}: σ is never below this part of the threshold, and calibration.decay "
                f"{prior.decay:g} lets no σ above that pass without a label, however small the errors are",
            )
        return self

    @property
    def engine_gives_stress(self) -> bool:
        """True if the labels of periodic structures come with a stress."""
        return self.engine.gives_stress

    def threshold_ev(self, n_atoms: int) -> float:
        """Threshold of the total energy of a structure of n atoms, eV."""
        return units.parse_energy(self.threshold, n_atoms=n_atoms, key="threshold")

    @property
    def n_steps(self) -> int:
        """MD steps of the whole run."""
        return round(self.dynamics.duration_ps * 1000.0 / self.dynamics.timestep_fs)


def parse(raw: Any) -> RunConfig:
    """Validate a configuration read from YAML.

    Raises:
      ConfigError: for the first problem, naming the dotted key, what came and what is allowed.
    """
    return settings.validate(RunConfig, raw)


def load(path: Path) -> RunConfig:
    """Read and validate a YAML file.

    Raises:
      ConfigError: if the file is missing, not YAML, or invalid.
    """
    return parse(settings.read_yaml(path))

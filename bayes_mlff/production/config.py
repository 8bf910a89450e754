"""Settings of a production; what is not given is taken from the run that the ensemble comes from."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Count, Energy, Positive, Section, Seed
from bayes_mlff.data.structure_settings import StructureSettings
from bayes_mlff.md import schedule as schedules
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.md.settings import DynamicsConfig
from bayes_mlff.otf.config import GuardsConfig, RunConfig

START: Final = "start"
"""Name, in the place of a file, of the structure that the run was started from."""

MOST_REPLICAS: Final = 10_000

EQUILIBRATION_PS: Final = 1.0

Replicas = Annotated[int, Field(ge=1, le=MOST_REPLICAS)]


class ProductionConfig(Section):
    """Everything that defines a production."""

    structure: StructureSettings | None = Field(
        default=None,
        description="Structure to begin with, of elements that the ensemble knows: the path of a file that ASE reads, "
        "a section {file: PATH, index: FRAME, ...}, or 'start' for that of the run. null means the last stored frame "
        "of the run.",
    )
    supercell: tuple[Count, Count, Count] = Field(
        default=(1, 1, 1), description="Copies of the structure along each cell vector, such as [2, 2, 2]."
    )
    model: Literal["ensemble", "pretrained"] = Field(
        default="ensemble",
        description="What moves the atoms: ensemble for all trained samples, pretrained for the model before the run, "
        "which has no σ.",
    )
    replicas: Replicas = Field(
        default=3, description="Number of independent trajectories, which the device advances together."
    )
    temperatures_k: tuple[Positive, ...] | None = Field(
        default=None,
        description="Temperature of each replica in the place of temperature_k of both segments, K; null means that "
        "all have that one.",
    )
    seed: Seed = Field(default=0, description="Seed of the first replica; each further one has the next whole number.")
    threshold: Energy | None = Field(
        default=None,
        description="Largest acceptable error of the total energy, with its unit. null means that of the run: times "
        "the square root of the ratio of the numbers of atoms if they differ, or per atom if the run has it per atom.",
    )
    confidence: float | None = Field(
        default=None,
        gt=0.5,
        lt=1.0,
        description="Probability with which the error must be within the threshold; null means that of the run, or "
        "0.95.",
    )
    on_uncertain: Literal["warn", "stop", "label"] = Field(
        default="warn",
        description="What happens where σ is above its limit: warn counts and goes on, stop ends that replica, label "
        "ends it too, and goes on from there as an on-the-fly run with the reference of the run.",
    )
    format: Literal["extxyz", "netcdf"] = Field(
        default="extxyz",
        description="Format of trajectories: extxyz, or netcdf (convention of AMBER, float32), which is a fourth of "
        "the size.",
    )
    equilibration: DynamicsConfig | None = Field(
        default=None, description="Dynamics before those that count, in folders of their own; null means none."
    )
    dynamics: DynamicsConfig = Field(
        default=DynamicsConfig(), description="Molecular dynamics: ensemble, conditions, time step and what is stored."
    )
    guards: GuardsConfig = Field(
        default=GuardsConfig(),
        description="States at which a replica stops; what concerns labels and rolling back has no effect here.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ProductionConfig":
        count, given = self.replicas, self.temperatures_k
        if given is not None and len(given) != count:
            raise ConfigError("temperatures_k", list(given), f"one for each of the {count} replicas, or null")
        if self.seed + count > 2**32:
            raise ConfigError("seed", self.seed, f"at most {2**32 - count}, since each replica has the next one")
        for name, dynamics in self.segments().items():
            if given is not None and dynamics.schedule:
                allowed = f"null, since the segments of {name}.schedule set the temperatures"
                raise ConfigError("temperatures_k", list(given), allowed)
        first = next(iter(self.segments()))
        if count > 1 and self.segments()[first].velocities != "draw":
            allowed = "draw with several replicas, which would all begin alike otherwise"
            raise ConfigError(f"{first}.velocities", self.segments()[first].velocities, allowed)
        return self

    def segments(self) -> dict[str, DynamicsConfig]:
        """The parts of the production by name, in order."""
        before = {} if self.equilibration is None else {"equilibration": self.equilibration}
        return {**before, "dynamics": self.dynamics}

    def of_replica(self, dynamics: DynamicsConfig, replica: int) -> DynamicsConfig:
        """Settings of a part with the temperature of one replica."""
        if self.temperatures_k is None:
            return dynamics
        return dynamics.model_copy(update={"temperature_k": self.temperatures_k[replica]})


def noun(part: str) -> str:
    """What users are told that a part is."""
    return "production" if part == "dynamics" else part


def n_steps(dynamics: DynamicsConfig) -> int:
    """Number of MD steps of a part."""
    return round(dynamics.duration_ps * 1000.0 / dynamics.timestep_fs)


def parse(raw: Mapping[str, Any], run: RunConfig | None) -> ProductionConfig:
    """Validate settings.

    Args:
      raw: what the user gave, as YAML has it.
      run: configuration of the run that the ensemble comes from, for what the user did not give; None: there is none.

    Raises:
      ConfigError: for the first problem, naming the dotted key, the value and what is allowed.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError("config", raw, "a mapping of keys to values")
    filled = _filled(raw, run)
    alone = settings.validate(ProductionConfig, {**filled, "equilibration": None, "dynamics": _seen(filled)})
    before = filled.get("equilibration")
    if before is None:
        return alone
    try:
        settings.validate(_Before, {"equilibration": before})
    except ConfigError as error:
        key = error.key
        named = f"equilibration{key.removeprefix('dynamics')}" if key.startswith("dynamics.") else key
        raise ConfigError(named, error.value, error.allowed) from error
    return settings.validate(ProductionConfig, filled)


class _Before(Section):
    equilibration: DynamicsConfig


def _seen(filled: Mapping[str, Any]) -> Any:
    """Dynamics as they are validated alone: after an equilibration their first velocities are those at its end."""
    dynamics = filled["dynamics"]
    if filled.get("equilibration") is None or not isinstance(dynamics, dict):
        return dynamics
    return {**dynamics, "velocities": "draw"}


def _filled(raw: Mapping[str, Any], run: RunConfig | None) -> dict[str, Any]:
    """The settings of the user over those of the run and the defaults."""
    filled, own = dict(raw), raw.get("dynamics", {})
    if isinstance(raw.get("temperatures_k"), list | tuple) and "replicas" not in raw:
        filled["replicas"] = len(raw["temperatures_k"])
    if not isinstance(own, dict):
        return filled
    filled["dynamics"] = dynamics = {**_like_the_run(run, own), **own}
    if run is not None and isinstance(raw.get("guards", {}), dict):
        filled["guards"] = {**run.guards.model_dump(mode="json"), **raw.get("guards", {})}
    before = raw.get("equilibration", {})
    if isinstance(before, dict):
        kept = ("timestep_fs", "temperature_k", "masses", "chunk_steps", "trajectory_every", "skin_angstrom",
                "memory_gib", "thermo_every", "velocities")  # fmt: skip
        alike = {key: dynamics[key] for key in kept if key in dynamics}
        schedule = dynamics.get("schedule")
        if schedule and isinstance(schedule, list | tuple) and isinstance(schedule[0], dict):
            alike["temperature_k"] = schedule[0].get("temperature_k", alike.get("temperature_k"))
        filled["equilibration"] = {"ensemble": "nvt", "duration_ps": EQUILIBRATION_PS, **alike, **before}
    return filled


def _like_the_run(run: RunConfig | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """Dynamics of the run at the conditions of its end; what only an ensemble of the run's needs is left with it."""
    if run is None:
        return {"velocities": "draw"}
    dynamics = run.dynamics
    found = dynamics.model_dump(mode="json") | {"velocities": "draw", "schedule": []}
    end: Schedule = dynamics.conditions()
    if dynamics.schedule:
        last = int(min((end.end_fs < dynamics.duration_ps * 1e3 * (1 - 1e-9)).sum(), len(end.end_fs) - 1))
        found["temperature_k"], found["pressure_gpa"] = _at(end, last, dynamics.duration_ps * 1e3)
    if own.get("ensemble", dynamics.ensemble) != "npt":
        found["pressure_gpa"] = 0.0
    found["duration_ps"] = DynamicsConfig().duration_ps
    return found


def _at(schedule: Schedule, part: int, time_fs: float) -> tuple[float, float]:
    """Temperature, K, and pressure, GPa, of a part of a schedule at a time within it, or at its end."""
    begin, end = schedule.begin_fs[part], schedule.end_fs[part]
    share = min(1.0, (time_fs - begin) / (end - begin))
    values = (schedule.temperature_k[part], schedule.pressure_gpa[part])
    return tuple(float(first + share * (last - first)) for first, last in values)  # type: ignore[return-value]


def schedules_of(config: ProductionConfig, dynamics: DynamicsConfig) -> list[Schedule]:
    """Conditions of each replica."""
    each = (config.of_replica(dynamics, i) for i in range(config.replicas))
    return [
        schedules.build(one.schedule, temperature_k=one.temperature_k, pressure_gpa=one.pressure_gpa) for one in each
    ]

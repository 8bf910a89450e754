"""Settings that may change when a run is resumed; all others need a new run."""

from bayes_mlff.core.changes import Change, changes
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.otf.config import RunConfig

FREE = (
    "threshold",
    "confidence",
    "threshold_temperature_k",
    "max_labels",
    "min_steps_between_labels",
    "validation_frames",
    "calibration.decay",
    "sampler.steps",
    "sampler.rounds",
    "sampler.step_size",
    "sampler.batch_size",
    "sampler.friction",
    "sampler.cold_steps",
    "sampler.ramp_steps",
    "sampler.memory_gib",
    "dynamics.duration_ps",
    "dynamics.temperature_k",
    "dynamics.friction_per_fs",
    "dynamics.thermostat_time_fs",
    "dynamics.pressure_gpa",
    "dynamics.barostat.cell",
    "dynamics.barostat.time_fs",
    "dynamics.barostat.compressibility_per_gpa",
    "dynamics.schedule",
    "dynamics.chunk_steps",
    "dynamics.trajectory_every",
    "dynamics.thermo_every",
    "dynamics.memory_gib",
    "guards",
    "audits",
    "engine",
)
"""Settings that take effect from the checkpoint on, beside `LIMITS` of each trigger. Of the engine only settings that
do not affect labels may change (threads, time limits): its settings hash is compared with that of the labels.
`dynamics.barostat.free` may not: vectors that were free are tilted by now, so that they and the others are no longer
perpendicular."""

LIMITS = ("threshold", "confidence", "threshold_temperature_k")


def check_changes(before: RunConfig, after: RunConfig) -> tuple[Change, ...]:
    """List all settings that differ, if the run can be resumed with them.

    Raises:
      ConfigError: naming the first setting that may not change.
    """
    found = changes(before, after)
    for change in found:
        if change.key == "triggers" and _same_but_limits(before, after):
            continue
        if not any(change.key == free or change.key.startswith(f"{free}.") for free in FREE):
            raise ConfigError(
                change.key,
                change.after,
                f"{change.before!r}, with which the run was started (start another run for this); "
                f"these may change: {', '.join(FREE)}, and of triggers {', '.join(LIMITS)}",
            )
    return found


def _same_but_limits(before: RunConfig, after: RunConfig) -> bool:
    """True if the triggers watch the same, so that their columns and calibrations go on."""
    watched = ([trigger.model_dump(exclude=set(LIMITS)) for trigger in config.triggers] for config in (before, after))
    return next(watched) == next(watched)

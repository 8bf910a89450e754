"""What a run has written so far, without structures and models: enough to say where it stands, and quick to read.

Nothing here imports JAX or ASE. Files that a run has not written yet count as empty, so that a run can be looked at
while it goes on. Energies of labels are compared on the model's scale: reference energy plus the offset stored with
the label.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import ConfigDict

from bayes_mlff.core import settings as reading
from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, RunDirectoryError
from bayes_mlff.core.settings import FileSection, Section
from bayes_mlff.data import label_notes
from bayes_mlff.data.label_notes import GIVEN, REJECTED, LabelNote
from bayes_mlff.data.npz import read_arrays
from bayes_mlff.data.readings import columns
from bayes_mlff.md import schedule as schedules
from bayes_mlff.md.schedule import Segment
from bayes_mlff.otf.trigger_settings import Triggers, TriggerSettings
from bayes_mlff.report.run_events import read_events
from bayes_mlff.runs import thermo_log, validation
from bayes_mlff.runs.thermo_log import ThermoSeries, TriggerSeries
from bayes_mlff.runs.validation import Validation

if TYPE_CHECKING:
    from bayes_mlff.otf.config import RunConfig


class Settings(NamedTuple):
    """What of a run's configuration says how far it has to go and what counts as good."""

    structure: str
    timestep_fs: float
    duration_ps: float
    threshold: str
    confidence: float
    max_labels: int
    validation_frames: int
    min_steps_between_labels: int
    triggers: tuple[TriggerSettings, ...] = ()  # beside the one on the total energy
    threshold_temperature_k: float | None = None  # for which `threshold` is stated
    temperature_k: float = 300.0  # of the thermostat without segments
    schedule: tuple[Segment, ...] = ()

    @property
    def n_steps(self) -> int:
        """MD steps of the whole run."""
        return round(self.duration_ps * 1000.0 / self.timestep_fs)


class RunLog(NamedTuple):
    """A run directory in memory, without structures."""

    settings: Settings  # in force, that is, with which the run last went on
    labels: list[LabelNote]  # that the reference made for the run
    steps: np.ndarray  # [t] logged steps, or evenly spaced ones of many
    thermo: ThermoSeries
    events: list[Mapping[str, Any]]
    validation: Validation | None
    refused: tuple[LabelNote, ...] = ()  # rejected labels
    rows: int | None = None  # logged steps, about; None: these are all
    committed: int | None = None  # step of the newest checkpoint; None if there is none
    n_atoms: int = 1
    symbols: tuple[str, ...] = ()  # [n]; empty if nothing is labelled yet
    triggers: Mapping[str, TriggerSeries] = {}  # of the triggers beside the one on the total energy, by name

    @property
    def given(self) -> int:
        """Number of labels that the run was started from."""
        return max((int(event["labels"]) for event in self.events if event["event"] == "started_from"), default=0)

    @property
    def all_steps(self) -> bool:
        """True if the dynamics is done; random frames may still be labelled."""
        return self.reached >= self.settings.n_steps

    @property
    def reached(self) -> int:
        """Steps that the run would not take again."""
        return int(self.steps.max(initial=0)) if self.committed is None else self.committed

    @property
    def threshold_ev(self) -> float:
        """Error of the total energy that should not be exceeded, eV."""
        return units.parse_energy(self.settings.threshold, n_atoms=self.n_atoms, key="threshold")

    def growth(self, step: np.ndarray, stated_k: float | None) -> np.ndarray:
        """Factors of a threshold that is stated for a temperature, K, in steps [...]; 1 without one."""
        settings = self.settings
        conditions = schedules.build(settings.schedule, temperature_k=settings.temperature_k, pressure_gpa=0.0)
        return schedules.growth(conditions, stated_k, step * settings.timestep_fs)


def config_path(run_dir: Path) -> Path:
    """The configuration in force of the run in a directory.

    Raises:
      RunDirectoryError: if this is no run directory.
    """
    first, in_force = run_dir / "config.yaml", run_dir / "config.in_force.yaml"
    if not first.exists():
        raise RunDirectoryError(f"{run_dir}: no config.yaml there; allowed: the directory of a run")
    return in_force if in_force.exists() else first


def read(run_dir: Path, settings: Settings | None = None) -> RunLog:
    """Read what a run has written so far.

    Args:
      run_dir: the directory of the run.
      settings: where they have been read; by default those of `read_settings`.

    Raises:
      RunDirectoryError: if this is no run directory or a file in it is unreadable.
      DataError: if the labels or the arrays of random frames are unreadable.
    """
    found = read_settings(config_path(run_dir)) if settings is None else settings
    labels, refused = run_dir / "dataset.extxyz", run_dir / REJECTED
    log = thermo_log.read(run_dir / "thermo.csv", {t.name: columns(t.name, t.unit) for t in found.triggers})
    steps = [int(p.stem) for p in (run_dir / "checkpoints").glob("*.ckpt") if p.stem.isdecimal()]
    notes = label_notes.read(labels) if labels.exists() else []
    return RunLog(
        settings=found,
        labels=[note for note in notes if note.reason != GIVEN],
        symbols=notes[0].symbols if notes else (),
        steps=log.steps,
        thermo=log.thermo,
        triggers=log.triggers,
        rows=log.rows,
        committed=max(steps, default=None),
        n_atoms=len(notes[0].symbols) if notes else _initial_atoms(run_dir),
        events=read_events(run_dir / "events.jsonl"),
        validation=validation.read(run_dir / "validation.npz"),
        refused=tuple(label_notes.read(refused)) if refused.exists() else (),
    )


class _Part(Section):
    """A section of which some keys are read."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")


class _Structure(FileSection, _Part):
    file: str


class _Dynamics(_Part):
    timestep_fs: float
    duration_ps: float
    temperature_k: float = 300.0
    schedule: tuple[Segment, ...] = ()


class _Config(_Part):
    structure: _Structure
    dynamics: _Dynamics
    threshold: str
    confidence: float
    max_labels: int
    validation_frames: int
    min_steps_between_labels: int
    triggers: Triggers = ()
    threshold_temperature_k: float | None = None


def read_settings(path: Path) -> Settings:
    """A few keys of a configuration as a run keeps it, which has every key.

    Raises:
      RunDirectoryError: if the file is unreadable, or not a configuration as a run keeps it.
    """
    try:
        raw = reading.read_yaml(path)
        if isinstance(raw, dict) and "data" in raw and "structure" not in raw:
            raise RunDirectoryError(f"{path.parent} holds a fine-tuning; allowed: the directory of a run")
        found = reading.validate(_Config, raw)
        units.parse_energy(found.threshold, n_atoms=1, key="threshold")
    except ConfigError as error:
        raise RunDirectoryError(f"{path}: {error} (a run keeps its configuration with every key)") from error
    return settings_of(found)


def settings_of(config: "_Config | RunConfig") -> Settings:
    """What of a configuration, whole or in part, the log needs."""
    return Settings(
        structure=config.structure.file,
        timestep_fs=config.dynamics.timestep_fs,
        duration_ps=config.dynamics.duration_ps,
        threshold=config.threshold,
        confidence=config.confidence,
        max_labels=config.max_labels,
        validation_frames=config.validation_frames,
        min_steps_between_labels=config.min_steps_between_labels,
        triggers=config.triggers,
        threshold_temperature_k=config.threshold_temperature_k,
        temperature_k=config.dynamics.temperature_k,
        schedule=config.dynamics.schedule,
    )


def _initial_atoms(run_dir: Path) -> int:
    """Atoms of the structure that the run starts from; 1 in the directory of a run from before it was kept."""
    path = run_dir / "start" / "structure.npz"
    return len(read_arrays(path, ("structure.numbers",))[0]) if path.exists() else 1

"""A run directory with its structures and its whole configuration, as the figures of a report need it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.label_notes import GIVEN, INITIAL
from bayes_mlff.ensemble import energy_scale
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.otf import config
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.report import run_log, run_summary
from bayes_mlff.report.run_log import RunLog
from bayes_mlff.report.run_summary import RunSummary
from bayes_mlff.runs.thermo_log import ThermoSeries
from bayes_mlff.runs.validation import Validation


class LabelSeries(NamedTuple):
    """Labels with a prediction made before they were known: all but the one that defines the energy offset."""

    time_fs: np.ndarray  # [l]
    error_ev: np.ndarray  # [l] predicted minus reference
    sigma_ev: np.ndarray  # [l] uncalibrated standard deviation
    half_width_ev: np.ndarray  # [l] of the predictive interval at the trigger's confidence; nan if not replayable
    audit: np.ndarray  # [l] bool, requested at random and not by the trigger
    pit: np.ndarray | None  # [l] predictive distribution function at the error; None if not replayable
    confidence: float  # level of `half_width_ev`
    threshold_ev: np.ndarray | None = None  # [l] if it changes with the temperature


class AngleSeries(NamedTuple):
    """Conformation of ethanol along the run and at the labels."""

    time_fs: np.ndarray  # [f]
    angle_deg: np.ndarray  # [f] between the vectors O→H and methyl C→C
    dihedral_deg: np.ndarray  # [f] C-C-O-H, -180 to 180
    label_time_fs: np.ndarray  # [l]
    label_angle_deg: np.ndarray  # [l]


class RunData(NamedTuple):
    """Content of a run directory."""

    log: RunLog
    config_text: str
    config: RunConfig  # settings in force, with which the run last continued
    records: list[LabelRecord]  # that the reference made for the run

    @property
    def steps(self) -> np.ndarray:
        """Logged steps [t], or evenly spaced ones of many."""
        return self.log.steps

    @property
    def thermo(self) -> ThermoSeries:
        """What was logged at these steps."""
        return self.log.thermo

    @property
    def events(self) -> list[Mapping[str, Any]]:
        """What the run has logged."""
        return self.log.events

    @property
    def validation(self) -> Validation | None:
        """Random frames labelled at the end; None if there are none yet."""
        return self.log.validation

    @property
    def rows(self) -> int | None:
        """Number of logged steps, about; None: `steps` are all."""
        return self.log.rows

    @property
    def reached(self) -> int:
        """Steps that the run would not take again."""
        return self.log.reached

    @property
    def threshold_ev(self) -> float:
        """Error of the total energy that should not be exceeded, eV."""
        return self.log.threshold_ev


def summary(run_dir: Path, *, threshold_ev: float) -> RunSummary:
    """Counts, errors, shares and wall times of a finished or running run.

    Args:
      run_dir: the directory of the run.
      threshold_ev: largest acceptable error of the total energy, eV.

    Raises:
      RunDirectoryError: if this is no run directory or a file in it is unreadable.
      ConfigError: if its configuration is not valid.
      DataError: if the labels or the arrays of random frames are unreadable.
    """
    return run_summary.summarise(read(run_dir).log, threshold_ev)


def read(run_dir: Path) -> RunData:
    """Read all files that a run has written so far.

    Raises:
      RunDirectoryError: if this is no run directory or a file in it is unreadable.
      ConfigError: if its configuration is not valid.
      DataError: if the labels or the arrays of random frames are unreadable.
    """
    path, labels = run_log.config_path(run_dir), run_dir / "dataset.extxyz"
    whole = config.load(path)
    return RunData(
        log=run_log.read(run_dir, run_log.settings_of(whole)),
        config_text=path.read_text(encoding="utf-8"),
        config=whole,
        records=[r for r in _records(labels) if r.reason != GIVEN],
    )


def _records(path: Path) -> list[LabelRecord]:
    return dataset.read(path, unfinished=True) if path.exists() else []


def schedule(run: RunData) -> Schedule | None:
    """Scheduled temperatures and pressures of thermostat and barostat; None for NVE."""
    return None if run.config.dynamics.ensemble == "nve" else run.config.dynamics.conditions()


def predicted(records: list[LabelRecord]) -> list[LabelRecord]:
    """Labels whose error tests the model: all but those that define the energy offset."""
    return [r for r in records if r.reason != INITIAL and r.predicted_energy_mean is not None]


def errors(records: list[LabelRecord]) -> np.ndarray:
    """Predicted minus reference total energy of labels that were predicted, [l] eV."""
    return np.array([energy_scale.error(r) for r in records], np.float64)

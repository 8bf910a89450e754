"""A run directory as arrays, and the run in numbers.

Files that a run has not written yet count as empty, so that a run can be looked at while it goes on. Energies
of labels are compared on the model's scale: reference energy plus the offset stored with the label.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError, shown
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.molecule_sets import read_arrays
from bayes_mlff.data.structure import to_ase
from bayes_mlff.ensemble import metrics
from bayes_mlff.otf import config, plausibility
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.schedule import Schedule

NUMBERS: Final = {
    "label": ("engine_s",),
    "label_refused": ("engine_s",),
    "random_frame": ("engine_s",),
    "update": ("seconds",),
    "rolled_back": ("step",),
}
"""Fields of events that are read as numbers, besides their time."""

SURE: Final = ("step", "time_fs", "temperature_k", "potential_ev", "total_ev")
"""Columns of the logged steps that are always known."""

LARGEST: Final = 1e15
"""No time, step or energy of a run comes near."""


class LabelSeries(NamedTuple):
    """Labels that were predicted before they were known: all but the one that defines the energy offset."""

    time_fs: np.ndarray  # [l]
    error_ev: np.ndarray  # [l] predicted minus reference
    sigma_ev: np.ndarray  # [l] uncalibrated standard deviation
    half_width_ev: np.ndarray  # [l] of the predictive interval at the trigger's confidence
    audit: np.ndarray  # [l] bool, asked for at random and not by the trigger
    pit: np.ndarray | None  # [l] predictive distribution function at the error; None if it cannot be replayed
    sigma_factor: float | None  # calibrated over uncalibrated sigma at the end of the run
    confidence: float  # level of `half_width_ev`


class ThermoSeries(NamedTuple):
    """Logged steps of the dynamics."""

    time_fs: np.ndarray  # [t]
    temperature_k: np.ndarray  # [t]
    potential_ev: np.ndarray  # [t]
    total_ev: np.ndarray  # [t]
    sigma_ev: np.ndarray  # [t]
    sigma_crit_ev: np.ndarray  # [t]
    pressure_gpa: np.ndarray | None = None  # [t] nan where it is not known; None if it is not logged


class Validation(NamedTuple):
    """Random frames that were labelled after the run; all energies have the same origin."""

    reference_ev: np.ndarray  # [m]
    predicted_ev: np.ndarray  # [m]
    sigma_ev: np.ndarray  # [m] uncalibrated
    pretrained_ev: np.ndarray  # [m]


class AngleSeries(NamedTuple):
    """Conformation of ethanol along the run and at the labels."""

    time_fs: np.ndarray  # [f]
    angle_deg: np.ndarray  # [f] between the vectors O→H and methyl C→C
    dihedral_deg: np.ndarray  # [f] C-C-O-H, -180 to 180
    label_time_fs: np.ndarray  # [l]
    label_angle_deg: np.ndarray  # [l]


class WallTime(NamedTuple):
    """Where the time of a run went, over all its sessions."""

    total_s: float
    md_s: float  # the rest: dynamics, compilation and set-up
    dft_s: float
    update_s: float


class RunSummary(NamedTuple):
    """A run in numbers; None where there are no data."""

    formula: str
    n_atoms: int
    steps: int
    time_fs: float
    labels: int  # all
    initial: int  # of them defining the energy offset; not predicted beforehand
    audit: int  # of them asked for at random
    above_threshold: int  # of the labels predicted beforehand
    share_above: metrics.Share | None  # of the same, with its 95 % interval
    rmse_ev: float | None  # total energy at labels, before each is learnt
    rmse_pretrained_ev: float | None  # same labels, not fine-tuned
    force_rmse_ev_a: float | None
    validation_frames: int
    validation_above: int  # of them above the threshold
    validation_rmse_ev: float | None
    validation_pretrained_rmse_ev: float | None
    sigma_crit_ev: float | None  # last
    last_label_fs: float | None
    wall: WallTime
    steps_per_s: float | None  # per second of dynamics
    finished: bool


class RunData(NamedTuple):
    """A run directory in memory."""

    config_text: str
    config: RunConfig
    records: list[LabelRecord]
    steps: np.ndarray  # [t] logged steps
    thermo: ThermoSeries
    events: list[Mapping[str, Any]]
    validation: Validation | None
    refused: tuple[LabelRecord, ...] = ()  # labels that were not believed


def summary(run_dir: Path, *, threshold_ev: float) -> RunSummary:
    """Counts, errors, shares and wall times of a finished or running run.

    Args:
      run_dir: the directory of the run.
      threshold_ev: error of the total energy that should not be exceeded, eV.

    Raises:
      RunDirectoryError: if this is no run directory or a file in it is unreadable.
      ConfigError: if its configuration is not valid.
      DataError: if the labels or the arrays of random frames are unreadable.
    """
    return summarise(read(run_dir), threshold_ev)


def read(run_dir: Path) -> RunData:
    """Read what a run has written so far.

    Raises:
      RunDirectoryError: if this is no run directory or a file in it is unreadable.
      ConfigError: if its configuration is not valid.
      DataError: if the labels or the arrays of random frames are unreadable.
    """
    config_path, labels = run_dir / "config.yaml", run_dir / "dataset.extxyz"
    refused = run_dir / plausibility.REJECTED
    if not config_path.exists():
        raise RunDirectoryError(f"{run_dir}: no config.yaml there; allowed: the directory of a run")
    settings = config.load(config_path)
    steps, thermo = _read_thermo(run_dir / "thermo.csv")
    return RunData(
        config_text=config_path.read_text(encoding="utf-8"),
        config=settings,
        records=dataset.read(labels) if labels.exists() else [],
        steps=steps,
        thermo=thermo,
        events=_read_events(run_dir / "events.jsonl"),
        validation=_read_validation(run_dir / "validation.npz"),
        refused=tuple(dataset.read(refused, repeats=True)) if refused.exists() else (),
    )


def summarise(run: RunData, threshold_ev: float) -> RunSummary:
    """Count and average what a run directory holds; the threshold is of the total energy, eV."""
    known = predicted(run.records)
    error, pretrained = errors(known), _pretrained_errors(known)
    above = int(np.sum(np.abs(error) > threshold_ev))
    force = [r.label.forces - r.predicted_forces_mean for r in known if r.predicted_forces_mean is not None]
    wall, crit = _wall_time(run.events), run.thermo.sigma_crit_ev
    steps, first = int(run.steps.max(initial=0)), run.records[0].structure if run.records else None
    return RunSummary(
        formula=to_ase(first).get_chemical_formula() if first is not None else "",
        n_atoms=len(first.numbers) if first is not None else 0,
        steps=steps,
        time_fs=float(run.thermo.time_fs.max(initial=0.0)),
        labels=len(run.records),
        initial=sum(r.reason == "initial" for r in run.records),
        audit=sum(r.reason == "audit" for r in run.records),
        above_threshold=above,
        share_above=metrics.binomial_share(above, error.size) if error.size else None,
        rmse_ev=metrics.rmse(error) if error.size else None,
        rmse_pretrained_ev=metrics.rmse(pretrained) if pretrained.size else None,
        force_rmse_ev_a=metrics.rmse(np.concatenate(force)) if force else None,
        validation_frames=0 if run.validation is None else run.validation.reference_ev.size,
        validation_above=_above(run.validation, threshold_ev),
        validation_rmse_ev=_rmse(run.validation, "predicted_ev"),
        validation_pretrained_rmse_ev=_rmse(run.validation, "pretrained_ev"),
        sigma_crit_ev=float(crit[-1]) if crit.size else None,
        last_label_fs=max((r.time_fs for r in run.records), default=None),
        wall=wall,
        steps_per_s=steps / wall.md_s if wall.md_s > 0 and steps else None,
        finished=any(e["event"] == "finished" for e in run.events),
    )


def schedule(run: RunData) -> Schedule | None:
    """Temperatures and pressures that the thermostat and the barostat held; None for NVE."""
    return None if run.config.dynamics.ensemble == "nve" else run.config.dynamics.conditions()


def _above(validation: Validation | None, threshold_ev: float) -> int:
    if validation is None:
        return 0
    return int(np.sum(np.abs(validation.predicted_ev - validation.reference_ev) > threshold_ev))


def _rmse(validation: Validation | None, field: str) -> float | None:
    if validation is None or validation.reference_ev.size == 0:
        return None
    return metrics.rmse(getattr(validation, field) - validation.reference_ev)


def predicted(records: list[LabelRecord]) -> list[LabelRecord]:
    """Labels whose error tests the model: not those that define the energy offset."""
    return [r for r in records if r.reason != "initial" and r.predicted_energy_mean is not None]


def errors(records: list[LabelRecord]) -> np.ndarray:
    """Predicted minus reference total energy of labels that were predicted, [l] eV."""
    return np.array([r.predicted_energy_mean for r in records], np.float64) - _references(records)


def _pretrained_errors(records: list[LabelRecord]) -> np.ndarray:
    known = [r for r in records if r.pretrained_energy is not None]
    return np.array([r.pretrained_energy for r in known], np.float64) - _references(known)


def _references(records: list[LabelRecord]) -> np.ndarray:
    """Reference energies on the model's scale."""
    return np.array([r.label.energy + r.energy_offset for r in records], np.float64)


def _wall_time(events: list[Mapping[str, Any]]) -> WallTime:
    """Each session lasts from its `session_started` to the last event before the next one.

    Runs of before that was logged have `run_started` only, which comes after the initial label.
    """
    sessions: list[tuple[float, float]] = []
    spent = {"label": 0.0, "label_refused": 0.0, "random_frame": 0.0, "update": 0.0}
    begun = False
    for event in events:
        name, now = event["event"], float(event["time"])
        if name == "session_started" or (name == "run_started" and not begun) or not sessions:
            sessions.append((now, now))
        begun = name == "session_started" or (begun and name != "run_started")
        sessions[-1] = (sessions[-1][0], now)
        if name in spent:
            spent[name] += float(event[NUMBERS[name][0]])
    total = sum(end - start for start, end in sessions)
    asked = spent["label"] + spent["label_refused"] + spent["random_frame"]
    return WallTime(total, max(total - asked - spent["update"], 0.0), asked, spent["update"])


def _whole_lines(path: Path) -> list[str]:
    """Lines that end; a last one that is still being written is left out."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path}: not readable as text: {error}") from error
    return text[: text.rfind("\n") + 1].split("\n")[:-1]


def _read_thermo(path: Path) -> tuple[np.ndarray, ThermoSeries]:
    names = ("step", *ThermoSeries._fields[:-1])
    try:
        rows = list(csv.DictReader(_whole_lines(path)))
        if rows and ThermoSeries._fields[-1] in rows[0]:
            names = ("step", *ThermoSeries._fields)
        table = np.array([[float(row[name]) for name in names] for row in rows], np.float64)
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        needed = ", ".join(names)
        raise RunDirectoryError(f"{path}: needs numbers in the columns {needed}; got {error!r}") from error
    columns = table.reshape(-1, len(names)).T
    for name, column in zip(names, columns, strict=True):
        wrong = ~(np.abs(column) < LARGEST) if name in SURE else np.abs(column) >= LARGEST
        if wrong.any():
            row = int(np.argmax(wrong))
            raise RunDirectoryError(f"{path}: line {row + 2}: {name} is {column[row]:g}; allowed: a finite number")
    if columns[0].size and (columns[0].min() < 0 or (columns[0] % 1).any()):
        raise RunDirectoryError(f"{path}: a step is not a whole number from 0 on")
    return columns[0], ThermoSeries(*columns[1:])


def _read_events(path: Path) -> list[Mapping[str, Any]]:
    events = []
    for number, line in enumerate(_whole_lines(path), start=1):
        where = f"{path}: line {number}"
        try:
            event = json.loads(line)
        except (RecursionError, ValueError) as error:
            raise RunDirectoryError(f"{where} is not JSON: {error}") from error
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise RunDirectoryError(f"{where}; allowed: an object whose 'event' is a name")
        for key in ("time", *NUMBERS.get(event["event"], ())):
            value = event.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
                raise RunDirectoryError(
                    f"{where}: {key!r} of event {shown(event['event'])} is {shown(value)}; allowed: a finite number"
                )
        events.append(event)
    return events


def _read_validation(path: Path) -> Validation | None:
    if not path.exists():
        return None
    arrays = read_arrays(path, Validation._fields)
    for name, array in zip(Validation._fields, arrays, strict=True):
        if array.dtype.kind not in "fiu" or array.ndim != 1 or array.shape != arrays[0].shape:
            raise RunDirectoryError(
                f"{path}: {name} has type {array.dtype} and shape {array.shape}; allowed: a real number for each frame"
            )
        if not (np.abs(array) < LARGEST).all():
            raise RunDirectoryError(f"{path}: {name} is not finite")
    return Validation(*(array.astype(np.float64) for array in arrays))

"""A run directory as arrays, and the run in numbers.

Files that a run has not written yet count as empty, so that a run can be looked at while it goes on. Energies
of labels are compared on the scale of predictions, see `ensemble.energy_scale`, with the offset stored with the label.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError, shown
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.molecule_sets import read_arrays
from bayes_mlff.data.structure import Structure, to_ase
from bayes_mlff.ensemble import energy_scale, metrics
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.otf import config, plausibility
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.runs import start, thermo_log
from bayes_mlff.runs.thermo_log import LARGEST, ThermoSeries

NUMBERS: Final = {
    "label": ("engine_s",),
    "label_refused": ("engine_s",),
    "random_frame": ("engine_s",),
    "update": ("seconds",),
    "rolled_back": ("step",),
}
"""Fields of events that are read as numbers, besides their time."""

MERGED_STEPS: Final = 10_000
"""Steps of chunks that are read as one event."""


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
    n_steps: int  # to be taken
    finished: bool  # all steps have been taken


class RunData(NamedTuple):
    """A run directory in memory."""

    config_text: str
    config: RunConfig  # in force, that is, with which the run last went on
    records: list[LabelRecord]
    steps: np.ndarray  # [t] logged steps, or evenly spaced ones of many
    thermo: ThermoSeries
    events: list[Mapping[str, Any]]
    validation: Validation | None
    refused: tuple[LabelRecord, ...] = ()  # labels that were not believed
    rows: int | None = None  # logged steps, about; None: these are all
    committed: int | None = None  # step of the newest checkpoint; None if there is none
    n_atoms: int = 1

    @property
    def reached(self) -> int:
        """Steps that the run would not take again."""
        return int(self.steps.max(initial=0)) if self.committed is None else self.committed

    @property
    def threshold_ev(self) -> float:
        """Error of the total energy that should not be exceeded, eV."""
        return self.config.threshold_ev(self.n_atoms)


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
    refused, in_force = run_dir / plausibility.REJECTED, run_dir / "config.in_force.yaml"
    if not config_path.exists():
        raise RunDirectoryError(f"{run_dir}: no config.yaml there; allowed: the directory of a run")
    config_path = in_force if in_force.exists() else config_path
    settings = config.load(config_path)
    log = thermo_log.read(run_dir / "thermo.csv")
    records = dataset.read(labels) if labels.exists() else []
    steps = [int(p.stem) for p in (run_dir / "checkpoints").glob("*.ckpt") if p.stem.isdecimal()]
    initial = records[0].structure if records else _initial(run_dir)
    return RunData(
        config_text=config_path.read_text(encoding="utf-8"),
        config=settings,
        records=records,
        steps=log.steps,
        thermo=log.thermo,
        rows=log.rows,
        committed=max(steps, default=None),
        n_atoms=1 if initial is None else len(initial.numbers),
        events=_read_events(run_dir / "events.jsonl"),
        validation=_read_validation(run_dir / "validation.npz"),
        refused=tuple(dataset.read(refused, repeats=True)) if refused.exists() else (),
    )


def _initial(run_dir: Path) -> Structure | None:
    found = start.read_structure(run_dir)
    return None if found is None else found.structure


def summarise(run: RunData, threshold_ev: float) -> RunSummary:
    """Count and average what a run directory holds; the threshold is of the total energy, eV."""
    known = predicted(run.records)
    error, pretrained = errors(known), _pretrained_errors(known)
    above = int(np.sum(np.abs(error) > threshold_ev))
    force = [r.label.forces - r.predicted_forces_mean for r in known if r.predicted_forces_mean is not None]
    wall, crit = _wall_time(run.events), run.thermo.sigma_crit_ev
    steps, first = run.reached, run.records[0].structure if run.records else None
    return RunSummary(
        formula=to_ase(first).get_chemical_formula() if first is not None else "",
        n_atoms=len(first.numbers) if first is not None else 0,
        steps=steps,
        time_fs=steps * run.config.dynamics.timestep_fs,
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
        n_steps=run.config.n_steps,
        finished=steps >= run.config.n_steps,
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
    return np.array([energy_scale.error(r) for r in records], np.float64)


def _pretrained_errors(records: list[LabelRecord]) -> np.ndarray:
    known = [r for r in records if r.pretrained_energy is not None]
    return np.array([r.pretrained_energy for r in known], np.float64) - _references(known)


def _references(records: list[LabelRecord]) -> np.ndarray:
    """Reference energies on the scale of predictions."""
    return np.array([energy_scale.total_energy(r) for r in records], np.float64)


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


def _read_events(path: Path) -> list[Mapping[str, Any]]:
    """Events line by line, a last one that is still being written left out; chunks without others between are one."""
    events: list[Mapping[str, Any]] = []
    if not path.exists():
        return events
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                event = _event(f"{path}: line {number}", line)
                both = _together(events[-1], event) if events else None
                if both is None:
                    events.append(event)
                else:
                    events[-1] = both
    except OSError as error:
        raise RunDirectoryError(f"{path}: not readable as text: {error}") from error
    return events


def _event(where: str, line: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise RunDirectoryError(f"{where} is not readable as text: {error}") from error
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
    return event


def _together(before: Mapping[str, Any], event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Two chunks as one, which in a long run saves memory; None if they are something else or large already."""
    if before["event"] != "chunk" or event["event"] != "chunk" or any(before.keys() ^ event.keys()):
        return None
    added = {key: _sum(before.get(key), event.get(key)) for key in ("steps", "seconds")}
    if None in added.values() or not 0 <= added["steps"] <= MERGED_STEPS:
        return None
    return {**event, **added}


def _sum(left: object, right: object) -> Any:
    numbers = [x for x in (left, right) if isinstance(x, int | float) and not isinstance(x, bool)]
    return sum(numbers) if len(numbers) == 2 and all(abs(x) < LARGEST for x in numbers) else None


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

"""What a run did, from its directory: a summary in numbers and one self-contained HTML page.

Files that a run has not written yet count as empty, so that a run can be looked at while it goes on. Energies
of labels are compared on the model's scale: reference energy plus the offset stored with the label.
"""

import base64
import csv
import html
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ase.io.extxyz import XYZError, read_extxyz

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.structure import from_ase, to_ase
from bayes_mlff.ensemble import calibration, metrics
from bayes_mlff.ensemble.calibration import Calibration
from bayes_mlff.otf import config, figures
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.figures import AngleSeries, LabelSeries, Panel, ThermoSeries, Validation

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;color:#1d2127;background:#f4f5f7;margin:0}
main{max-width:72rem;margin:auto;padding:1.5rem}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.05rem;margin:0 0 .5rem}
section{background:#fff;border:1px solid #e1e4e8;border-radius:8px;padding:1rem 1.2rem;margin:1rem 0}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .8rem .25rem 0;vertical-align:top}
tr+tr{border-top:1px solid #eceef0}th{font-weight:500;color:#59616b;width:42%}
img{max-width:100%;height:auto;display:block;margin:auto}p{color:#59616b;margin:.4rem 0 0;font-size:.92rem}
pre{overflow:auto;font-size:.82rem}td{font-variant-numeric:tabular-nums}
"""


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
    validation_rmse_ev: float | None
    validation_pretrained_rmse_ev: float | None
    sigma_crit_ev: float | None  # last
    last_label_fs: float | None
    wall: WallTime
    steps_per_s: float | None  # per second of dynamics
    finished: bool


class _Run(NamedTuple):
    """A run directory in memory."""

    config_text: str
    config: RunConfig
    records: list[LabelRecord]
    steps: np.ndarray  # [t] logged steps
    thermo: ThermoSeries
    events: list[Mapping[str, Any]]
    validation: Validation | None


def summary(run_dir: Path, *, threshold_ev: float) -> RunSummary:
    """Counts, errors, shares and wall times of a finished or running run.

    Args:
      run_dir: the directory of the run.
      threshold_ev: error of the total energy that should not be exceeded, eV.

    Raises:
      RunDirectoryError: if this is no run directory or a file in it is unreadable.
      ConfigError: if its configuration is not valid.
      DataError: if the dataset is unreadable.
    """
    return _summary(_read(run_dir), threshold_ev)


def write_report(run_dir: Path, *, threshold_ev: float, title: str) -> Path:
    """Write `report.html` into a run directory: one file without links to others; returns its path.

    Args:
      run_dir: the directory of a finished or running run.
      threshold_ev: error of the total energy that should not be exceeded, eV.
      title: heading; any text.

    Raises:
      RunDirectoryError: if this is no run directory or a file in it is unreadable.
      ConfigError: if its configuration is not valid.
      DataError: if the dataset is unreadable.
    """
    run = _read(run_dir)
    labels, state = _label_series(run, threshold_ev)
    pit = None
    if state is not None and run.validation is not None:
        error = run.validation.predicted_ev - run.validation.reference_ev
        pit = np.atleast_1d(calibration.probability_integral(state, error, run.validation.sigma_ev))
    n_atoms = len(run.records[0].structure.numbers) if run.records else 1
    panels = [
        figures.labels_panel(labels, threshold_ev=threshold_ev, n_atoms=n_atoms),
        figures.sigma_error_panel(labels, run.validation, threshold_ev=threshold_ev),
        figures.coverage_panel(labels, pit),
        figures.sigma_panel(run.thermo, np.array([r.time_fs for r in run.records])),
        figures.thermo_panel(run.thermo),
        *_conformation(run_dir, run.records),
        figures.parity_panel(run.validation, threshold_ev=threshold_ev),
    ]
    rows = _table(_summary(run, threshold_ev), threshold_ev)
    (target := run_dir / "report.html").write_text(_page(title, rows, panels, run), encoding="utf-8")
    return target


def _summary(run: _Run, threshold_ev: float) -> RunSummary:
    known = _predicted(run.records)
    error, pretrained = _errors(known), _pretrained_errors(known)
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
        validation_rmse_ev=_rmse(run.validation, "predicted_ev"),
        validation_pretrained_rmse_ev=_rmse(run.validation, "pretrained_ev"),
        sigma_crit_ev=float(crit[-1]) if crit.size else None,
        last_label_fs=max((r.time_fs for r in run.records), default=None),
        wall=wall,
        steps_per_s=steps / wall.md_s if wall.md_s > 0 and steps else None,
        finished=any(e["event"] == "finished" for e in run.events),
    )


def _rmse(validation: Validation | None, field: str) -> float | None:
    if validation is None or validation.reference_ev.size == 0:
        return None
    return metrics.rmse(getattr(validation, field) - validation.reference_ev)


def _predicted(records: list[LabelRecord]) -> list[LabelRecord]:
    """Labels whose error tests the model: not those that define the energy offset."""
    return [r for r in records if r.reason != "initial" and r.predicted_energy_mean is not None]


def _errors(records: list[LabelRecord]) -> np.ndarray:
    return np.array([r.predicted_energy_mean for r in records], np.float64) - _references(records)


def _pretrained_errors(records: list[LabelRecord]) -> np.ndarray:
    known = [r for r in records if r.pretrained_energy is not None]
    return np.array([r.pretrained_energy for r in known], np.float64) - _references(known)


def _references(records: list[LabelRecord]) -> np.ndarray:
    """Reference energies on the model's scale."""
    return np.array([r.label.energy + r.energy_offset for r in records], np.float64)


def _label_series(run: _Run, threshold_ev: float) -> tuple[LabelSeries, Calibration | None]:
    """Labels as arrays, and the calibration after the last one, None if it cannot be replayed.

    The replay counts only if it finds every critical sigma that the run stored with its labels.
    """
    known = [r for r in _predicted(run.records) if r.predicted_energy_sigma and r.sigma_crit]
    error = _errors(known)
    sigma = np.array([r.predicted_energy_sigma for r in known], np.float64)
    stored = np.array([r.sigma_crit for r in known], np.float64)
    prior, confidence = run.config.calibration, run.config.confidence
    state, pit = calibration.init(prior.a, prior.b), np.zeros(len(known))
    for i in range(len(known)):
        crit = calibration.critical_sigma(state, threshold_ev, confidence=confidence)
        if not np.isclose(crit, stored[i], rtol=1e-4, atol=0.0):
            state = None
            break
        pit[i] = calibration.probability_integral(state, error[i], sigma[i])
        state = calibration.update(state, error[i], sigma[i], decay=prior.decay)
    has_mode = state is not None and state.a + state.n / 2 > 1.0
    factor = float(np.sqrt(calibration.map_factor(state))) if state and has_mode else None
    series = LabelSeries(
        time_fs=np.array([r.time_fs for r in known], np.float64),
        error_ev=error,
        sigma_ev=sigma,
        half_width_ev=threshold_ev * sigma / stored,  # sigma_crit is where the half width is the threshold
        audit=np.array([r.reason == "audit" for r in known], bool),
        pit=None if state is None else pit,
        sigma_factor=factor,
        confidence=confidence,
    )
    return series, state


def _conformation(run_dir: Path, records: list[LabelRecord]) -> list[Panel]:
    """Panel of the hydroxyl angle if the run is of ethanol."""
    path = run_dir / "trajectory.extxyz"
    if not records or not path.exists():
        return []
    bonds = figures.hydroxyl(records[0].structure)
    if bonds is None:
        return []
    try:
        with path.open(encoding="utf-8") as file:
            frames = list(read_extxyz(file, index=slice(None)))  # pyright: ignore[reportArgumentType]
    except XYZError as error:
        return [Panel("Conformation of ethanol and labels", f"The trajectory is not readable now: {error}.")]
    along = np.array([figures.hydroxyl_angles(from_ase(atoms), bonds) for atoms in frames]).reshape(-1, 2)
    series = AngleSeries(
        time_fs=np.array([atoms.info["time_fs"] for atoms in frames], np.float64),
        angle_deg=along[:, 0],
        dihedral_deg=along[:, 1],
        label_time_fs=np.array([r.time_fs for r in records]),
        label_angle_deg=np.array([figures.hydroxyl_angles(r.structure, bonds)[0] for r in records]),
    )
    return [figures.angle_panel(series)]


def _wall_time(events: list[Mapping[str, Any]]) -> WallTime:
    """Each session lasts from its `run_started` to the last event before the next one."""
    sessions: list[tuple[float, float]] = []
    spent = {"label": 0.0, "update": 0.0}
    for event in events:
        now = _timestamp(event["time"])
        if event["event"] == "run_started" or not sessions:
            sessions.append((now, now))
        sessions[-1] = (sessions[-1][0], now)
        key = {"label": "engine_s", "update": "seconds"}.get(event["event"])
        if key is not None:
            if key not in event:
                raise RunDirectoryError(f"events.jsonl: event {event['event']!r} lacks {key!r}")
            spent[event["event"]] += float(event[key])
    total = sum(end - start for start, end in sessions)
    dynamics = max(total - spent["label"] - spent["update"], 0.0)
    return WallTime(total, dynamics, spent["label"], spent["update"])


def _timestamp(value: object) -> float:
    """Seconds, from a number of seconds or an ISO 8601 date."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError as error:
        raise RunDirectoryError(f"events.jsonl: time {value!r} is neither seconds nor ISO 8601") from error


def _read(run_dir: Path) -> _Run:
    config_path, labels = run_dir / "config.yaml", run_dir / "dataset.extxyz"
    if not config_path.exists():
        raise RunDirectoryError(f"{run_dir}: no config.yaml there; allowed: the directory of a run")
    steps, thermo = _read_thermo(run_dir / "thermo.csv")
    return _Run(
        config_text=config_path.read_text(encoding="utf-8"),
        config=config.load(config_path),
        records=dataset.read(labels) if labels.exists() else [],
        steps=steps,
        thermo=thermo,
        events=_read_events(run_dir / "events.jsonl"),
        validation=_read_validation(run_dir / "validation.npz"),
    )


def _whole_lines(path: Path) -> list[str]:
    """Lines that end; a last one that is still being written is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _read_thermo(path: Path) -> tuple[np.ndarray, ThermoSeries]:
    rows = list(csv.DictReader(_whole_lines(path)))
    names = ("step", *ThermoSeries._fields)
    try:
        table = np.array([[float(row[name]) for name in names] for row in rows], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        needed = ", ".join(names)
        raise RunDirectoryError(f"{path}: needs numbers in the columns {needed}; got {error!r}") from error
    columns = table.reshape(-1, len(names)).T
    return columns[0], ThermoSeries(*columns[1:])


def _read_events(path: Path) -> list[Mapping[str, Any]]:
    events = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            raise RunDirectoryError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(event, Mapping) or not {"event", "time"} <= event.keys():
            raise RunDirectoryError(f"{path}: line {number}; allowed: an object with 'event' and 'time'")
        events.append(event)
    return events


def _read_validation(path: Path) -> Validation | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as stored:
        missing = [name for name in Validation._fields if name not in stored]
        if missing:
            raise RunDirectoryError(f"{path}: lacks {', '.join(missing)}; present: {', '.join(stored)}")
        return Validation(*(np.asarray(stored[name], np.float64) for name in Validation._fields))


def _table(s: RunSummary, threshold_ev: float) -> list[tuple[str, str]]:
    def energy(value: float | None) -> str:
        if value is None:
            return "no data"
        return f"{value * KCAL_MOL_PER_EV:.3g} kcal/mol = {1e3 * value / max(s.n_atoms, 1):.3g} meV/atom"

    w, share, above, force = s.wall, s.share_above, "no data", "no data"
    if share is not None:
        ends = f"{share.lower:.1%} to {share.upper:.1%}"
        above = f"{s.above_threshold}, {share.observed:.1%} (95 % interval {ends})"
    if s.force_rmse_ev_a is not None:
        in_kcal = s.force_rmse_ev_a * KCAL_MOL_PER_EV
        force = f"{in_kcal:.3g} kcal/mol/Å = {1e3 * s.force_rmse_ev_a:.3g} meV/Å"
    last = "" if s.last_label_fs is None else f", last at {s.last_label_fs / 1e3:.3f} ps"
    speed = "no data" if s.steps_per_s is None else f"{s.steps_per_s:.3g} steps/s"
    spent = f"dynamics and rest {_clock(w.md_s)}, reference calculations {_clock(w.dft_s)}"
    rows = [
        ("System", f"{s.formula}, {s.n_atoms} atoms" if s.n_atoms else "not labelled yet"),
        ("State", "finished" if s.finished else "not finished"),
        ("Simulated", f"{s.time_fs / 1e3:.3f} ps in {s.steps} steps"),
        ("Error threshold", energy(threshold_ev)),
        ("Labels", f"{s.labels} ({s.initial} initial, {s.audit} audit){last}"),
        ("Labels above the threshold", above),
        ("RMSE at labels, before each is learnt", energy(s.rmse_ev)),
        ("RMSE at labels, not fine-tuned", energy(s.rmse_pretrained_ev)),
        ("Force RMSE at labels", force),
    ]
    if s.validation_frames:
        rows += [
            (f"RMSE on {s.validation_frames} random frames", energy(s.validation_rmse_ev)),
            ("The same, not fine-tuned", energy(s.validation_pretrained_rmse_ev)),
        ]
    return [
        *rows,
        ("Critical σ now (uncalibrated)", energy(s.sigma_crit_ev)),
        ("Wall time", f"{_clock(w.total_s)}: {spent}, sampling {_clock(w.update_s)}"),
        ("Speed of the dynamics", speed),
    ]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"


def _page(title: str, rows: list[tuple[str, str]], panels: list[Panel], run: _Run) -> str:
    """The HTML text; everything that is not fixed here is escaped."""
    escape = html.escape
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    sections = ""
    for panel in panels:
        image = ""
        if panel.png is not None:
            data = base64.b64encode(panel.png).decode("ascii")
            image = f'<img alt="{escape(panel.title)}" src="data:image/png;base64,{data}">'
        sections += f"<section><h2>{escape(panel.title)}</h2>{image}<p>{escape(panel.text)}</p></section>"
    levels = ", ".join(sorted({r.engine_hash for r in run.records})) or "none"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1><section><table>{cells}</table></section>{sections}"
        f"<section><h2>Settings</h2><p>Level of theory (hash): {escape(levels)}</p><details>"
        f"<summary>config.yaml</summary><pre>{escape(run.config_text)}</pre></details></section></main></body></html>\n"
    )

"""Report of a run, made from its directory: one self-contained HTML page."""

import base64
import contextlib
import html
from pathlib import Path
from typing import Final

import numpy as np

from bayes_mlff.analysis import bonds, torsions
from bayes_mlff.core.errors import DataError, RunDirectoryError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data import readings
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.engines import moments
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.ranking import Ranking, ranking, sentence
from bayes_mlff.otf.criteria import prior_of
from bayes_mlff.otf.trigger_settings import stated
from bayes_mlff.report import (
    crystal_figures,
    figures,
    run_data,
    run_summary,
    standing,
    trigger_figures,
    verdict,
)
from bayes_mlff.report.figures import Panel
from bayes_mlff.report.replay import Met, replay
from bayes_mlff.report.run_data import AngleSeries, LabelSeries, RunData, summary
from bayes_mlff.report.run_summary import RunSummary, WallTime
from bayes_mlff.runs import trajectory
from bayes_mlff.runs.thermo_log import ThermoSeries

__all__ = ["RunSummary", "WallTime", "summary", "write_report"]

MOST_FRAMES: Final = 4000
"""Largest number of trajectory frames used in figures."""

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


def write_report(run_dir: Path, *, threshold_ev: float, title: str, run: RunData | None = None) -> Path:
    """Write `report.html` into a run directory: one file without links to others; returns its path.

    Args:
      run_dir: the directory of a finished or running run.
      threshold_ev: largest acceptable error of the total energy, eV.
      title: heading; any text.
      run: content of the directory, if it has already been read.

    Raises:
      RunDirectoryError: if this is no run directory or a file in it is unreadable.
      ConfigError: if its configuration is not valid.
      DataError: if the labels or the arrays of random frames are unreadable.
    """
    run = run_data.read(run_dir) if run is None else run
    labels, law = _label_series(run, threshold_ev)
    shown = _panels(run_dir, run, labels, law, threshold_ev=threshold_ev)
    now = [("State", standing.state(run_dir, run.log).sentence), ("Simulated", standing.progress(run.log))]
    summary = run_summary.summarise(run.log, threshold_ev)
    rows = [
        *verdict.rows(verdict.judge(run.log)),
        *_table(summary, threshold_ev, run.config.threshold_temperature_k, now),
    ]
    rows += [
        (
            f"Threshold of trigger {t.name}",
            f"{stated(t.threshold, t.threshold_temperature_k)}; {t.confidence or run.config.confidence:.0%} confidence",
        )
        for t in run.config.triggers
    ]
    rows += _rankings(run, labels, law)
    rows += _thinned(run_dir, run)
    rows += [(f"Not believed, step {r.step}", r.reason) for r in run.log.refused]
    rows += [
        (f"Reference, step {e['step']}", str(e["remark"]))
        for e in run.events
        if e["event"] == "engine_remark" and str(e["remark"]).startswith(moments.CHANGED)
    ]
    (target := run_dir / "report.html").write_text(_page(title, rows, shown, run), encoding="utf-8")
    return target


def panels(run_dir: Path, run: RunData, *, threshold_ev: float) -> list[Panel]:
    """All figures of a run that has been read from `run_dir`; a figure without data is a sentence instead."""
    return _panels(run_dir, run, *_label_series(run, threshold_ev), threshold_ev=threshold_ev)


def rankings(run: RunData, *, threshold_ev: float) -> dict[str, Ranking]:
    """What σ of the energies knows of the errors, of labels and random frames; those with too few are left out."""
    return _ranked(run, *_label_series(run, threshold_ev))


def _ranked(run: RunData, labels: LabelSeries, law: ErrorLaw | None) -> dict[str, Ranking]:
    if law is None or not np.isfinite(error_law.parts(law).factor):
        return {}
    found = {"labels": ranking(labels.error_ev, np.atleast_1d(error_law.deviation(law, labels.sigma_ev)))}
    if (frames := run.validation) is not None:
        sigma = np.atleast_1d(error_law.deviation(law, frames.sigma_ev))
        found["random frames"] = ranking(frames.predicted_ev - frames.reference_ev, sigma)
    return {name: each for name, each in found.items() if each is not None}


def _rankings(run: RunData, labels: LabelSeries, law: ErrorLaw | None) -> list[tuple[str, str]]:
    return [(f"σ at {name}", sentence(each)) for name, each in _ranked(run, labels, law).items()]


def _panels(
    run_dir: Path, run: RunData, labels: LabelSeries, law: ErrorLaw | None, *, threshold_ev: float
) -> list[Panel]:
    pit = None
    if law is not None and run.validation is not None:
        error = run.validation.predicted_ev - run.validation.reference_ev
        pit = np.atleast_1d(error_law.probability_integral(law, error, run.validation.sigma_ev))
    n_atoms = len(run.records[0].structure.numbers) if run.records else 1
    schedule, end_fs = run_data.schedule(run), _end(run.thermo.time_fs)
    return [
        figures.labels_panel(labels, threshold_ev=threshold_ev, n_atoms=n_atoms, end_fs=end_fs, schedule=schedule),
        figures.sigma_error_panel(labels, run.validation, law, threshold_ev=threshold_ev),
        figures.coverage_panel(labels, pit),
        figures.sigma_panel(_with_labels(run), np.array([r.time_fs for r in run.records]), schedule=schedule),
        *trigger_figures.panels(run),
        figures.thermo_panel(run.thermo),
        *_conformation(run_dir, run.records),
        *_crystal(run_dir, run),
        figures.parity_panel(run.validation, threshold_ev=threshold_ev),
    ]


def _end(time_fs: np.ndarray) -> float:
    return float(time_fs[-1]) if time_fs.size else 0.0


def _label_series(run: RunData, threshold_ev: float) -> tuple[LabelSeries, ErrorLaw | None]:
    """Labels as arrays, and the law of errors after the last one; None if the law cannot be replayed.

    The replay is accepted only if it reproduces every critical sigma that the run stored with its labels.
    """
    known = [r for r in run_data.predicted(run.records) if _limit(r)]
    error = run_data.errors(known)
    sigma = np.array([r.predicted_energy_sigma for r in known], np.float64)
    stored = np.array([_limit(r) for r in known], np.float64)
    n_atoms, confidence = len(run.records[0].structure.numbers) if run.records else 1, run.config.confidence
    prior, decay = prior_of(run.config, None, n_atoms, run.config.energy_sigma_ev(n_atoms))
    stated_k = run.config.threshold_temperature_k
    threshold = threshold_ev * run.log.growth(np.array([r.step for r in known], np.float64), stated_k)
    audit = [r.reason == "audit" for r in known]
    again = replay(
        prior,
        [Met(*each) for each in zip(error.tolist(), sigma, stored, threshold, audit, strict=True)],
        confidence=confidence,
        decay=decay,
        false_alarm=run.config.audits.false_alarm,
    )
    series = LabelSeries(
        time_fs=np.array([r.time_fs for r in known], np.float64),
        error_ev=error,
        sigma_ev=sigma,
        half_width_ev=again.half_width,
        audit=np.array(audit, bool),
        pit=again.pit,
        confidence=confidence,
        threshold_ev=None if stated_k is None else threshold,
    )
    return series, again.law


def _limit(record: LabelRecord) -> float:
    """Limit of σ of the energy, eV, with which a label's prediction was compared; 0 if it was not."""
    reading = readings.find(record.readings)
    return 0.0 if reading is None or not reading.value else reading.limit


def _conformation(run_dir: Path, records: list[LabelRecord]) -> list[Panel]:
    """Panel of the hydroxyl angle if the run is of ethanol."""
    path = run_dir / "trajectory.extxyz"
    if not records or not path.exists():
        return []
    chain = torsions.hydroxyl(records[0].structure)
    if chain is None:
        return []
    try:
        frames = trajectory.read(path, most=MOST_FRAMES)
        for i in range(len(frames.step)):
            frames.structure(i)  # refuses a frame without a geometry
    except (DataError, RunDirectoryError) as error:
        return [Panel("Conformation of ethanol and labels", f"The trajectory is not readable now: {error}.")]
    angle, dihedral = torsions.chain_angles(frames.positions, frames.cells, frames.pbc, chain)
    positions, cells = (np.array([getattr(r.structure, kind) for r in records]) for kind in ("positions", "cell"))
    series = AngleSeries(
        time_fs=frames.time_fs,
        angle_deg=angle,
        dihedral_deg=dihedral,
        label_time_fs=np.array([r.time_fs for r in records]),
        label_angle_deg=torsions.chain_angles(positions, cells, frames.pbc, chain)[0],
    )
    return [figures.angle_panel(series)]


def _crystal(run_dir: Path, run: RunData) -> list[Panel]:
    """Bonds of a perovskite, cell, temperature and pressure if the run is of a crystal."""
    if not run.records or not run.records[0].structure.is_periodic or torsions.hydroxyl(run.records[0].structure):
        return []
    schedule = run_data.schedule(run)
    dynamics = run.config.dynamics
    # The logged pressure is the mean over three directions; a barostat of some cell vectors controls only part of them.
    at_pressure = dynamics.ensemble == "npt" and len(dynamics.barostat.free) == 3
    held = crystal_figures.conditions_panel(run.thermo, schedule, at_pressure=at_pressure)
    try:
        frames = trajectory.read(run_dir / "trajectory.extxyz", most=MOST_FRAMES)
    except RunDirectoryError as error:
        return [Panel("Structure of the crystal", f"The trajectory is not readable now: {error}."), held]
    labels = np.array([r.time_fs for r in run.records])
    octahedra = bonds.octahedra(frames.numbers, frames.time_fs, frames.positions, frames.cells)
    cell = crystal_figures.cell_panel(frames, schedule, labels, perovskite=octahedra is not None)
    if octahedra is None:
        return [cell, held]
    return [crystal_figures.bonds_panel(octahedra, schedule, labels), cell, held]


def _thinned(run_dir: Path, run: RunData) -> list[tuple[str, str]]:
    """A note on which part of a long run the figures show; empty if they show all of it."""
    said = []
    if run.rows is not None and run.rows > len(run.steps):
        said.append(
            f"{len(run.steps)} of about {run.rows} logged steps, in evenly spaced groups of neighbours (peaks between "
            "them are not drawn, but the σ of every label is)"
        )
    if (run_dir / "trajectory.extxyz").is_file() and run.rows is not None:
        with contextlib.suppress(RunDirectoryError):  # the figure states what is wrong
            stored = trajectory.frames(run_dir / "trajectory.extxyz").count
            if stored > MOST_FRAMES:
                said.append(f"{MOST_FRAMES} of {stored} frames, evenly spaced")
    return [("Figures are drawn from", "; ".join(said))] if said else []


def _with_labels(run: RunData) -> ThermoSeries:
    """Logged steps for the figure of σ; if they are only a part, the steps of the labels are added."""
    known = [r for r in run.records if _limit(r)]
    if run.rows is None or run.rows <= len(run.steps) or not known:
        return run.thermo
    time = np.concatenate([run.thermo.time_fs, [r.time_fs for r in known]])
    order = np.argsort(time, kind="stable")
    sigma = np.concatenate([run.thermo.sigma_ev, np.array([r.predicted_energy_sigma for r in known], np.float64)])
    limit = np.concatenate([run.thermo.sigma_crit_ev, np.array([_limit(r) for r in known], np.float64)])
    none = np.full(time.size, np.nan)
    return ThermoSeries(time[order], none, none, none, sigma[order], limit[order])


def _table(
    s: RunSummary, threshold_ev: float, stated_k: float | None, state: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    def energy(value: float | None) -> str:
        if value is None:
            return "no data"
        return f"{value * KCAL_MOL_PER_EV:.3g} kcal/mol = {1e3 * value / max(s.n_atoms, 1):.3g} meV/atom"

    def force(value: float | None) -> str:
        if value is None:
            return "no data"
        return f"{value * KCAL_MOL_PER_EV:.3g} kcal/mol/Å = {1e3 * value:.3g} meV/Å"

    w, share, above = s.wall, s.share_above, "no data"
    if share is not None:
        ends = f"{share.lower:.1%} to {share.upper:.1%}"
        above = f"{s.above_threshold}, {share.observed:.1%} (95 % interval {ends})"
    last = "" if s.last_label_fs is None else f", last at {s.last_label_fs / 1e3:.3f} ps"
    speed = "no data" if s.steps_per_s is None else f"{s.steps_per_s:.3g} steps/s"
    spent = f"dynamics and rest {_clock(w.md_s)}, reference calculations {_clock(w.dft_s)}"
    rows = [
        ("System", f"{s.formula}, {s.n_atoms} atoms" if s.n_atoms else "not labelled yet"),
        *state,
        ("Error threshold", stated(energy(threshold_ev), stated_k)),
        ("Labels", f"{s.labels} ({s.initial} initial, {s.audit} audit){last}"),
        *([("Labels that existed before the run", str(s.given))] if s.given else []),
        ("Labels above the threshold", above),
        ("RMSE at labels, before each is learnt", energy(s.rmse_ev)),
        ("RMSE at labels, not fine-tuned", energy(s.rmse_pretrained_ev)),
        ("Force RMSE at labels", force(s.force_rmse_ev_a)),
    ]
    if s.validation_frames:
        rows += [
            ("Random frames above the threshold", f"{s.validation_above} of {s.validation_frames}"),
            (f"RMSE on {s.validation_frames} random frames", energy(s.validation_rmse_ev)),
            ("The same, not fine-tuned", energy(s.validation_pretrained_rmse_ev)),
            ("Force RMSE on random frames", force(s.validation_force_rmse_ev_a)),
            ("The same, not fine-tuned", force(s.validation_pretrained_force_rmse_ev_a)),
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


def _page(title: str, rows: list[tuple[str, str]], panels: list[Panel], run: RunData) -> str:
    """The HTML text; all variable text is escaped."""
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

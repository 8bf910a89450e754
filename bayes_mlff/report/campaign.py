"""A campaign in numbers, lines and a page: its walkers, labels, and how well the stated confidence held."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_mlff.campaign.layout import MARK, WALKERS
from bayes_mlff.core import plots
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.label_notes import INITIAL
from bayes_mlff.ensemble import metrics
from bayes_mlff.report import run_log, run_summary
from bayes_mlff.report.run_events import read_events
from bayes_mlff.report.run_log import RunLog
from bayes_mlff.report.run_summary import RunSummary
from bayes_mlff.runs.growing_files import write_whole

REPORT: Final = "report.html"

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1d2127;max-width:72rem;margin:auto;padding:1.5rem}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}td,th{text-align:left;padding:.25rem .8rem .25rem 0}"
    "tr+tr{border-top:1px solid #eceef0}th{font-weight:500;color:#59616b}img{max-width:100%}"
)


class WalkerRow(NamedTuple):
    """One walker."""

    name: str
    state: str  # 'done', 'aside' or 'under way'
    why: str | None  # it was set aside
    summary: RunSummary
    time_fs: np.ndarray  # [l] of labels with a prediction
    error_ev: np.ndarray  # [l] predicted minus reference


class CampaignSummary(NamedTuple):
    """A campaign in numbers."""

    path: Path
    state: str
    walkers: tuple[WalkerRow, ...]
    labels: int  # finished reference calculations
    above: int  # of the labels predicted beforehand
    predicted: int
    audits: int
    spared: int  # requests that were not needed any more
    rounds: int
    compiled: int  # functions of dynamics
    engine_s: float
    update_s: float
    dynamics_s: float
    frames: int  # random ones, labelled at the end
    frames_above: int  # of them above the threshold
    frames_rmse_ev: float | None
    frames_pretrained_rmse_ev: float | None  # same frames, not fine-tuned
    frames_force_rmse_ev_a: float | None

    def to_json(self) -> dict[str, Any]:
        """Values for programs."""
        plain = {k: v for k, v in self._asdict().items() if k not in ("path", "walkers")}
        rows = [
            {
                "name": row.name,
                "state": row.state,
                "why": row.why,
                "time_fs": row.summary.time_fs,
                "labels": row.summary.labels,
                "audits": row.summary.audit,
                "above_threshold": row.summary.above_threshold,
                "rmse_ev": row.summary.rmse_ev,
                "force_rmse_ev_a": row.summary.force_rmse_ev_a,
            }
            for row in self.walkers
        ]
        return {**plain, "walkers": rows}


def read(path: Path) -> CampaignSummary:
    """Read what a campaign has written so far.

    Raises:
      RunDirectoryError: if this is no campaign, or a file in it is unreadable.
      DataError: if labels are unreadable.
    """
    if not (path / MARK).is_file():
        raise RunDirectoryError(f"{path}: no campaign here ({MARK} is missing)")
    events = read_events(path / "events.jsonl")
    aside = {event["walker"]: event["reason"] for event in events if event["event"] == "set_aside"}
    rows = tuple(_row(each, aside) for each in sorted((path / WALKERS).iterdir()) if (each / "config.yaml").is_file())
    rounds = [event for event in events if event["event"] == "round"]
    updates = [event for event in events if event["event"] == "update"]
    last = rounds[-1] if rounds else {}
    return CampaignSummary(
        path=path,
        state=_state(events),
        walkers=rows,
        labels=sum(row.summary.labels for row in rows),
        above=sum(row.summary.above_threshold for row in rows),
        predicted=sum(len(row.error_ev) for row in rows),
        audits=sum(row.summary.audit for row in rows),
        spared=int(last.get("spared", 0)),
        rounds=int(last.get("round", 0)),
        compiled=int(last.get("compiled", 0)),
        engine_s=sum(row.summary.wall.dft_s for row in rows),
        update_s=sum(float(event["seconds"]) for event in updates),
        dynamics_s=sum(float(event["seconds"]) for event in rounds),
        frames=sum(row.summary.validation_frames for row in rows),
        frames_above=sum(row.summary.validation_above for row in rows),
        frames_rmse_ev=_pooled(rows, "validation_rmse_ev"),
        frames_pretrained_rmse_ev=_pooled(rows, "validation_pretrained_rmse_ev"),
        frames_force_rmse_ev_a=_pooled(rows, "validation_force_rmse_ev_a"),
    )


def _pooled(rows: Sequence[WalkerRow], field: str) -> float | None:
    """Root mean square over the random frames of all walkers; None without one."""
    known = [(row.summary.validation_frames, getattr(row.summary, field)) for row in rows]
    known = [(count, value) for count, value in known if count and value is not None]
    if not known:
        return None
    return float(np.sqrt(sum(n * x**2 for n, x in known) / sum(n for n, _ in known)))


def _row(path: Path, aside: Mapping[str, str]) -> WalkerRow:
    log = run_log.read(path)
    summary = run_summary.summarise(log, log.threshold_ev)
    time, error = _errors(log)
    why = aside.get(path.name)
    state = "aside" if why is not None else "done" if summary.finished else "under way"
    return WalkerRow(path.name, state, why, summary, time, error)


def _errors(log: RunLog) -> tuple[np.ndarray, np.ndarray]:
    known = [note for note in log.labels if note.reason != INITIAL and note.predicted_ev is not None]
    error = [float(n.predicted_ev or 0.0) - n.reference_ev - n.offset_ev for n in known]
    return np.array([note.time_fs for note in known], np.float64), np.array(error, np.float64)


def _state(events: Sequence[Mapping[str, Any]]) -> str:
    """State of a campaign in words, from its last event that says one."""
    told = {"finished": "finished", "stopped": "stopped", "interrupted": "interrupted"}
    for event in reversed(events):
        if event["event"] in told:
            reason = event.get("reason")
            return told[event["event"]] + ("" if reason is None else f": {reason}")
        if event["event"] in ("round", "session_started", "update"):
            return "under way"
    return "not begun"


def lines(found: CampaignSummary) -> list[str]:
    """The summary as text."""
    said = [f"{found.path}: {found.state}"]
    width = max(len(row.name) for row in found.walkers)
    for row in found.walkers:
        one = row.summary
        text = f"{one.time_fs / 1000.0:.3f} ps, {one.labels} labels, {one.above_threshold} above the threshold"
        error = "" if one.rmse_ev is None else f", RMSE {one.rmse_ev * KCAL_MOL_PER_EV:.3g} kcal/mol"
        said.append(f"  {row.name:{width}}  {row.state}: {text}{error}" + ("" if row.why is None else f"; {row.why}"))
    share = metrics.binomial_share(found.above, found.predicted) if found.predicted else None
    said.append(
        f"  {found.labels} labels in all ({found.audits} audits, {found.spared} spared), {found.above} of "
        f"{found.predicted} predictions above the threshold"
        + ("" if share is None else f" (95 % interval {share.lower:.1%} to {share.upper:.1%})")
    )
    if found.frames and found.frames_rmse_ev is not None:
        before = KCAL_MOL_PER_EV * (found.frames_pretrained_rmse_ev or 0.0)
        said.append(
            f"  {found.frames} random frames: {found.frames_above} above the threshold, RMSE "
            f"{KCAL_MOL_PER_EV * found.frames_rmse_ev:.3g} kcal/mol ({before:.3g} before fine-tuning), forces "
            f"{KCAL_MOL_PER_EV * (found.frames_force_rmse_ev_a or 0.0):.3g} kcal/mol/Å"
        )
    said.append(
        f"  {found.rounds} rounds; reference {found.engine_s:.0f} s, learning {found.update_s:.0f} s, dynamics "
        f"{found.dynamics_s:.0f} s, {found.compiled} compiled functions of dynamics"
    )
    return said


def write_report(path: Path) -> Path:
    """Write report.html into the directory of a campaign; returns its path.

    Raises:
      RunDirectoryError: if this is no campaign, or the file cannot be written.
    """
    found = read(path)
    header = ("walker", "state", "time (ps)", "labels", "audits", "above", "RMSE at labels (kcal/mol)", "report")
    rows = [
        (
            html.escape(row.name),
            html.escape(row.state if row.why is None else f"{row.state}: {row.why}"),
            f"{row.summary.time_fs / 1000.0:.3f}",
            str(row.summary.labels),
            str(row.summary.audit),
            str(row.summary.above_threshold),
            "" if row.summary.rmse_ev is None else f"{row.summary.rmse_ev * KCAL_MOL_PER_EV:.3g}",
            f'<a href="{WALKERS}/{html.escape(row.name)}/report.html">figures</a>',
        )
        for row in found.walkers
    ]
    table = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    picture = base64.b64encode(_picture(found)).decode()
    first, *others = lines(found)
    told = "".join(f"<p>{html.escape(line)}</p>" for line in (first, *others[len(found.walkers) :]))
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Campaign {html.escape(path.name)}</title>"
        f"<style>{_STYLE}</style><h1>Campaign {html.escape(path.name)}</h1>{told}"
        f'<img alt="labels and errors of all walkers" src="data:image/png;base64,{picture}">'
        f"<table><tr>{head}</tr>{table}</table></html>\n"
    )
    write_whole(path / REPORT, text.encode())
    return path / REPORT


def _picture(found: CampaignSummary) -> bytes:
    """Errors at labels over the time of each walker, and labels of all walkers over their summed time."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(11.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw(left, right, found)
    return plots.png(figure)


def _draw(left: Axes, right: Axes, found: CampaignSummary) -> None:
    for row in found.walkers:
        left.plot(row.time_fs / 1000.0, row.error_ev * KCAL_MOL_PER_EV, "o", markersize=4, label=row.name)
    left.axhline(0.0, color="0.6", linewidth=0.8)
    left.set_xlabel("time of the walker (ps)")
    left.set_ylabel("error before learning (kcal/mol)")
    if 1 < len(found.walkers) <= 10:
        left.legend(fontsize=7)
    rounds = [event for event in read_events(found.path / "events.jsonl") if event["event"] == "round"]
    right.plot([event["time_ps"] for event in rounds], [event["labels"] for event in rounds], drawstyle="steps-post")
    right.set_xlabel("time of all walkers together (ps)")
    right.set_ylabel("reference calculations")

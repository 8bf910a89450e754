"""Campaigns against the same walkers as single runs, each with its own posterior and labels.

    python -m benchmarks.campaigns.run CONFIG WORK_DIR campaign|singles|collect [--out FILE]

CONFIG is one of the YAML files of this folder. `singles` does one run after the other with the settings and the seeds
of the walkers; every stage continues what was interrupted. `collect` writes labels, errors and times of both as JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import bayes_mlff
from bayes_mlff.api import campaigner, runner
from bayes_mlff.api.campaign_console import ConsoleObserver
from bayes_mlff.campaign import config as configuration
from bayes_mlff.core.command_line import make_console
from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.jax_start import start_jax
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.report import campaign as summary
from bayes_mlff.report import run_log, run_summary


def main() -> None:
    """Do one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("stage", choices=["campaign", "singles", "collect"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config, base = configuration.load(args.config), args.config.parent
    if args.stage == "campaign":
        start_jax(configuration.of_all(config).side_by_side)
        with ConsoleObserver(make_console()) as observer:
            campaigner.run(config, args.work / "campaign", base=base, observer=observer)
    elif args.stage == "singles":
        for member in configuration.members(config, base=base):
            settings = runner.with_absolute_paths(member.config, base.resolve())
            bayes_mlff.run(settings, args.work / "singles" / member.name, progress=True)
    else:
        found = collect(args.work)
        write_whole(args.out or args.work / "summary.json", (json.dumps(found, indent=2) + "\n").encode())


def collect(work: Path) -> dict[str, Any]:
    """Labels, errors and times of the campaign and of the single runs, energies in kcal/mol."""
    found: dict[str, Any] = {}
    if (work / "campaign").is_dir():
        told = summary.read(work / "campaign")
        events = [json.loads(line) for line in (work / "campaign" / "events.jsonl").read_text().splitlines()]
        found["campaign"] = told.to_json() | {"wall_s": round(_wall_s(events), 1)} | _in_kcal(told.frames_rmse_ev)
    singles = [run_log.read(path) for path in sorted((work / "singles").glob("*")) if (path / "config.yaml").is_file()]
    if singles:
        each = [run_summary.summarise(log, log.threshold_ev) for log in singles]
        frames = [(one.validation_frames, one.validation_rmse_ev) for one in each if one.validation_rmse_ev is not None]
        squares = sum(count * value**2 for count, value in frames)
        pooled = float(np.sqrt(squares / sum(count for count, _ in frames))) if frames else None
        found["singles"] = {
            "runs": len(each),
            "finished": sum(one.finished for one in each),
            "labels": [one.labels for one in each],
            "labels_in_all": sum(one.labels for one in each),
            "above": sum(one.above_threshold for one in each),
            "predicted": sum(one.labels - one.initial for one in each),
            "frames": sum(one.validation_frames for one in each),
            "frames_above": sum(one.validation_above for one in each),
            "wall_s": round(sum(one.wall.total_s for one in each), 1),
            "engine_s": round(sum(one.wall.dft_s for one in each), 1),
            "update_s": round(sum(one.wall.update_s for one in each), 1),
        } | _in_kcal(pooled)
    return found


def _in_kcal(rmse_ev: float | None) -> dict[str, float | None]:
    return {"frames_rmse_kcal_mol": None if rmse_ev is None else round(KCAL_MOL_PER_EV * rmse_ev, 4)}


def _wall_s(events: list[dict[str, Any]]) -> float:
    """Time of all sessions, each from its start to the last event before the next one, s."""
    starts = [i for i, event in enumerate(events) if event["event"] == "session_started"]
    ends = [*(i - 1 for i in starts[1:]), len(events) - 1]
    return sum(events[end]["time"] - events[start]["time"] for start, end in zip(starts, ends, strict=True))


if __name__ == "__main__":
    main()

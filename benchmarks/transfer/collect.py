"""Put the results of scenarios together: summary, tables and figures.

    python -m benchmarks.transfer.collect RUNS_DIR OUT_DIR SCENARIO.yaml ... --machine TEXT

OUT_DIR receives `summary.json` (one entry for each finished fine-tuning), `details.json` (intervals, errors before,
seconds, and which ones are not finished), `tables.md` and for every scenario and molecule a figure. It keeps what it
has of fine-tunings whose directories are gone.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune import figures, tables
from benchmarks.transfer import scenario as scenarios
from benchmarks.transfer.scenario import Fit, Scenario

COLUMNS = tables.columns(tables.FORCES) | {"consistent with 95 %": ("coverage_95_consistent", "of")}
IDENTITY = ("scenario", "method", "m", "seed")
"""What tells fine-tunings apart; a scenario is named with the molecule where there are several."""


class Result(NamedTuple):
    """One finished fine-tuning."""

    fit: Fit
    group: str  # scenario, with the molecule where there are several
    metrics: dict[str, Any]  # contents of metrics.json

    @property
    def forces(self) -> dict[str, Any]:
        """Force components of the test set after fine-tuning."""
        return self.metrics["test"]["fine_tuned"]["forces_kcal_mol_a"]


def group_name(scenario: Scenario, fit: Fit) -> str:
    """What a fine-tuning is compared within."""
    return scenario.scenario if len(scenario.targets) == 1 else f"{scenario.scenario}-{fit.target.name}"


def identity(group: str, fit: Fit) -> tuple[Any, ...]:
    """Values of `IDENTITY`."""
    return group, fit.method, fit.frames, fit.seed


def gather(scenario: Scenario, runs: Path) -> tuple[list[Result], dict[tuple[Any, ...], str]]:
    """Finished fine-tunings of a scenario, and the names of the others by `identity`.

    Raises:
      RunDirectoryError: if one was made with other settings than the scenario asks for.
    """
    done, missing = [], {}
    for fit in scenarios.fits(scenario):
        path = runs / scenario.scenario / fit.name / "metrics.json"
        if path.is_file():
            stored = finetuning.load(path.with_name("config.yaml"))
            wanted = scenarios.resolved(scenarios.configuration(fit, Path(), Path(), folders=()), stored)
            if scenarios.settings_of(stored) != scenarios.settings_of(wanted):
                raise RunDirectoryError(
                    f"{path.parent}: was made with other settings than {scenario.scenario}; remove it"
                )
            done.append(Result(fit, group_name(scenario, fit), json.loads(path.read_text())))
        else:
            missing[identity(group_name(scenario, fit), fit)] = f"{scenario.scenario}/{fit.name}"
    return done, missing


def entry(result: Result) -> dict[str, Any]:
    """One entry of the summary: force components of the test set."""
    found = tables.numbers(result.forces)
    return {
        **dict(zip(IDENTITY, identity(result.group, result.fit), strict=True)),
        **{key: None if value is None else round(value, 4) for key, value in found.items()},
        "test_frames": result.metrics["test"]["frames"],
    }


def detail(result: Result) -> dict[str, Any]:
    """What the summary has no key for."""
    test = result.metrics["test"]
    kept = ("coverage", "coverage_intervals", "crps", "mean_sigma", "share_large", "mll_by_error")
    return {
        **dict(zip(IDENTITY, identity(result.group, result.fit), strict=True)),
        **{key: result.forces[key] for key in kept},
        "energy_rmse_kcal_mol": test["fine_tuned"]["energy_kcal_mol"]["rmse"],
        "zero_shot_rmse_kcal_mol_a": test["zero_shot"]["forces_kcal_mol_a"]["rmse"],
        "zero_shot_mae_kcal_mol_a": test["zero_shot"]["forces_kcal_mol_a"]["mae"],
        "sigma_factor": result.metrics["sigma_factors"]["forces"],
        "samples": result.metrics["samples"],
        "sampling_seconds": result.metrics["sampling_seconds"],
    }


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by identity: old ones, replaced by new ones of the same fine-tuning, and after them the other new ones."""
    return {tuple(row[key] for key in IDENTITY): row for row in (*old, *new)}


def check_comparable(details: list[dict[str, Any]]) -> None:
    """Refuse to compare fine-tunings of different models or on different test sets.

    Raises:
      RunDirectoryError: if errors before fine-tuning differ within a group.
    """
    for group in dict.fromkeys(row["scenario"] for row in details):
        before = [row["zero_shot_rmse_kcal_mol_a"] for row in details if row["scenario"] == group]
        if not np.allclose(before, before[0], rtol=1e-3, atol=0.0):
            raise RunDirectoryError(
                f"{group}: RMSE before fine-tuning from {min(before):.3f} to {max(before):.3f} kcal/mol/Å: models or "
                "test sets differ; remove the older results"
            )


def write(results: list[Result], missing: dict[tuple[Any, ...], str], out: Path, *, machine: str, commit: str) -> None:
    """Write everything."""
    out.mkdir(parents=True, exist_ok=True)
    summary, about = out / "summary.json", out / "details.json"
    old_entries = json.loads(summary.read_text()) if summary.is_file() else []
    old = json.loads(about.read_text()) if about.is_file() else {"fits": []}
    known = merged(old_entries, [entry(result) for result in results])
    entries = list(known.values())
    old_details = [{"commit": old["commit"]} | row for row in old["fits"]]
    about_known = merged(old_details, [{"commit": commit} | detail(result) for result in results])
    details = list(about_known.values())
    check_comparable(details)
    not_run = [name for fit, name in missing.items() if fit not in known]
    summary.write_text(json.dumps(entries, indent=1) + "\n")
    contents = {"machine": machine, "commit": commit, "not_run": not_run, "fits": details}
    about.write_text(json.dumps(contents, indent=1) + "\n")
    parts = [
        "Force components of the test sets, kcal/mol/Å; MLL in nats; mean ± standard deviation over seeds. Last: "
        "how often the interval of the share that allows for few validation frames (`factor`) holds 95 %, of the fits "
        "that have one.\n"
    ]
    for group in dict.fromkeys(e["scenario"] for e in entries):
        own = [
            e | {"coverage_95_consistent": tables.coverage_consistent(about_known[key])}
            for key, e in known.items()
            if e["scenario"] == group
        ]
        before = next(d for d in details if d["scenario"] == group)
        parts.append(
            f"## {group}\n\n{own[0]['test_frames']} test frames. Before fine-tuning: RMSE "
            f"{before['zero_shot_rmse_kcal_mol_a']:.2f}, MAE {before['zero_shot_mae_kcal_mol_a']:.2f}.\n\n"
            f"{tables.markdown(tables.rows(own, COLUMNS))}\n"
        )
        (out / f"{group}.png").write_bytes(figures.comparison(own))
    (out / "tables.md").write_text("\n".join(parts))


def main() -> None:
    """Gather all scenarios and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("scenarios", type=Path, nargs="+")
    parser.add_argument("--machine", required=True)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    gathered = [gather(scenarios.load(path), args.runs) for path in args.scenarios]
    results = [result for done, _ in gathered for result in done]
    missing = {fit: name for _, absent in gathered for fit, name in absent.items()}
    write(results, missing, args.out, machine=args.machine, commit=commit.stdout.strip())
    print((args.out / "tables.md").read_text())


if __name__ == "__main__":
    main()

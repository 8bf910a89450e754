"""Put the results of a scenario together: summary and tables.

    python -m benchmarks.starts.collect SCENARIO.yaml RUNS_DIR OUT_DIR --machine TEXT

OUT_DIR receives `<scenario>.json` (an entry for each start before fine-tuning and for each finished fine-tuning) and
`<scenario>.md`. It keeps what it has of fine-tunings whose directories are gone.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from bayes_mlff.core.durable import write_whole
from bayes_mlff.finetune import tables
from benchmarks.scenarios import Fit, collecting, fits
from benchmarks.starts.scenario import load

PARTS: Final = {"energy_kcal_mol": "energy", "forces_kcal_mol_a": "forces", "stress_gpa": "stress"}

BEFORE: Final[tables.Columns] = {
    "forces, kcal/mol/Å": ("forces_rmse", ".2f"),
    "energy, its scatter, kcal/mol": ("energy_scatter", ".2f"),
    "stress, GPa": ("stress_rmse", ".2f"),
}

AFTER: Final[tables.Columns] = {
    "forces": ("forces_rmse", ".2f"),
    "in 95 %": ("forces_coverage", ".2f"),
    "MLL": ("forces_mll", ".2f"),
    "energy": ("energy_rmse", ".2f"),
    "in 95 % ": ("energy_coverage", ".2f"),
    "stress": ("stress_rmse", ".2f"),
    "ρ energy": ("rho_energy", ".2f"),
    "possible": ("possible_rho_energy", ".2f"),
    "ρ components": ("rho_components", ".2f"),
    "possible ": ("possible_rho_components", ".2f"),
    "ρ frames": ("rho_frames", ".2f"),
    "minutes": ("minutes", ".0f"),
}


def entry(fit: Fit, folder: Path) -> dict[str, Any] | None:
    """One finished fine-tuning on the test frames; None if it is not finished."""
    path = folder / fit.name
    if not (path / "scores.json").is_file():
        return None
    metrics = json.loads((path / "metrics.json").read_text())
    scores = json.loads((path / "scores.json").read_text())
    tuned = metrics["test"]["fine_tuned"]
    found: dict[str, Any] = {
        "start": fit.target.name,
        "method": fit.method,
        "m": metrics["training_frames"],
        "seed": fit.seed,
        "test_frames": metrics["test"]["frames"],
        "minutes": metrics["sampling_seconds"] / 60.0,
        "train_forces_rmse": metrics["train"]["fine_tuned"]["forces_kcal_mol_a"]["rmse"],
        "energy_scatter": scores["energy"]["scatter"],
        "scores": scores,
        "settings": {key: metrics["settings"][key] for key in ("prior", "likelihood", "sampler", "optimizer")},
    }
    for key, name in PARTS.items():
        if key in tuned:
            part = tuned[key]
            found |= {f"{name}_rmse": part["rmse"], f"{name}_mll": part.get("mll")}
            found[f"{name}_coverage"] = part.get("coverage", {}).get("0.95")
    for name in ("energy", "components", "atoms", "frames"):
        sigma = scores[name]["sigma"]
        found |= {
            f"rho_{name}": sigma.get("rho"),
            f"possible_rho_{name}": sigma.get("possible", sigma.get("calibrated")),
        }
    return found


def before(fit: Fit, folder: Path) -> dict[str, Any] | None:
    """The start of a finished fine-tuning before it, on the test frames."""
    path = folder / fit.name / "metrics.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text())["test"]["zero_shot"]
    scores = json.loads((folder / fit.name / "scores.json").read_text())
    errors = {f"{name}_rmse": found[key]["rmse"] for key, name in PARTS.items() if key in found}
    return {"start": fit.target.name, "energy_scatter": scores["pretrained_energy_scatter"], **errors}


def tables_of(summary: dict[str, Any]) -> str:
    """Tables in Markdown: before fine-tuning, and after it, means over seeds.

    A "possible" ρ is what errors drawn from exactly the predicted σ would show.
    """
    first = [["start", *BEFORE]]
    first += [[row["start"], *tables.cells([row], BEFORE)] for row in summary["before"]]
    second = [["start", "method", "m", "seeds", *AFTER]]
    kinds = dict.fromkeys((e["m"], e["method"], e["start"]) for e in summary["after"])
    for m, method, start in sorted(kinds):
        own = [e for e in summary["after"] if (e["m"], e["method"], e["start"]) == (m, method, start)]
        second.append([start, method, str(m), str(len(own)), *tables.cells(own, AFTER)])
    return f"{tables.markdown(first)}\n\n{tables.markdown(second)}\n"


def main() -> None:
    """Collect what is done."""
    args = collecting(__doc__).parse_args()
    scenario = load(args.scenario)
    folder, target = args.runs / scenario.scenario, args.out / f"{scenario.scenario}.json"
    known = json.loads(target.read_text()) if target.is_file() else {"before": [], "after": []}
    rows = {(e["start"], e["method"], e["m"], e["seed"]): e for e in known["after"]}
    starts = {e["start"]: e for e in known["before"]}
    missing = []
    for fit in fits(scenario):
        found, first = entry(fit, folder), before(fit, folder)
        if found is None or first is None:
            if (fit.target.name, fit.method, fit.frames, fit.seed) not in rows:
                missing.append(fit.name)
            continue
        rows[fit.target.name, fit.method, found["m"], fit.seed] = found
        starts[fit.target.name] = first
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    summary = {
        "scenario": scenario.scenario,
        "commit": commit,
        "machine": args.machine,
        "missing": missing,
        "before": sorted(starts.values(), key=lambda e: e["start"]),
        "after": [rows[key] for key in sorted(rows)],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(target, (json.dumps(summary, indent=1) + "\n").encode())
    write_whole(target.with_suffix(".md"), tables_of(summary).encode())
    print(tables_of(summary))
    print(f"{len(missing)} not finished")


if __name__ == "__main__":
    main()

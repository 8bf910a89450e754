"""Put the results of a scenario of slabs together: summary, table and figure.

    python -m benchmarks.adsorbates.collect SCENARIO.yaml RUNS_DIR OUT_DIR --machine TEXT

OUT_DIR receives `adsorbates.json` (one entry for each finished fine-tuning, machine, commit, and what is not finished),
`adsorbates.md` and `adsorbates.png`.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_mlff.core.plots import STYLE, plain_log, png
from bayes_mlff.ensemble import metrics
from bayes_mlff.finetune import tables
from bayes_mlff.finetune.figures import COLORS, NAMES
from benchmarks.adsorbates import scenario as scenarios
from benchmarks.adsorbates.run import RESULT
from benchmarks.scenarios import Fit, collecting, fits

LARGE: Final = (1.0, 3.0)
"""Errors that σ should detect, kcal/mol per adsorbed atom."""

COLUMNS: Final[tables.Columns] = {
    "RMSE": ("rmse", ".2f"),
    "AUC-ROC, 1": ("auc_1", ".2f"),
    "AUC-ROC, 3": ("auc_3", ".2f"),
    "within 95 %": ("coverage_95", ".2f"),
    "MLL": ("mll", ".2f"),
    "seconds": ("sampling_seconds", ".0f"),
}


def entry(fit: Fit, folder: Path) -> dict[str, Any]:
    """One fine-tuning in numbers; energies in kcal/mol per adsorbed atom."""
    found = json.loads((folder / RESULT).read_text())
    about = json.loads((folder / "metrics.json").read_text())
    error, sigma = np.array(found["error"]), np.array(found["sigma"])
    inside = metrics.coverage(metrics.normal_pit(error, sigma), (0.95,))
    return {
        "target": fit.target.name,
        "method": fit.method,
        "m": fit.frames,
        "seed": fit.seed,
        "rmse": round(metrics.rmse(error), 4),
        **{f"auc_{limit:g}": detected(error, sigma, limit) for limit in LARGE},
        "coverage_95": round(float(inside.observed[0]), 4),
        "coverage_95_interval": [round(float(x[0]), 4) for x in (inside.lower, inside.upper)],
        "mll": round(metrics.mean_log_likelihood(error, sigma), 4),
        "rmse_before": round(about["test"]["zero_shot"]["energy_kcal_mol"]["rmse"], 4),
        "test_slabs": len(error),
        "sampling_seconds": about["sampling_seconds"],
    }


def detected(error: np.ndarray, sigma: np.ndarray, limit: float) -> float | None:
    """AUC-ROC of errors above a limit; None if all are on one side of it."""
    above = int(np.sum(np.abs(error) > limit))
    return round(metrics.auc_roc(error, sigma, limit), 4) if 0 < above < len(error) else None


def table(entries: list[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds, of each target."""
    parts = [
        "Adsorption energies of the test slabs, kcal/mol per adsorbed atom; AUC-ROC of errors above 1 and 3; MLL in "
        "nats; mean ± standard deviation over seeds.\n"
    ]
    for target in dict.fromkeys(e["target"] for e in entries):
        own = [e for e in entries if e["target"] == target]
        before = f"{own[0]['test_slabs']} test slabs; RMSE before fine-tuning {own[0]['rmse_before']:.2f}."
        parts.append(f"## {target}\n\n{before}\n\n{tables.markdown(tables.rows(own, COLUMNS))}\n")
    return "\n".join(parts)


def figure(entries: list[dict[str, Any]]) -> bytes:
    """RMSE against number of slabs above AUC-ROC against RMSE, a column for each target, as PNG."""
    targets = [*dict.fromkeys(e["target"] for e in entries)]
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(1.2 + 2.6 * len(targets), 5.6), layout="constrained")
        rows = drawn.subplots(2, len(targets), squeeze=False)
        for (top, bottom), target in zip(rows.T, targets, strict=True):
            own = [e for e in entries if e["target"] == target]
            top.axhline(own[0]["rmse_before"], color="black", linestyle="--", linewidth=0.9)
            for method in COLORS:
                mine = [e for e in own if e["method"] == method]
                _curve(top, mine, "m", "rmse", method)
                _curve(bottom, mine, "rmse", "auc_1", method)
            top.set(title=target, xlabel="slabs learnt from", xscale="log", yscale="log")
            top.set_xticks(sorted({e["m"] for e in own}))
            bottom.set(xlabel="RMSE / kcal/mol", xscale="log", ylim=(0.0, 1.05))
            bottom.axhline(0.5, color="black", linewidth=0.7)
            for axis in (top.xaxis, top.yaxis, bottom.xaxis):
                plain_log(axis)
        rows[0, 0].set(ylabel="RMSE / kcal/mol per adsorbed atom")
        rows[1, 0].set(ylabel="AUC-ROC of errors above 1 kcal/mol")
        handles, labels = rows[0, 0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper center", ncols=3)
        return png(drawn)


def _curve(axes: Axes, entries: list[dict[str, Any]], across: str, up: str, method: str) -> None:
    """Means over seeds with their range, in the order of the numbers of slabs."""
    known = [e for e in entries if e[up] is not None]
    groups = [[e for e in known if e["m"] == m] for m in sorted({e["m"] for e in known})]
    if not groups:
        return
    x = [np.mean([e[across] for e in group]) for group in groups]
    y, low, high = ([f([e[up] for e in group]) for group in groups] for f in (np.mean, np.min, np.max))
    bars = [np.subtract(y, low), np.subtract(high, y)]
    axes.errorbar(x, y, bars, fmt="o-", color=COLORS[method], label=NAMES[method], capsize=2)


def main() -> None:
    """Gather and write."""
    args = collecting(__doc__).parse_args()
    scenario = scenarios.load(args.scenario)
    folder, wanted = args.runs / scenario.scenario, fits(scenario)
    done = [fit for fit in wanted if (folder / fit.name / RESULT).is_file()]
    entries = [entry(fit, folder / fit.name) for fit in done]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    missing = [fit.name for fit in wanted if fit not in done]
    contents = {"machine": args.machine, "commit": commit.stdout.strip(), "not_run": missing, "fits": entries}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "adsorbates.json").write_text(json.dumps(contents, indent=1) + "\n")
    (args.out / "adsorbates.md").write_text(table(entries))
    (args.out / "adsorbates.png").write_bytes(figure(entries))
    print(table(entries))


if __name__ == "__main__":
    main()

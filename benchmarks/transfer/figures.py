"""Likelihood and detection of large errors against error, and error against the number of training frames."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bayes_mlff.otf.figures import BLUE, GREEN, GREY, ORANGE, RED, STYLE, png

COLORS = {"sghmc": BLUE, "laplace": GREEN, "adam": GREY, "deep-ensemble": ORANGE, "scratch": RED}
NAMES = {
    "sghmc": "SGHMC, transfer prior",
    "laplace": "last-layer Laplace",
    "adam": "Adam, fine-tuned",
    "deep-ensemble": "deep ensemble",
    "scratch": "SGHMC from scratch",
}


def comparison(entries: list[dict[str, Any]]) -> bytes:
    """Three panels of one scenario, as PNG; marks are means over seeds, bars their range.

    Args:
      entries: of a summary, all of one scenario.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.8), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for method, color in COLORS.items():
            own = [e for e in entries if e["method"] == method]
            if not own:
                continue
            _against_error(left, own, "mll", color, NAMES[method])
            _against_error(middle, own, "auc_roc", color, NAMES[method])
            sizes, mean, low, high = _by_size(own, "rmse_kcal_mol_a")
            right.errorbar(
                sizes, mean, [mean - low, high - mean], fmt="o-", color=color, label=NAMES[method], capsize=2
            )
        error = "RMSE / kcal/mol/Å"
        left.set(xlabel=error, ylabel="mean log likelihood / nats", xscale="log")
        middle.set(xlabel=error, ylabel="AUC-ROC of large errors", xscale="log")
        right.set(xlabel="training frames", ylabel=error, xscale="log", yscale="log")
        for axis in (left.xaxis, middle.xaxis, right.xaxis, right.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        left.legend(fontsize=8, loc="lower left")
        return png(figure)


def _against_error(axes: Axes, entries: list[dict[str, Any]], key: str, color: str, label: str) -> None:
    """Mean of a figure of merit over seeds against the mean RMSE."""
    known = [e for e in entries if e[key] is not None]
    if not known:
        return
    _, x, *_ = _by_size(known, "rmse_kcal_mol_a")
    _, y, low, high = _by_size(known, key)
    axes.errorbar(x, y, [y - low, high - y], fmt="o-", color=color, label=label, capsize=2)


def _by_size(entries: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training-set sizes, and mean, least and greatest value over seeds at each."""
    sizes = sorted({e["m"] for e in entries})
    values = [[e[key] for e in entries if e["m"] == size] for size in sizes]
    return np.array(sizes), *(np.array([f(v) for v in values]) for f in (np.mean, np.min, np.max))

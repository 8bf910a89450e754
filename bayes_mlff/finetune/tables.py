"""Compare fine-tunings in numbers: one entry for each, and tables of their means over seeds."""

from typing import Any, Final, NamedTuple

import numpy as np

Columns = dict[str, tuple[str, str]]
"""By column title: key of the entries and format of the values; `"of"` counts how many are true."""


class Observable(NamedTuple):
    """What fine-tunings are compared by."""

    word: str  # in the names of files
    key: str  # in metrics.json
    unit: str
    suffix: str  # of the keys of errors in entries
    scalar: str
    scalars: str


FORCES: Final = Observable(
    "forces", "forces_kcal_mol_a", "kcal/mol/Å", "kcal_mol_a", "force component", "force components"
)
ENERGIES: Final = Observable("energy", "energy_kcal_mol", "kcal/mol", "kcal_mol", "energy", "energies")


def compared(targets: str) -> Observable:
    """What fine-tunings with these targets are compared by: energies where they are learnt alone, else forces."""
    return ENERGIES if targets == "energy" else FORCES


def columns(observable: Observable) -> Columns:
    """Columns of a table of `numbers`."""
    return {
        "RMSE": (f"rmse_{observable.suffix}", ".3f"),
        "MAE": (f"mae_{observable.suffix}", ".3f"),
        "MLL": ("mll", ".3f"),
        "AUC-ROC": ("auc_roc", ".3f"),
        "within 95 %": ("coverage_95", ".3f"),
    }


def numbers(found: dict[str, Any], observable: Observable = FORCES) -> dict[str, float | None]:
    """One observable of one set after a fine-tuning.

    Args:
      found: as metrics.json has it under the key of the observable.
      observable: which one that is.

    Returns:
      `rmse_` and `mae_` with the suffix of the observable, `mll` in nats, `auc_roc` (None if all errors are on one
      side) and `coverage_95`, the share within the 95 % interval.
    """
    return {
        f"rmse_{observable.suffix}": found["rmse"],
        f"mae_{observable.suffix}": found["mae"],
        "mll": found["mll"],
        "auc_roc": found["auc_roc"],
        "coverage_95": found["coverage"]["0.95"],
    }


def coverage_consistent(found: dict[str, Any]) -> bool | None:
    """Whether the coverage of the 95 % interval is consistent with 95 %, given the number of validation frames.

    Args:
      found: with `coverage_intervals`, as metrics.json has them.

    Returns:
      Whether the interval `factor` of that share holds 95 %; None if there is none, as without several validation
      frames, on these themselves, or in results of earlier versions.
    """
    interval = found["coverage_intervals"]["0.95"].get("factor")
    return None if interval is None else interval[0] <= 0.95 <= interval[1]


def rows(entries: list[dict[str, Any]], columns: Columns) -> list[list[str]]:
    """Cells of a table: titles, then a row for each method and m with means over seeds.

    Args:
      entries: of fits, with `method`, `m` and the keys of the columns, values of which may be None.
      columns: after method, m and number of seeds.

    Returns:
      Rows in the order of the methods' first entries, of one method by m; ± is the standard deviation over seeds.
    """
    methods = [*dict.fromkeys(e["method"] for e in entries)]
    kinds = sorted({(e["method"], e["m"]) for e in entries}, key=lambda kind: (methods.index(kind[0]), kind[1]))
    made = [["method", "m", "seeds", *columns]]
    for method, m in kinds:
        own = [e for e in entries if (e["method"], e["m"]) == (method, m)]
        made.append([method, str(m), str(len(own)), *cells(own, columns)])
    return made


def cells(entries: list[dict[str, Any]], columns: Columns) -> list[str]:
    """Means or counts of the columns over entries; a dash if no entry has a value."""
    known = [([e[key] for e in entries if e.get(key) is not None], form) for key, form in columns.values()]
    return [_cell(values, form) for values, form in known]


def _cell(values: list[float], form: str) -> str:
    if not values:
        return "-"
    if form == "of":
        return f"{sum(values)} of {len(values)}"
    mean = f"{np.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):{form}}"


def markdown(table: list[list[str]]) -> str:
    """A table with its titles in the first row as Markdown, without a line break at the end."""
    titles, *others = ("| " + " | ".join(row) + " |" for row in table)
    return "\n".join([titles, "|---" * len(table[0]) + "|", *others])

"""Terminal output of a fine-tuning: progress while the chains run, and the table at the end."""

from types import TracebackType
from typing import Final, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bayes_mlff.api.heartbeat import EVERY_S, Heartbeat


class ConsoleObserver:
    """Prints lines of text and a progress bar; a context manager.

    If nothing was printed for a quarter of a minute and no bar is shown, a line says what the program is doing.

    Args:
      console: console to print to.
      every_s: longest time without output, s.
    """

    def __init__(self, console: Console, *, every_s: float = EVERY_S):
        self._console = console
        self._heartbeat = Heartbeat(self._beat, every_s=every_s)
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("  sampling"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps  U {task.fields[potential]:.4g}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.__exit__(kind, error, trace)
        self._bar.stop()

    def working(self, what: str) -> None:
        """Store a description of the present work."""
        self._heartbeat.doing(what)

    def _beat(self, text: str) -> None:
        if not self._console.is_terminal or self._task is None:
            self.say(text)

    def say(self, text: str) -> None:
        """Print one line."""
        self._heartbeat.spoke()
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def stretch(self, *, step: int, steps: int, potential: float, seconds: float) -> None:
        """Update the progress bar; without a terminal, print a line."""
        self.working(f"sampling after step {step} of {steps}")
        if self._task is not None and (self._bar.tasks[0].total != steps or self._bar.tasks[0].completed >= step):
            self._remove()  # left over from a fine-tuning that stopped
        if self._task is None:
            self._task = self._bar.add_task("", total=steps, potential=potential)
        self._bar.update(self._task, completed=step, potential=potential)
        if not self._console.is_terminal:
            self.say(f"  step {step} of {steps}, potential per label {potential:.5g}, {seconds:.0f} s")
        if step == steps:
            self._remove()  # another fine-tuning may follow

    def _remove(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


UNITS: Final = {
    "energy_kcal_mol": ("energy", "kcal/mol"),
    "forces_kcal_mol_a": ("forces", "kcal/mol/Å"),
    "stress_gpa": ("stress", "GPa"),
}
"""Names and units of the quantities in metrics.json."""


def table(results: dict) -> Table:
    """Errors of every set before and after fine-tuning, mean log likelihood, AUC and coverage; at most 80 columns wide.

    Args:
      results: contents of metrics.json.
    """
    made = Table(box=box.SIMPLE, padding=0, show_edge=False)
    for column in ("set", "", "unit", "RMSE\nbefore", "RMSE", "MAE\nbefore", "MAE", "MLL", "AUC", "in 95 %"):
        made.add_column(column, justify="left" if column in ("set", "", "unit") else "right")
    for name in ("validation", "test"):
        if name not in results:
            continue
        before, after = results[name]["zero_shot"], results[name]["fine_tuned"]
        for quantity, numbers in after.items():
            old = before.get(quantity, {})
            shown = (old.get("rmse"), numbers["rmse"], old.get("mae"), numbers["mae"], numbers.get("mll"))
            texts = map(_short, (*shown, numbers.get("auc_roc")))
            made.add_row(name, *UNITS[quantity], *texts, _share(numbers.get("coverage")))
    return made


def grid(rows: list[list[str]], title: str) -> Table:
    """Rich table of cells: titles in the first row, right-aligned numbers after the first column."""
    names, *others = rows
    made = Table(box=box.SIMPLE, padding=0, show_edge=False, title=title)
    for index, name in enumerate(names):
        made.add_column(name, justify="right" if index else "left")
    for row in others:
        made.add_row(*row)
    return made


def _share(coverage: dict[str, float] | None) -> str:
    return "-" if coverage is None else f"{coverage['0.95']:.1%}"


def _short(x: float | None) -> str:
    """A number with three significant digits, or as a whole number if that has more."""
    return "-" if x is None else f"{x:.3g}" if abs(x) < 1000.0 else f"{x:.0f}"

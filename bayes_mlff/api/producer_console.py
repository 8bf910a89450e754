"""Terminal output of a production: its lines, and a live line with speed and uncertainty."""

import math
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bayes_mlff.api.heartbeat import EVERY_S, Heartbeat
from bayes_mlff.production.state import Progress

NS_PER_DAY: Final = 86400.0 * 1e-6
"""ns/day of one fs/s."""


class ConsoleObserver:
    """Prints lines of text and the progress; a context manager.

    Args:
      console: console to print to.
      every_s: longest time without output if there is no terminal, s.
    """

    def __init__(self, console: Console, *, every_s: float = EVERY_S):
        self._console = console
        self._heartbeat = Heartbeat(self._beat, every_s=every_s)
        self._line: Text | None = None
        self._part, self._told = "", -math.inf
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._shown)

    def __enter__(self) -> Self:
        self._live.start()
        self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.__exit__(kind, error, trace)
        self._line = Text("")
        self._live.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        self._heartbeat.spoke()
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def working(self, what: str) -> None:
        """Show the present work and its duration so far."""
        self._heartbeat.doing(what)
        self._line = None

    def progress(self, now: Progress) -> None:
        """Show time, speed and the share of time above a limit; without a terminal one line for each tenth."""
        line = described(now, measured=now.part == self._part)
        name = "production" if now.part == "dynamics" else now.part
        self._heartbeat.doing(f"{name}: {now.time_ps:.3f} of {now.duration_ps:g} ps")
        self._line = Text(line)
        due = now.part != self._part or now.time_ps - self._told >= 0.1 * now.duration_ps
        if not self._console.is_terminal and (due or now.time_ps >= now.duration_ps):
            self.say(line)
            self._told = now.time_ps
        self._part = now.part

    def _beat(self, text: str) -> None:
        if not self._console.is_terminal:
            self.say(text)

    def _shown(self) -> Text:
        return Text(self._heartbeat.text()) if self._line is None else self._line


def described(now: Progress, *, measured: bool) -> str:
    """Progress as one line; without `measured` no speed, as in the first chunk, which was compiled meanwhile."""
    name = "production" if now.part == "dynamics" else now.part
    line = f"  {name}  {now.time_ps:8.3f} of {now.duration_ps:g} ps"
    if measured:
        each = now.steps / max(now.seconds, 1e-9)
        one = each * now.timestep_fs * NS_PER_DAY
        several = f" ({one * now.running:.3g} for {now.running} replicas)" if now.running > 1 else ""
        line += f"   {each:.4g} steps/s, {one:.3g} ns/day{several}"
    return line if math.isnan(now.above) else f"{line}   {now.above:.2%} above a limit"

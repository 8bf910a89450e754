"""A live line in a terminal; without one, a line now and then."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bayes_mlff.api.heartbeat import EVERY_S, Heartbeat


class LiveLine:
    """Prints lines, and shows the present work below them; a context manager.

    Args:
      console: console to print to.
      every_s: longest time without output if there is no terminal, s.
    """

    def __init__(self, console: Console, *, every_s: float = EVERY_S):
        self._console = console
        self._heartbeat = Heartbeat(self._beat, every_s=every_s)
        self._line: Text | None = None  # shown in the place of the present work
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
        """Show the present work and its duration so far on the live line."""
        self._heartbeat.doing(what)
        self._line = None

    def _beat(self, text: str) -> None:
        if not self._console.is_terminal:
            self.say(text)

    def _shown(self) -> Text:
        return Text(self._heartbeat.text()) if self._line is None else self._line

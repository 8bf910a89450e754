"""Observers, which receive reports about the progress of a run."""

from typing import Protocol

from bayes_mlff.data.readings import Reading
from bayes_mlff.otf.state import Observer


class RunObserver(Observer, Protocol):
    """Receives reports about the progress of a run, from its start to its final report."""

    def say(self, text: str) -> None:
        """Show one or a few lines of text."""


class Silent:
    """An observer that ignores all reports."""

    def say(self, text: str) -> None:
        """Ignore the text."""

    def working(self, what: str) -> None:
        """Ignore the description of the work."""

    def chunk(self, *, step: int, steps: int, seconds: float, readings: tuple[Reading, ...]) -> None:
        """Ignore the progress of the dynamics."""

    def label(self, *, step: int, reason: str, error_ev: float | None, sigma_ev: float | None, seconds: float) -> None:
        """Ignore the label."""

    def notice(self, *, step: int, text: str) -> None:
        """Ignore the message."""

    def update(self, *, step: int, labels: int, rounds: int, seconds: float, force_error_ev_a: float | None) -> None:
        """Ignore the update."""

"""Who is told how far a run is."""

from typing import Protocol

from bayes_mlff.data.readings import Reading
from bayes_mlff.otf.state import Observer


class RunObserver(Observer, Protocol):
    """Told what a run does, from its start to its report."""

    def say(self, text: str) -> None:
        """One line of text, or a few."""


class Silent:
    """An observer that tells nobody."""

    def say(self, text: str) -> None:
        """Ignore the text."""

    def working(self, what: str) -> None:
        """Ignore what is being waited for."""

    def chunk(self, *, step: int, steps: int, seconds: float, readings: tuple[Reading, ...]) -> None:
        """Ignore the dynamics."""

    def label(self, *, step: int, reason: str, error_ev: float | None, sigma_ev: float | None, seconds: float) -> None:
        """Ignore the label."""

    def notice(self, *, step: int, text: str) -> None:
        """Ignore the sentence."""

    def update(self, *, step: int, labels: int, rounds: int, seconds: float, force_error_ev_a: float | None) -> None:
        """Ignore the update."""

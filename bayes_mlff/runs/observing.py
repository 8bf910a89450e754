"""Observers of work on several trajectories, which receive lines of text and the progress."""

from typing import Protocol, TypeVar

P_contra = TypeVar("P_contra", contravariant=True)
"""What is said of the progress."""


class Observer(Protocol[P_contra]):
    """Receives reports about the progress."""

    def say(self, text: str) -> None:
        """Show one or a few lines of text."""

    def working(self, what: str) -> None:
        """Work with this description begins."""

    def progress(self, now: P_contra) -> None:
        """A part of the work is done and on the disk."""


class Silent:
    """An observer that ignores all reports."""

    def say(self, text: str) -> None:
        """Ignore the text."""

    def working(self, what: str) -> None:
        """Ignore the description of the work."""

    def progress(self, now: object) -> None:
        """Ignore the progress."""

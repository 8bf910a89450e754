"""Terminal output of a campaign: its lines, and a live line with its walkers and labels."""

import math

from rich.text import Text

from bayes_mlff.api.live_line import LiveLine
from bayes_mlff.campaign.state import Progress


class ConsoleObserver(LiveLine):
    """Prints lines of text and the progress; a context manager."""

    _told = (-math.inf, -1)  # time, ps, and labels of the last line

    def progress(self, now: Progress) -> None:
        """Show time, speed, walkers and labels; without a terminal a line for each tenth and each new label."""
        line = described(now)
        self._heartbeat.doing(f"dynamics: {now.time_ps:.3f} of {now.duration_ps:g} ps")
        self._line = Text(line)
        time_ps, labels = self._told
        due = now.time_ps - time_ps >= 0.1 * now.duration_ps or now.labels != labels
        if not self._console.is_terminal and (due or now.moving + now.waiting == 0):
            self.say(line)
            self._told = now.time_ps, now.labels


def described(now: Progress) -> str:
    """Progress as one line."""
    line = f"  {now.time_ps:8.3f} of {now.duration_ps:g} ps   {now.labels} labels   {now.moving} moving"
    line += f", {now.waiting} waiting, {now.done} done" + (f", {now.aside} set aside" if now.aside else "")
    return line + (f"   {now.steps / now.seconds:.4g} steps/s" if now.seconds > 0.0 else "")

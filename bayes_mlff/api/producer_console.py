"""Terminal output of a production: its lines, and a live line with speed and uncertainty."""

import math
from typing import Final

from rich.text import Text

from bayes_mlff.api.live_line import LiveLine
from bayes_mlff.production.config import noun
from bayes_mlff.production.state import Progress

NS_PER_DAY: Final = 86400.0 * 1e-6
"""ns/day of one fs/s."""


class ConsoleObserver(LiveLine):
    """Prints lines of text and the progress; a context manager."""

    _part, _told = "", -math.inf  # part and time, ps, of the last line

    def progress(self, now: Progress) -> None:
        """Show time, speed and the share of time above a limit; without a terminal one line for each tenth."""
        line = described(now, measured=now.part == self._part)
        self._heartbeat.doing(f"{noun(now.part)}: {now.time_ps:.3f} of {now.duration_ps:g} ps")
        self._line = Text(line)
        due = now.part != self._part or now.time_ps - self._told >= 0.1 * now.duration_ps
        if not self._console.is_terminal and (due or now.time_ps >= now.duration_ps):
            self.say(line)
            self._told = now.time_ps
        self._part = now.part


def described(now: Progress, *, measured: bool) -> str:
    """Progress as one line; without `measured` no speed, as in the first chunk, which was compiled meanwhile."""
    line = f"  {noun(now.part)}  {now.time_ps:8.3f} of {now.duration_ps:g} ps"
    if measured:
        each = now.steps / max(now.seconds, 1e-9)
        one = each * now.timestep_fs * NS_PER_DAY
        several = f" ({one * now.running:.3g} for {now.running} replicas)" if now.running > 1 else ""
        line += f"   {each:.4g} steps/s, {one:.3g} ns/day{several}"
    return line if math.isnan(now.above) else f"{line}   {now.above:.2%} above a limit"

"""Durations in the notations of people and of queueing systems."""

import math
import re
from typing import Final

from bayes_mlff.core.errors import ConfigError

ALLOWED: Final = "a length of time: 2h, 30min, 90s, 1h30min, 2d, a number of seconds, 1:30:00 or 1-12:00:00"

_NUMBER: Final = r"(\d+(?:\.\d*)?|\.\d+)"
_WORDS: Final = re.compile(rf"(?:{_NUMBER}\s*d)?\s*(?:{_NUMBER}\s*h)?\s*(?:{_NUMBER}\s*m(?:in)?)?\s*(?:{_NUMBER}\s*s)?")
_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")


def parse(text: str, *, key: str) -> float:
    """Read a duration; returns seconds.

    Args:
      text: such as "2h", "90s", "1h30min", "1:30:00" (hours, minutes, seconds), "1-12:00:00" with days in front, or
        a number of seconds.
      key: setting or option that the error message names.

    Raises:
      ConfigError: if the text is not a duration, or not positive and finite.
    """
    given = text.strip().lower()
    seconds = _seconds(given)
    if seconds is None or not 0.0 < seconds < math.inf:
        raise ConfigError(key, text, ALLOWED)
    return seconds


def _seconds(text: str) -> float | None:
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        days, *rest = (int(part or 0) for part in clock.groups())
        return 86400.0 * days + sum(x * unit for x, unit in zip(rest, (3600.0, 60.0, 1.0), strict=True))
    if re.fullmatch(_NUMBER, text):
        return float(text)
    words = _WORDS.fullmatch(text)
    if not text or words is None:
        return None
    units = (86400.0, 3600.0, 60.0, 1.0)
    return sum(float(part) * unit for part, unit in zip(words.groups(), units, strict=True) if part is not None)


def shown(seconds: float) -> str:
    """Write a duration with at most two units: "2 d 3 h", "1 h 5 min", "40 s"."""
    left = max(0, round(seconds))
    if left >= 3600:
        left = 60 * round(left / 60)
    parts = []
    for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])

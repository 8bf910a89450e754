"""The events that a run has logged, read within bounds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bayes_mlff.core.errors import RunDirectoryError, shown
from bayes_mlff.runs.thermo_log import LARGEST

NUMBERS: Final = {
    "label": ("engine_s",),
    "label_refused": ("engine_s",),
    "random_frame": ("engine_s",),
    "label_compared": ("engine_s",),
    "started_from": ("labels",),
    "update": ("seconds",),
    "rolled_back": ("step",),
}
"""Fields of events that are read as numbers, besides their time."""

MERGED_STEPS: Final = 10_000
"""Steps of chunks that are read as one event."""


def read_events(path: Path) -> list[Mapping[str, Any]]:
    """The events of a run line by line, a last one that is being written left out; chunks in a row are one."""
    events: list[Mapping[str, Any]] = []
    if not path.exists():
        return events
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                event = _event(f"{path}: line {number}", line)
                both = _together(events[-1], event) if events else None
                if both is None:
                    events.append(event)
                else:
                    events[-1] = both
    except OSError as error:
        raise RunDirectoryError(f"{path}: not readable as text: {error}") from error
    return events


def _event(where: str, line: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise RunDirectoryError(f"{where} is not readable as text: {error}") from error
    except (RecursionError, ValueError) as error:
        raise RunDirectoryError(f"{where} is not JSON: {error}") from error
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise RunDirectoryError(f"{where}; allowed: an object whose 'event' is a name")
    for key in ("time", *NUMBERS.get(event["event"], ())):
        value = event.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
            raise RunDirectoryError(
                f"{where}: {key!r} of event {shown(event['event'])} is {shown(value)}; allowed: a finite number"
            )
    return event


def _together(before: Mapping[str, Any], event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Two chunks as one, which in a long run saves memory; None if they are something else or large already."""
    if before["event"] != "chunk" or event["event"] != "chunk" or any(before.keys() ^ event.keys()):
        return None
    added = {key: _sum(before.get(key), event.get(key)) for key in ("steps", "seconds")}
    if None in added.values() or not 0 <= added["steps"] <= MERGED_STEPS:
        return None
    return {**event, **added}


def _sum(left: object, right: object) -> Any:
    numbers = [x for x in (left, right) if isinstance(x, int | float) and not isinstance(x, bool)]
    return sum(numbers) if len(numbers) == 2 and all(abs(x) < LARGEST for x in numbers) else None

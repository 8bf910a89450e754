"""What happens while labels are calculated: events, and the ledger of `counted.py`."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

LONGEST_S: Final = 7200.0


class Record:
    """What happens, on the terminal and for the file."""

    def __init__(self) -> None:
        self.start, self.events = time.time(), []

    def say(self, text: str) -> None:
        """Note an event."""
        self.events.append({"after_s": round(time.time() - self.start, 1), "event": text})
        print(f"{self.events[-1]['after_s']:8.1f} s  {text}", flush=True)


def ledger(folder: Path) -> list[dict]:
    """Beginnings and ends of calculations."""
    path = folder / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def under_way(folder: Path) -> list[dict]:
    """Calculations that have begun and not ended, of processes that live."""
    ended = {(line["pid"], line["geometry"]) for line in ledger(folder) if line["what"] == "ends"}
    begun = [line for line in ledger(folder) if line["what"] == "begins"]
    return [line for line in begun if (line["pid"], line["geometry"]) not in ended and alive(line["pid"])]


def alive(pid: int) -> bool:
    """True for a process that is there and no zombie."""
    return Path(f"/proc/{pid}/cmdline").exists() and bool(Path(f"/proc/{pid}/cmdline").read_bytes())


def ends(folder: Path) -> int:
    """Number of calculations that have ended."""
    return sum(line["what"] == "ends" for line in ledger(folder))


def calculations(folder: Path) -> dict[str, Any]:
    """Figures of the ledger."""
    lines = ledger(folder)
    finished = Counter(line["geometry"] for line in lines if line["what"] == "ends")
    begun = sum(line["what"] == "begins" for line in lines)
    return {
        "labels_paid_twice": sum(number - 1 for number in finished.values()),
        "calculations_begun": begun,
        "calculations_interrupted": begun - sum(finished.values()),
        "processor_s_per_label": [line["processor_s"] for line in lines if line["what"] == "ends"],
        "nodes": dict(Counter(line["node"] for line in lines if line["what"] == "ends")),
    }


def until(condition: Callable[[], Any], what: str, driver: subprocess.Popen | None = None) -> Any:
    """The first true value of a condition, for which a driver must be at work if one is given."""
    deadline = time.time() + LONGEST_S
    while not (value := condition()):
        if time.time() > deadline:
            raise SystemExit(f"waited in vain until {what}")
        if driver is not None and driver.poll() is not None:
            raise SystemExit(f"the driver ended with status {driver.returncode} before {what}")
        time.sleep(0.5)
    return value

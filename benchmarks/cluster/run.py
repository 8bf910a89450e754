"""Label frames of ethanol by PySCF through a real SLURM, with accidents, and count what was lost or paid twice.

    python -m benchmarks.cluster.run OUT.json [--count 40] [--worker-init COMMANDS]

Needs `apt-get install slurm-wlm munge` and the extras `pyscf` and `parsl`; takes a quarter of an hour.
"""

import argparse
import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bayes_mlff.core.durable import write_whole
from benchmarks.cluster.driver import METHODS, arrived
from benchmarks.cluster.slurm import PARTITION, Slurm

LONGEST_S = 1800.0


class Record:
    """What happens, on the terminal and for the file."""

    def __init__(self) -> None:
        self.start, self.events = time.time(), []

    def say(self, text: str) -> None:
        self.events.append({"after_s": round(time.time() - self.start, 1), "event": text})
        print(f"{self.events[-1]['after_s']:8.1f} s  {text}", flush=True)


def ledger(folder: Path) -> list[dict]:
    path = folder / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def under_way(folder: Path) -> list[dict]:
    """Calculations that have begun and not ended; some of them may be dead."""
    ended = {(line["pid"], line["geometry"]) for line in ledger(folder) if line["what"] == "ends"}
    begun = [line for line in ledger(folder) if line["what"] == "begins"]
    return [line for line in begun if (line["pid"], line["geometry"]) not in ended and alive(line["pid"])]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists() and bool(Path(f"/proc/{pid}/cmdline").read_bytes())


def ends(folder: Path) -> int:
    return sum(line["what"] == "ends" for line in ledger(folder))


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of a condition."""
    deadline = time.time() + LONGEST_S
    while not (value := condition()):
        if time.time() > deadline:
            raise SystemExit(f"waited in vain until {what}")
        time.sleep(0.5)
    return value


def started(
    folder: Path, executor: dict, count: int, environment: dict[str, str], calculator: str = "PySCF"
) -> subprocess.Popen:
    """A driver."""
    path = folder / "executor.json"
    path.write_text(json.dumps(executor))
    command = [sys.executable, "-m", "benchmarks.cluster.driver", str(folder), str(path), calculator, str(count)]
    driver = subprocess.Popen(command, env=environment, start_new_session=True)
    atexit.register(driver.kill)
    return driver


def accidents(slurm: Slurm, folder: Path, executor: dict, count: int, record: Record) -> None:
    """The record itself: all frames are labelled while one thing after the other goes wrong."""
    slurm.hold(True)
    driver = started(folder, executor, count, slurm.environment)
    record.say("the queue is held, the driver starts")
    until(lambda: [state for _, state, _ in slurm.jobs()] == ["PD", "PD"], "two jobs wait")
    time.sleep(20.0)
    assert ends(folder) == 0 and driver.poll() is None
    slurm.hold(False)
    record.say("two jobs have waited for 20 s; the queue is released")

    until(lambda: ends(folder) >= 2, "two labels are calculated")
    victim = until(lambda: under_way(folder), "a calculation is under way")[0]
    killed = slurm.kill_node(victim["node"])
    record.say(f"{victim['node']} is killed in the middle of a calculation, {killed} processes")
    time.sleep(30.0)
    slurm.start_node(victim["node"])
    record.say(f"{victim['node']} is started again")

    until(lambda: slurm.ended().get("TIMEOUT", 0) >= 2, "two jobs reach their time limit")
    record.say(f"jobs have reached their time limit; by now {slurm.ended()}")

    until(lambda: under_way(folder) and len(arrived(folder)) >= 4, "a calculation is under way")
    before = ends(folder)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    record.say("the driver is killed (-9) in the middle of calculations")
    until(lambda: ends(folder) > before or not under_way(folder), "a label is calculated without a driver")
    time.sleep(10.0)
    record.say(f"{ends(folder) - before} labels were calculated while there was no driver")
    driver = started(folder, executor, count, slurm.environment)
    record.say("the driver starts again")
    until(lambda: driver.poll() is not None, "the driver ends")
    if driver.returncode != 0:
        raise SystemExit(f"the driver ended with status {driver.returncode}")
    record.say("all labels have arrived, the driver has ended")


def summary(folder: Path, plain: Path, slurm: Slurm, count: int, record: Record) -> dict[str, Any]:
    """Figures of the record."""
    lines, labels = ledger(folder), arrived(folder)
    finished = Counter(line["geometry"] for line in lines if line["what"] == "ends")
    begun = Counter(line["geometry"] for line in lines if line["what"] == "begins")
    expected = {each["frame"]: (each["energy"], each["forces"]) for each in arrived(plain)}
    frames = Counter(each["frame"] for each in labels)
    return {
        "labels": count,
        "labels_lost": count - len(frames),
        "labels_stored_twice": sum(number - 1 for number in frames.values()),
        "labels_paid_twice": sum(number - 1 for number in finished.values()),
        "not_bit_identical": sum((e["energy"], e["forces"]) != expected[e["frame"]] for e in labels),
        "calculations_begun": sum(begun.values()),
        "calculations_interrupted": sum(begun.values()) - sum(finished.values()),
        "found_after_the_driver_was_away": sum(each["attempts"] == 0 for each in labels),
        "handed_out_more_than_once": sum(each["attempts"] > 1 for each in labels),
        "jobs_by_last_state": slurm.ended(),
        "processor_s_per_label": [line["processor_s"] for line in lines if line["what"] == "ends"],
        "nodes": dict(Counter(line["node"] for line in lines if line["what"] == "ends")),
        "remarks": sorted({remark for each in labels for remark in each["remarks"]}),
        "method": METHODS["PySCF"],
        "slurm": slurm.ask("sinfo", "--version").strip(),
        "wall_s": round(time.time() - record.start),
        "events": record.events,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--worker-init", default="", help="shell commands before a worker starts")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons end, too
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munge's socket is for all users
    for name in ("labels", "plain"):
        (folder / name).mkdir()
    executor = {
        "kind": "parsl",
        "provider": "slurm",
        "partition": PARTITION,
        "walltime": "00:01:00",
        "max_blocks": 2,
        "cores_per_node": 1,
        "worker_init": f"export OMP_NUM_THREADS=1\n{args.worker_init}",
    }
    record = Record()
    with Slurm(folder / "slurm") as slurm:
        record.say(f"SLURM is up: {slurm.ask('sinfo', '--noheader').strip()}")
        accidents(slurm, folder / "labels", executor, args.count, record)
        record.say("the same labels on this machine, without SLURM and one after the other")
        local = {"kind": "local", "workers": 1}
        if started(folder / "plain", local, args.count, dict(os.environ)).wait() != 0:
            raise SystemExit("the driver without SLURM has failed")
        found = summary(folder / "labels", folder / "plain", slurm, args.count, record)
    found["executor"] = executor | {"worker_init": "export OMP_NUM_THREADS=1"}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps({name: value for name, value in found.items() if name != "events"}, indent=1))


if __name__ == "__main__":
    main()

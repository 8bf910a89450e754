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
from pathlib import Path
from typing import Any

from bayes_mlff.core.durable import write_whole
from benchmarks.cluster.accidents import driver_killed, finished, node_killed, queue_held
from benchmarks.cluster.driver import METHODS, arrived
from benchmarks.cluster.record import Record, calculations, ends, until
from benchmarks.cluster.slurm import PARTITION, Slurm

EXECUTOR = {
    "kind": "parsl",
    "provider": "slurm",
    "partition": PARTITION,
    "walltime": "00:01:00",
    "max_blocks": 2,
    "cores_per_node": 1,
}


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
    driver = queue_held(slurm, folder, lambda: started(folder, executor, count, slurm.environment), record, jobs=2)
    until(lambda: ends(folder) >= 2, "two labels are calculated", driver)
    node_killed(slurm, folder, driver, record)
    until(lambda: slurm.ended().get("TIMEOUT", 0) >= 2, "two jobs reach their time limit", driver)
    record.say(f"jobs have reached their time limit; by now {slurm.ended()}")
    until(lambda: len(arrived(folder)) >= 4, "four labels have arrived", driver)
    driver_killed(folder, driver, record)
    driver = started(folder, executor, count, slurm.environment)
    record.say("the driver starts again")
    finished(driver, record)


def summary(folder: Path, plain: Path, slurm: Slurm, count: int, record: Record) -> dict[str, Any]:
    """Figures of the record."""
    labels = arrived(folder)
    expected = {each["frame"]: (each["energy"], each["forces"]) for each in arrived(plain)}
    frames = Counter(each["frame"] for each in labels)
    return {
        "labels": count,
        "labels_lost": count - len(frames),
        "labels_stored_twice": sum(number - 1 for number in frames.values()),
        "not_bit_identical": sum((e["energy"], e["forces"]) != expected[e["frame"]] for e in labels),
        **calculations(folder),
        "found_after_the_driver_was_away": sum(each["attempts"] == 0 for each in labels),
        "handed_out_more_than_once": sum(each["attempts"] > 1 for each in labels),
        "jobs_by_last_state": slurm.ended(),
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
    executor = EXECUTOR | {"worker_init": f"export OMP_NUM_THREADS=1\n{args.worker_init}"}
    record = Record()
    with Slurm(folder / "slurm") as slurm:
        record.say(f"SLURM is up: {slurm.ask('sinfo', '--noheader').strip()}")
        accidents(slurm, folder / "labels", executor, args.count, record)
        record.say("the same labels on this machine, without SLURM and one after the other")
        local = {"kind": "local", "workers": 1}
        if started(folder / "plain", local, args.count, dict(os.environ)).wait() != 0:
            raise SystemExit("the driver without SLURM has failed")
        found = summary(folder / "labels", folder / "plain", slurm, args.count, record)
    found["executor"] = EXECUTOR | {"worker_init": "export OMP_NUM_THREADS=1"}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps({name: value for name, value in found.items() if name != "events"}, indent=1))


if __name__ == "__main__":
    main()

"""Kill drivers and workers at random moments, and count which labels are lost, paid twice or not bit-identical.

    python -m benchmarks.cluster.kills OUT.json [--kills 100] [--count 12] [--seed 0]

Labels are cheap (EMT that takes its time) and calculated by two processes on this machine; a driver that is killed is
started again. A calculation that was interrupted by a kill is paid for once more, which is counted apart.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from bayes_mlff.core.durable import write_whole
from benchmarks.cluster.driver import METHODS, arrived
from benchmarks.cluster.record import ledger, under_way
from benchmarks.cluster.run import started

EXECUTOR = {"kind": "local", "workers": 2}


def campaign(folder: Path, count: int, draw: random.Random, kills_left: int) -> Counter:
    """Label all frames while drivers and workers are killed; returns the number of kills by victim."""
    folder.mkdir()
    kills: Counter = Counter()
    driver = started(folder, EXECUTOR, count, dict(os.environ), "Slow")
    while True:
        starting = draw.random() < 0.1  # some accidents are wanted while nothing is calculated yet
        while not starting and driver.poll() is None and not under_way(folder):
            time.sleep(0.02)
        wake = time.time() + draw.uniform(0.0, 1.5)
        while time.time() < wake and driver.poll() is None:
            time.sleep(0.02)
        if driver.poll() is not None:
            if driver.returncode == 0:
                return kills
            if driver.returncode != -signal.SIGKILL:
                raise SystemExit(f"the driver ended with status {driver.returncode}")
            driver = started(folder, EXECUTOR, count, dict(os.environ), "Slow")
            continue
        if sum(kills.values()) >= kills_left:
            continue
        workers = under_way(folder)
        if workers and draw.random() < 0.5:
            os.kill(draw.choice(workers)["pid"], signal.SIGKILL)
            kills["worker"] += 1
        else:
            driver.kill()
            driver.wait()
            kills["driver, labels under way" if workers else "driver, no labels under way"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder, draw = Path(tempfile.mkdtemp(prefix="kills-")), random.Random(args.seed)
    undisturbed = campaign(folder / "undisturbed", args.count, draw, 0)
    expected = {each["frame"]: (each["energy"], each["forces"]) for each in arrived(folder / "undisturbed")}
    kills, found, campaigns = undisturbed, Counter(), 0
    while sum(kills.values()) < args.kills:
        campaigns += 1
        here = folder / str(campaigns)
        kills += campaign(here, args.count, draw, args.kills - sum(kills.values()))
        labels, lines = arrived(here), ledger(here)
        ends = Counter(line["geometry"] for line in lines if line["what"] == "ends")
        found["labels"] += args.count
        found["labels_lost"] += args.count - len({each["frame"] for each in labels})
        found["labels_stored_twice"] += len(labels) - len({each["frame"] for each in labels})
        found["labels_paid_twice"] += sum(ends.values()) - len(ends)
        found["not_bit_identical"] += sum(
            (each["energy"], each["forces"]) != expected[each["frame"]] for each in labels
        )
        found["calculations_interrupted"] += len(lines) - 2 * sum(ends.values())
        found["found_after_the_driver_was_away"] += sum(each["attempts"] == 0 for each in labels)
        print(f"{campaigns} campaigns, {dict(kills)}: {dict(found)}", flush=True)
    record = {
        "kills": sum(kills.values()),
        "kills_by_victim": kills,
        "campaigns": campaigns,
        **found,
        "method": METHODS["Slow"],
        "executor": EXECUTOR,
        "seed": args.seed,
    }
    write_whole(args.output, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

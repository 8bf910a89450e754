"""Kill a small campaign at random: its driver, or a worker that calculates labels; then compare with one left in peace.

    python -m benchmarks.campaigns.kills WORK_DIR --kills 100 [--seed 0]

Every campaign has three walkers, an untrained network and a Lennard-Jones reference that counts its calculations. It
is killed and continued until it is done, then another begins, until there were so many kills. Counted are labels that
were lost, geometries whose finished calculation was repeated, and differences in any bit of trajectories, labels and
the last state.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import yaml

from bayes_mlff.core.durable import write_whole
from bayes_mlff.testing import faulty_engines
from tests.support import campaigns

AUDITS: Final = {"audits": {"interval_ps": 0.004}}
WALKERS: Final = [{"structure": "ethanol", "copies": 3}]
LOCAL: Final = {"kind": "local", "workers": 2}


def main() -> None:
    """Kill until there were enough kills; the record is WORK_DIR/kills.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    chance = random.Random(args.seed)
    config = args.work / "campaign.yaml"
    raw = campaigns.raw(args.work, run=AUDITS, walkers=WALKERS, executor=LOCAL)
    raw["run"]["engine"]["arguments"]["delay_s"] = 0.3
    config.write_text(yaml.safe_dump(raw))
    whole, long_s = args.work / "whole", _finished(config, args.work / "whole")
    found = {"kills_of_drivers": 0, "kills_of_workers": 0, "campaigns": 0, "lost": 0, "paid_twice": 0, "different": 0}
    while found["kills_of_drivers"] + found["kills_of_workers"] < args.kills:
        path = args.work / "killed"
        shutil.rmtree(path, ignore_errors=True)
        (_calls(path)).unlink(missing_ok=True)
        _one(config, path, found, chance, args.kills, long_s)
        found["campaigns"] += 1
        _compare(whole, path, found)
        write_whole(args.work / "kills.json", (json.dumps(found, indent=2) + "\n").encode())
        print(json.dumps(found), flush=True)


def _one(config: Path, path: Path, found: dict[str, int], chance: random.Random, kills: int, long_s: float) -> None:
    """Run one campaign to its end, killing it on the way."""
    process = None
    while True:
        process = process or _started(config, path)
        left = found["kills_of_drivers"] + found["kills_of_workers"] < kills
        try:
            code = process.wait(timeout=chance.uniform(0.1, 0.8) * long_s if left else None)
        except subprocess.TimeoutExpired:
            workers = _children(process.pid)
            if workers and chance.random() < 0.5:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(workers), signal.SIGKILL)
                found["kills_of_workers"] += 1
            else:
                process.kill()
                process.wait()
                found["kills_of_drivers"] += 1
                process = None
            continue
        if code == 0:
            return
        raise SystemExit(f"{path}: ended with status {code}")


def _compare(whole: Path, path: Path, found: dict[str, int]) -> None:
    """Count what is not as in the campaign that was left in peace."""
    found["different"] += len(campaigns.differences(whole, path))
    done = [call["geometry"] for call in faulty_engines.calls(_calls(path).parent) if call["done"]]
    found["paid_twice"] += len(done) - len(set(done))
    for walker in sorted((path / "walkers").iterdir()):
        records = campaigns.labels(path, walker.name)
        found["lost"] += sum(faulty_engines.fingerprint(r.structure.positions) not in done for r in records)


def _calls(path: Path) -> Path:
    folder = path.parent / f"{path.name}-calls"
    folder.mkdir(exist_ok=True)
    return folder / faulty_engines.CALLS


def _started(config: Path, path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "bayes_mlff.cli", "campaign", "run", str(config), "-o", str(path)]
    environment = os.environ | {faulty_engines.START: str(_calls(path).parent)}
    log: Any = (path.parent / f"{path.name}.log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _finished(config: Path, path: Path) -> float:
    """Run a campaign to its end; returns how long that took, s."""
    if path.exists():
        shutil.rmtree(path)
    for _ in range(2):  # the first compiles
        shutil.rmtree(path, ignore_errors=True)
        started = time.monotonic()
        if _started(config, path).wait() != 0:
            raise SystemExit(f"{path}: did not finish; see {path}.log")
    return time.monotonic() - started


def _children(pid: int) -> list[int]:
    """Processes below a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after = path.read_text().rpartition(")")[2].split()
            if int(after[1]) == pid:
                own = int(path.parent.name)
                found += [own, *_children(own)]
    return found


if __name__ == "__main__":
    main()

"""Kill a small campaign at random: driver, workers and executor; then compare with one left in peace.

    python -m benchmarks.campaigns.kills WORK_DIR --executor local|parsl --kills 100 [--seed 0]

Every campaign has three walkers, an untrained network and a Lennard-Jones reference that counts its calculations. It
is killed and continued until it is done, then another begins, until there were so many kills; the command goes on
where it was ended. Kills are a Poisson process, so that they hit every part of the time between start and end alike.
`local` has no executor with a process of its own, its threads are in the driver; that of `parsl` are the interchange
and the manager of a job, whose workers are counted with the process through which they talk to it. Counted are labels
that were lost, geometries whose finished calculation was repeated, and differences in any bit of trajectories, labels
and the last state, from the campaign with `local` that nobody killed.
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
from collections import Counter
from pathlib import Path
from typing import Any, Final

import yaml

from bayes_mlff.core.durable import write_whole
from bayes_mlff.testing import faulty_engines
from tests.support import campaigns

AUDITS: Final = {"audits": {"interval_ps": 0.004}}
WALKERS: Final = [{"structure": "ethanol", "copies": 3}]
EXECUTORS: Final[dict[str, dict[str, Any]]] = {
    "local": {"kind": "local", "workers": 2},
    "parsl": {"kind": "parsl", "provider": "local", "min_blocks": 1, "workers_per_node": 2, "linger_s": 60},
}
CHANCES: Final = {"workers": 0.8, "executors": 0.15, "drivers": 0.05}
"""How often the next victim is one of these."""

TRIES: Final = 20.0
"""Mean number of tries to kill within the time that a campaign takes in peace, one of them at its driver, which takes
long to start; there is not always a worker."""

MOST_IN_A_ROW: Final = 2
"""Largest number of kills of workers and executors before all labels that have begun are done; a label that is lost
three times is given up, as promised."""


def main() -> None:
    """Kill until there were enough kills; the record is WORK_DIR/kills.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--executor", choices=sorted(EXECUTORS), default="local")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    out = args.work / "kills.json"
    record = json.loads(out.read_text()) if out.exists() else {}
    whole = args.work / "whole"
    if not record:
        record["in_peace_s"] = round(_in_peace(_config(args.work, "local"), whole), 1)
        _write(out, record)
    keys = (*(f"kills_of_{each}" for each in CHANCES), "campaigns", "labels", "lost", "paid_twice", "different")
    found = record.setdefault(args.executor, dict.fromkeys(keys, 0))
    config = _config(args.work, args.executor)
    while (done := sum(found[f"kills_of_{each}"] for each in CHANCES)) < args.kills:
        path = args.work / f"{args.executor}-{found['campaigns']}"
        for folder in (path, _calls(path)):
            shutil.rmtree(folder, ignore_errors=True)
        chance = random.Random(f"{args.seed} {path.name}")
        found |= Counter(found) + Killing(config, path, chance, record["in_peace_s"]).finish(args.kills - done)
        _compare(whole, path, found)
        _write(out, record)
        print(json.dumps({args.executor: found}), flush=True)


class Killing:
    """One campaign, whose processes are killed."""

    def __init__(self, config: Path, path: Path, chance: random.Random, in_peace_s: float):
        self._config, self._path, self._chance = config, path, chance
        self._pause_s = in_peace_s / TRIES
        self._in_a_row, self._done = 0, 0  # kills since all that had begun was done, and how much that was
        self._sessions = 0  # that had begun when the driver was started

    def finish(self, most: int) -> Counter:
        """Run the campaign to its end; returns the number of kills by victim."""
        kills: Counter = Counter()
        driver = self._driver()
        while True:
            wanted = sum(kills.values()) < most
            try:
                code = driver.wait(timeout=self._chance.expovariate(1.0 / self._pause_s) if wanted else None)
            except subprocess.TimeoutExpired:
                kind = self._chance.choices(list(CHANCES), list(CHANCES.values()))[0]
                if self._killed(kind, driver):
                    kills[f"kills_of_{kind}"] += 1
                    driver = self._driver() if kind == "drivers" else driver
                continue
            if code != 0:
                raise SystemExit(f"{self._path}: ended with status {code}")
            return kills

    def _driver(self) -> subprocess.Popen:
        self._in_a_row, self._sessions = 0, _sessions(self._path)
        return _started(self._config, self._path)

    def _killed(self, kind: str, driver: subprocess.Popen) -> bool:
        """Kill one of a kind, if there is one that may be killed."""
        if kind == "drivers":
            driver.kill()
            driver.wait()
            return True
        calls = faulty_engines.calls(_calls(self._path))
        begun, done = ({call["geometry"] for call in calls if call["done"] in which} for which in ((0, 1), (1,)))
        if begun == done and len(done) > self._done:
            self._in_a_row, self._done = 0, len(done)
        victims = [pid for pid, role in _roles(driver.pid, _calls(self._path)).items() if role == kind]
        begins = _sessions(self._path) == self._sessions  # an executor that dies at the start is an error
        if not victims or begins or self._in_a_row == MOST_IN_A_ROW:
            return False
        try:
            os.kill(self._chance.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self._in_a_row += 1
        return True


def _sessions(path: Path) -> int:
    """Number of sessions whose executor has answered."""
    events = path / "events.jsonl"
    return events.read_text().count('"session_started"') if events.exists() else 0


def _write(path: Path, record: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(record, indent=2) + "\n").encode())


def _roles(driver: int, calls: Path) -> dict[int, str]:
    """What the processes of a campaign are, but for the driver and those that only help them."""
    mark = f"{faulty_engines.START}={calls}".encode()
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(path.name)
            words, own = (path / "cmdline").read_bytes(), mark in (path / "environ").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            interchange = b"interchange" in words and parent == driver  # it hides its environment
            manager = own and b"process_worker_pool" in words and b"python" in words.split(b"\0")[0]
            if interchange or manager:
                found[pid] = "executors"
            elif own and b"multiprocessing.spawn" in words:
                found[pid] = "workers"
    return found


def _compare(whole: Path, path: Path, found: dict[str, int]) -> None:
    """Count what is not as in the campaign that was left in peace."""
    found["campaigns"] += 1
    different = campaigns.differences(whole, path)
    found["different"] += len(different)
    done = Counter(call["geometry"] for call in faulty_engines.calls(_calls(path)) if call["done"])
    found["paid_twice"] += sum(done.values()) - len(done)
    records = [r for walker in sorted((path / "walkers").iterdir()) for r in campaigns.labels(path, walker.name)]
    kept = {faulty_engines.fingerprint(r.structure.positions) for r in records}
    found["labels"] += len(kept)
    found["lost"] += len(kept ^ set(done))
    for each in different:
        print(f"{path}: {each}", flush=True)


def _calls(path: Path) -> Path:
    """Folder in which the reference counts."""
    return path.parent / f"{path.name}-calls"


def _config(work: Path, executor: str) -> Path:
    raw = campaigns.raw(work, run=AUDITS, walkers=WALKERS, executor=EXECUTORS[executor])
    raw["run"]["engine"]["arguments"]["delay_s"] = 1.0
    path = work / f"{executor}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def _started(config: Path, path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "bayes_mlff.cli", "campaign", "run", str(config), "-o", str(path)]
    _calls(path).mkdir(exist_ok=True)
    environment = os.environ | {faulty_engines.START: str(_calls(path))}
    with (path.parent / f"{path.name}.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _in_peace(config: Path, path: Path) -> float:
    """Run a campaign to its end; returns how long that took once everything was compiled, s."""
    for _ in range(2):
        for folder in (path, _calls(path)):
            shutil.rmtree(folder, ignore_errors=True)
        started = time.monotonic()
        if _started(config, path).wait() != 0:
            raise SystemExit(f"{path}: did not finish; see {path}.log")
    return time.monotonic() - started


if __name__ == "__main__":
    main()

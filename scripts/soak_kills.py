"""Kill a small run at random moments until enough kills are counted; count what was lost, as JSON.

python -m scripts.soak_kills OUT.json [--kills 100] [--seed 0] [--folder KEEP]

The run is that of an untrained network over a Lennard-Jones reference of 0.3 s, as the command line makes it. SIGKILL
hits its process group after a delay drawn uniformly over the duration of an undisturbed run; the same command then
continues it. A finished run is compared with the undisturbed one, and the next begins. Exit status 1 if anything was
lost or differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bayes_mlff.data import dataset
from tests.support import small_run
from tests.support.run_comparison import differences, labels_paid_twice

CHANGES = {
    "validation_frames": 4,
    "audits": {"interval_ps": 0.005},
    "sampler": {"steps": 200, "cold_steps": 50, "ramp_steps": 20},
    "dynamics": {"duration_ps": 0.1, "chunk_steps": 4, "trajectory_every": 2},
    "engine": {"arguments": {"delay_s": 0.3}},
}


class Soak:
    """A folder of runs of one configuration."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._config = small_run.write(folder, CHANGES)
        self._environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def start(self, name: str) -> subprocess.Popen:
        """Start or continue a run in a process group of its own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "bayes_mlff.otf", "run", str(self._config), "-o", "run"]
        with (folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                command, cwd=folder, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )

    def kill_after(self, name: str, delay_s: float) -> bool:
        """Work on a run for a while, then kill it; False if it finished before."""
        process = self.start(name)
        try:
            code = process.wait(delay_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        if code != 0:
            raise SystemExit(f"{self.folder / name}: exit status {code}: {self._tail(name)}")
        return False

    def finish(self, name: str) -> float:
        """Work on a run to its end; returns how long that took, s."""
        started = time.perf_counter()
        if self.kill_after(name, 3600.0):
            raise SystemExit(f"{self.folder / name}: no end within an hour: {self._tail(name)}")
        return time.perf_counter() - started

    def written(self, name: str) -> int:
        """Bytes of the events: they grow once a process has imported and compiled everything."""
        path = self.folder / name / "run" / "events.jsonl"
        return path.stat().st_size if path.exists() else 0

    def judge(self, name: str) -> dict[str, int]:
        """What the kills have done to a finished run."""
        whole, run = self.folder / "whole" / "run", self.folder / name / "run"
        wanted, found = ({r.step for r in dataset.read(path / "dataset.extxyz")} for path in (whole, run))
        different = differences(run, whole)
        for line in different:
            print(f"{name}: {line}", flush=True)
        return {
            "runs": 1,
            "labels": len(found),
            "labels_lost": len(wanted - found),
            "labels_paid_twice": labels_paid_twice(self.folder / name, run),
            "not_bit_identical": int(bool(different)),
        }

    def _tail(self, name: str) -> str:
        return (self.folder / name / "output.txt").read_text()[-2000:]


def soak(folder: Path, kills: int, seed: int) -> dict[str, int | float]:
    """Kill runs until `kills` are counted, and finish the last one."""
    lab, draw = Soak(folder), random.Random(seed)
    lab.finish("first")  # compiles
    duration = lab.finish("whole")
    counts: dict[str, int | float] = {
        "kills": 0,
        "kills_while_working": 0,
        "duration_s": round(duration, 2),
        "seed": seed,
    }
    number = 0
    while counts["kills"] < kills:
        number += 1
        name, before = f"run{number}", 0
        while counts["kills"] < kills and lab.kill_after(name, draw.uniform(0.0, duration)):
            counts["kills"] += 1
            counts["kills_while_working"] += lab.written(name) > before
            before = lab.written(name)
            print(f"{counts['kills']} kills of {kills}", flush=True)
        lab.finish(name)
        for key, value in lab.judge(name).items():
            counts[key] = counts.get(key, 0) + value
    return counts


def main() -> None:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the runs here, an empty or new folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        counts = soak(folder.resolve(), args.kills, args.seed)
    text = json.dumps(counts, indent=2)
    print(text)
    args.out.write_text(text + "\n")
    sys.exit(any(counts[key] for key in ("labels_lost", "labels_paid_twice", "not_bit_identical")))


if __name__ == "__main__":
    main()

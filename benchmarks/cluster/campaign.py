"""A whole campaign with PySCF through a real SLURM, with accidents, against the same one in peace and without SLURM.

    python -m benchmarks.cluster.campaign OUT.json [--worker-init COMMANDS]

Needs `apt-get install slurm-wlm munge` and the extras `pyscf` and `parsl`; takes half an hour. The campaign is that of
`ethanol.yaml`. Of a campaign that goes on where it was killed, and of labels that were calculated wherever, no bit may
be different.
"""

import argparse
import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import yaml

from bayes_mlff.core.durable import write_whole
from bayes_mlff.data import dataset
from benchmarks.cluster.accidents import driver_killed, finished, node_killed, queue_held
from benchmarks.cluster.driver import BASE, METHODS
from benchmarks.cluster.record import Record, calculations, ends, ledger, until
from benchmarks.cluster.run import EXECUTOR
from benchmarks.cluster.slurm import Slurm
from tests.support import campaigns

SLURM: Final = EXECUTOR | {"walltime": "00:02:00"}
LOCAL: Final = {"kind": "local", "workers": 2}
THREADS: Final = "export OMP_NUM_THREADS=1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--worker-init", default="", help="shell commands before a worker starts")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons end, too
    folder = Path(tempfile.mkdtemp(prefix="slurm-campaign-"))
    folder.chmod(0o755)  # munge's socket is for all users
    executor = SLURM | {"worker_init": f"{THREADS}\n{args.worker_init}"}
    record, found = Record(), {}
    with Slurm(folder / "slurm") as slurm:
        record.say(f"SLURM is up: {slurm.ask('sinfo', '--noheader').strip()}")
        places = {"accidents": executor, "peace": executor, "local": LOCAL}
        for name, where in places.items():
            begun, before = time.time(), Counter(slurm.ended())
            prepared(folder / name, where)
            if name == "accidents":
                accidents(slurm, folder / name, record)
            else:
                record.say(f"the same campaign in peace, executor {where['kind']}")
                finished(started(folder / name, slurm.environment), record)
            jobs = dict(Counter(slurm.ended()) - before)
            found[name] = {"wall_s": round(time.time() - begun), "jobs_by_last_state": jobs}
        about = {"executor": SLURM | {"worker_init": THREADS}, "slurm": slurm.ask("sinfo", "--version").strip()}
    for name in places:
        different = campaigns.differences(folder / "local" / "campaign", folder / name / "campaign")
        found[name] |= labels(folder / name) | {"not_bit_identical": different} | calculations(folder / name)
    summary = {**found, "method": METHODS["PySCF"], **about, "wall_s": round(time.time() - record.start)}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, (json.dumps(summary | {"events": record.events}, indent=1) + "\n").encode())
    print(json.dumps(summary, indent=1), flush=True)


def accidents(slurm: Slurm, folder: Path, record: Record) -> None:
    """Run a campaign while one thing after the other goes wrong."""
    driver = queue_held(slurm, folder, lambda: started(folder, slurm.environment), record, jobs=1)
    until(lambda: ends(folder) >= 2, "two labels are calculated", driver)
    node_killed(slurm, folder, driver, record)
    until(lambda: slurm.ended().get("TIMEOUT", 0) >= 1, "a job reaches its time limit", driver)
    record.say(f"jobs have reached their time limit; by now {slurm.ended()}")
    driver_killed(folder, driver, record)
    driver = started(folder, slurm.environment, "resume", "campaign")
    record.say("the campaign is resumed")
    finished(driver, record)


def prepared(folder: Path, executor: dict[str, Any]) -> None:
    """Write the configuration of a campaign, and beside it the calculator that counts."""
    folder.mkdir()
    shutil.copy(BASE / "counted.py", folder)
    config = yaml.safe_load((BASE / "ethanol.yaml").read_text())
    arguments = {"ledger": str(folder / "ledger.jsonl"), **METHODS["PySCF"]}
    config["run"]["engine"] = {"name": "ase", "calculator": "counted:PySCF", "arguments": arguments}
    (folder / "campaign.yaml").write_text(yaml.safe_dump(config | {"executor": executor}))


def started(folder: Path, environment: dict[str, str], *command: str) -> subprocess.Popen:
    """A driver, by default one that begins the campaign."""
    words = command or ("run", "campaign.yaml", "-o", "campaign")
    path = os.pathsep.join(filter(None, [str(BASE.parents[1]), os.environ.get("PYTHONPATH")]))
    with (folder / "driver.log").open("ab") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "bayes_mlff.cli", "campaign", *words],
            cwd=folder,
            env=environment | {"PYTHONPATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    atexit.register(driver.kill)
    return driver


def labels(folder: Path) -> dict[str, Any]:
    """How many labels and random frames the walkers have, and whether all that was paid for is there."""
    kept: dict[str, list[str]] = {}
    for name in ("dataset.extxyz", "validation.extxyz"):
        paths = sorted((folder / "campaign" / "walkers").glob(f"*/{name}"))
        records = [record for path in paths for record in dataset.read(path) if record.reason != "given"]
        kept[name] = [record.structure.positions.tobytes().hex()[:64] for record in records]
    paid = {line["geometry"] for line in ledger(folder) if line["what"] == "ends"}
    return {
        "labels": len(kept["dataset.extxyz"]),
        "random_frames": len(kept["validation.extxyz"]),
        "labels_lost": len(paid ^ {geometry for each in kept.values() for geometry in each}),
    }


if __name__ == "__main__":
    main()

"""A whole campaign with PySCF through a real SLURM, with accidents, against the same one in peace and without SLURM.

    python -m benchmarks.cluster.campaign OUT.json WORK_DIR [--worker-init COMMANDS]

Needs `apt-get install slurm-wlm munge` and the extras `pyscf` and `parsl`; takes half an hour. The campaign is that of
`ethanol.yaml`; what is finished in WORK_DIR is not done again. Of a campaign that goes on where it was killed, and of
labels that were calculated wherever, no bit may be different.
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
FIGURES: Final = "figures.json"
THREADS: Final = "export OMP_NUM_THREADS=1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--worker-init", default="", help="shell commands before a worker starts")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons end, too
    args.work.mkdir(parents=True, exist_ok=True)
    executor = SLURM | {"worker_init": f"{THREADS}\n{args.worker_init}"}
    places = {"accidents": executor, "local": LOCAL, "peace": executor}
    daemons = Path(tempfile.mkdtemp(prefix="slurm-"))
    daemons.chmod(0o755)  # munge's socket is for all users
    with Slurm(daemons / "slurm") as slurm:
        for name, where in places.items():
            if not (args.work / name / FIGURES).exists():
                shutil.rmtree(args.work / name, ignore_errors=True)
                figures = one(slurm, args.work.resolve() / name, where)
                write_whole(args.work / name / FIGURES, (json.dumps(figures, indent=1) + "\n").encode())
            if (args.work / "local").exists():
                done = [each for each in places if (args.work / each / FIGURES).exists()]
                found = {each: collected(args.work / each, args.work / "local") for each in done}
                about = {"executor": SLURM | {"worker_init": THREADS}, "method": METHODS["PySCF"]}
                found |= about | {"slurm": slurm.ask("sinfo", "--version").strip()}
                args.output.parent.mkdir(parents=True, exist_ok=True)
                write_whole(args.output, (json.dumps(found, indent=1) + "\n").encode())


def one(slurm: Slurm, folder: Path, where: dict[str, Any]) -> dict[str, Any]:
    """Run one campaign; returns its time, its jobs and what happened."""
    record, before = Record(), Counter(slurm.ended())
    record.say(f"campaign '{folder.name}', executor {where['kind']}")
    prepared(folder, where)
    if folder.name == "accidents":
        accidents(slurm, folder, record)
    else:
        finished(started(folder, slurm.environment), record)
    jobs = dict(Counter(slurm.ended()) - before)
    return {"wall_s": round(time.time() - record.start), "jobs_by_last_state": jobs, "events": record.events}


def collected(folder: Path, expected: Path) -> dict[str, Any]:
    """Figures of a campaign."""
    different = campaigns.differences(expected / "campaign", folder / "campaign")
    figures = json.loads((folder / FIGURES).read_text())
    return labels(folder) | {"not_bit_identical": different} | calculations(folder) | figures


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

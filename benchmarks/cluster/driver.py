"""The driver of the record: asks for labels of frames and stores what arrives; can be killed and started again.

    python -m benchmarks.cluster.driver FOLDER EXECUTOR.json CALCULATOR COUNT

CALCULATOR is a class of `counted.py`.
"""

import json
import os
import sys
import time
from pathlib import Path

import ase.io

from bayes_mlff.core.durable import append, sync
from bayes_mlff.core.settings import Section, validate
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.labelling.dispatcher import Dispatcher
from bayes_mlff.engines.labelling.settings import ExecutorSettings
from bayes_mlff.engines.registry import make_engine

BASE = Path(__file__).parent
FRAMES = BASE.parent / "sigma" / "ethanol_300k.extxyz"
METHODS: dict[str, dict] = {"PySCF": {"xc": "b3lyp", "basis": "def2-svp"}, "Slow": {"seconds": 0.3}}


class Configuration(Section):
    executor: ExecutorSettings


def arrived(folder: Path) -> list[dict]:
    """What a driver in this folder has stored."""
    path = folder / "arrived.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    folder, executor, name, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    arguments = {"ledger": str(folder / "ledger.jsonl"), **METHODS[name]}
    settings = AseSettings(calculator=f"counted:{name}", arguments=arguments)
    with make_engine(settings, base=BASE) as engine:
        settings_hash = engine.settings_hash
    known = {each["frame"] for each in arrived(folder)}
    wanted = [(index, from_ase(atoms)) for index, atoms in enumerate(ase.io.read(FRAMES, f":{count}"))]
    with Dispatcher(
        validate(Configuration, {"executor": json.loads(executor.read_text())}).executor,
        settings,
        settings_hash=settings_hash,
        spool=folder / "spool",
        base=BASE,
        attempts=10,
    ) as labels:
        for index, structure in wanted:
            if index not in known:
                labels.submit(index, structure)
        while labels.pending or labels.wait(0.0):
            labels.wait(1.0)
            for arrival in labels.done():
                outcome = arrival.outcome
                result = outcome.value()
                line = {
                    "frame": arrival.tag,
                    "energy": result.label.energy.hex(),
                    "forces": [[value.hex() for value in row] for row in result.label.forces.tolist()],
                    "seconds": outcome.seconds,
                    "waited_s": arrival.waited_s,
                    "attempts": arrival.attempts,
                    "remarks": arrival.remarks,
                    "where": outcome.where,
                    "time": time.time(),
                    "driver": os.getpid(),
                }
                append(folder / "arrived.jsonl", json.dumps(line).encode() + b"\n")
                sync(folder / "arrived.jsonl")
                labels.stored(outcome)


if __name__ == "__main__":
    main()

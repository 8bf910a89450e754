"""Directories of runs that nobody ran."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bayes_mlff.core import settings
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.readings import Reading
from bayes_mlff.otf import config, systems
from bayes_mlff.runs.growing_files import THERMO_COLUMNS

ETHANOL = systems.structure("ethanol", base=Path())


def record(step: int, reason: str = "uncertain", **more: Any) -> LabelRecord:
    """A label of ethanol with forces, predicted unless it is the initial one."""
    random = np.random.default_rng(step)
    forces = random.normal(size=(9, 3))
    predicted: dict[str, Any] = {} if reason == "initial" else {
        "predicted_energy_mean": -98.99, "predicted_energy_sigma": 0.01,
        "readings": (Reading("energy", 0.01, 0.008, "eV"),), "confidence": 0.95,
        "predicted_forces_mean": forces + 0.1 * random.normal(size=(9, 3)), "predicted_forces_sigma": np.ones((9, 3)),
    }  # fmt: skip
    made = LabelRecord(ETHANOL, Label(-100.0, forces), step, 0.5 * step, reason, 1.0, -99.1, "sha256:x", 10.0)
    return made._replace(**{**predicted, **more})


def write(folder: Path, **changes: Any) -> Path:
    """A run of 1000 steps, of which 500 are done, with three labels; as a run keeps it. Returns the folder."""
    (folder / "start").mkdir(parents=True, exist_ok=True)
    raw = {"structure": "ethanol", "threshold": "0.5 kcal/mol", "dynamics": {"duration_ps": 0.5}} | changes
    (folder / "config.yaml").write_text(settings.dump(config.parse(raw)))
    for made in (record(0, "initial"), record(100), record(300, "audit")):
        dataset.append(folder / "dataset.extxyz", made)
    row = ",312.3,-100,0.3,-99.7,0.0043364104,0.0086728208,0.05,-99.7,nan,1.25\n"
    lines = [f"{step},{0.5 * step:.8g}{row}" for step in range(1, 501)]
    (folder / "thermo.csv").write_text(",".join(THERMO_COLUMNS) + "\n" + "".join(lines))
    audit = {"error_ev": 0.01, "sigma_ev": 0.01, "sigma_crit_ev": 0.02, "threshold_ev": 0.02, "pit": 0.4,
             "raised": False}  # fmt: skip
    events = (
        {"event": "session_started"},
        {"event": "label", "step": 100, "engine_s": 10.0},
        {"event": "rolled_back", "step": 200, "reason": "two atoms at 0.3 Å"},
        {"event": "audit", "step": 300, **audit},
        {"event": "chunk", "step": 500, "steps": 100, "seconds": 30.0},
        {"event": "stopped", "step": 500, "reason": "max_labels = 3 reached"},
    )
    text = "".join(json.dumps({"time": 10.0 * i, **event}) + "\n" for i, event in enumerate(events))
    (folder / "events.jsonl").write_text(text)
    return folder

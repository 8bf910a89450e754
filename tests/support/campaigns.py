"""The smallest campaigns: an untrained network, two chains, and a Lennard-Jones reference that counts its calls."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from bayes_mlff.campaign import config
from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.campaign.layout import WALKERS
from bayes_mlff.core import settings
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.models import registry
from bayes_mlff.runs import checkpoint
from tests.support import small_run

_OWN: Final = ("structure", "seed", "validation_frames")
"""Keys of the smallest run that a campaign has elsewhere, or not."""

IN_PROCESS: Final = {
    "kind": "imported",
    "executor": "concurrent.futures:ThreadPoolExecutor",
    "arguments": {"max_workers": 1},
}


def raw(folder: Path, run: Mapping[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Settings of a campaign with the network in `folder`; `run` changes what the walkers share."""
    model = folder / "model.safetensors"
    if not model.exists():
        registry.save(small_run.initial_model(), model, {})
    shared = {key: value for key, value in copy.deepcopy(dict(small_run.CONFIG)).items() if key not in _OWN}
    shared = shared | {"model": str(model)} | dict(run or {})
    walkers = [{"structure": "ethanol", "copies": 2}]
    return {"run": shared, "walkers": walkers, "executor": IN_PROCESS, "seed": 1, "order": "rounds"} | keys


def parse(values: Mapping[str, Any]) -> CampaignConfig:
    """Validated settings."""
    return settings.validate(config.CampaignConfig, dict(values))


def labels(path: Path, name: str) -> list[LabelRecord]:
    """Labels of one walker."""
    return dataset.read(path / WALKERS / name / "dataset.extxyz")


def differences(left: Path, right: Path) -> list[str]:
    """What is not the same to the last bit in two directories of campaigns; nothing if both hold the same."""
    found = []
    for walker in sorted((left / WALKERS).iterdir()):
        other = right / WALKERS / walker.name
        found += [
            f"{walker.name}: {name}"
            for name in ("thermo.csv", "trajectory.extxyz")
            if (walker / name).read_bytes() != (other / name).read_bytes()
        ]
        for name in ("dataset.extxyz", "validation.extxyz"):
            a, b = ({r.step: r for r in _records(path / name)} for path in (walker, other))
            found += [f"{walker.name}: {name} of {sorted(a)} and {sorted(b)}"] if a.keys() != b.keys() else []
            found += [f"{walker.name}: {name} {step}" for step in a.keys() & b.keys() if not _same(a[step], b[step])]
    (a, state_a, _), (b, state_b, _) = (checkpoint.newest(path / "checkpoints") for path in (left, right))
    found += [f"checkpoint: {name}" for name in a if a[name].tobytes() != b[name].tobytes()]
    return found + [f"checkpoint: {name}" for name in state_a if state_a[name] != state_b[name]]


def _records(path: Path) -> list[LabelRecord]:
    return dataset.read(path) if path.exists() else []


def _same(a: LabelRecord, b: LabelRecord) -> bool:
    forces = np.array_equal(a.label.forces, b.label.forces)
    x, y = (record.predicted_forces_mean for record in (a, b))
    predicted = x is y if x is None or y is None else np.array_equal(x, y)
    return forces and predicted and (a.label.energy, a.readings, a.asked) == (b.label.energy, b.readings, b.asked)

"""The smallest whole run: an untrained network, two chains, and a Lennard-Jones reference that counts its calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip

MODEL: Final = tiny_nequip((1, 6, 8), energy_shifts=(-1.0, -2.0, -3.0))

CONFIG: Final[Mapping[str, Any]] = {
    "structure": "ethanol",
    "model": "model.safetensors",
    "threshold": "0.2 eV",
    "seed": 1,
    "validation_frames": 2,
    "calibration": {"a": 30.0, "b": 30.0},
    "audits": {"interval_ps": 0.003},  # labels all along the run, whatever the network says
    "prior": {"scale": 0.5},
    "sampler": {
        "chains": 2,
        "steps": 30,
        "cold_steps": 5,
        "ramp_steps": 5,
        "batch_size": 2,
        "initial_spread": 1.0,
    },
    "dynamics": {"duration_ps": 0.02, "temperature_k": 150.0, "chunk_steps": 8, "trajectory_every": 4},
    "engine": {
        "name": "ase",
        "calculator": "bayes_mlff.testing.faulty_engines:FaultyCalculator",
        "arguments": {
            "calculator": "ase.calculators.lj:LennardJones",
            "arguments": {"sigma": 1.0, "epsilon": 0.02, "rc": 4.0, "smooth": True},
        },
    },
}
"""40 steps with about eight labels."""


def initial_model() -> registry.Potential:
    """The untrained network."""
    return registry.initialize(MODEL, 0)


def write(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write `model.safetensors` and `config.yaml` into a folder; returns the path of the latter.

    Args:
      folder: existing; runs are started in folders of their own, where the reference counts.
      changes: of `CONFIG`, sections merged.
    """
    model, path = folder / "model.safetensors", folder / "config.yaml"
    registry.save(initial_model(), model, {})
    merged = _merge(CONFIG, {"model": str(model)} | dict(changes or {}))
    path.write_text(yaml.safe_dump(merged))
    return path


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merge(old[key], new[key]) for key in old.keys() & new.keys() if isinstance(old[key], Mapping)}
    return {**old, **new, **both}

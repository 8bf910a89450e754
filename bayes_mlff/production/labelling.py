"""How a replica that met too large an uncertainty goes on: as an on-the-fly run, for `on_uncertain: label`.

What is left of the part of the production in which the replica stopped, and each part after it, is one run. It begins
at the geometry where the replica stopped, with its velocities, and starts from the ensemble of the production's run,
or from that of the run of the replica before, so that nothing is paid for twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.otf import config as run_configuration
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.production.config import ProductionConfig, n_steps
from bayes_mlff.production.folder import STOPPED, folder_of
from bayes_mlff.production.material import Material, Source
from bayes_mlff.runs import start as starts

FOLDER: Final = "on_the_fly"
"""Folder of the run in that of the replica, or of its equilibration."""

_KEY: Final = "on_uncertain"


class Rest(NamedTuple):
    """A part of a production that one replica has still to do, or the rest of one."""

    replica: int  # from 0
    part: str
    begin: int  # step of the part
    steps: int
    structure: Path  # in the directory of the production; its last frame is where the run begins
    folder: Path  # of the run, in that directory


def refuse_unfit(source: Source, material: Material, config: ProductionConfig) -> None:
    """Refuse `on_uncertain: label` where no run could go on.

    Raises:
      ConfigError: naming what does not fit, and what to do instead.
    """
    if config.on_uncertain != "label":
        return
    if source.start is None or source.run is None:
        allowed = f"warn or stop: only the directory of a run knows a reference method, and not {source.path}"
        raise ConfigError(_KEY, "label", allowed)
    own, here = source.start.initial.structure, material.initial.structure
    alike = np.array_equal(own.numbers, here.numbers) and np.array_equal(own.pbc, here.pbc)
    if config.supercell != (1, 1, 1) or not alike:
        raise ConfigError(
            _KEY,
            "label",
            "warn or stop: a run learns labels of the atoms of its structure, in their order, and these are others; to "
            "label what this production meets, stop, and start a run from stopped.extxyz with the same model",
        )
    if config.model == "pretrained":
        raise ConfigError(_KEY, "label", "warn or stop: the model before the run has no σ")
    for name, dynamics in config.segments().items():
        if dynamics.schedule:
            raise ConfigError(
                f"{name}.schedule", "segments", f"none with {_KEY}: label, which goes on at one temperature"
            )
    for replica in range(config.replicas):
        for name in config.segments():
            rest = Rest(replica, name, 0, 1, Path(STOPPED), Path(FOLDER))
            configure(rest, source.run, config, source=source.path, before=source.path, path=source.path)


def rests(config: ProductionConfig, found: Mapping[str, Any]) -> list[Rest]:
    """What replicas that stopped because they were uncertain have still to do, in order.

    Args:
      config: settings.
      found: `summary.facts` of the production.
    """
    segments, made = config.segments(), []
    names = list(segments)
    for replica in range(config.replicas):
        for name, part in found["parts"].items():
            stopped = part["replicas"][replica]["stopped"]
            if stopped is None or stopped["kind"] != "uncertain":
                continue
            begin, structure = stopped["step"], folder_of(name, replica) / STOPPED
            for each in names[names.index(name) :]:
                folder, every = folder_of(each, replica) / FOLDER, segments[each].trajectory_every
                steps = n_steps(segments[each]) - begin
                if each != names[-1]:  # the next part begins at the last stored frame
                    steps = every * -(-steps // every)
                if steps > 0:
                    made.append(Rest(replica, each, begin, steps, structure, folder))
                    structure = folder / "trajectory.extxyz"
                begin = 0
    return made


def configure(
    rest: Rest, run: RunConfig, config: ProductionConfig, *, source: Path, before: Path, path: Path
) -> RunConfig:
    """Configuration of the run that does a rest.

    Args:
      rest: what is to be done.
      run: configuration of the run that the production's ensemble comes from.
      config: settings of the production.
      source: directory of that run.
      before: directory of the run to start from.
      path: directory of the production.

    Raises:
      ConfigError: if a setting of the production is none of a run.
    """
    dynamics = config.of_replica(config.segments()[rest.part], rest.replica)
    own = {"velocities": "file", "duration_ps": rest.steps * dynamics.timestep_fs / 1000.0}
    given = {} if config.threshold is None else {"threshold": config.threshold, "threshold_temperature_k": None}
    given |= {} if config.confidence is None else {"confidence": config.confidence}
    return run_configuration.parse(
        run.model_dump(mode="json")
        | {
            "structure": {"file": str(path / rest.structure)},
            "model": str(source / starts.FOLDER / starts.MODEL),
            "head": None,
            "start": {"ensemble": str(before)},
            "validation_frames": 0,
            "seed": config.seed + rest.replica,
            "guards": config.guards.model_dump(mode="json"),
            "dynamics": dynamics.model_dump(mode="json") | own,
        }
        | given
    )

"""State of a production between chunks, and the interface of its observer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.data.origin import Origin
from bayes_mlff.md.integrators import MDState
from bayes_mlff.production.tally import Tally
from bayes_mlff.runs import observing


class Stopped(NamedTuple):
    """Why a replica ended before its time."""

    part: int
    step: int  # of its part; the last one that is stored, or the one that was uncertain
    kind: str  # 'guard' or 'uncertain'
    reason: str


class DeviceState(NamedTuple):
    """Arrays of all replicas, each with a leading axis [r]."""

    md: MDState
    neighbors: NeighborState


class HostState(NamedTuple):
    """Other values of the state; floats are stored exactly in checkpoints."""

    part: int  # index of the present part
    step: int  # of it
    spec: NeighborSpec
    origins: tuple[Origin, ...]  # of the positions of each replica
    confirmed_ev: tuple[float, ...]  # kinetic energy of each replica at the begin of the part, eV
    stopped: tuple[Stopped | None, ...]
    tallies: tuple[tuple[Tally, ...], ...]  # of each part that has begun, of each replica

    def to_json(self) -> dict[str, Any]:
        """Values for a checkpoint."""
        return {
            "part": self.part,
            "part_step": self.step,
            "spec": list(self.spec),
            "origins": [origin.to_json() for origin in self.origins],
            "confirmed_ev": list(self.confirmed_ev),
            "stopped": [None if each is None else list(each) for each in self.stopped],
            "tallies": [[tally.to_json() for tally in part] for part in self.tallies],
        }

    @classmethod
    def from_json(cls, metadata: Mapping[str, Any]) -> "HostState":
        """`to_json` back."""
        r_max, skin, capacity, images = metadata["spec"]
        return cls(
            metadata["part"],
            metadata["part_step"],
            NeighborSpec(r_max, skin, capacity, tuple(images)),
            tuple(Origin.from_json(each) for each in metadata["origins"]),
            tuple(metadata["confirmed_ev"]),
            tuple(None if each is None else Stopped(*each) for each in metadata["stopped"]),
            tuple(tuple(Tally.from_json(tally) for tally in part) for part in metadata["tallies"]),
        )

    @property
    def running(self) -> np.ndarray:
        """Which replicas [r] go on."""
        return np.array([each is None for each in self.stopped])


class ProductionState(NamedTuple):
    """Everything that a checkpoint contains."""

    device: DeviceState
    host: HostState


class Progress(NamedTuple):
    """How far a production is."""

    part: str
    time_ps: float
    duration_ps: float
    steps: int  # of the last chunk
    seconds: float  # that it took
    timestep_fs: float
    running: int  # replicas that go on
    above: float  # share of the time so far, in this part, above a limit; nan if none is known


Observer = observing.Observer[Progress]

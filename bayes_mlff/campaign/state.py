"""State of a campaign between rounds, and the interface of its observer."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.data.readings import Reading
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.md.chunk import Frames, Thermo
from bayes_mlff.md.integrators import MDState
from bayes_mlff.otf.audits import Score
from bayes_mlff.otf.state import DeviceState, HostState, RunState
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.runs import observing
from bayes_mlff.sghmc.run import ChainState


class Shared(NamedTuple):
    """Arrays that all walkers have in common."""

    params: jax.Array  # [c, p + 1], samples of `posterior.energy_zero`
    chains: ChainState
    training_set: TrainingSet


class Open(NamedTuple):
    """A step that waits for the forces of the reference; zeros if the walker waits for none."""

    predictive: Predictive  # of one structure, when the label was requested
    thermo: Thermo  # [1] of that step
    frames: Frames  # [1] of that step


class Arrays(NamedTuple):
    """Arrays of one walker."""

    md: MDState  # of a walker that waits: before its last half kick
    trusted: MDState  # state after the last accepted label; initially the first structure
    neighbors: NeighborState
    open: Open


class Waiting(NamedTuple):
    """A label that was requested."""

    number: int  # in the order of requests of the whole campaign
    reason: str  # 'uncertain' or 'audit'
    pretrained: float  # energy of the model before fine-tuning, eV
    law: ErrorLaw  # of errors of the energy, when it was requested
    readings: tuple[Reading, ...]
    above: tuple[bool, ...]  # whether each trigger requested it
    submitted: bool = False  # it was given to the executor

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the triggers that request the label."""
        return tuple(reading.name for reading, above in zip(self.readings, self.above, strict=True) if above)

    def to_json(self) -> dict[str, Any]:
        """Values for a checkpoint."""
        return self._asdict() | {"law": self.law.to_json(), "readings": [list(each) for each in self.readings]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Waiting":
        """Make a request from the values of `to_json`."""
        law, readings = ErrorLaw.from_json(values["law"]), tuple(Reading(*each) for each in values["readings"])
        return cls(**{**values, "law": law, "readings": readings, "above": tuple(values["above"])})


class Walker(NamedTuple):
    """Other values of one walker."""

    host: HostState  # its calibrations and scores are in `CampaignState.laws`
    waiting: Waiting | None = None
    aside: str | None = None  # why it does not go on, while the others do

    @property
    def request(self) -> Waiting:
        """The label that it waits for, of a walker that waits."""
        assert self.waiting is not None
        return self.waiting

    def to_json(self) -> dict[str, Any]:
        """Values for a checkpoint."""
        waiting = None if self.waiting is None else self.waiting.to_json()
        return {"step": self.host.step, "host": self.host.to_json(), "waiting": waiting, "aside": self.aside}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Walker":
        """Make a walker from the values of `to_json`."""
        host = HostState.from_json({**values["host"], "step": values["step"]})
        waiting = None if values["waiting"] is None else Waiting.from_json(values["waiting"])
        return cls(host, waiting, values["aside"])


class Laws(NamedTuple):
    """What is known of errors, of all walkers or of those of one structure."""

    calibrations: Mapping[str, ErrorLaw]  # by name of the statistic
    scores: Mapping[str, tuple[Score, ...]]  # of audits since the calibration was last raised

    def to_json(self) -> dict[str, Any]:
        """Values for a checkpoint."""
        scores = {name: [list(score) for score in each] for name, each in self.scores.items()}
        return {"calibrations": {name: law.to_json() for name, law in self.calibrations.items()}, "scores": scores}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Laws":
        """Make laws from the values of `to_json`."""
        calibrations = {name: ErrorLaw.from_json(law) for name, law in values["calibrations"].items()}
        scores = {name: tuple(Score(*score) for score in each) for name, each in values["scores"].items()}
        return cls(calibrations, scores)


class DeviceArrays(NamedTuple):
    """All arrays of a campaign."""

    shared: Shared
    walkers: tuple[Arrays, ...]


class CampaignState(NamedTuple):
    """Everything that a checkpoint contains."""

    arrays: DeviceArrays
    walkers: tuple[Walker, ...]
    laws: Mapping[str, Laws]  # by the key of a walker, see `Member.law`
    round: int = 0
    requests: int = 0  # labels that were requested so far
    spared: int = 0  # of these not needed any more when the model had learnt others

    def view(self, i: int, law: str) -> RunState:
        """One walker as the state of a run."""
        own, shared, laws = self.arrays.walkers[i], self.arrays.shared, self.laws[law]
        device = DeviceState(own.md, own.trusted, own.neighbors, *shared, np.zeros(0, np.uint8))
        return RunState(device, self.walkers[i].host._replace(calibrations=laws.calibrations, scores=laws.scores))

    def with_walker(self, i: int, walker: Walker | None = None, arrays: Arrays | None = None) -> "CampaignState":
        """The state with another walker i."""
        state = self
        if walker is not None:
            bare = walker._replace(host=walker.host._replace(calibrations={}, scores={}))
            state = state._replace(walkers=_put(state.walkers, i, bare))
        if arrays is not None:
            state = state._replace(arrays=state.arrays._replace(walkers=_put(state.arrays.walkers, i, arrays)))
        return state

    def with_neighbors(
        self, members: Sequence[int], spec: NeighborSpec, lists: Sequence[NeighborState]
    ) -> "CampaignState":
        """The state in which the walkers of a group have other neighbour lists."""
        state = self
        for i, around in zip(members, lists, strict=True):
            walker = state.walkers[i]
            walker = walker._replace(host=walker.host._replace(spec=spec))
            state = state.with_walker(i, walker, state.arrays.walkers[i]._replace(neighbors=around))
        return state

    def to_json(self) -> dict[str, Any]:
        """Values for a checkpoint, without the round, which is stored separately."""
        return {
            "walkers": [walker.to_json() for walker in self.walkers],
            "laws": {key: laws.to_json() for key, laws in self.laws.items()},
            "requests": self.requests,
            "spared": self.spared,
        }

    @classmethod
    def from_json(cls, arrays: DeviceArrays, metadata: Mapping[str, Any]) -> "CampaignState":
        """Make a state from arrays, the values of `to_json` and the round under "step"."""
        walkers = tuple(Walker.from_json(values) for values in metadata["walkers"])
        laws = {key: Laws.from_json(values) for key, values in metadata["laws"].items()}
        return cls(arrays, walkers, laws, metadata["step"], metadata["requests"], metadata["spared"])


def _put(values: tuple, i: int, value: Any) -> tuple:
    return (*values[:i], value, *values[i + 1 :])


class Progress(NamedTuple):
    """How far a campaign is after a round."""

    time_ps: float  # of all walkers
    duration_ps: float  # of all walkers
    steps: int  # of all walkers, in this round
    seconds: float  # of their dynamics
    moving: int
    waiting: int
    done: int
    aside: int
    labels: int


Observer = observing.Observer[Progress]


class OfWalker:
    """The observer of a campaign as that of one of its walkers."""

    def __init__(self, observer: Observer, name: str):
        self._observer, self._name = observer, name

    def working(self, what: str) -> None:
        """Pass it on."""
        self._observer.working(f"{self._name}: {what}")

    def chunk(self, *, step: int, steps: int, seconds: float, readings: tuple[Reading, ...]) -> None:
        """Leave it to the report of the round."""

    def label(self, *, step: int, reason: str, error_ev: float | None, sigma_ev: float | None, seconds: float) -> None:
        """Leave it to the report of the round."""

    def notice(self, *, step: int, text: str) -> None:
        """Pass it on."""
        self._observer.say(f"  {self._name}, step {step}: {text}")

    def update(self, *, step: int, labels: int, rounds: int, seconds: float, force_error_ev_a: float | None) -> None:
        """Leave it to the report of the round."""

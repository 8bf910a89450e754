"""What a run carries from chunk to chunk, and who is told about it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.data.origin import Origin, drifted
from bayes_mlff.data.readings import ENERGY, Reading
from bayes_mlff.ensemble.calibration import Calibration
from bayes_mlff.md.integrators import MDState
from bayes_mlff.otf.audits import Clock, Score
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.run import ChainState


class Setback(NamedTuple):
    """Why a run went back to its trusted state."""

    step: int
    kind: str  # 'guard' or 'reference'
    reason: str


class Anchor(NamedTuple):
    """Where the drift of the conserved energy is counted from."""

    step: int
    conserved_ev: float  # without the isolated atoms, as the chunk counts


class DeviceState(NamedTuple):
    """Arrays that move a run forward."""

    md: MDState
    trusted: MDState  # where the last accepted label finished a step; initially the first structure
    neighbors: NeighborState
    params: jax.Array  # [c, p]
    chains: ChainState
    training_set: TrainingSet
    engine: np.ndarray  # [bytes] uint8, what the engine wants to remember


class HostState(NamedTuple):
    """Numbers that decide; floats survive a checkpoint exactly."""

    step: int
    offset_ev: float  # added to reference energies
    calibrations: Mapping[str, Calibration]  # by name of the statistic
    spec: NeighborSpec
    trusted_ev: float = 0.0  # potential energy of the trusted state by the reference, with offset
    clock: Clock = Clock(0, 0, 0.0)
    scores: Mapping[str, tuple[Score, ...]] = {}  # likewise, of the audits since that calibration was last raised
    setbacks: tuple[Setback, ...] = ()
    anchor: Anchor | None = None  # None until the model has taken a step on its own; nve only
    origin: Origin = Origin()  # from which the positions of the dynamics are counted

    @property
    def calibration(self) -> Calibration:
        """Of σ of the total energy."""
        return self.calibrations[ENERGY]

    def to_json(self) -> dict[str, Any]:
        """Values for a checkpoint, all but the step, which names it."""
        return {
            "offset_ev": self.offset_ev,
            "calibrations": {name: [float(x) for x in state] for name, state in self.calibrations.items()},
            "spec": list(self.spec),
            "trusted_ev": self.trusted_ev,
            "clock": list(self.clock),
            "scores": {name: [list(score) for score in each] for name, each in self.scores.items()},
            "setbacks": [list(setback) for setback in self.setbacks],
            "anchor": None if self.anchor is None else list(self.anchor),
            "origin": self.origin.to_json(),
        }

    @classmethod
    def from_json(cls, metadata: Mapping[str, Any]) -> "HostState":
        """Read `to_json` back, with the step under "step"."""
        r_max, skin, capacity, images = metadata["spec"]
        spec = NeighborSpec(r_max, skin, capacity, tuple(images))
        anchor = metadata["anchor"]
        return cls(
            metadata["step"],
            metadata["offset_ev"],
            {name: Calibration(*state) for name, state in metadata["calibrations"].items()},
            spec,
            metadata["trusted_ev"],
            Clock(*metadata["clock"]),
            {name: tuple(Score(*score) for score in each) for name, each in metadata["scores"].items()},
            tuple(Setback(*setback) for setback in metadata["setbacks"]),
            None if anchor is None else Anchor(*anchor),
            Origin.from_json(metadata["origin"]) if "origin" in metadata else Origin(),
        )


class RunState(NamedTuple):
    """Everything a checkpoint holds."""

    device: DeviceState
    host: HostState


def recentred(state: RunState) -> RunState:
    """The same state with positions counted from near the atoms, where these have drifted far: float32 needs it."""
    md, trusted = state.device.md, state.device.trusted
    free = np.ones(3, bool) if md.free is None else np.all(np.asarray(md.free), axis=0)
    by = np.where(free, drifted(np.asarray(md.position, np.float64)), 0.0)
    if not by.any() or not np.isfinite(by).all():
        return state
    shift = jnp.asarray(by, md.position.dtype)[None, :]
    md, trusted = (each.set(position=each.position - shift) for each in (md, trusted))
    around = neighbors.move(state.device.neighbors, md.position, md.cell)
    device = state.device._replace(md=md, trusted=trusted, neighbors=around)
    return RunState(device, state.host._replace(origin=state.host.origin.moved(by)))


class Observer(Protocol):
    """Told what happens, as it happens."""

    def chunk(self, *, step: int, steps: int, seconds: float, readings: tuple[Reading, ...]) -> None:
        """MD moved on to `step`; the readings of the triggers are those of the last step."""

    def label(self, *, step: int, reason: str, error_ev: float | None, sigma_ev: float | None, seconds: float) -> None:
        """The reference answered; error is predicted minus reference, None for the first structure."""

    def notice(self, *, step: int, text: str) -> None:
        """Something happened that a user should know: a guard tripped, a label was refused, σ was raised."""

    def update(self, *, step: int, labels: int, rounds: int, seconds: float, force_error_ev_a: float | None) -> None:
        """The chains were continued."""

"""State of a run between chunks, and the interface of its observer."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.data.origin import Origin, drifted
from bayes_mlff.data.readings import ENERGY, Reading
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.md.integrators import MDState
from bayes_mlff.otf.audits import Clock, Score
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.run import ChainState


class Setback(NamedTuple):
    """A roll-back to the trusted state, and its reason."""

    step: int
    kind: str  # 'guard' or 'reference'
    reason: str


class Anchor(NamedTuple):
    """Start of the measurement of the drift of the conserved energy."""

    step: int
    conserved_ev: float  # conserved energy, eV, without the isolated atoms, as in the chunk


class DeviceState(NamedTuple):
    """Arrays of the run's state."""

    md: MDState
    trusted: MDState  # state after the last accepted label; initially the first structure
    neighbors: NeighborState
    params: jax.Array  # [c, p + 1], samples of `posterior.energy_zero`
    chains: ChainState
    training_set: TrainingSet
    engine: np.ndarray  # [bytes] uint8, saved state of the engine


class HostState(NamedTuple):
    """Other values of the run's state; floats are stored exactly in checkpoints."""

    step: int
    offset_ev: float  # eV, added to reference energies
    calibrations: Mapping[str, ErrorLaw]  # by name of the statistic
    spec: NeighborSpec
    trusted_ev: float = 0.0  # reference energy of the trusted state, eV, with offset
    clock: Clock = Clock(0, 0, 0.0)
    scores: Mapping[str, tuple[Score, ...]] = {}  # by statistic, of audits since its calibration was last raised
    setbacks: tuple[Setback, ...] = ()
    anchor: Anchor | None = None  # only in nve; None until the model has taken a step without a label
    origin: Origin = Origin()  # origin of the positions of the dynamics

    @property
    def calibration(self) -> ErrorLaw:
        """Law of errors of the total energy."""
        return self.calibrations[ENERGY]

    def to_json(self) -> dict[str, Any]:
        """Values for a checkpoint, without the step, which is stored separately."""
        return {
            "offset_ev": self.offset_ev,
            "calibrations": {name: law.to_json() for name, law in self.calibrations.items()},
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
        """Make a state from the values of `to_json` and the step under "step"."""
        r_max, skin, capacity, images = metadata["spec"]
        spec = NeighborSpec(r_max, skin, capacity, tuple(images))
        anchor = metadata["anchor"]
        return cls(
            metadata["step"],
            metadata["offset_ev"],
            {name: ErrorLaw.from_json(law) for name, law in metadata["calibrations"].items()},
            spec,
            metadata["trusted_ev"],
            Clock(*metadata["clock"]),
            {name: tuple(Score(*score) for score in each) for name, each in metadata["scores"].items()},
            tuple(Setback(*setback) for setback in metadata["setbacks"]),
            None if anchor is None else Anchor(*anchor),
            Origin.from_json(metadata["origin"]) if "origin" in metadata else Origin(),
        )


class RunState(NamedTuple):
    """Everything that a checkpoint contains."""

    device: DeviceState
    host: HostState


def recentred(state: RunState) -> RunState:
    """Move the origin of positions close to the atoms if they have drifted far, since float32 loses precision there."""
    md, trusted = state.device.md, state.device.trusted
    by = shift_needed(np.asarray(md.position), None if md.free is None else np.asarray(md.free))
    if not by.any():
        return state
    shift = jnp.asarray(by, md.position.dtype)[None, :]
    md, trusted = (each.set(position=each.position - shift) for each in (md, trusted))
    around = neighbors.move(state.device.neighbors, md.position, md.cell)
    device = state.device._replace(md=md, trusted=trusted, neighbors=around)
    return RunState(device, state.host._replace(origin=state.host.origin.moved(by)))


def shift_needed(position: np.ndarray, free: np.ndarray | None) -> np.ndarray:
    """How far [3] Å the origin should move towards atoms that have drifted from it; zero along axes with held ones.

    Args:
      position: [n, 3] Å, in the dynamics.
      free: [n, 3] bool, False where a coordinate is held; None: none is.
    """
    along = np.ones(3, bool) if free is None else np.all(free, axis=0)
    by = np.where(along, drifted(np.asarray(position, np.float64)), 0.0)
    return by if np.isfinite(by).all() else np.zeros(3)


class Observer(Protocol):
    """Receives reports about the progress of a run."""

    def working(self, what: str) -> None:
        """Work with this description begins."""

    def chunk(self, *, step: int, steps: int, seconds: float, readings: tuple[Reading, ...]) -> None:
        """The dynamics has reached `step`; the readings of the triggers are those of the last step."""

    def label(self, *, step: int, reason: str, error_ev: float | None, sigma_ev: float | None, seconds: float) -> None:
        """The reference has made a label; error is predicted minus reference, None for the first structure."""

    def notice(self, *, step: int, text: str) -> None:
        """Something happened that the user should know: a guard tripped, a label was refused, σ was raised."""

    def update(self, *, step: int, labels: int, rounds: int, seconds: float, force_error_ev_a: float | None) -> None:
        """The chains were continued."""

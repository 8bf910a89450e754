"""Runs the next chunk of dynamics with its limits and triggers."""

from typing import NamedTuple

import jax.numpy as jnp

from bayes_mlff.data.neighbors import NeighborSpec
from bayes_mlff.data.readings import Reading
from bayes_mlff.ensemble import triggers as triggering
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.chunk import Chunk, Limits, RunChunk, Stop
from bayes_mlff.otf import guards
from bayes_mlff.otf.problem import Problem, dynamics_chunk
from bayes_mlff.otf.state import RunState


class Ahead(NamedTuple):
    """What the dynamics may do next."""

    steps: int  # at most
    triggers: tuple[Trigger, ...]  # with the limits of these steps, also if they may not request a label
    limits: Limits
    silent: bool  # no trigger may request a label


class Ran(NamedTuple):
    """A finished chunk of dynamics with its triggers."""

    chunk: Chunk
    triggers: tuple[Trigger, ...]  # as before it
    readings: tuple[Reading, ...]  # of the last step
    tripped: str | None  # why the run cannot continue from the last step; None if it can

    @property
    def stop(self) -> Stop:
        """Why the chunk ended early."""
        return Stop(int(self.chunk.stop))

    @property
    def steps(self) -> int:
        """Number of steps begun."""
        return int(self.chunk.steps)

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the triggers that request a label for the last step."""
        asked = self.chunk.asked.tolist()
        return tuple(t.statistic.name for t, above in zip(self.triggers, asked, strict=True) if above)

    @property
    def labelled(self) -> bool:
        """Whether the last step waits for a label."""
        return bool(self.stop & (Stop.UNCERTAIN | Stop.AUDIT))


class Dynamics:
    """The compiled dynamics of one run, compiled anew only when the neighbour lists grow."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._compiled: tuple[NeighborSpec, RunChunk] | None = None

    def run(self, state: RunState, ahead: Ahead) -> Ran:
        """Run until the next stop, for at most one chunk."""
        device, triggers = state.device, ahead.triggers
        watched = triggering.on_device(triggers, device.md.position.dtype, silent=ahead.silent)
        steps = jnp.asarray(ahead.steps, jnp.int32)
        chunk = self._of(state.host.spec)(device.params, device.md, device.neighbors, watched, steps, ahead.limits)
        return ran(chunk, ahead)

    def _of(self, spec: NeighborSpec) -> RunChunk:
        if self._compiled is None or self._compiled[0] != spec:
            self._compiled = spec, dynamics_chunk(self._problem, spec, self._problem.config.dynamics.chunk_steps)
        return self._compiled[1]


def ran(chunk: Chunk, ahead: Ahead) -> Ran:
    """A finished chunk with what its triggers read at its last step, and whether a guard has tripped there."""
    now = tuple(trigger.at(max(int(chunk.steps) - 1, 0)) for trigger in ahead.triggers)
    readings = triggering.readings(now, chunk.measured)
    tripped = guards.tripped(Stop(int(chunk.stop)), chunk, ahead.limits, ahead.triggers)
    return Ran(chunk, ahead.triggers, readings, tripped)

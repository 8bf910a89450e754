"""Runs the next chunk of dynamics with its limits and triggers."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from bayes_mlff.data.neighbors import NeighborSpec
from bayes_mlff.data.readings import Reading
from bayes_mlff.ensemble import triggers as triggering
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.chunk import Chunk, RunChunk, Stop
from bayes_mlff.otf import guards
from bayes_mlff.otf.problem import Problem, dynamics_chunk
from bayes_mlff.otf.state import RunState


class Ran(NamedTuple):
    """A finished chunk of dynamics with its triggers."""

    chunk: Chunk
    triggers: tuple[Trigger, ...]  # with the limits of this chunk, also if they could not request a label yet
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

    def run(
        self, state: RunState, triggers: tuple[Trigger, ...], *, silent: int, known: Mapping[str, list[float]]
    ) -> Ran:
        """Run until the next stop, for at most one chunk.

        Args:
          state: initial state.
          triggers: triggers with the limits of the chunk.
          silent: number of steps from here on in which the triggers request no label.
          known: values of the statistics at the labels so far, by name.
        """
        host, device, config = state.host, state.device, self._problem.config
        limit = min(config.dynamics.chunk_steps, config.n_steps - host.step)
        if silent:
            limit = min(limit, silent)
        audit = host.clock.due - host.step if host.clock.due else 0
        allowed = guards.limits(self._problem, state, steps=limit, triggers=triggers, audit=audit, known=known)
        watched = triggering.on_device(triggers, device.md.position.dtype, silent=silent > 0)
        chunk = self._of(host.spec)(
            device.params, device.md, device.neighbors, watched, jnp.asarray(limit, jnp.int32), allowed
        )
        now = tuple(trigger.at(max(int(chunk.steps) - 1, 0)) for trigger in triggers)
        readings = triggering.readings(now, chunk.measured)
        return Ran(chunk, triggers, readings, guards.tripped(Stop(int(chunk.stop)), chunk, allowed, triggers))

    def _of(self, spec: NeighborSpec) -> RunChunk:
        if self._compiled is None or self._compiled[0] != spec:
            self._compiled = spec, dynamics_chunk(self._problem, spec, self._problem.config.dynamics.chunk_steps)
        return self._compiled[1]

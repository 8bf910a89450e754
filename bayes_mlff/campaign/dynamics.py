"""Moves the walkers of a group as one batch, and asks the model about geometries that wait."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.campaign.problem import Group
from bayes_mlff.campaign.state import Arrays, Open, Shared
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.neighbors import NeighborSpec
from bayes_mlff.ensemble import triggers as triggering
from bayes_mlff.ensemble.predictive import Predictive, with_spread_of_forces
from bayes_mlff.ensemble.triggers import Measured, Trigger
from bayes_mlff.ensemble.triggers import limits as trigger_limits
from bayes_mlff.md import replicas
from bayes_mlff.md.chunk import Chunk, Compared, Stop, dynamics_budget, empty_chunk
from bayes_mlff.otf.dynamics import Ahead, Ran, ran
from bayes_mlff.otf.problem import Problem, ensemble
from bayes_mlff.otf.state import RunState
from bayes_mlff.parallel.devices import FirstThatFits, chain_mesh


class Task(NamedTuple):
    """What one walker is to do in a round."""

    place: int  # in its group
    state: RunState
    ahead: Ahead


class Asked(NamedTuple):
    """What the model says of a geometry."""

    predictive: Predictive
    measured: Measured
    above: tuple[bool, ...]  # whether each trigger requests a label


class GroupDynamics:
    """The compiled dynamics of one group: one function for every power of two of walkers that move."""

    def __init__(self, group: Group):
        self._group = group
        self._compiled: dict[tuple[int, NeighborSpec], Callable[..., Chunk]] = {}
        self._asks: Callable[..., Any] | None = None
        problem = group.problem
        mesh = chain_mesh(problem.config.chains)
        budget = dynamics_budget(mesh, problem.config.dynamics.memory_gib)
        self._in_full = None if problem.in_full is None else FirstThatFits([jax.jit(problem.in_full)], budget)
        self._ensemble = ensemble(problem)

    @property
    def compiled(self) -> int:
        """Number of functions for dynamics so far."""
        return len(self._compiled)

    def run(self, shared: Shared, tasks: Sequence[Task]) -> list[Ran]:
        """Move walkers of the group until each stops, for at most one chunk."""
        spec = tasks[0].state.host.spec
        rows = _rows(len(tasks))
        tasks_, idle = [*tasks, *[tasks[0]] * (rows - len(tasks))], rows - len(tasks)
        dtype = tasks[0].state.device.md.position.dtype
        watched = [triggering.on_device(t.ahead.triggers, dtype, silent=t.ahead.silent) for t in tasks_]
        steps = [t.ahead.steps for t in tasks] + [0] * idle
        places = np.array([t.place for t in tasks_])
        chunk = self._of(rows, spec)(
            shared.params,
            replicas.stack([t.state.device.md for t in tasks_]),
            replicas.stack([t.state.device.neighbors for t in tasks_]),
            replicas.stack(watched),
            jnp.asarray(steps, jnp.int32),
            replicas.stack([t.ahead.limits for t in tasks_]),
            jax.tree.map(lambda x: jnp.asarray(x[places], dtype), self._group.schedules),
        )
        return [self._ran(shared, one, task) for one, task in zip(_apart(chunk), tasks, strict=False)]

    def _ran(self, shared: Shared, chunk: Chunk, task: Task) -> Ran:
        made = ran(chunk, task.ahead)
        if not made.labelled or made.tripped is not None or Stop.NEIGHBOR_OVERFLOW in made.stop:
            return made
        full = self._completed(shared, chunk.predictive, chunk.neighbors.graph)
        return made._replace(chunk=chunk._replace(predictive=full))

    def _completed(self, shared: Shared, predictive: Predictive, graph: Graph) -> Predictive:
        """The prediction with σ of forces and stress, which the dynamics leaves out with one optimum."""
        if self._in_full is None:
            return predictive
        return with_spread_of_forces(predictive, self._in_full(shared.params, graph))

    def ask(self, shared: Shared, graph: Graph, triggers: tuple[Trigger, ...]) -> Asked:
        """Ask the present model about one geometry, with the triggers' limits of its step."""
        predictive = self._ensemble(shared.params, graph)
        watched = triggering.on_device(triggers, graph.positions.dtype)
        if self._asks is None:
            self._asks = jax.jit(triggering.measure)
        measured = self._asks(watched, predictive, graph)
        above = np.asarray(measured.sigma > trigger_limits(watched, measured)).tolist()
        return Asked(self._completed(shared, predictive, graph), measured, tuple(map(bool, above)))

    def _of(self, rows: int, spec: NeighborSpec) -> Callable[..., Chunk]:
        """The compiled dynamics of so many walkers."""
        key = rows, spec
        if key not in self._compiled:
            problem = self._group.problem
            mesh = chain_mesh(problem.config.chains)
            self._compiled = {k: v for k, v in self._compiled.items() if k[1] == spec}
            self._compiled[key] = replicas.make_replicas(
                self._group.ways[0],
                self._group.integrator,
                spec,
                problem.config.dynamics.chunk_steps,
                mesh=mesh,
                low_memory=self._group.ways[1:],
                memory_gib=problem.config.dynamics.memory_gib,
            )
        return self._compiled[key]


def nothing_open(problem: Problem, shared: Shared, state: RunState, triggers: tuple[Trigger, ...]) -> Open:
    """The open step of a walker that waits for no label: zeros of the shapes that one has."""
    device = state.device
    predicted = jax.eval_shape(problem.evaluate, shared.params, device.neighbors.graph)
    empty = empty_chunk(device.md, device.neighbors, predicted, triggers, 1)
    return Open(empty.predictive, jax.tree.map(jnp.zeros_like, empty.thermo), empty.frames)


def last_step(chunk: Chunk) -> Open:
    """The last step of a chunk that was stopped."""
    last = max(int(chunk.steps) - 1, 0)
    thermo, frames = (
        jax.tree.map(lambda x: jnp.asarray(x[last : last + 1]), each) for each in (chunk.thermo, chunk.frames)
    )
    return Open(jax.tree.map(jnp.asarray, chunk.predictive), thermo, frames)


def one_step(own: Arrays, stop: Stop) -> Chunk:
    """The open step of a walker as a chunk of one step."""
    thermo, frames = jax.device_get((own.open.thermo, own.open.frames))
    count = thermo.statistics.shape[1]
    nothing = Measured(*(jnp.zeros(count) for _ in Measured._fields))
    compared = Compared(*(jnp.zeros([]) for _ in Compared._fields))
    bits, one = np.asarray(int(stop), np.int32), np.asarray(1, np.int32)
    asked = np.zeros(count, bool)
    return Chunk(own.md, own.neighbors, own.open.predictive, bits, asked, nothing, one, thermo, frames, compared)  # pyright: ignore[reportArgumentType]


def cut(chunk: Chunk, steps: int) -> Chunk:
    """The first steps of a chunk, as if it had not been stopped."""
    return chunk._replace(steps=np.asarray(steps, np.int32), stop=np.zeros([], np.int32))  # pyright: ignore[reportArgumentType]


def _rows(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _apart(chunk: Chunk) -> list[Chunk]:
    """The chunks of each walker; what is only looked at is on the host."""
    looked = jax.device_get(chunk._replace(md=None, neighbors=None, predictive=None))
    return [
        jax.tree.map(lambda x, i=i: x[i], looked)._replace(
            md=jax.tree.map(lambda x, i=i: x[i], chunk.md),
            neighbors=jax.tree.map(lambda x, i=i: x[i], chunk.neighbors),
            predictive=jax.tree.map(lambda x, i=i: x[i], chunk.predictive),
        )
        for i in range(len(looked.stop))
    ]

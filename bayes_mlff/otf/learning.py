"""Adds labels to a training set and continues the samples until they reproduce the newest one."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import numbers
from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.graph import Graph, padded
from bayes_mlff.otf.criteria import threshold_ev
from bayes_mlff.otf.problem import Problem, chain_update, ensemble, learning_graph, samples_around
from bayes_mlff.otf.state import Observer, RunState
from bayes_mlff.posterior import training_set as training
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.interruption import Interruption
from bayes_mlff.sghmc.run import ChainState


def with_label(problem: Problem, known: TrainingSet, record: LabelRecord, offset_ev: float) -> TrainingSet:
    """The training set with one more label, larger if there is no room.

    Args:
      problem: of the walker that was labelled; it may have fewer atoms than others in the set.
      known: labels so far.
      record: the label.
      offset_ev: added to its energy.
    """
    size = known.graphs.positions.shape[1]
    if int(known.count) == known.capacity:
        known = training.grow(known, 2 * known.capacity)
    graph = learning_graph(problem, record.structure)
    if graph.neighbors.shape[1] > known.graphs.neighbors.shape[2]:
        graph = learning_graph(problem, record.structure, slack=1.1)
        known = training.grow(known, known.capacity, neighbors=graph.neighbors.shape[1])
    graph = jax.tree.map(jnp.asarray, padded(graph, size, known.graphs.neighbors.shape[2]))
    energy = problem.scale(offset_ev).reference_to_network(record.label.energy)
    forces = numbers.padded(np.asarray(record.label.forces), (size, 3))
    return training.append(known, graph, energy, forces, record.label.stress)


class Updates:
    """Continues the samples of one posterior; compiled once for every capacity of the training set.

    Args:
      problem: constants.
      interruption: allowed between the rounds of an update.
      section: of the configuration that has the sampler, for messages.
    """

    def __init__(self, problem: Problem, interruption: Interruption, *, section: str = ""):
        self._section = section
        self._most, self._interruption = problem.config.sampler.rounds, interruption
        self._update, self._ensemble = chain_update(problem), ensemble(problem)
        self._samples = samples_around(problem)

    def continued(
        self, params: jax.Array, chains: ChainState, known: TrainingSet, *, enough_ev: float, where: str = ""
    ) -> tuple[jax.Array, ChainState, int]:
        """Continue the samples until they reproduce the energy of the newest label, or `sampler.rounds` are done.

        Args:
          params: [c, p + 1] samples of `posterior.energy_zero`.
          chains: state of their chains.
          known: training set; its newest label has an energy.
          enough_ev: error of the mean energy of the newest label that counts as reproduced, eV.
          where: how messages begin.

        Returns:
          Samples, chains, and the number of rounds.

        Raises:
          RunStoppedError: if a chain becomes non-finite.
        """
        rounds, newest = 0, int(known.count) - 1
        graph: Graph = jax.tree.map(lambda x: x[newest], known.graphs)
        while rounds == 0 or (rounds < self._most and self.misfit(params, graph, known.energy[newest]) > enough_ev):
            with self._interruption.patience(0.0):  # the labels are on the disk, and the update can be repeated
                params, chains, info = self._update(params, chains, known)
                self._require_finite(info.finite, where)
            rounds += 1
        with self._interruption.patience(0.0):
            params = self._samples(params, chains, known)
            self._require_finite(jnp.isfinite(params), where)
        return params, chains, rounds

    def _require_finite(self, finite: jax.Array, where: str) -> None:
        if not bool(jnp.all(finite)):
            smaller = f"{self._section}sampler.step_size"
            raise RunStoppedError(f"{where}a chain became non-finite; a smaller {smaller} usually helps")

    def misfit(self, params: jax.Array, graph: Graph, energy: float | jax.Array) -> float:
        """Absolute error, eV, of the mean prediction for an energy, eV on the network's scale."""
        return abs(self.energy(params, graph) - float(energy))

    def energy(self, params: jax.Array, graph: Graph) -> float:
        """Mean energy of the samples, eV on the network's scale."""
        return float(self._ensemble(params, graph).energy_mean[0])


class Learner:
    """Lets one run learn its labels."""

    def __init__(self, problem: Problem, run: RunDirectory, observer: Observer, interruption: Interruption):
        self._problem, self._run, self._observer = problem, run, observer
        self.updates = Updates(problem, interruption)

    def add(self, state: RunState, record: LabelRecord) -> RunState:
        """Add a label to the training set without continuing the chains."""
        known = with_label(self._problem, state.device.training_set, record, state.host.offset_ev)
        return state._replace(device=state.device._replace(training_set=known))

    def learn(self, state: RunState, record: LabelRecord) -> RunState:
        """Add a label to the training set and continue the chains.

        Raises:
          RunStoppedError: if a chain becomes non-finite.
        """
        started = time.perf_counter()
        device, host = self.add(state, record).device, state.host
        known, enough = device.training_set, 0.5 * float(threshold_ev(self._problem, host.step))
        params, chains, rounds = self.updates.continued(
            device.params, device.chains, known, enough_ev=enough, where=f"step {host.step}: "
        )
        self._report(record, host.step, int(known.count), rounds, time.perf_counter() - started)
        return state._replace(device=device._replace(params=params, chains=chains))

    def _report(self, record: LabelRecord, step: int, count: int, rounds: int, seconds: float) -> None:
        force_error = None
        if record.predicted_forces_mean is not None:
            force_error = float(np.sqrt(np.mean((record.predicted_forces_mean - record.label.forces) ** 2)))
        self._observer.update(step=step, labels=count, rounds=rounds, seconds=seconds, force_error_ev_a=force_error)
        self._run.log("update", step=step, labels=count, rounds=rounds, seconds=round(seconds, 3))

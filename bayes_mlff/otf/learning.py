"""Adds a label to the training set and continues the chains until they reproduce it."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.graph import Graph, pad_slots
from bayes_mlff.otf.criteria import threshold_ev
from bayes_mlff.otf.problem import Problem, chain_update, ensemble, learning_graph, samples_around
from bayes_mlff.otf.state import Observer, RunState
from bayes_mlff.posterior import training_set as training
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.interruption import Interruption


class Learner:
    """Updates the chains of one run; compiled once for every capacity of the training set."""

    def __init__(self, problem: Problem, run: RunDirectory, observer: Observer, interruption: Interruption):
        self._problem, self._run, self._observer, self._interruption = problem, run, observer, interruption
        self._update, self._ensemble = chain_update(problem), ensemble(problem)
        self._samples = samples_around(problem)

    def add(self, state: RunState, record: LabelRecord) -> RunState:
        """Add a label to the training set without continuing the chains."""
        known, *_ = self._appended(state, record)
        return state._replace(device=state.device._replace(training_set=known))

    def _appended(self, state: RunState, record: LabelRecord) -> tuple[TrainingSet, Graph, float]:
        """The training set with a label, and its graph and energy, eV, on the scale of the network."""
        energy = self._problem.scale(state.host.offset_ev).reference_to_network(record.label.energy)
        known, graph = self._with_room(state.device.training_set, record)
        return training.append(known, graph, energy, record.label.forces, record.label.stress), graph, energy

    def learn(self, state: RunState, record: LabelRecord) -> RunState:
        """Add a label to the training set and continue the chains.

        Raises:
          RunStoppedError: if a chain becomes non-finite.
        """
        started = time.perf_counter()
        device, host = state.device, state.host
        known, graph, energy = self._appended(state, record)
        params, chains, rounds = device.params, device.chains, 0
        most, enough = self._problem.config.sampler.rounds, 0.5 * float(threshold_ev(self._problem, host.step))
        while rounds == 0 or (rounds < most and self._misfit(params, graph, energy) > enough):
            with self._interruption.patience(0.0):  # the label is on the disk, and the update can be repeated
                params, chains, info = self._update(params, chains, known)
                finite = bool(jnp.all(info.finite))
            if not finite:
                raise RunStoppedError(
                    f"step {host.step}: a chain became non-finite; a smaller sampler.step_size usually helps"
                )
            rounds += 1
        with self._interruption.patience(0.0):
            params = self._samples(params, chains, known)
        self._report(record, host.step, int(known.count), rounds, time.perf_counter() - started)
        return state._replace(device=device._replace(params=params, chains=chains, training_set=known))

    def _with_room(self, known: TrainingSet, record: LabelRecord) -> tuple[TrainingSet, Graph]:
        """Make room for one more label in the training set, and its graph with the same number of neighbour slots."""
        if int(known.count) == known.capacity:
            known = training.grow(known, 2 * known.capacity)
        graph, slots = learning_graph(self._problem, record.structure), known.graphs.neighbors.shape[2]
        if graph.neighbors.shape[1] > slots:
            graph = learning_graph(self._problem, record.structure, slack=1.1)
            known = training.grow(known, known.capacity, neighbors=graph.neighbors.shape[1])
        return known, pad_slots(graph, known.graphs.neighbors.shape[2])

    def _misfit(self, params: jax.Array, graph: Graph, energy: float) -> float:
        """Absolute error, eV, of the mean prediction for a label's energy, eV on the network's scale."""
        return abs(float(self._ensemble(params, graph).energy_mean[0]) - energy)

    def _report(self, record: LabelRecord, step: int, count: int, rounds: int, seconds: float) -> None:
        force_error = None
        if record.predicted_forces_mean is not None:
            force_error = float(np.sqrt(np.mean((record.predicted_forces_mean - record.label.forces) ** 2)))
        self._observer.update(step=step, labels=count, rounds=rounds, seconds=seconds, force_error_ev_a=force_error)
        self._run.log("update", step=step, labels=count, rounds=rounds, seconds=round(seconds, 3))

"""Adds labels of all walkers to one training set and updates the posterior once for all of them."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.campaign.problem import Campaign, Walk
from bayes_mlff.campaign.state import Shared
from bayes_mlff.core import numbers
from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.graph import Graph, padded
from bayes_mlff.otf.optimum import INITIAL_CAPACITY
from bayes_mlff.otf.problem import (
    begun_chains,
    chain_update,
    ensemble,
    first_parameters,
    learning_graph,
    samples_around,
)
from bayes_mlff.posterior import training_set as training
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.runs.interruption import Interruption


class Learner:
    """Updates the posterior of a campaign; compiled once for every capacity of the training set."""

    def __init__(self, campaign: Campaign, interruption: Interruption):
        self._campaign, self._interruption = campaign, interruption
        self._update, self._ensemble = chain_update(campaign.common), ensemble(campaign.common)
        self._samples = samples_around(campaign.common)

    def first(self, seed: int) -> Shared:
        """Samples before the first label, and no labels."""
        problem, size = self._campaign.common, self._campaign.largest
        _, key_params, key_chains = jax.random.split(jax.random.key(seed), 3)
        params = first_parameters(problem, key_params)
        graphs = [learning_graph(walk.problem, walk.problem.structure, slack=1.1) for walk in self._campaign.walks]
        slots = max(graph.neighbors.shape[1] for graph in graphs)
        example = jax.tree.map(jnp.asarray, padded(graphs[0], size, slots))
        known = training.refreshed(training.allocate(example, INITIAL_CAPACITY), 0)
        return Shared(params, begun_chains(problem, params, key_chains), known)

    def appended(self, known: TrainingSet, walk: Walk, offset_ev: float, record: LabelRecord) -> TrainingSet:
        """The training set with one more label, which no update has seen yet."""
        problem, size = walk.problem, self._campaign.largest
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

    def update(self, shared: Shared, fresh: int, threshold_ev: float) -> tuple[Shared, dict[str, float]]:
        """Continue the samples with all labels, until they reproduce the energy of the newest one.

        Args:
          shared: samples, and a training set whose last labels no update has seen.
          fresh: number of these.
          threshold_ev: error of the energy that counts as reproduced twice over, eV.

        Returns:
          The new samples, and numbers for the log.

        Raises:
          RunStoppedError: if a chain becomes non-finite.
        """
        started, rounds = time.perf_counter(), 0
        params, chains, known = shared
        known = training.refreshed(known, fresh)
        most, newest = self._campaign.common.config.sampler.rounds, int(known.count) - 1
        graph: Graph = jax.tree.map(lambda x: x[newest], known.graphs)
        while rounds == 0 or (rounds < most and self._misfit(params, graph, known, newest) > 0.5 * threshold_ev):
            with self._interruption.patience(0.0):  # the labels are on the disk, and the update can be repeated
                params, chains, info = self._update(params, chains, known)
                _require_finite(info.finite)
            rounds += 1
        with self._interruption.patience(0.0):
            params = self._samples(params, chains, known)
            _require_finite(jnp.isfinite(params))
        seconds = round(time.perf_counter() - started, 3)
        return Shared(params, chains, known), {"labels": newest + 1, "rounds": rounds, "seconds": seconds}

    def _misfit(self, params: jax.Array, graph: Graph, known: TrainingSet, newest: int) -> float:
        return abs(float(self._ensemble(params, graph).energy_mean[0]) - float(known.energy[newest]))


def _require_finite(finite: jax.Array) -> None:
    if not bool(jnp.all(finite)):
        raise RunStoppedError("a chain became non-finite; a smaller run.sampler.step_size usually helps")

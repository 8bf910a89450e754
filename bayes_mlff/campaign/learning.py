"""Updates the posterior of a campaign once for all labels that have come back."""

import time

import jax
import jax.numpy as jnp

from bayes_mlff.campaign.problem import Campaign
from bayes_mlff.campaign.state import Shared
from bayes_mlff.data.graph import Graph, padded
from bayes_mlff.otf.learning import Updates
from bayes_mlff.otf.optimum import INITIAL_CAPACITY
from bayes_mlff.otf.problem import begun_chains, first_parameters, learning_graph
from bayes_mlff.posterior import training_set as training
from bayes_mlff.runs.interruption import Interruption


class Learner:
    """Updates the posterior of a campaign; compiled once for every capacity of the training set."""

    def __init__(self, campaign: Campaign, interruption: Interruption):
        self._campaign, self._updates = campaign, Updates(campaign.common, interruption, section="run.")

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

    def energy(self, params: jax.Array, graph: Graph) -> float:
        """Mean energy of the samples, eV on the scale of the network."""
        return self._updates.energy(params, graph)

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
        started, known = time.perf_counter(), training.refreshed(shared.training_set, fresh)
        enough = 0.5 * threshold_ev
        params, chains, rounds = self._updates.continued(shared.params, shared.chains, known, enough_ev=enough)
        seconds = round(time.perf_counter() - started, 3)
        return Shared(params, chains, known), {"labels": int(known.count), "rounds": rounds, "seconds": seconds}

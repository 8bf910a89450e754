"""Chains spread over all local devices; everything else on the first."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.run import ChainState, Info

T = TypeVar("T")
Update = Callable[[jax.Array, ChainState, TrainingSet], tuple[jax.Array, ChainState, Info]]


class ChainDevices:
    """Where chains are updated: as many local devices as divide their number."""

    def __init__(self, chains: int):
        devices = jax.local_devices()
        count = max(d for d in range(1, len(devices) + 1) if chains % d == 0)
        self._first = devices[0]
        mesh = Mesh(np.array(devices[:count]), ("chains",))
        self._split = NamedSharding(mesh, PartitionSpec("chains"))
        self._copied = NamedSharding(mesh, PartitionSpec())
        self.count = count

    def run(
        self, update: Update, params: jax.Array, state: ChainState, training_set: TrainingSet
    ) -> tuple[jax.Array, ChainState, Info]:
        """Run an update of chains [c, ...] on all devices and bring the result back to the first."""
        if self.count == 1:
            return update(params, state, training_set)
        params, state = jax.device_put((params, state), self._split)
        result = update(params, state, jax.device_put(training_set, self._copied))
        return jax.device_put(result, self._first)

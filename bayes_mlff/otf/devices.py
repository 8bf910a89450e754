"""Chains spread over all local devices; everything else on the first."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bayes_mlff.core.numbers import largest_divisor
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.run import ChainState, Info

Update = Callable[[jax.Array, ChainState, TrainingSet], tuple[jax.Array, ChainState, Info]]


class ChainDevices:
    """An update of chains on as many local devices as divide their number, each with its own share of them."""

    def __init__(self, chains: int, update: Update):
        """Prepare `update`, which maps chains [c, ...] and labels to chains, for `chains` chains; compiled once."""
        devices = jax.local_devices()
        self.count = largest_divisor(chains, len(devices))
        mesh = Mesh(np.array(devices[: self.count]), ("chains",))
        split, copied = PartitionSpec("chains"), PartitionSpec()
        self._first = devices[0]
        self._split, self._copied = NamedSharding(mesh, split), NamedSharding(mesh, copied)
        # Chains do not communicate: left to the partitioner, a loop over the chains of a device would.
        shared = jax.shard_map(
            update, mesh=mesh, in_specs=(split, split, copied), out_specs=split, axis_names={"chains"}, check_vma=False
        )
        self._update = jax.jit(shared) if self.count > 1 else jax.jit(update)

    def __call__(
        self, params: jax.Array, state: ChainState, training_set: TrainingSet
    ) -> tuple[jax.Array, ChainState, Info]:
        """Update chains [c, ...] on all devices and bring the result back to the first."""
        if self.count == 1:
            return self._update(params, state, training_set)
        params, state = jax.device_put((params, state), self._split)
        result = self._update(params, state, jax.device_put(training_set, self._copied))
        return jax.device_put(result, self._first)

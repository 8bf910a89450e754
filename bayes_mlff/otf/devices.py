"""Chains spread over all local devices; everything else on the first, or on each of them."""

from collections.abc import Callable
from typing import Final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bayes_mlff.core.numbers import largest_divisor
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.run import ChainState, Info

Update = Callable[[jax.Array, ChainState, TrainingSet], tuple[jax.Array, ChainState, Info]]

_AXIS: Final = "chains"
_SPLIT: Final = PartitionSpec(_AXIS)
_COPIED: Final = PartitionSpec()


def chain_mesh(chains: int) -> Mesh:
    """As many local devices as divide the number of chains."""
    devices = jax.local_devices()
    return Mesh(np.array(devices[: largest_divisor(chains, len(devices))]), (_AXIS,))


class ChainDevices:
    """An update of chains on as many local devices as divide their number, each with its own share of them."""

    def __init__(self, chains: int, update: Update):
        """Prepare `update`, which maps chains [c, ...] and labels to chains, for `chains` chains; compiled once."""
        self._mesh = chain_mesh(chains)
        # Chains do not communicate: left to the partitioner, a loop over the chains of a device would.
        shared = jax.shard_map(
            update,
            mesh=self._mesh,
            in_specs=(_SPLIT, _SPLIT, _COPIED),
            out_specs=_SPLIT,
            axis_names={_AXIS},
            check_vma=False,
        )
        self._update = jax.jit(shared) if self._mesh.size > 1 else jax.jit(update)

    def __call__(
        self, params: jax.Array, state: ChainState, training_set: TrainingSet
    ) -> tuple[jax.Array, ChainState, Info]:
        """Update chains [c, ...] on all devices and bring the result back to the first."""
        if self._mesh.size == 1:
            return self._update(params, state, training_set)
        params, state = jax.device_put((params, state), NamedSharding(self._mesh, _SPLIT))
        result = self._update(params, state, jax.device_put(training_set, NamedSharding(self._mesh, _COPIED)))
        return jax.device_put(result, self._mesh.devices[0])


def shared_prediction(predict: Callable, mesh: Mesh) -> Callable:
    """Predictions of all chains, of which each device makes its share and then gets the others.

    Args:
      predict: `(params [c, ...], graphs) -> tree of [c, ...]`, independent from chain to chain.
      mesh: of `chain_mesh`.

    Returns:
      The same function, for use inside a function that is compiled by `on_all`.
    """

    def share(params, graphs):
        return jax.tree.map(lambda x: jax.lax.all_gather(x, _AXIS, tiled=True), predict(params, graphs))

    return jax.shard_map(share, mesh=mesh, in_specs=(_SPLIT, _COPIED), out_specs=_COPIED, check_vma=False)


def on_all(function: Callable, mesh: Mesh) -> Callable:
    """Compile a function of chains [c, ...], which are shared out, and of anything else, which every device holds.

    Every device does all of its work, but for what is shared out inside; the result comes back to the first.
    """
    compiled = jax.jit(function)
    if mesh.size == 1:
        return compiled

    def call(params, *others):
        split = jax.device_put(params, NamedSharding(mesh, _SPLIT))
        result = compiled(split, *jax.device_put(others, NamedSharding(mesh, _COPIED)))
        return jax.device_put(result, mesh.devices[0])

    return call

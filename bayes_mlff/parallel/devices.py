"""Distributes chains and their minibatches over the devices of all processes; all other data is replicated."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.numbers import largest_divisor
from bayes_mlff.parallel import hosts
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.run import ChainAxis, ChainState, Info


class Update(Protocol):
    """Continues chains [c, ...] with labels."""

    def __call__(
        self, params: jax.Array, state: ChainState, training_set: TrainingSet, /, *, batch_axis: str | None = None
    ) -> tuple[jax.Array, ChainState, Info]:
        """Update the chains; if `batch_axis` is given, minibatches are split over the devices along that mesh axis."""
        ...


GIB: Final = 2**30

LOW_MEMORY: Final[dict[ChainAxis, tuple[tuple[ChainAxis, int | None], ...]]] = {
    "vmap": (("vmap", 1), ("map", None), ("map", 1)),
    "map": (("map", 1),),
}
"""Alternatives for updates (how chains are evaluated, labels at a time) if the preferred way, the key, does not fit."""

_AXIS: Final = "chains"
_BATCH_AXIS: Final = "batch"
_SPLIT: Final = PartitionSpec(_AXIS)
_COPIED: Final = PartitionSpec()


def chain_mesh(chains: int) -> Mesh:
    """Mesh of devices for the chains: the largest number that divides the number of chains, equal in all processes.

    Raises:
      ConfigError: if the number of chains is not a multiple of the number of processes.
    """
    return Mesh(_devices(chains, 1).ravel(), (_AXIS,))


def update_mesh(chains: int, batch_size: int) -> Mesh:
    """Two-dimensional mesh: one row for each device of `chain_mesh`; minibatches are split over the devices of a row.

    Raises:
      ConfigError: if the number of chains is not a multiple of the number of processes.
    """
    return Mesh(_devices(chains, batch_size), (_AXIS, _BATCH_AXIS))


def _devices(chains: int, batch_size: int) -> np.ndarray:
    processes = jax.process_count()
    if chains % processes:
        raise ConfigError("sampler.chains", chains, f"a multiple of {processes}, the number of processes")
    local = min(len(jax.local_devices(process_index=process)) for process in range(processes))
    each = largest_divisor(chains // processes, local)
    share = min(batch_size, local // each)
    devices = [d for process in range(processes) for d in jax.local_devices(process_index=process)[: each * share]]
    return np.array(devices).reshape(-1, share)


class Budget(NamedTuple):
    """Limit for the memory of intermediate results."""

    bytes: float  # memory on each device
    key: str  # configuration key that sets it
    least: str  # in words: what the variant with the smallest memory evaluates at a time


class FirstThatFits:
    """Selects the first of several equivalent functions that needs no more memory than allowed, as XLA reports it."""

    def __init__(self, ways: Sequence[jax.stages.Wrapped], budget: Budget):
        """Store functions that differ only in how much they evaluate at a time, the one with most first."""
        self._ways, self._budget = ways, budget
        self._compiled: dict[tuple, Callable] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Evaluate; compiled once for each set of argument shapes.

        Raises:
          ConfigError: naming the key and the smallest sufficient value, if no function fits.
        """
        leaves, structure = jax.tree.flatten(arguments)
        kind = structure, *((aval.shape, aval.dtype) for aval in map(jax.typeof, leaves))
        if kind not in self._compiled:
            self._compiled[kind] = self._choose(arguments)
        hosts.barrier()
        return self._compiled[kind](*arguments)

    def _choose(self, arguments: tuple) -> Callable:
        needed = []
        for way in self._ways:
            compiled = way.lower(*arguments).compile()
            memory = compiled.memory_analysis()
            needed.append(memory.temp_size_in_bytes if memory else 0)  # unknown on some platforms
            if needed[-1] <= self._budget.bytes:
                return compiled
        raise ConfigError(
            self._budget.key,
            float(f"{self._budget.bytes / GIB:.3g}"),
            f"at least {min(needed) / GIB:.3g} GiB for this structure, {self._budget.least} at a time",
        )


class ChainDevices:
    """Updates chains on several devices, each of which has the same number of chains.

    With more devices than chains, each minibatch is split over the spare ones.
    """

    def __init__(self, chains: int, *updates: Update, batch_size: int = 1, memory_gib: float | None = None):
        """Prepare an update of `chains` chains, compiled once for every shape of the labels.

        Args:
          chains: number of chains c.
          batch_size: number of labels in a minibatch.
          updates: one or more functions that map chains [c, ...] and labels to chains and differ only in how much
            they evaluate at a time; the first one that fits into the memory is used.
          memory_gib: memory of each device for intermediate results, GiB; by default from `memory_budget`.
        """
        self._mesh = update_mesh(chains, batch_size)
        budget = Budget(memory_budget(self._mesh, memory_gib), "sampler.memory_gib", "one chain and one label")
        self._update = FirstThatFits([self._jit(update) for update in updates], budget)

    def __call__(
        self, params: jax.Array, state: ChainState, training_set: TrainingSet
    ) -> tuple[jax.Array, ChainState, Info]:
        """Update chains [c, ...] on all devices and move the result to the first device.

        Raises:
          ConfigError: if none of the updates fits into the memory.
        """
        (params, state), (training_set,) = _placed(self._mesh, (params, state), (training_set,))
        return _gathered(self._mesh, self._update(params, state, training_set))

    def _jit(self, update: Update) -> jax.stages.Wrapped:
        if self._mesh.size == 1:
            return jax.jit(update)
        if self._mesh.shape[_BATCH_AXIS] > 1:
            update = partial(update, batch_axis=_BATCH_AXIS)
        # shard_map keeps chains free of communication; the partitioner would insert it into a loop over chains.
        shared = jax.shard_map(
            update,
            mesh=self._mesh,
            in_specs=(_SPLIT, _SPLIT, _COPIED),
            out_specs=_SPLIT,
            check_vma=False,
        )
        return jax.jit(shared)


def memory_budget(mesh: Mesh, memory_gib: float | None = None) -> float:
    """Memory, bytes, that intermediate results may take on each device.

    By default four fifths of the free memory if the device reports it, else half of the machine's memory, divided by
    the number of its devices.
    """
    if memory_gib is not None:
        return memory_gib * GIB
    device, *others = mesh.local_devices
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return 0.8 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 + len(others))


def shared_prediction(predict: Callable, mesh: Mesh) -> Callable:
    """Distribute predictions over devices: each evaluates its chains and then receives the results of the others.

    Args:
      predict: `(params [c, ...], graphs) -> tree of [c, ...]`, independent for each chain.
      mesh: the devices, from `chain_mesh`.

    Returns:
      A function like `predict`, for use inside a function that is compiled by `on_all`.
    """

    def share(params, graphs):
        # One collective for all arrays: for small systems each takes as long as the predictions themselves.
        said = predict(params, graphs)
        _, unravel = ravel_pytree(jax.tree.map(lambda x: x[0], said))
        flat = jax.vmap(lambda one: ravel_pytree(one)[0])(said)
        return jax.vmap(unravel)(jax.lax.all_gather(flat, _AXIS, tiled=True))

    return jax.shard_map(share, mesh=mesh, in_specs=(_SPLIT, _COPIED), out_specs=_COPIED, check_vma=False)


def on_all(ways: Sequence[Callable], mesh: Mesh, budget: Budget) -> Callable:
    """Compile a function of chains [c, ...], which are split over the devices, and other arguments, which are copied.

    Every device does all of the work, except for the parts that are split inside; the result is on the first device.

    Args:
      ways: the function, and variants with the same result in order of falling memory.
      mesh: the devices, from `chain_mesh`.
      budget: memory limit for selecting one.
    """
    compiled = FirstThatFits([jax.jit(way) for way in ways], budget)

    def call(params, *others):
        split, copied = _placed(mesh, params, others)
        return _gathered(mesh, compiled(split, *copied))

    return call


def _placed(mesh: Mesh, split: Any, copied: Any) -> tuple[Any, Any]:
    """Split trees of chains [c, ...] over the devices and copy other trees to each; with one device, do nothing."""
    if mesh.size == 1:
        return split, copied
    put = jax.device_put if jax.process_count() == 1 else _put_everywhere
    return put(split, NamedSharding(mesh, _SPLIT)), put(copied, NamedSharding(mesh, _COPIED))


def _put_everywhere(tree: Any, sharding: NamedSharding) -> Any:
    """Put a tree that is the same in all processes on the devices of all processes."""

    def put(x: Any) -> jax.Array:
        if jnp.issubdtype(jax.typeof(x).dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def _gathered(mesh: Mesh, result: Any) -> Any:
    """Move a result to the first device, in every process."""
    if mesh.size == 1:
        return result
    if jax.process_count() == 1:
        return jax.device_put(result, mesh.devices.flat[0])
    everywhere = jax.jit(_same, out_shardings=NamedSharding(mesh, _COPIED))(result)
    return jax.tree.map(lambda x: x.addressable_data(0), everywhere)


def _same(tree: Any) -> Any:
    return tree

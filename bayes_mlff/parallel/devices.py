"""Chains, and their minibatches, spread over all devices of all processes; everything else on each of them."""

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
from bayes_mlff.sghmc.run import ChainState, Info


class Update(Protocol):
    """Continues chains [c, ...] with labels."""

    def __call__(
        self, params: jax.Array, state: ChainState, training_set: TrainingSet, /, *, batch_axis: str | None = None
    ) -> tuple[jax.Array, ChainState, Info]:
        """Update the chains; the devices along `batch_axis` of the mesh, if given, share their minibatches."""
        ...


GIB: Final = 2**30

_AXIS: Final = "chains"
_BATCH_AXIS: Final = "batch"
_SPLIT: Final = PartitionSpec(_AXIS)
_COPIED: Final = PartitionSpec()


def chain_mesh(chains: int) -> Mesh:
    """As many local devices as divide the number of chains; of several processes as many of each.

    Raises:
      ConfigError: if chains cannot be shared out over the processes.
    """
    return Mesh(_devices(chains, 1).ravel(), (_AXIS,))


def update_mesh(chains: int, batch_size: int) -> Mesh:
    """As many rows of devices as `chain_mesh` has devices; those of a row share the minibatches of its chains.

    Raises:
      ConfigError: if chains cannot be shared out over the processes.
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
    """Memory that intermediate results may take."""

    bytes: float  # of each device
    key: str  # of the configuration, which sets it
    least: str  # in words, what the way that needs least memory does at once


class FirstThatFits:
    """The first of several ways to the same result that keeps to a budget, by the compiler's own account."""

    def __init__(self, ways: Sequence[jax.stages.Wrapped], budget: Budget):
        """Prepare functions that differ only in how much they do at once, the one that does most first."""
        self._ways, self._budget = ways, budget
        self._compiled: dict[tuple, Callable] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Evaluate, after compiling once for arguments of such shapes.

        Raises:
          ConfigError: naming the key and what it would have to be, if none of the ways fits.
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
    """An update of chains on as many devices as divide their number, each with its own share of them.

    With more devices than chains, each minibatch is split over the spare ones.
    """

    def __init__(self, chains: int, *updates: Update, batch_size: int = 1, memory_gib: float | None = None):
        """Prepare an update of `chains` chains, compiled once for every shape of the labels.

        Args:
          chains: number of chains c.
          batch_size: labels of a minibatch.
          updates: one or more functions that map chains [c, ...] and labels to chains and differ only in how much
            they do at once; the first one that fits into the memory is taken.
          memory_gib: of each device, for intermediate results; by default what `memory_budget` says.
        """
        self._mesh = update_mesh(chains, batch_size)
        budget = Budget(memory_budget(self._mesh, memory_gib), "sampler.memory_gib", "one chain and one label")
        self._update = FirstThatFits([self._jit(update) for update in updates], budget)

    def __call__(
        self, params: jax.Array, state: ChainState, training_set: TrainingSet
    ) -> tuple[jax.Array, ChainState, Info]:
        """Update chains [c, ...] on all devices and bring the result back to the first.

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
        # Chains do not communicate: left to the partitioner, a loop over the chains of a device would.
        shared = jax.shard_map(
            update,
            mesh=self._mesh,
            in_specs=(_SPLIT, _SPLIT, _COPIED),
            out_specs=_SPLIT,
            check_vma=False,
        )
        return jax.jit(shared)


def memory_budget(mesh: Mesh, memory_gib: float | None = None) -> float:
    """Bytes of each device that intermediate results may take.

    By default four fifths of what is free where the device tells, else half of the machine's memory, shared by its
    devices.
    """
    if memory_gib is not None:
        return memory_gib * GIB
    device, *others = mesh.local_devices
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return 0.8 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 + len(others))


def shared_prediction(predict: Callable, mesh: Mesh) -> Callable:
    """Predictions of all chains, of which each device makes its share and then gets the others.

    Args:
      predict: `(params [c, ...], graphs) -> tree of [c, ...]`, independent from chain to chain.
      mesh: the devices, from `chain_mesh`.

    Returns:
      The same function, for use inside a function that is compiled by `on_all`.
    """

    def share(params, graphs):
        # In one collective: for small systems each takes as long as the predictions themselves.
        said = predict(params, graphs)
        _, unravel = ravel_pytree(jax.tree.map(lambda x: x[0], said))
        flat = jax.vmap(lambda one: ravel_pytree(one)[0])(said)
        return jax.vmap(unravel)(jax.lax.all_gather(flat, _AXIS, tiled=True))

    return jax.shard_map(share, mesh=mesh, in_specs=(_SPLIT, _COPIED), out_specs=_COPIED, check_vma=False)


def on_all(ways: Sequence[Callable], mesh: Mesh, budget: Budget) -> Callable:
    """Compile a function of chains [c, ...], which are shared out, and of anything else, which every device holds.

    Every device does all of its work, but for what is shared out inside; the result comes back to the first.

    Args:
      ways: the function, and others of the same result that need less and less memory.
      mesh: the devices, from `chain_mesh`.
      budget: decides between them.
    """
    compiled = FirstThatFits([jax.jit(way) for way in ways], budget)

    def call(params, *others):
        split, copied = _placed(mesh, params, others)
        return _gathered(mesh, compiled(split, *copied))

    return call


def _placed(mesh: Mesh, split: Any, copied: Any) -> tuple[Any, Any]:
    """Trees of chains [c, ...] shared out, and trees of anything else on every device; nothing moves for one device."""
    if mesh.size == 1:
        return split, copied
    put = jax.device_put if jax.process_count() == 1 else _put_everywhere
    return put(split, NamedSharding(mesh, _SPLIT)), put(copied, NamedSharding(mesh, _COPIED))


def _put_everywhere(tree: Any, sharding: NamedSharding) -> Any:
    """Trees that are alike in all processes, on the devices of all."""

    def put(x: Any) -> jax.Array:
        if jnp.issubdtype(jax.typeof(x).dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def _gathered(mesh: Mesh, result: Any) -> Any:
    """A result on the first device, of every process."""
    if mesh.size == 1:
        return result
    if jax.process_count() == 1:
        return jax.device_put(result, mesh.devices.flat[0])
    everywhere = jax.jit(_same, out_shardings=NamedSharding(mesh, _COPIED))(result)
    return jax.tree.map(lambda x: x.addressable_data(0), everywhere)


def _same(tree: Any) -> Any:
    return tree

"""Labelled structures in device arrays of fixed capacity, so that a new label does not change shapes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.graph import Graph, pad_slots
from bayes_mlff.posterior.likelihood import Labels


class TrainingSet(NamedTuple):
    """The first `count` of `cap` slots hold labels, oldest first; floating-point entries of the rest are NaN.

    With NaN, the sampler's `finite` flag reveals if an unused slot is read by mistake.
    """

    graphs: Graph  # leaves [cap, ...]
    energy: jax.Array  # [cap] eV
    forces: jax.Array  # [cap, n, 3] eV/Å
    stress: jax.Array  # [cap, 3, 3] eV/Å³, tension positive
    has_energy: jax.Array  # [cap] bool
    has_stress: jax.Array  # [cap] bool
    count: jax.Array  # [] int32
    has_forces: jax.Array | None = None  # [cap, n, 3] bool; None: the forces of all atoms
    fresh: jax.Array | None = None  # [] int32, number of newest labels that no update has seen; None: the last one

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self.energy.shape[0]


def allocate(example: Graph, capacity: int, *, some_forces: bool = False) -> TrainingSet:
    """Make an empty training set.

    Args:
      example: one graph whose shapes [n, ...] and dtypes every later one must have; labels take the dtype
        of its positions, so in float32 energies should be given relative to a reference near the model's.
      capacity: slots, at least 1.
      some_forces: allow structures with unknown force components.

    Returns:
      A set of count 0.

    Raises:
      DataError: if the capacity is less than 1.
    """
    if capacity < 1:
        raise DataError(f"capacity: got {capacity}; allowed: at least 1")
    n = example.positions.shape[0]
    dtype = example.positions.dtype
    return TrainingSet(
        graphs=jax.tree.map(lambda x: _blank((capacity, *x.shape), x.dtype), example),
        energy=_blank((capacity,), dtype),
        forces=_blank((capacity, n, 3), dtype),
        stress=_blank((capacity, 3, 3), dtype),
        has_energy=jnp.zeros([capacity], bool),
        has_stress=jnp.zeros([capacity], bool),
        count=jnp.zeros([], jnp.int32),
        has_forces=jnp.zeros((capacity, n, 3), bool) if some_forces else None,
    )


def append(
    training_set: TrainingSet,
    graph: Graph,
    energy: float | None,
    forces: np.ndarray | jax.Array,
    stress: np.ndarray | jax.Array | None = None,
    *,
    has_forces: np.ndarray | None = None,
) -> TrainingSet:
    """Add one labelled structure; the old set stays valid. Call from the host: it waits for the device.

    Args:
      training_set: a set with a free slot.
      graph: one structure, shaped as the example of `allocate`.
      energy: eV, or None if unknown.
      forces: [n, 3] eV/Å; values of padded atoms are ignored.
      stress: [3, 3] eV/Å³, tension positive, or None if unknown.
      has_forces: [n, 3] mask of the known force components, for a set with `some_forces`; None: all.

    Returns:
      The set with the structure as its newest; same shapes, so nothing downstream recompiles.

    Raises:
      DataError: if the set is full, a shape differs or a label is not finite.
    """
    if int(training_set.count) >= training_set.capacity:
        raise DataError(f"training set: all {training_set.capacity} slots are used; grow it first")
    for name, slots, leaf in zip(Graph._fields, training_set.graphs, graph, strict=True):
        if slots.shape[1:] != leaf.shape:
            raise DataError(f"graph.{name}: got shape {leaf.shape}; allowed: {slots.shape[1:]}")
    dtype = training_set.energy.dtype
    values = {
        "energy": np.asarray(0.0 if energy is None else energy, dtype),
        "forces": np.array(forces, dtype),
        "stress": np.asarray(np.zeros((3, 3)) if stress is None else stress, dtype),
    }
    for name, value in values.items():
        expected = getattr(training_set, name).shape[1:]
        if value.shape != expected:
            raise DataError(f"{name}: got shape {value.shape}; allowed: {expected}")
    values["forces"][~np.asarray(graph.node_mask)] = 0.0
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise DataError(f"{name}: got a number that is not finite; allowed: finite numbers")
    has_energy, has_stress = np.asarray(energy is not None), np.asarray(stress is not None)
    entry = training_set._replace(graphs=graph, **values, has_energy=has_energy, has_stress=has_stress, count=None)
    entry = entry._replace(fresh=None)
    if training_set.has_forces is not None:
        known = np.ones(values["forces"].shape, bool) if has_forces is None else np.asarray(has_forces, bool)
        entry = entry._replace(has_forces=known)
    elif has_forces is not None and not has_forces[np.asarray(graph.node_mask)].all():
        raise DataError("has_forces: got components without a label; allowed: in a set made with some_forces")
    return _write(training_set, entry)


def refreshed(training_set: TrainingSet, fresh: int) -> TrainingSet:
    """The set whose last `fresh` labels are those that no update has seen."""
    return training_set._replace(fresh=jnp.asarray(fresh, jnp.int32))


def grow(training_set: TrainingSet, capacity: int, *, neighbors: int | None = None) -> TrainingSet:
    """Enlarge the set; functions that use it compile again for the new shapes.

    Args:
      training_set: any set.
      capacity: new number of slots, at least the present one.
      neighbors: new number of neighbour slots per atom, at least the present one; None keeps it.

    Returns:
      A set with the same labels.

    Raises:
      DataError: if a size would shrink.
    """
    slots = training_set.graphs.neighbors.shape[2]
    neighbors = slots if neighbors is None else neighbors
    for name, new, old in (("capacity", capacity, training_set.capacity), ("neighbors", neighbors, slots)):
        if new < old:
            raise DataError(f"{name}: got {new}; allowed: at least the present {old}")
    graphs = pad_slots(training_set.graphs, neighbors)
    more = capacity - training_set.capacity

    def extend(slots: jax.Array) -> jax.Array:
        return jnp.concatenate([slots, _blank((more, *slots.shape[1:]), slots.dtype)])

    enlarged = jax.tree.map(extend, training_set._replace(graphs=graphs, count=None, fresh=None))
    return enlarged._replace(count=training_set.count, fresh=training_set.fresh)


def labels_of(training_set: TrainingSet, indices: jax.Array) -> tuple[Graph, Labels]:
    """Gather the graphs and labels at indices [b]; every index must be below `count`."""

    def pick(slots: jax.Array) -> jax.Array:
        return slots[indices]

    graphs = jax.tree.map(pick, training_set.graphs)
    labels = Labels(
        energy=pick(training_set.energy),
        forces=pick(training_set.forces),
        stress=pick(training_set.stress),
        node_mask=graphs.node_mask,
        has_energy=pick(training_set.has_energy),
        has_stress=pick(training_set.has_stress),
        has_forces=None if training_set.has_forces is None else pick(training_set.has_forces),
    )
    return graphs, labels


@jax.jit
def _write(training_set: TrainingSet, entry: TrainingSet) -> TrainingSet:
    count = training_set.count

    def put(slots: jax.Array, value: jax.Array) -> jax.Array:
        return slots.at[count].set(value.astype(slots.dtype))

    written = jax.tree.map(put, training_set._replace(count=None, fresh=None), entry)
    return written._replace(count=count + 1, fresh=training_set.fresh)


def _blank(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.full(shape, jnp.nan if jnp.issubdtype(dtype, jnp.floating) else 0, dtype)

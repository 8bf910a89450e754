"""Minibatches: priority sampling of the newest label, with weights that keep the estimate unbiased."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class Minibatch(NamedTuple):
    """Indices into the training set and weights such that E[Σ_i w_i f(index_i)] = (1/n) Σ_j f(j)."""

    indices: jax.Array  # [b] int32, always below the count
    weights: jax.Array  # [b] >= 0; zero for unused slots


def draw_probability(
    indices: jax.Array, count: jax.Array, newest: jax.Array, batch_size: int, *, dtype: DTypeLike = float
) -> jax.Array:
    """Probability q with which one of the b draws picks each index, for n > b.

    q(newest) = 1/b, so that a minibatch contains it once on average; q(other) = (1 - 1/b)/(n - 1). With b = 1
    the others would never be drawn, so all have 1/n.

    Args:
      indices: [...] below n.
      count: [] n > b.
      newest: [] index of the newest label.
      batch_size: b.
      dtype: of the result.

    Returns:
      [...] probabilities; over all n indices they sum to one.
    """
    n = jnp.asarray(count, dtype)
    first = 1.0 / batch_size if batch_size > 1 else 1.0 / n
    return jnp.where(indices == newest, first, (1.0 - first) / jnp.maximum(n - 1.0, 1.0))


def draw_probability_of_several(
    indices: jax.Array, count: jax.Array, fresh: jax.Array, batch_size: int, *, dtype: DTypeLike = float
) -> jax.Array:
    """`draw_probability` where the last m of n labels are new: q(new) = min(1/b, 1/(2m)); the others share the rest.

    A minibatch contains each new label once on average, or if they are many half of it are new ones. If all are new, or
    b = 1, all have 1/n.

    Args:
      indices: [...] below n.
      count: [] n > b.
      fresh: [] m from 1 to n.
      batch_size: b.
      dtype: of the result.
    """
    n, m = jnp.asarray(count, dtype), jnp.asarray(fresh, dtype)
    every = 1.0 / n
    each = jnp.minimum(1.0 / batch_size, 0.5 / m) if batch_size > 1 else every
    each = jnp.where(m < n, each, every)
    rest = (1.0 - m * each) / jnp.maximum(n - m, 1.0)
    return jnp.where(indices >= count - fresh, each, rest)


def draw(
    key: jax.Array,
    count: jax.Array,
    newest: jax.Array | None,
    batch_size: int,
    *,
    fresh: jax.Array | None = None,
    dtype: DTypeLike = float,
) -> Minibatch:
    """Choose the labels of one step.

    For n <= b: all n labels with weight 1/n; the remaining b - n slots repeat one of them with weight 0. For
    n > b: b independent draws with replacement from `draw_probability`, each with weight 1/(n b q); without a
    newest label q = 1/n, which has the smallest variance for similar labels.

    Args:
      key: random key; it must not be used again.
      count: [] int32, n >= 1, traced.
      newest: [] int32, index of the newest label, traced; None if no label is preferred.
      batch_size: b >= 1, static.
      fresh: [] int32, number of new labels, of which `newest`, n - 1, is the last, traced; None: it is the only one.
      dtype: of the weights.

    Returns:
      A minibatch of static size b; its weighted sum is an unbiased estimate of the mean over all n.

    Raises:
      ValueError: if the batch size is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}; allowed: at least 1")
    count = jnp.asarray(count, jnp.int32)
    slots = jnp.arange(batch_size, dtype=jnp.int32)
    every = jnp.where(slots < count, 1.0 / count.astype(dtype), 0.0).astype(dtype)
    takes_all = count <= batch_size
    if newest is None:
        indices = jax.random.randint(key, (batch_size,), 0, jnp.maximum(count, 1), jnp.int32)
        weights = jnp.full((batch_size,), 1.0 / batch_size, dtype)
    elif fresh is not None:
        new = jnp.clip(jnp.asarray(fresh, jnp.int32), 1, jnp.maximum(count, 1))
        pick_key, old_key = jax.random.split(key)  # one new label is drawn as without `fresh`
        new_key = jax.random.fold_in(pick_key, 1)
        share = new.astype(dtype) * draw_probability_of_several(count - 1, count, new, batch_size, dtype=dtype)
        is_new = jax.random.uniform(pick_key, (batch_size,), dtype) < share
        old = jax.random.randint(old_key, (batch_size,), 0, jnp.maximum(count - new, 1), jnp.int32)
        indices = jnp.where(is_new, count - 1 - jax.random.randint(new_key, (batch_size,), 0, new, jnp.int32), old)
        q = draw_probability_of_several(indices, count, new, batch_size, dtype=dtype)
        weights = 1.0 / (count.astype(dtype) * batch_size * q)
    else:
        newest = jnp.asarray(newest, jnp.int32)
        pick_key, other_key = jax.random.split(key)
        probability = draw_probability(newest, count, newest, batch_size, dtype=dtype)
        is_newest = jax.random.uniform(pick_key, (batch_size,), dtype) < probability
        other = jax.random.randint(other_key, (batch_size,), 0, jnp.maximum(count - 1, 1), jnp.int32)
        other = other + (other >= newest).astype(jnp.int32)
        indices = jnp.where(is_newest, newest, other)
        q = draw_probability(indices, count, newest, batch_size, dtype=dtype)
        weights = 1.0 / (count.astype(dtype) * batch_size * q)

    return Minibatch(jnp.where(takes_all, slots % jnp.maximum(count, 1), indices), jnp.where(takes_all, every, weights))

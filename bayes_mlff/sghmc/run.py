"""Runs many steps of many chains as one compiled function."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import optax

from bayes_mlff.sghmc.precondition import Params
from bayes_mlff.sghmc.transform import Sghmc, SghmcState

ChainAxis = Literal["vmap", "map"]


def preferred_axis() -> ChainAxis:
    """How chains are evaluated: one after the other on a CPU, whose caches are too small for more, else all at once."""
    return "map" if jax.default_backend() == "cpu" else "vmap"


class ValueAndGrad(Protocol):
    """Potential per datum of one chain and its gradient, estimated from a minibatch of the data."""

    def __call__(self, params: Params, key: jax.Array, data: Any, /) -> tuple[jax.Array, Params]:
        """Evaluate U [] and dU/dparams; `key` chooses the minibatch."""
        ...


class Adjust(Protocol):
    """Changes the parameters of one chain, and selects its data, before a window of steps."""

    def __call__(self, params: Params, step: jax.Array, data: Any, /) -> tuple[Params, Any]:
        """Return new parameters and the data for the next window; `step` [] int32 counts from the restart."""
        ...


class ChainState(NamedTuple):
    """State of the chains between runs, without their parameters."""

    key: jax.Array  # [c] random keys; constant, the keys of a step are folded from them and the two counters
    restarts: jax.Array  # [c] int32, number of restarts of the chain
    sampler: SghmcState  # leaves [c, ...]; its count is the number of steps since the restart


class Info(NamedTuple):
    """Diagnostics of a run, for w windows of `thin` steps each; they do not influence the chains."""

    potential: jax.Array  # [c, w] per-datum potential before the last step of the window
    kinetic_temperature: jax.Array  # [c, w] after the last step of the window
    finite: jax.Array  # [c, w] bool: potential, gradient and parameters were finite in every step of the window


def init_chains(params: Params, key: jax.Array, transform: Sghmc) -> ChainState:
    """Start chains with zero momentum and one random key each.

    Args:
      params: leaves [c, ...], one set of parameters for each chain.
      key: one random key; do not use it again.
      transform: the sampler, from `sghmc`.

    Returns:
      State of c chains at step 0.

    Raises:
      ValueError: if the leaves disagree on the number of chains.
    """
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(f"params: got leading axes {sorted(lengths)}; allowed: one chain axis [c] on every leaf")
    ((chains,),) = lengths
    return ChainState(jax.random.split(key, chains), jnp.zeros([chains], jnp.int32), _init(params, transform))


def restart(params: Params, state: ChainState, transform: Sghmc) -> ChainState:
    """Reset momentum, mass and schedule at the same parameters; later random numbers differ from earlier ones."""
    return ChainState(state.key, state.restarts + 1, _init(params, transform))


def chain_runner(
    value_and_grad: ValueAndGrad,
    transform: Sghmc,
    *,
    n_steps: int,
    thin: int = 1,
    chain_axis: ChainAxis = "vmap",
    adjust: Adjust | None = None,
) -> Callable[..., tuple[Params, ChainState, Info]]:
    """Build the function that advances every chain by `n_steps`.

    The random numbers of a step depend only on the chain's key, its restarts and its step count: K steps in one
    call equal K1 steps and then K - K1 steps. With 'vmap' the chain axis of the inputs may be sharded over
    devices; chains never communicate. 'map' runs one chain after the other and needs less memory.

    Args:
      value_and_grad: potential of one chain.
      transform: the sampler, from `sghmc`.
      n_steps: number of steps of one call, a positive multiple of `thin`.
      thin: number of steps between two entries of `Info`, and between two adjustments.
      chain_axis: 'vmap' or 'map'.
      adjust: applied before every window of `thin` steps, always to the same data.

    Returns:
      `run(params, state, data, n_data) -> (params, state, info)`, pure and jitted; `data` is any pytree, the
      same for all chains, and `n_data` the number N of data in it. Compiled once for each set of shapes.

    Raises:
      ValueError: if an argument is out of range.
    """
    _check(n_steps, thin, chain_axis)
    advance = _one_chain(value_and_grad, transform, n_windows=n_steps // thin, thin=thin, adjust=adjust)

    def run(params: Params, state: ChainState, data: Any, n_data: jax.Array | int):
        first = state.sampler.count[0]  # the same for all chains; without a chain axis `adjust` can branch on it
        if chain_axis == "vmap":
            many = jax.vmap(advance, in_axes=(0, 0, 0, 0, None, None, None))
            params, sampler, info = many(params, *state, first, data, n_data)
        else:

            def single(one: tuple[Params, jax.Array, jax.Array, SghmcState]):
                return advance(*one, first, data, n_data)

            params, sampler, info = jax.lax.map(single, (params, *state))
        return params, state._replace(sampler=sampler), info

    return jax.jit(run)


def _check(n_steps: int, thin: int, chain_axis: str) -> None:
    """Raise ValueError if a setting of `chain_runner` is out of range."""
    if thin < 1:
        raise ValueError(f"thin: got {thin!r}; allowed: a whole number of at least 1")
    if n_steps < 1 or n_steps % thin:
        raise ValueError(f"n_steps: got {n_steps!r}; allowed: a positive multiple of thin = {thin}")
    if chain_axis not in ("vmap", "map"):
        raise ValueError(f"chain_axis: got {chain_axis!r}; allowed: 'vmap' or 'map'")


def _one_chain(
    value_and_grad: ValueAndGrad, transform: Sghmc, *, n_windows: int, thin: int, adjust: Adjust | None
) -> Callable[..., tuple[Params, SghmcState, Info]]:
    """Make the function for one chain: (params, key, restarts, sampler, step, data, N) -> (params, sampler, info)."""

    def advance(
        params: Params,
        key: jax.Array,
        restarts: jax.Array,
        sampler: SghmcState,
        first: jax.Array,
        data: Any,
        n_data: Any,
    ):
        chain_key = jax.random.fold_in(key, restarts)

        def step(
            data: Any, carry: tuple[Params, SghmcState], _: None
        ) -> tuple[tuple[Params, SghmcState], tuple[jax.Array, jax.Array]]:
            params, sampler = carry
            batch_key, noise_key = jax.random.split(jax.random.fold_in(chain_key, sampler.count))
            potential, grads = value_and_grad(params, batch_key, data)
            updates, sampler = transform.update(grads, sampler, params, key=noise_key, n_data=n_data)
            params = optax.apply_updates(params, updates)
            return (params, cast(SghmcState, sampler)), (potential, _all_finite((potential, grads, params)))

        def window(carry: tuple[Params, SghmcState], begin: jax.Array):
            used = data
            if adjust is not None:
                params, used = adjust(carry[0], begin, data)
                carry = params, carry[1]
            carry, (potential, finite) = jax.lax.scan(partial(step, used), carry, length=thin)
            temperature = transform.kinetic_temperature(carry[1], n_data)
            return carry, Info(potential[-1], temperature, jnp.all(finite))

        begins = first + thin * jnp.arange(n_windows, dtype=first.dtype)
        (params, sampler), info = jax.lax.scan(window, (params, sampler), begins)
        return params, sampler, info

    return advance


def _init(params: Params, transform: Sghmc) -> SghmcState:
    return cast(SghmcState, jax.vmap(transform.init)(params))  # optax annotates a state as any tree


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))

"""Diagonal inverse masses of the sampler: identity, fixed, and AMSGrad with a freeze."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Any


class Preconditioner(NamedTuple):
    """A diagonal mass matrix as three pure functions.

    `update` takes `freeze`, a bool or traced bool: if it is true, the state is returned unchanged.
    """

    init: Callable[[Params], Any]  # params -> state
    update: Callable[..., Any]  # (grads, state, *, freeze) -> state
    inverse_mass: Callable[[Any, Params], Params]  # (state, like) -> M⁻¹, shaped and typed as `like`


class AmsgradState(NamedTuple):
    """Running second moment of the gradient and its maximum."""

    count: jax.Array  # [] int32, gradients seen before the freeze
    second_moment: Params  # v, as the parameters
    largest_moment: Params  # m, as the parameters


def identity() -> Preconditioner:
    """Unit mass."""
    return Preconditioner(
        init=lambda params: (),
        update=lambda grads, state, *, freeze=False: state,
        inverse_mass=lambda state, like: jax.tree.map(jnp.ones_like, like),
    )


def fixed(inverse_mass: Params) -> Preconditioner:
    """A constant mass.

    Args:
      inverse_mass: M⁻¹ > 0, a pytree shaped as the parameters of one chain.

    Returns:
      A preconditioner without state.
    """
    return Preconditioner(
        init=lambda params: (),
        update=lambda grads, state, *, freeze=False: state,
        inverse_mass=lambda state, like: jax.tree.map(
            lambda mass, leaf: jnp.asarray(mass, leaf.dtype), inverse_mass, like
        ),
    )


def amsgrad(*, beta: float = 0.999, eps: float = 1e-5, freeze_after: int | None = None) -> Preconditioner:
    """AMSGrad second-moment mass (Reddi et al. 2018, arXiv:1904.09237; mass as in Rensmeyer et al. 2023).

    v <- βv + (1-β)g², m <- max(m, v), M⁻¹ = 1/(sqrt(m/(1-β^t)) + ε), element-wise, with v = m = 0 at t = 0.
    The sampler has the right stationary distribution only for a constant mass. Freezing therefore stops v, m **and
    t**: if t continued, the bias correction would still change the mass. The first gradient is always used, since no
    mass exists before it.

    Args:
      beta: decay of the second moment, in (0, 1).
      eps: ε > 0, in the unit of the gradient; bounds M⁻¹ by 1/ε.
      freeze_after: number of gradients, at least 1, after which the mass is constant; None for never.

    Returns:
      A preconditioner with state `AmsgradState`.

    Raises:
      ValueError: if an argument is out of range.
    """
    if not 0.0 < beta < 1.0:
        raise ValueError(f"beta: got {beta!r}; allowed: a number in (0, 1)")
    if not 0.0 < eps < math.inf:
        raise ValueError(f"eps: got {eps!r}; allowed: a positive number")
    if freeze_after is not None and freeze_after < 1:
        raise ValueError(f"freeze_after: got {freeze_after!r}; allowed: a whole number of at least 1, or None")

    def init(params: Params) -> AmsgradState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AmsgradState(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(grads: Params, state: AmsgradState, *, freeze: jax.Array | bool = False) -> AmsgradState:
        moment = jax.tree.map(lambda v, g: beta * v + (1.0 - beta) * g * g, state.second_moment, grads)
        largest = jax.tree.map(jnp.maximum, state.largest_moment, moment)
        new = AmsgradState(state.count + 1, moment, largest)
        if freeze is False and freeze_after is None:
            return new
        frozen = jnp.asarray(freeze) if freeze_after is None else freeze | (state.count >= freeze_after)
        frozen = frozen & (state.count > 0)
        return jax.tree.map(lambda old, fresh: jnp.where(frozen, old, fresh), state, new)

    def inverse_mass(state: AmsgradState, like: Params) -> Params:
        seen = -jnp.expm1(state.count.astype(float) * math.log(beta))
        return jax.tree.map(
            lambda m, leaf: (1.0 / (jnp.sqrt(m / seen.astype(m.dtype)) + eps)).astype(leaf.dtype),
            state.largest_moment,
            like,
        )

    return Preconditioner(init, update, inverse_mass)

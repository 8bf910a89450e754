"""Stochastic-gradient Hamiltonian Monte Carlo as an optax transformation."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bayes_mlff.sghmc.diagnostics import kinetic_temperature
from bayes_mlff.sghmc.noise import standard_normal
from bayes_mlff.sghmc.precondition import Params, Preconditioner, amsgrad
from bayes_mlff.sghmc.schedules import Schedule, value_at


class SghmcState(NamedTuple):
    """State of one chain between steps, without its parameters."""

    count: jax.Array  # [] int32, steps done since `init`
    momentum: Params  # p, as the parameters, in the unit of the gradient
    mass: Any  # state of the preconditioner


class Sghmc(optax.GradientTransformationExtraArgs):
    """An optax transformation with an additional function for the kinetic temperature.

    `kinetic_temperature(state, n_data)` evaluates the state that `update` returned; see
    `bayes_mlff.sghmc.diagnostics.kinetic_temperature`.
    """

    kinetic_temperature: Callable[[SghmcState, jax.Array | int], jax.Array]

    def __new__(cls, init: Callable, update: Callable, measure: Callable) -> "Sghmc":
        """Add the measurement to optax's pair (init, update)."""
        self = super().__new__(cls, init, update)
        self.kinetic_temperature = measure
        return self


def sghmc(
    step_size: Schedule | float,
    *,
    temperature: Schedule | float = 1.0,
    friction: float = 0.1,
    preconditioner: Preconditioner | None = None,
    bias_correction: bool = False,
) -> Sghmc:
    """Preconditioned SGHMC (Chen, Fox, Guestrin 2014, with an adaptive mass as Rensmeyer et al. 2023).

    With g the gradient of the *per-datum* potential U, N data, step size γ and friction α, element-wise:

        p <- (1-α) p - α g + α ξ,   ξ ~ N(0, 2T / (γ M⁻¹ N));     θ <- θ + γ M⁻¹ p

    Target: for a constant mass and small γ, exp(-N U/T). T multiplies the variance of the noise: T = 1
    samples the posterior, T = 0 descends. At a finite step and U = k θ²/2 per coordinate the stationary
    variance is T/(N k) / (1 - α γ M⁻¹ k / (2(2-α))). A step's mass has already seen that step's gradient.

    Args:
      step_size: γ > 0, a constant or a schedule of the step count (0 at the first step).
      temperature: T >= 0, a constant or a schedule.
      friction: α in (0, 1].
      preconditioner: the mass; `amsgrad()` if None.
      bias_correction: divide the displacement by 1-(1-α)^t, t = 1 at the first step, as Adam does.

    Returns:
      A transformation for any pytree, `update(grads, state, params, *, key, n_data, freeze=False)`. `key` is
      used only for this step's noise, split over the leaves; `n_data` is N, `freeze` keeps the mass; both may
      be traced. Add the returned updates with `optax.apply_updates`.

    Raises:
      ValueError: if a constant is out of range.
    """
    if not 0.0 < friction <= 1.0:
        raise ValueError(f"friction: got {friction!r}; allowed: a number in (0, 1]")
    if not callable(step_size) and not 0.0 < step_size < float("inf"):
        raise ValueError(f"step_size: got {step_size!r}; allowed: a positive number or a schedule")
    if not callable(temperature) and not 0.0 <= temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature!r}; allowed: a number of at least 0 or a schedule")
    mass = amsgrad() if preconditioner is None else preconditioner

    def init(params: Params) -> SghmcState:
        return SghmcState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params), mass.init(params))

    def update(
        grads: Params,
        state: SghmcState,
        params: Params | None = None,
        *,
        key: jax.Array,
        n_data: jax.Array | int,
        freeze: jax.Array | bool = False,
        **extra: Any,
    ) -> tuple[Params, SghmcState]:
        del params, extra  # optax hands every transformation of a chain the same arguments
        gamma = value_at(step_size, state.count)
        heat = 2.0 * value_at(temperature, state.count) / (gamma * jnp.asarray(n_data, float))
        mass_state = mass.update(grads, state.mass, freeze=freeze)
        inverse = mass.inverse_mass(mass_state, grads)
        count = state.count + 1
        started = 1.0 - (1.0 - friction) ** count.astype(float) if bias_correction else jnp.ones([], float)

        def kick(p: jax.Array, g: jax.Array, inv: jax.Array, leaf_key: jax.Array) -> jax.Array:
            # At T = 0 (a fifth of an update, and all of an optimisation) no random numbers are needed.
            normal = partial(standard_normal, shape=p.shape, dtype=p.dtype)
            drawn = jax.lax.cond(heat > 0.0, normal, lambda _: jnp.zeros_like(p), leaf_key)
            xi = jnp.sqrt(heat.astype(p.dtype) / inv) * drawn
            return (1.0 - friction) * p + friction * (xi - g)

        leaves, treedef = jax.tree.flatten(grads)
        keys = jax.tree.unflatten(treedef, list(jax.random.split(key, len(leaves))))
        momentum = jax.tree.map(kick, state.momentum, grads, inverse, keys)
        updates = jax.tree.map(lambda p, inv: (gamma / started).astype(p.dtype) * inv * p, momentum, inverse)
        return updates, SghmcState(count, momentum, mass_state)

    def measure(state: SghmcState, n_data: jax.Array | int) -> jax.Array:
        inverse = mass.inverse_mass(state.mass, state.momentum)
        gamma = value_at(step_size, state.count - 1)
        return kinetic_temperature(state.momentum, inverse, step_size=gamma, friction=friction, n_data=n_data)

    return Sghmc(init, update, measure)

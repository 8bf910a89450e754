"""Step sizes and temperatures as functions of the step count."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.Array], jax.typing.ArrayLike]
FLOOR = 1e-8
"""Added to every cosine schedule, so that the noise 2T/(γM⁻¹N) stays finite at the end of a cycle."""


def value_at(schedule: Schedule | float, count: jax.Array) -> jax.Array:
    """Evaluate a schedule or a constant at a step, as a scalar of the default float type."""
    return jnp.asarray(schedule(count) if callable(schedule) else schedule, float)


def cosine_step_size(peak: float, n_steps: int) -> Schedule:
    """Step size of an on-the-fly update, a falling half cosine: γ_i = γ0/2 (1 + cos(πi/K)) + 1e-8, i = 0..K-1.

    Args:
      peak: γ0 > 0; 1e-3 for MACE, 1e-4 for NequIP.
      n_steps: K >= 1. From step K on the step size is 1e-8.

    Returns:
      Schedule of the step count within the update.

    Raises:
      ValueError: if an argument is out of range.
    """
    _check_positive("step_size", peak)
    _check_positive("n_steps", n_steps)

    def step_size(count: jax.Array) -> jax.Array:
        phase = jnp.minimum(count, n_steps).astype(float) / n_steps
        return 0.5 * peak * (1.0 + jnp.cos(jnp.pi * phase)) + FLOOR

    return step_size


def warmup_temperature(cold_steps: int = 400, ramp_steps: int = 100, temperature: float = 1.0) -> Schedule:
    """Temperature of an on-the-fly update: 0 up to `cold_steps`, then a linear ramp, then constant.

    Args:
      cold_steps: steps of pure descent, at least 0.
      ramp_steps: length of the ramp, at least 1; the first step at full temperature is
        `cold_steps + ramp_steps`.
      temperature: final T > 0; 1 is the posterior.

    Returns:
      Schedule of the step count within the update.

    Raises:
      ValueError: if an argument is out of range.
    """
    if cold_steps < 0:
        raise ValueError(f"cold_steps: got {cold_steps!r}; allowed: a whole number of at least 0")
    _check_positive("ramp_steps", ramp_steps)
    _check_positive("temperature", temperature)
    return optax.linear_schedule(0.0, temperature, ramp_steps, transition_begin=cold_steps)


def long_chain_step_size(
    start: float,
    *,
    end: float = 1e-5,
    decay_steps: int = 1_000_000,
    peak: float = 1e-3,
    cycle_steps: int = 50_000,
) -> Schedule:
    """Step size of long chains: exponential decay, then falling cosine cycles (Bayesian transfer-learning paper).

    γ_i = start (end/start)^(i/D) for i < D, then γ_i = peak/2 (1 + cos(π((i-D) mod K)/K)) + 1e-8. The cycle
    falls: the paper prints it with a phase π that would make it rise.

    Args:
      start: 1e-2 from scratch, 0.3e-2 with a transfer prior.
      end: step size reached after `decay_steps`.
      decay_steps: D, length of the first phase.
      peak: step size at the start of each cycle.
      cycle_steps: K, length of a cycle.

    Returns:
      Schedule of the absolute step count; the whole-number remainder keeps it exact in float32.

    Raises:
      ValueError: if an argument is out of range.
    """
    settings = {
        "start": start,
        "end": end,
        "decay_steps": decay_steps,
        "peak": peak,
        "cycle_steps": cycle_steps,
    }
    for name, value in settings.items():
        _check_positive(name, value)
    cycle = cosine_step_size(peak, cycle_steps)

    def step_size(count: jax.Array) -> jax.Array:
        in_cycle = jnp.maximum(count - decay_steps, 0) % cycle_steps
        decay = start * (end / start) ** (count.astype(float) / decay_steps)
        return jnp.where(count < decay_steps, decay, cycle(in_cycle))

    return step_size


def long_chain_sample_steps(
    n_samples: int = 8, *, decay_steps: int = 1_000_000, cycle_steps: int = 50_000
) -> tuple[int, ...]:
    """Step counts after which a long chain is sampled: end of the decay, then the end of each cycle."""
    return tuple(decay_steps + i * cycle_steps for i in range(n_samples))


def long_chain_freeze_step(decay_steps: int = 1_000_000) -> int:
    """Value for `amsgrad(freeze_after=...)` in long chains: 90 % of the first phase."""
    return max(1, decay_steps * 9 // 10)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: got {value!r}; allowed: a positive number")

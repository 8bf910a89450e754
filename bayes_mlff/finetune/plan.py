"""Translation of a method into sampler settings: update rule, prior, starting points and sample steps of the chains."""

from itertools import pairwise
from math import gcd
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from bayes_mlff.core.numbers import largest_divisor
from bayes_mlff.finetune.config import FinetuneConfig, ParallelSampler
from bayes_mlff.finetune.identity import stated
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import PredictFn
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.models.layers import last_sigma_bias, with_force_sigma
from bayes_mlff.models.registry import Potential
from bayes_mlff.posterior.noise_levels import noise_levels, while_cold, window
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.transfer import around_prior_mean, first_step_size, prior_mean, prior_scale
from bayes_mlff.sghmc.precondition import amsgrad
from bayes_mlff.sghmc.run import Adjust
from bayes_mlff.sghmc.schedules import (
    cosine_step_size,
    long_chain_freeze_step,
    long_chain_sample_steps,
    long_chain_step_size,
    warmup_temperature,
)
from bayes_mlff.sghmc.transform import Sghmc, sghmc


class Plan(NamedTuple):
    """All settings of the chains except the data."""

    transform: Sghmc
    prior: GaussianPrior  # over flat parameters [p]; its scale is infinite for methods without a prior
    chains: int
    sample_steps: tuple[int, ...]  # ascending step counts at which a sample of every chain is stored
    chunk: int  # largest number of steps of a stretch; the last one before a sample may be shorter
    thin: int  # steps between entries of the traces and between adjustments; divides the chunk and every sample step

    def stretch_end(self, step: int) -> int:
        """Step count at which the stretch that begins at `step` ends."""
        return min(step + self.chunk, *(sample for sample in self.sample_steps if sample > step))


def make_plan(config: FinetuneConfig, potential: Potential) -> Plan:
    """Translate the configured method.

    SGHMC at T = 0 with bias correction is AMSGrad (Reddi et al. 2018) with β1 = 1 - α: the optimisers are that.

    Args:
      config: method, sampler and prior.
      potential: pretrained weights.
    """
    config = stated(config, potential)
    transform, sample_steps = _optimizer(config) if config.optimises else _sampler(config, potential)
    chunk, thin = _stretches(config, sample_steps)
    return Plan(transform, _prior(config, potential), config.side_by_side, sample_steps, chunk, thin)


def _stretches(config: FinetuneConfig, sample_steps: tuple[int, ...]) -> tuple[int, int]:
    """Chunk and thin of a plan: stretches of equal length unless that makes them less than half of checkpoint_steps.

    Stretches of equal length need only one compilation. Noise levels are adjusted every `thin` steps, so `thin` must
    not depend on the number of steps between checkpoints for chains with adjusted noise levels.
    """
    common, most = gcd(*sample_steps), config.checkpoint_steps
    even = largest_divisor(common, most)
    thin = window(even, 0)
    if config.parallel is not None:
        thin = window(common, config.parallel.cold)
    between = [after - before for before, after in pairwise((0, *sample_steps))]
    if even % thin == 0 and 2 * even >= min(most, *between):
        return even, thin
    return thin * max(1, min(most, max(between)) // thin), thin


def adjustment(config: FinetuneConfig, potential: Potential, predict: PredictFn, thin: int) -> Adjust | None:
    """Function that adjusts the noise levels during the cold steps of parallel chains; None for all other methods.

    Args:
      config: method and sampler.
      potential: network.
      predict: the network as a function of flat weights.
      thin: of the plan.
    """
    if config.parallel is None:
        return None
    level = noise_levels(
        predict,
        last_sigma_bias(potential),
        config.sampler.batch,
        floor_ev_a=SIGMA_UNIT,
        free_zero=config.fits_energy_zero,
    )
    return while_cold(level, config.parallel.cold, thin)


def _optimizer(config: FinetuneConfig) -> tuple[Sghmc, tuple[int, ...]]:
    settings = config.optimizer
    decay = settings.final_learning_rate / settings.learning_rate
    transform = sghmc(
        optax.exponential_decay(settings.learning_rate, settings.steps, decay),
        temperature=0.0,
        friction=config.sampler.friction,
        preconditioner=amsgrad(eps=1e-8),
        bias_correction=True,
    )
    return transform, (settings.steps,)


def _sampler(config: FinetuneConfig, potential: Potential) -> tuple[Sghmc, tuple[int, ...]]:
    sampler = config.sampler
    if isinstance(sampler, ParallelSampler):
        transform = sghmc(
            cosine_step_size(first_step_size(sampler.step_size, potential), sampler.steps),
            temperature=warmup_temperature(sampler.cold, sampler.ramp_steps),
            friction=sampler.friction,
            preconditioner=amsgrad(eps=sampler.eps),
        )
        return transform, (sampler.steps,)
    transform = sghmc(
        long_chain_step_size(
            sampler.start,
            end=sampler.end,
            decay_steps=sampler.decay_steps,
            peak=sampler.peak,
            cycle_steps=sampler.cycle_steps,
        ),
        friction=sampler.friction,
        preconditioner=amsgrad(eps=sampler.eps, freeze_after=long_chain_freeze_step(sampler.decay_steps)),
        bias_correction=True,
    )
    lengths = {"decay_steps": sampler.decay_steps, "cycle_steps": sampler.cycle_steps}
    return transform, long_chain_sample_steps(sampler.samples, **lengths)


def _prior(config: FinetuneConfig, potential: Potential) -> GaussianPrior:
    mean = prior_mean(potential)
    if config.optimises:
        return GaussianPrior(mean, float("inf"))
    if config.method == "scratch" or config.prior.kind == "normal":
        return GaussianPrior(jnp.zeros_like(mean), 1.0)
    return GaussianPrior(mean, prior_scale(config.prior.scale, potential))


def first_parameters(
    config: FinetuneConfig, potential: Potential, chains: int, key: jax.Array, *, force_sigma_ev_a: float
) -> jax.Array:
    """Starting points [c, p] of the chains.

    Methods without pretrained weights start from random ones. Other methods start from the pretrained weights; parallel
    chains add noise of `initial_spread` times the scale of the prior. The σ heads of these are drawn from the prior.

    The force σ starts near `force_sigma_ev_a`, unless `adjustment` sets it: if σ were far below the error, the first
    gradients would be so large that AMSGrad, which remembers the largest, would keep all later steps small, and the
    small steps of a fine-tuning would take thousands to raise σ.
    """
    if config.from_random_weights:
        # Seeds may be traced values, since they are only used as keys.
        seeds = jax.random.randint(key, (chains,), 0, jnp.iinfo(jnp.int32).max, jnp.int32)

        def draw(seed: jax.Array) -> jax.Array:
            random = registry.widened(registry.initialize(potential.config, cast(int, seed)))
            return ravel_pytree(random.params)[0]

        return with_force_sigma(potential, jax.jit(jax.vmap(draw))(seeds), force_sigma_ev_a)
    spread = 0.0 if config.parallel is None else config.parallel.initial_spread
    centre = GaussianPrior(prior_mean(potential), prior_scale(config.prior.scale, potential))
    start = around_prior_mean(potential, centre, spread, chains, key)
    return start if config.parallel is not None else with_force_sigma(potential, start, force_sigma_ev_a)

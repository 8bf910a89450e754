"""The chains of an on-the-fly run: started once, continued after every new label."""

from typing import Final, NamedTuple, Protocol

import jax

from bayes_mlff.models.energetics import Params, PredictFn
from bayes_mlff.posterior import energy_zero
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.noise_levels import LevelFn, while_cold
from bayes_mlff.posterior.potential import Observations, potential_and_gradient
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.settings import EnergyZero
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.precondition import amsgrad
from bayes_mlff.sghmc.run import ChainAxis, ChainState, Info, chain_runner, init_chains, preferred_axis, restart
from bayes_mlff.sghmc.schedules import cosine_step_size, warmup_temperature
from bayes_mlff.sghmc.transform import Sghmc, sghmc

_OF_ZERO: Final = 2**31 - 1
"""In the place of a step's number, in the random key of the zero of the energies."""


class InitChains(Protocol):
    """Start the chains."""

    def __call__(self, params: Params, key: jax.Array) -> ChainState:
        """Make the state of c chains from params with leaves [c, ...] and one key."""
        ...


class UpdateChains(Protocol):
    """Continue the chains after a label."""

    def __call__(
        self,
        params: Params,
        state: ChainState,
        training_set: TrainingSet,
        n_steps: int = 2000,
        *,
        batch_axis: str | None = None,
    ) -> tuple[Params, ChainState, Info]:
        """Restart momentum, mass and schedule and run K = n_steps; the result is one sample per chain.

        With `batch_axis`, inside `jax.shard_map`, the devices along that axis share each minibatch.
        """
        ...


class OtfChains(NamedTuple):
    """Pure functions: `init` is called once per run, `update` after each label."""

    init: InitChains
    update: UpdateChains


def otf_chains(
    predict: PredictFn,
    prior: GaussianPrior,
    likelihood: Likelihood,
    *,
    step_size: float,
    batch_size: int = 5,
    friction: float = 0.1,
    cold_steps: int = 400,
    ramp_steps: int = 100,
    freeze_mass_after: int | None = None,
    eps: float = 1e-4,
    thin: int = 100,
    chain_axis: ChainAxis | None = None,
    at_once: int | None = None,
    level: LevelFn | None = None,
    zero: EnergyZero | None = None,
    descend: bool = False,
) -> OtfChains:
    """Build the sampler of the on-the-fly workflow.

    Every update starts from the last samples with zero momentum, a fresh AMSGrad mass and a falling cosine
    step size; the temperature is 0 for `cold_steps`, rises over `ramp_steps` and then is 1. Chains draw their
    own minibatches and noise, and never reuse random numbers of an earlier update.

    Args:
      predict: model.
      prior: prior over the weights; its arrays are arguments of the compiled function, not constants in it.
      likelihood: fixed standard deviations.
      step_size: γ0, the first step size; see `Preset.step_size`.
      batch_size: labels of a minibatch.
      friction: α.
      cold_steps: steps at T = 0.
      ramp_steps: steps from T = 0 to T = 1.
      freeze_mass_after: steps after which the mass is constant; None adapts it throughout.
      eps: ε of the mass.
      thin: steps between entries of the traces and between levels; must divide the steps of an update.
      chain_axis: 'vmap', or 'map' for one chain after the other; the default depends on the device.
      at_once: labels of a minibatch that are evaluated together; the default depends on the device.
      level: adjustment of the noise levels every `thin` steps until the temperature rises; None: no adjustment.
      zero: whether params are samples [c, p + 1] of `energy_zero`, whose last number is the zero of the energies: it
        is integrated out while the weights are sampled, and then drawn ('fitted'), or it stays ('learnt'). Without
        it params are weights alone. `predict` is of weights alone in every case.
      descend: keep the temperature at 0 in all steps, whatever `cold_steps` and `ramp_steps` are, and take the zero of
        the energies at its maximum: the result is the most probable set of weights, to the noise of the minibatches.

    Returns:
      `init(params [c, ...], key) -> state` and
      `update(params, state, training_set, n_steps=2000, batch_axis=None) -> (params, state, info)`. `update`
      compiles once for each n_steps and for each shape of the training set, whatever its number of labels. It
      needs at least one label, else `info.finite` is False.

    Raises:
      ValueError: if an argument is out of range; from `update`, if n_steps ends before the chains are at T = 1
        or is not a multiple of `thin`.
    """
    axis = chain_axis or preferred_axis()
    fitted = zero == "fitted"
    temperature = 0.0 if descend else warmup_temperature(cold_steps, ramp_steps)
    mass = amsgrad(eps=eps, freeze_after=freeze_mass_after)

    def transform(n_steps: int) -> Sghmc:
        gamma = cosine_step_size(step_size, n_steps)
        return sghmc(gamma, temperature=temperature, friction=friction, preconditioner=mass)

    def continue_chains(
        params: Params,
        state: ChainState,
        data: tuple[GaussianPrior, TrainingSet],
        n_steps: int,
        batch_axis: str | None,
    ):
        current_prior, training_set = data
        value_and_grad = potential_and_gradient(
            predict, current_prior, batch_size, at_once=at_once, batch_axis=batch_axis, free_zero=fitted
        )
        sampler = transform(n_steps)
        adjust = None if level is None else while_cold(level, n_steps if descend else cold_steps, thin)
        run = chain_runner(value_and_grad, sampler, n_steps=n_steps, thin=thin, chain_axis=axis, adjust=adjust)
        observations = Observations(training_set, likelihood)
        weights, before = (params, None) if zero is None else energy_zero.split(params)
        weights, state, info = run(weights, restart(weights, state, sampler), observations, training_set.count)
        if before is None:
            return weights, state, info
        after = draw_zeros(weights, state, training_set) if fitted else before
        return energy_zero.joined(weights, after), state, info

    def draw_zeros(weights: jax.Array, state: ChainState, training_set: TrainingSet) -> jax.Array:
        def one(chain: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            own, key, restarts = chain
            key = jax.random.fold_in(jax.random.fold_in(key, restarts), _OF_ZERO)
            return energy_zero.draw(predict, likelihood, own, training_set, None if descend else key)

        return jax.lax.map(one, (weights, state.key, state.restarts))

    compiled = jax.jit(continue_chains, static_argnames=("n_steps", "batch_axis"))

    def init(params: Params, key: jax.Array) -> ChainState:
        return init_chains(params if zero is None else energy_zero.split(params).weights, key, transform(1))

    def update_chains(
        params: Params,
        state: ChainState,
        training_set: TrainingSet,
        n_steps: int = 2000,
        *,
        batch_axis: str | None = None,
    ):
        if not descend and n_steps <= cold_steps + ramp_steps:
            allowed = f"more than cold_steps + ramp_steps = {cold_steps + ramp_steps}"
            raise ValueError(f"n_steps: got {n_steps}; allowed: {allowed}")
        return compiled(params, state, (prior, training_set), n_steps=n_steps, batch_axis=batch_axis)

    return OtfChains(init, update_chains)

"""The sampler under the battery, and the battery under samplers with planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.sghmc.precondition import amsgrad, identity
from bayes_mlff.sghmc.transform import Sghmc, sghmc
from bayes_mlff.testing.sampler_battery import Sampler, SamplerBattery

STEP, FRICTION = 0.4, 0.1


def exact(stiffness, n_data):
    """T/(N k)/(1 - αγk/(2(2-α))), see `sghmc`."""
    return 1.0 / (n_data * stiffness) / (1.0 - FRICTION * STEP * stiffness / (2.0 * (2.0 - FRICTION)))


def unit_mass(**options):
    return Sampler(sghmc(STEP, friction=FRICTION, preconditioner=identity(), **options), exact, burn_in=300)


def altered(update):
    """The sampler with another `update(original, grads, state, params, key, n_data)`."""
    honest = unit_mass()
    transform = honest.transform

    def changed(grads, state, params=None, *, key, n_data, **extra):
        return update(transform.update, grads, state, params, key=key, n_data=n_data)

    return honest._replace(transform=Sghmc(transform.init, changed, transform.kinetic_temperature))


class TestSghmc(SamplerBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def sampler(cls):
        return unit_mass()


class TestSghmcWithAnAdaptiveMass(SamplerBattery):
    """The mass freezes within the 12 steps."""

    @pytest.fixture(scope="class")
    @classmethod
    def sampler(cls):
        return Sampler(sghmc(0.1, preconditioner=amsgrad(freeze_after=8)), exact, burn_in=1)

    test_mean_and_variance_of_a_gaussian_target = None  # of no meaning while a mass adapts; see tests/statistical


def hot(original, grads, state, params, **options):
    """Displacements that are 5 % too large."""
    updates, state = original(grads, state, params, **options)
    return jax.tree.map(lambda u: 1.05 * u, updates), state


def keyless(original, grads, state, params, *, key, n_data):
    """The same noise in all chains and for all keys."""
    del key
    return original(grads, state, params, key=jax.random.fold_in(jax.random.key(0), state.count), n_data=n_data)


class Leaking(SamplerBattery):
    """Chains that are drawn towards their mean."""

    @staticmethod
    def runner(sampler, potential, n_steps, **options):
        run = SamplerBattery.runner(sampler, potential, n_steps, **options)

        def leaking(params, state, data, n_data):
            drawn = jax.tree.map(lambda x: x + 1e-12 * jnp.mean(x, axis=0, keepdims=True), params)
            return run(drawn, state, data, n_data)

        return leaking


class Restarting(SamplerBattery):
    """Every call begins with zero momentum."""

    @staticmethod
    def runner(sampler, potential, n_steps, **options):
        run = SamplerBattery.runner(sampler, potential, n_steps, **options)

        def restarting(params, state, data, n_data):
            still = jax.tree.map(jnp.zeros_like, state.sampler.momentum)
            return run(params, state._replace(sampler=state.sampler._replace(momentum=still)), data, n_data)

        return restarting


def test_sees_a_wrong_variance():
    with pytest.raises(AssertionError):
        SamplerBattery().test_mean_and_variance_of_a_gaussian_target(altered(hot))


def test_sees_chains_that_share_their_noise():
    with pytest.raises(AssertionError):
        SamplerBattery().test_chains_are_independent(altered(keyless))


def test_sees_chains_that_know_of_each_other():
    with pytest.raises(AssertionError):
        Leaking().test_chains_are_independent(unit_mass())


def test_sees_momenta_that_are_lost_between_calls():
    with pytest.raises(AssertionError):
        Restarting().test_steps_add_up(unit_mass(), "vmap")


def test_sees_a_function_that_compiles_anew():
    class Changing(SamplerBattery):
        """The second call has other shapes than the first."""

        @staticmethod
        def runner(sampler, potential, n_steps, **options):
            run = SamplerBattery.runner(sampler, potential, n_steps, **options)

            def growing(params, state, data, n_data):
                return run(params, state, np.concatenate([data] * min(int(n_data), 2)), n_data)

            growing._cache_size = run._cache_size
            return growing

    with pytest.raises(AssertionError):
        Changing().test_compiles_once(unit_mass())

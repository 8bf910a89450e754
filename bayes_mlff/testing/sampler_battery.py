"""What every sampler must fulfil, as a class of tests to inherit.

    class TestMySampler(SamplerBattery):
        @pytest.fixture(scope="class")
        @classmethod
        def sampler(cls) -> Sampler:
            return Sampler(my_transform, variance=lambda stiffness, n_data: 1.0 / (n_data * stiffness), burn_in=300)

A sampler is an optax transformation as `bayes_mlff.sghmc.transform.Sghmc`, which `chain_runner` applies to many chains.
The tests want float64 (`jax_enable_x64`).

The comparison with the exact stationary distribution allows |z| < 4.5 for each of 6 numbers, of which a right sampler
exceeds one with probability 4.1e-5; the seed is fixed, so that a test that has passed once goes on to pass.
"""

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.sghmc.precondition import Params
from bayes_mlff.sghmc.run import ChainAxis, chain_runner, init_chains
from bayes_mlff.sghmc.transform import Sghmc

BOUND: Final = 4.5
"""Largest |z| of one comparison; a normal number exceeds it with probability 6.8e-6."""

CHAINS: Final = 16_384
"""Independent chains of which each gives one draw from the stationary distribution."""

N_DATA: Final = 7
"""N: the potential of the posterior is N times that of the target."""

STIFFNESS: Final = {"a": np.array([1.0, 3.0]), "b": np.array([[0.2]])}
"""k of U = Σ k (θ - μ)²/2."""

CENTRE: Final = {"a": np.array([0.5, -1.0]), "b": np.array([[2.0]])}
"""μ."""

_FEW: Final = 4
_ROWS: Final = np.random.default_rng(0).normal(size=(5, 3))


class Sampler(NamedTuple):
    """A sampler under test."""

    transform: Sghmc
    variance: Callable[[np.ndarray, int], np.ndarray]  # (k [d], N) -> stationary variance of θ [d], target N k θ²/2
    burn_in: int  # steps after which nothing of the start is left in mean and variance


class SamplerBattery:
    """Tests that a sampler must pass; a sub-class has a fixture `sampler`."""

    @classmethod
    @functools.cache
    def few_steps(cls, sampler: Sampler, axis: ChainAxis = "vmap") -> Any:
        """Six steps on the noisy target, compiled once for several tests."""
        return cls.runner(sampler, noisy, 6, thin=6, axis=axis)

    @staticmethod
    def runner(sampler: Sampler, potential: Callable, n_steps: int, *, thin: int = 1, axis: ChainAxis = "vmap") -> Any:
        """What advances all chains, with the call of the function that `chain_runner` returns."""
        return chain_runner(potential, sampler.transform, n_steps=n_steps, thin=thin, chain_axis=axis)

    def test_mean_and_variance_of_a_gaussian_target(self, sampler: Sampler) -> None:
        """The draws of independent chains after `burn_in` steps are those of the stationary distribution."""
        params = jax.tree.map(lambda c: jnp.tile(jnp.asarray(c), (CHAINS, *[1] * c.ndim)), CENTRE)
        run = self.runner(sampler, gaussian, sampler.burn_in, thin=sampler.burn_in)
        drawn, _, info = run(params, init_chains(params, jax.random.key(1), sampler.transform), None, N_DATA)
        assert np.asarray(info.finite).all()
        expected = np.broadcast_to(sampler.variance(vector(STIFFNESS), N_DATA), vector(STIFFNESS).shape)
        assert largest_z(columns(drawn), vector(CENTRE), expected) < BOUND

    @pytest.mark.parametrize("axis", ["vmap", "map"])
    def test_a_key_gives_the_same_chains_again_and_another_key_others(self, sampler: Sampler, axis: ChainAxis) -> None:
        """To the last bit; with another key no parameter is the same."""
        run = self.few_steps(sampler, axis)
        one, again = (run(*_start(sampler, key=2), _ROWS, N_DATA) for _ in range(2))
        other = run(*_start(sampler, key=3), _ROWS, N_DATA)
        assert_same_bits(one, again)
        assert not np.isclose(np.asarray(one[0]["w"]), np.asarray(other[0]["w"])).any()

    @pytest.mark.parametrize("axis", ["vmap", "map"])
    def test_steps_add_up(self, sampler: Sampler, axis: ChainAxis) -> None:
        """12 steps equal 6 and then 6, to the last bit, traces included."""
        params, state = _start(sampler)
        half, whole = self.few_steps(sampler, axis), self.runner(sampler, noisy, 12, thin=6, axis=axis)
        middle = half(params, state, _ROWS, N_DATA)
        rest = half(*middle[:2], _ROWS, N_DATA)
        straight = whole(params, state, _ROWS, N_DATA)
        assert_same_bits(straight[:2], rest[:2])
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), middle[2], rest[2])
        assert_same_bits(straight[2], joined)

    def test_chains_are_independent(self, sampler: Sampler) -> None:
        """Noise alone parts equal chains and leaves; what one chain starts from changes no bit of the others."""
        params, state = _start(sampler)
        alone, _, _ = self.runner(sampler, flat, 1)(params, state, None, N_DATA)
        assert np.unique(columns(alone)).size == columns(alone).size
        run = self.few_steps(sampler)
        moved, _, _ = run(params, state, _ROWS, N_DATA)
        elsewhere = jax.tree.map(lambda x: x.at[1].add(0.5), params)
        others, _, _ = run(elsewhere, state, _ROWS, N_DATA)
        keep = np.arange(_FEW) != 1
        assert_same_bits(jax.tree.map(lambda x: x[keep], moved), jax.tree.map(lambda x: x[keep], others))
        assert not np.isclose(np.asarray(others["w"][1]), np.asarray(moved["w"][1])).any()

    def test_compiles_once(self, sampler: Sampler) -> None:
        """Other data of the same shape, and another number of them, compile nothing."""
        run = self.few_steps(sampler)
        params, state, _ = run(*_start(sampler), _ROWS, jnp.int32(1))
        compiled = run._cache_size()
        for n in (2, 3):
            params, state, _ = run(params, state, _ROWS * n, jnp.int32(n))
        assert run._cache_size() == compiled


def gaussian(params: Params, key: jax.Array, data: Any) -> tuple[jax.Array, Params]:
    """U = Σ k (θ - μ)²/2 and its gradient; there is no noise of minibatches."""
    del key, data
    residual = jax.tree.map(lambda x, c: x - c, params, CENTRE)
    pull = jax.tree.map(lambda k, r: k * r, STIFFNESS, residual)
    energies = jax.tree.map(lambda f, r: 0.5 * jnp.sum(f * r), pull, residual)
    return sum(jax.tree.leaves(energies), jnp.zeros([])), pull


def flat(params: Params, key: jax.Array, data: Any) -> tuple[jax.Array, Params]:
    """No potential at all."""
    del key, data
    return jnp.zeros([]), jax.tree.map(jnp.zeros_like, params)


def noisy(params: Params, key: jax.Array, data: jax.Array) -> tuple[jax.Array, Params]:
    """A pull towards one random row of the data [m, 3]."""
    target = data[jax.random.randint(key, [], 0, data.shape[0])]
    return jax.value_and_grad(lambda p: 0.5 * jnp.sum((p["w"] - target) ** 2) + jnp.sum(p["v"] ** 4))(params)


def largest_z(draws: np.ndarray, mean: np.ndarray | float, variance: np.ndarray) -> float:
    """Worst standardised deviation of sample mean and sample variance of normal draws.

    Args:
      draws: [c, d] independent draws.
      mean: [d] of the distribution.
      variance: [d] of the distribution.
    """
    count = len(draws)
    z_mean = (draws.mean(axis=0) - mean) / np.sqrt(variance / count)
    z_variance = (draws.var(axis=0, ddof=1) / variance - 1.0) / np.sqrt(2.0 / (count - 1))
    return float(np.abs(np.concatenate([z_mean, z_variance])).max())


def columns(tree: Params) -> np.ndarray:
    """Leaves [c, ...] as one array [c, d]."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def vector(tree: Params) -> np.ndarray:
    """All numbers of the leaves [d], in the order of `columns`."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def assert_same_bits(one: Any, two: Any) -> None:
    """Two trees agree in every bit, keys of random numbers included."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        plain = [jax.random.key_data(x) if is_key else x for x in (a, b)]
        np.testing.assert_array_equal(np.asarray(plain[0]), np.asarray(plain[1]))


def _start(sampler: Sampler, key: int = 0) -> tuple[Params, Any]:
    """A few chains that all start from the same parameters."""
    params = {"w": jnp.ones([_FEW, 3]), "v": jnp.ones([_FEW, 2, 2])}
    return params, init_chains(params, jax.random.key(key), sampler.transform)

"""Contracts of the sampler beside those of the battery: windows, own noise, restarts, schedules, diagnostics."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bayes_mlff.core.errors import DataError
from bayes_mlff.sghmc import schedules
from bayes_mlff.sghmc.diagnostics import effective_sample_size, split_rhat
from bayes_mlff.sghmc.precondition import amsgrad, fixed, identity
from bayes_mlff.sghmc.run import chain_runner, init_chains, restart
from bayes_mlff.sghmc.transform import sghmc
from bayes_mlff.testing.sampler_battery import assert_same_bits


def noisy_quadratic(params, key, data):
    """A pull towards one random row of the data [m, 3]."""
    target = data[jax.random.randint(key, [], 0, data.shape[0])].astype(params["w"].dtype)
    return jax.value_and_grad(lambda p: 0.5 * jnp.sum((p["w"] - target) ** 2) + jnp.sum(p["v"] ** 4))(params)


def start(chains=4, dtype=jnp.float64, **options):
    params = {"w": jnp.ones([chains, 3], dtype), "v": jnp.ones([chains, 2, 2], dtype)}
    transform = sghmc(schedules.cosine_step_size(0.1, 60), preconditioner=amsgrad(freeze_after=8), **options)
    return params, init_chains(params, jax.random.key(0), transform), transform


DATA = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))


@pytest.mark.parametrize("chain_axis", ["vmap", "map"])
def test_adjusts_before_every_window(chain_axis):
    """Nothing else moves the parameters: they add up the absolute steps 0, 4 and 8, in one call or in two."""
    params = {"w": jnp.zeros([3, 2])}
    transform = sghmc(0.1, preconditioner=identity(), temperature=0.0)

    def adjust(params, step, data):
        return {"w": params["w"] + step.astype(float)}, data + step.astype(float)

    def run(n, params, state):
        runner = chain_runner(
            lambda p, key, data: (data, jax.tree.map(jnp.zeros_like, p)), transform, n_steps=n, thin=4,
            chain_axis=chain_axis, adjust=adjust,
        )  # fmt: skip
        return runner(params, state, jnp.float64(0.5), 1)

    state = init_chains(params, jax.random.key(0), transform)
    whole, _, info = run(12, params, state)
    np.testing.assert_array_equal(np.asarray(whole["w"]), 12.0)
    np.testing.assert_array_equal(np.asarray(info.potential), [[0.5, 4.5, 8.5]] * 3)
    middle = run(4, params, state)
    np.testing.assert_array_equal(np.asarray(run(8, *middle[:2])[0]["w"]), 12.0)


def test_map_equals_vmap():
    params, state, transform = start()
    one, two = (
        chain_runner(noisy_quadratic, transform, n_steps=20, chain_axis=axis)(params, state, DATA, 5)
        for axis in ("vmap", "map")
    )
    for a, b in zip(jax.tree.leaves((one[0], one[2])), jax.tree.leaves((two[0], two[2])), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10)


def test_restart_is_fresh_but_not_a_repetition():
    params, state, transform = start()
    run = chain_runner(noisy_quadratic, transform, n_steps=10)
    first, used, _ = run(params, state, DATA, 5)
    again = restart(params, used, transform)
    assert_same_bits(again.sampler, state.sampler)
    second, _, _ = run(params, again, DATA, 5)
    assert not np.isclose(np.asarray(first["w"]), np.asarray(second["w"])).any()


def test_non_finite_gradient_is_a_bit_of_its_chain_and_window():
    """Chain 1 meets a NaN gradient from its second step on; the others stay clean."""

    def potential(params, key, data):
        bad = (params["mark"] > 0.5) & (params["w"][0] != 0.0)
        grads = {"w": jnp.where(bad, jnp.nan, jnp.ones([2])), "mark": jnp.zeros([])}
        return jnp.zeros([]), grads

    params = {"w": jnp.zeros([3, 2]), "mark": jnp.asarray([0.0, 1.0, 0.0])}
    transform = sghmc(0.1, preconditioner=identity(), temperature=0.0)
    run = chain_runner(potential, transform, n_steps=6, thin=1)
    _, _, info = run(params, init_chains(params, jax.random.key(0), transform), None, 1)
    expected = np.ones((3, 6), bool)
    expected[1, 1:] = False
    np.testing.assert_array_equal(np.asarray(info.finite), expected)
    thinned = chain_runner(potential, transform, n_steps=6, thin=3)
    _, _, info = thinned(params, init_chains(params, jax.random.key(0), transform), None, 1)
    np.testing.assert_array_equal(np.asarray(info.finite), [[True, True], [False, False], [True, True]])


def test_float32_stays_float32():
    params, state, transform = start(dtype=jnp.float32, bias_correction=True)
    run = chain_runner(noisy_quadratic, transform, n_steps=2)
    params, state, info = run(params, state, DATA.astype(jnp.float32), jnp.int32(5))
    for leaf in jax.tree.leaves((params, state.sampler.momentum, info.potential, info.kinetic_temperature)):
        assert leaf.dtype == jnp.float32
    assert state.sampler.mass.second_moment["w"].dtype == jnp.float32


def test_is_an_optax_transformation():
    transform = optax.chain(optax.clip(1e6), sghmc(0.1, temperature=0.0, preconditioner=identity()))
    params = jnp.ones([3])
    updates, _ = transform.update(params, transform.init(params), params, key=jax.random.key(0), n_data=2, more=1)
    np.testing.assert_allclose(np.asarray(updates), -0.1 * 0.1, rtol=1e-12)


def test_two_steps_by_hand():
    """p, θ and the AMSGrad mass against the recursion written out in numpy, T = 0."""
    transform = sghmc(0.3, temperature=0.0, friction=0.2, preconditioner=amsgrad(beta=0.9, eps=0.01))
    state, theta = transform.init(jnp.zeros([1])), 0.0
    p = v = m = 0.0
    for t, g in enumerate([2.0, -0.5, 0.1], start=1):
        updates, state = transform.update(jnp.asarray([g]), state, key=jax.random.key(t), n_data=3)
        v = 0.9 * v + 0.1 * g * g
        m = max(m, v)
        p = 0.8 * p - 0.2 * g
        theta = 0.3 * p / (np.sqrt(m / (1 - 0.9**t)) + 0.01)
        np.testing.assert_allclose(np.asarray(updates), [theta], rtol=1e-12)


def test_freeze_holds_moments_and_bias_correction():
    mass = amsgrad(beta=0.9)
    update = jax.jit(lambda g, s, f: mass.update(g, s, freeze=f))
    state = update(jnp.asarray([1.0]), mass.init(jnp.zeros([1])), True)  # nothing to freeze yet: this gradient counts
    assert int(state.count) == 1
    held = update(jnp.asarray([9.0]), state, True)
    assert_same_bits(held, state)
    assert int(update(jnp.asarray([9.0]), held, False).count) == 2


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: sghmc(0.0), "step_size"),
        (lambda: sghmc(0.1, friction=1.5), "friction"),
        (lambda: sghmc(0.1, temperature=-1.0), "temperature"),
        (lambda: amsgrad(beta=1.0), "beta"),
        (lambda: amsgrad(eps=0.0), "eps"),
        (lambda: amsgrad(freeze_after=0), "freeze_after"),
        (lambda: schedules.cosine_step_size(1.0, 0), "n_steps"),
        (lambda: schedules.warmup_temperature(-1), "cold_steps"),
        (lambda: schedules.long_chain_step_size(0.0), "start"),
        (lambda: chain_runner(noisy_quadratic, sghmc(0.1), n_steps=5, thin=2), "n_steps"),
        (lambda: chain_runner(noisy_quadratic, sghmc(0.1), n_steps=5, thin=0), "thin"),
        (lambda: chain_runner(noisy_quadratic, sghmc(0.1), n_steps=5, chain_axis="pmap"), "chain_axis"),
    ],
)
def test_refuses_settings(build, key):
    with pytest.raises(ValueError, match=f"^{key}: got .*; allowed: "):
        build()


def test_refuses_params_without_a_chain_axis():
    with pytest.raises(ValueError, match="chain axis"):
        init_chains({"a": jnp.zeros([2, 3]), "b": jnp.zeros([3])}, jax.random.key(0), sghmc(0.1))


def test_otf_schedules():
    gamma = schedules.cosine_step_size(1e-3, 2000)
    values = [float(gamma(jnp.int32(i))) for i in (0, 1000, 2000)]
    np.testing.assert_allclose(values, [1e-3 + 1e-8, 5e-4 + 1e-8, 1e-8], rtol=1e-9)
    warm = schedules.warmup_temperature()
    assert [float(warm(jnp.int32(i))) for i in (0, 400, 450, 500, 1999)] == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_long_chain_schedule():
    gamma = schedules.long_chain_step_size(1e-2, end=1e-5, decay_steps=100, peak=1e-3, cycle_steps=10)
    steps = [0, 50, 99, 100, 105, 109, 110]
    values = [float(gamma(jnp.int32(i))) for i in steps]
    last = 0.5e-3 * (1 + np.cos(np.pi * 0.9)) + 1e-8
    expected = [1e-2, 10**-3.5, 1e-2 * 10**-2.97, 1e-3 + 1e-8, 5e-4 + 1e-8, last, 1e-3 + 1e-8]
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    assert schedules.long_chain_sample_steps(3, decay_steps=100, cycle_steps=10) == (100, 110, 120)
    assert schedules.long_chain_freeze_step(100) == 90


def ar1(correlation, chains, length, seed=0):
    rng = np.random.default_rng(seed)
    x = np.empty((chains, length))
    x[:, 0] = rng.normal(size=chains)
    for t in range(1, length):
        x[:, t] = correlation * x[:, t - 1] + np.sqrt(1 - correlation**2) * rng.normal(size=chains)
    return x


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_effective_sample_size_of_ar1(correlation):
    """Known: N (1-φ)/(1+φ). The estimate scatters by about 5 % at this length; 20 % is allowed."""
    draws = ar1(correlation, 8, 5000)
    expected = draws.size * (1 - correlation) / (1 + correlation)
    np.testing.assert_allclose(effective_sample_size(draws), expected, rtol=0.2)


def test_rhat_sees_shift_scale_and_trend():
    draws = ar1(0.0, 4, 1000)
    assert split_rhat(draws) < 1.01
    ones = np.ones((4, 1))
    ones[0] = 2.0
    assert split_rhat(draws + ones) > 1.05
    assert split_rhat(draws * ones) > 1.05
    assert split_rhat(draws + np.linspace(0, 2, 1000)[None, :]) > 1.05


def test_diagnostics_refuse_what_is_not_a_trace():
    with pytest.raises(DataError, match="shape"):
        split_rhat(np.zeros((2, 3)))
    with pytest.raises(DataError, match="finite"):
        effective_sample_size(np.full((2, 8), np.nan))
    assert np.isnan(split_rhat(np.zeros((2, 8))))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from bayes_mlff.sghmc.precondition import fixed
from bayes_mlff.sghmc.run import chain_runner, init_chains
from bayes_mlff.sghmc.transform import sghmc
assert jax.device_count() == 2
transform = sghmc(0.1)
params = {"w": jnp.ones([4, 3])}
state = init_chains(params, jax.random.key(0), transform)
def potential(params, key, data):
    target = data[jax.random.randint(key, [], 0, 5)]
    return jax.value_and_grad(lambda p: jnp.sum((p["w"] - target) ** 2))(params)
data = jnp.arange(15.0).reshape(5, 3)
run = chain_runner(potential, transform, n_steps=6, thin=2)
one = run(params, state, data, 5)
chains = NamedSharding(Mesh(np.array(jax.devices()), ("c",)), P("c"))
everywhere = NamedSharding(chains.mesh, P())
args = (*jax.device_put((params, state), chains), *jax.device_put((data, 5), everywhere))
text = run.lower(*args).compile().as_text()
for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
    assert word not in text, word
two = run(*args)
assert len(two[0]["w"].sharding.device_set) == 2
assert not two[0]["w"].sharding.is_fully_replicated
np.testing.assert_allclose(two[0]["w"], one[0]["w"], rtol=1e-6)
np.testing.assert_array_equal(two[2].finite, one[2].finite)
"""


def test_chain_axis_shards_without_communication():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_fixed_mass_takes_the_dtype_of_the_parameters():
    mass = fixed(np.full(3, 2.0))
    assert mass.inverse_mass((), jnp.zeros([3], jnp.float32)).dtype == jnp.float32

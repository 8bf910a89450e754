"""The sampler's normal numbers are JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from bayes_mlff.sghmc.noise import standard_normal, threefry_bits


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (20_001,)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_numbers_are_those_of_jax_bit_for_bit(shape, dtype):
    keys = jax.random.split(jax.random.key(7), 3)
    ours = jax.jit(jax.vmap(lambda key: standard_normal(key, shape, dtype)))(keys)
    theirs = jax.jit(jax.vmap(lambda key: jax.random.normal(key, shape, dtype)))(keys)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, theirs)


def test_bits_are_both_words_of_the_blocks():
    key = jnp.array([3, 2**31 + 7], jnp.uint32)
    blocks = threefry_2x32(key, jnp.concatenate([jnp.zeros(9, jnp.uint32), jnp.arange(9, dtype=jnp.uint32)]))
    np.testing.assert_array_equal(threefry_bits(key, 9), blocks[:9] ^ blocks[9:])


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_keys_of_other_generators_keep_their_numbers(kind):
    key = jax.random.key(0, impl=kind)
    np.testing.assert_array_equal(standard_normal(key, (11,), jnp.float32), jax.random.normal(key, (11,), jnp.float32))


def test_raw_keys_are_taken_too():
    key = jax.random.PRNGKey(4)
    np.testing.assert_array_equal(standard_normal(key, (11,), jnp.float32), jax.random.normal(key, (11,), jnp.float32))

"""The test harness itself: a check that cannot fail would hide what it is meant to find."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler

from tests.support import spared


def test_counts_one_compilation_per_shape(count_compilations):
    step = jax.jit(lambda x: 2.0 * x)
    short, long = np.ones(3), np.ones(4)
    with count_compilations() as first:
        step(short)
    with count_compilations() as again:
        step(short + 1.0)
    with count_compilations() as other_shapes:
        step(long)
        step(np.ones((2, 2)))
    assert (first.value, again.value, other_shapes.value) == (1, 0, 2)


def test_tracing_and_lowering_are_not_compilations(count_compilations):
    step = jax.jit(lambda x: 3.0 * x)
    vector = np.ones(3)
    with count_compilations() as before:
        lowered = step.lower(vector)
    with count_compilations() as compiling:
        lowered.compile()
    assert (before.value, compiling.value) == (0, 1)


def test_counts_nothing_after_the_context_closes_even_on_error(count_compilations):
    with pytest.raises(RuntimeError), count_compilations() as count:
        raise RuntimeError
    jax.jit(lambda x: x - 1.0)(np.ones(5))
    assert count.value == 0


def test_double_precision_is_on():
    assert jnp.ones(1).dtype == np.float64


def test_implicit_rank_promotion_raises():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_implicit_dtype_promotion_raises():
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(2, jnp.float32) + jnp.ones(2, jnp.float64)


def test_xla_is_spared_in_most_tests():
    spares = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    options = dict(compiler.get_compile_options(1, 1).env_option_overrides)
    assert (spared.OPTIONS.items() <= options.items()) == spares == jax.config.read("jax_disable_most_optimizations")


@pytest.mark.optimized
def test_a_marked_test_is_compiled_as_users_compile():
    options = dict(compiler.get_compile_options(1, 1).env_option_overrides)
    assert not options.keys() & spared.OPTIONS.keys() and not jax.config.read("jax_disable_most_optimizations")

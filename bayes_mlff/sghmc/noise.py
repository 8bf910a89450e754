"""Standard normal numbers for the sampler: those of `jax.random.normal`, but generated faster on a CPU.

A step of a chain needs one number for every weight. On a CPU JAX runs the rounds of its generator as a loop that
passes over the memory several times; with unrolled rounds the compiler makes a single pass, in registers.
"""

from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

ROTATIONS: Final = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Rotation distances of the Threefry-2x32 rounds (Salmon et al. 2011, SC11, table 2)."""

PARITY: Final = 0x1BD11BDA
"""Constant of the third key word (ibid.)."""


def standard_normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Independent N(0, 1) numbers, bit for bit those of `jax.random.normal(key, shape, dtype)`.

    Args:
      key: random key; do not use it again.
      shape: shape of the result.
      dtype: floating-point type of the result.
    """
    size = int(np.prod(shape))
    if not _written_out(key, size, dtype):
        return jax.random.normal(key, shape, dtype)
    return _normal(threefry_bits(jax.random.key_data(key), size)).reshape(shape)


def threefry_bits(key: jax.Array, size: int) -> jax.Array:
    """Random bits [size], uint32, from key data [2] with 20 rounds; both words of a block are combined by XOR."""
    words = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(PARITY))
    left, right = jnp.broadcast_to(words[0], (size,)), jnp.arange(size, dtype=jnp.uint32) + words[1]
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            left = left + right
            right = ((right << np.uint32(distance)) | (right >> np.uint32(32 - distance))) ^ left
        left = left + words[(group + 1) % 3]
        right = right + words[(group + 2) % 3] + np.uint32(group + 1)
    return left ^ right


def _written_out(key: jax.Array, size: int, dtype: jnp.dtype) -> bool:
    """True if JAX uses Threefry for this key and the unrolled generator is faster than JAX's own."""
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    same = partitionable and str(jax.random.key_impl(key)) == "threefry2x32"
    return same and jnp.dtype(dtype) == jnp.float32 and size < 2**32 and jax.default_backend() == "cpu"


def _normal(bits: jax.Array) -> jax.Array:
    """Normal numbers: inverse error function of uniform float32 numbers in (-1, 1) with mantissas from bits [n]."""
    lowest = np.nextafter(np.float32(-1.0), np.float32(0.0))
    mantissa = jax.lax.bitcast_convert_type((bits >> np.uint32(9)) | np.uint32(0x3F800000), jnp.float32)
    uniform = (mantissa - np.float32(1.0)) * (np.float32(1.0) - lowest) + lowest
    return np.float32(np.sqrt(2.0)) * jax.lax.erf_inv(jnp.maximum(uniform, lowest))
